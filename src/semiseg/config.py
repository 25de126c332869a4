"""The configuration of a run as one frozen dataclass, read from and written to YAML."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from semiseg.errors import UserError, is_utf8, os_error, require_regular_file, short_repr, unknown
from semiseg.option_ranges import Range, out_of_range, range_error

MAX_YAML_ALIASES = 20  # aliases can expand exponentially
MAX_INT = 10**9  # a larger number is a typing mistake
Device = Literal["auto", "cpu", "cuda", "mps"]
Annotation = Literal["full", "partial", "single-positive"]
EXCLUSIVE = (("steps", "epochs"), ("ohem_min_kept", "ohem_min_kept_per_image"))
"""Options of which at most one can be given; one on the command line replaces the other in a file."""


class DeprecatedOption(FutureWarning):
    """An option has been renamed; the command line prints the message as one line."""


@dataclass(frozen=True)
class TrainConfig:
    """The options of every training run; each method adds its own.

    Raises:
        UserError: A value is out of its range, or two options exclude each other.
    """

    data: str = ""
    """Data set: a directory (`semiseg datasets`), or shapes[:images=N,size=S,...], generated."""
    method: str = "dual-teacher"
    """Training method; `semiseg methods` lists them."""
    labeled: str | None = None
    """Labels to use: a fraction (1/16), a number (23), a list file, or split_0.pkl:N. Default: all masks."""
    unlabeled: str | None = None
    """Unlabeled images: a list file, shards (a directory or URL) or a folder of photographs. Default: the published
    list, or all others."""
    existing_only: bool = False
    """Skip listed images that do not exist and report how many; otherwise they are an error."""
    strict: bool = False
    """Stop at an unlabeled image that cannot be read; otherwise another image replaces it, with a warning."""
    bands: tuple[int, ...] | str | None = None
    """Bands of the images to use, counted from 1 (4 3 2), or all. Default: `bands` in classes.json, else RGB."""
    white: float | str | None = None
    """The value that becomes white in images of more than 8 bits, or a percentile (p99.8) over a sample of the images.
    Default: `white` in classes.json, else p99.8. The run saves the number."""
    annotation: Annotation = "full"
    """Meaning of 255 in a labeled mask. full: ignored pixels. partial: pixels not annotated, which a teacher may label
    (an arbitrary subset of pixels is annotated). single-positive: likewise, with one class annotated per image."""

    architecture: str = "deeplabv3plus-separable"
    """Decoder; `semiseg networks` lists them."""
    encoder: str = "tf_efficientnet_lite0"
    """Encoder, by its name in timm or segmentation-models-pytorch."""
    weights: str = "imagenet"
    """Initial weights of the encoder: imagenet, none, or a file."""
    init: str | None = None
    """Start from a trained network, encoder and decoder: a run, a checkpoint, or a published checkpoint
    (docs/published-networks.md). Its classes may differ."""
    output_stride: Literal[8, 16] | None = None
    """deeplabv3plus: stride of the deepest features. Default: 16; 8 for -u2pl and -mmseg."""
    multi_grid: tuple[int, ...] | None = None
    """deeplabv3plus: factors of the dilations in a ResNet's last stage (2 2 4). Default: that of the variant."""
    low_level_channels: Annotated[int | None, Range(1)] = None
    """deeplabv3plus: width of the reduced features at stride 4. Default: 48; 256 for -u2pl."""
    aux_head: bool = False
    """deeplabv3plus: train a second classifier on features in the middle of the encoder, with a weight of 0.4. It takes
    another pass of the labeled images through the encoder."""
    align_corners: bool = False
    """deeplabv3plus: interpolate with align_corners and do not pad images, as UniMatch does. Always on for -u2pl, -cps,
    -augseg and dpt."""
    head_dropout: Annotated[float | None, Range(0, 1, high_open=True)] = None
    """Probability of dropping a channel before the classifier. Default: 0.1 for supervised and mean-teacher with MiT
    (SegFormer) and for -mmseg, else 0."""
    encoder_drop_path: Annotated[float | None, Range(0, 1, high_open=True)] = None
    """Rate of MiT's own drop path at its last block. Default: 0.1 for supervised and mean-teacher, as in SegFormer."""
    network_version: Literal[1, 2] | None = None
    """1: dpt as in semiseg 0.1; 2: dpt as in UniMatch V2's release. Default: 2; in runs of version 0.1: 1."""
    batchnorm: Literal["train", "frozen-encoder", "sync"] = "train"
    """frozen-encoder keeps the pretrained running statistics of the encoder, which is better for small batches; sync
    computes statistics over the images of all GPUs."""
    freeze_encoder: bool = False
    """Keep the pretrained encoder fixed and train the decoder only; needs much less memory."""

    steps: Annotated[int | None, Range(1)] = None
    """Optimizer steps (2000 if neither steps nor epochs is given)."""
    epochs: Annotated[int | None, Range(1)] = None
    """Epochs, instead of steps. An epoch is a pass over the unlabeled images, for supervised over the labeled ones; see
    --epoch-of."""
    epoch_of: Literal["auto", "labeled", "unlabeled"] = "auto"
    """List that an epoch passes over, for --epochs and the shifts of dual-teacher. auto: the unlabeled images if the
    method uses them, else the labeled ones."""
    batch_size: Annotated[int | Literal["auto"], Range(1)] = 8
    """B labeled and B unlabeled images per step, over all processes; auto: the largest power of two per process that
    fits on the GPU."""
    accumulate: Annotated[int, Range(1)] = 1
    """Split each batch into this many micro-batches: less memory, slightly slower."""
    crop_size: Annotated[int, Range(16, 2**14)] = 256
    """Side of the training crop, in pixels of the scaled image."""
    image_scale: Annotated[float, Range(0, 4, low_open=True)] = 1.0
    """Factor by which images are resized for the network (0.5: half the width and height); masks keep their size."""
    short_side: Annotated[int | None, Range(1, 2**14)] = None
    """Resize every image to this shorter side before the random scale, in training only (SegFormer on ADE20K: 512)."""
    scale_min: Annotated[float, Range(0, low_open=True)] = 0.5
    """Smallest random scale of the weak view."""
    scale_max: Annotated[float, Range(0, low_open=True)] = 2.0
    """Largest random scale of the weak view."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw, or sgd with momentum 0.9."""
    lr: Annotated[float, Range(0, low_open=True)] = 1e-3
    """Learning rate of the decoder."""
    encoder_lr_factor: Annotated[float, Range(0)] = 0.3
    """Learning rate of the encoder, relative to lr."""
    weight_decay: Annotated[float, Range(0)] = 0.01
    """Weight decay of the optimizer, for the parameters of --weight-decay-on."""
    weight_decay_on: Literal["weights", "all"] = "weights"
    """weights: parameters with two or more dimensions; all: every parameter, as UniMatch, AugSeg and GTA-Seg."""
    warmup_steps: Annotated[int, Range(0)] = 20
    """Steps over which the learning rate rises linearly."""
    poly_power: Annotated[float, Range(0)] = 0.9
    """Power of the polynomial decay of the learning rate."""
    lr_steps: Annotated[int | None, Range(1)] = None
    """Steps in which the learning rate decays to 0. Default: the steps of the run; a run may be shorter."""
    clip_norm: Annotated[float, Range(0)] = 5.0
    """Largest norm of the gradient; 0: no clipping."""
    class_balance: Annotated[float, Range(0, 1)] = 0.0
    """Weight each class in the labeled loss by (share of pixels)^-x; 0: all classes weigh the same."""
    supervised_loss: Literal["ce", "ohem"] = "ce"
    """Loss on labeled images: cross-entropy, or ohem, cross-entropy of the hard pixels (Cityscapes in most papers)."""
    ohem_threshold: Annotated[float, Range(0, 1)] = 0.7
    """ohem: a pixel is hard if its class has at most this probability (CPS, U2PL, AugSeg, UniMatch)."""
    ohem_min_kept: Annotated[int | None, Range(1)] = None
    """ohem: treat at least this many pixels per process as hard, whatever its batch. Default: 100,000."""
    ohem_min_kept_per_image: Annotated[int | None, Range(1)] = None
    """ohem: instead, this many pixels for each labeled image of the batch (UniMatch 100,000; CPS 50,000; AugSeg
    25,000), so that the floor does not depend on how many devices share the batch."""
    seed: Annotated[int, Range(1 - 2**63, 2**63 - 1)] = 0
    """Random seed."""

    val_every: Annotated[int | Literal["auto", "epoch", "never"], Range(1)] = "auto"
    """Steps between validations; auto: ten per run; epoch: one per epoch; never: none, but checkpoints as often as with
    auto."""
    val_limit: Annotated[int | None, Range(1)] = None
    """Validate on only N images, spread evenly over the val list."""
    val_mode: Literal["whole", "slide"] = "whole"
    """Validate whole images, or in sliding windows of the crop size (Cityscapes in most papers)."""
    safeguard: bool = False
    """Also validate at the end of the burn-in, whose checkpoint may be the best, and reduce the weight of unlabeled
    images when mIoU on val gets worse. Needs 10 val images. The plan turns it on."""
    keep: Annotated[int, Range(0)] = 0
    """Keep the checkpoints of the last N validations, besides last and best."""
    workers: Annotated[int, Range(0, 2**10)] = 2
    """Processes that load images; 0: load in the main process."""
    decode: Literal["full", "reduced"] = "full"
    """reduced: decode at 1/2, 1/4 or 1/8 size if every crop is at most that large; faster, slightly sharper."""
    cache: str | None = None
    """Directory that keeps decoded images for later epochs, runs and processes; auto: the user's cache directory."""
    accelerator: Device = "auto"
    """cpu, cuda, mps, or auto."""
    devices: Annotated[int | Literal["auto"], Range(1, 2**12)] = "auto"
    """Number of devices (processes); auto: one."""
    nodes: Annotated[int, Range(1)] = 1
    """Number of machines."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 on a GPU that supports it natively, else fp32."""
    teacher_precision: Literal["same", "bf16"] = "same"
    """Precision of the teachers' forward passes: that of the student, or bf16. Their weights stay in fp32."""
    activation_checkpointing: bool = False
    """Keep only the inputs of the encoder's blocks and recompute the rest in the backward pass (gradient
    checkpointing): less memory, more time, the same result."""
    deterministic: bool = False
    """Make runs on a GPU bit-identical, at the cost of speed; runs on a CPU always are."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Also log the content of metrics.jsonl to this tracker (install the extra of the same name)."""
    tensorboard: bool = False
    """Deprecated: pass --tracker tensorboard."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, str) and not is_utf8(value):
                raise UserError("must be valid UTF-8", option=name, fix="rename the file or directory")
            if isinstance(value, int) and name != "seed" and abs(value) > MAX_INT:
                raise range_error(name, value, f"of at most {MAX_INT}")
        for name, value, rule in out_of_range(self):
            raise range_error(name, value, rule)
        if self.scale_min > self.scale_max:
            problem = f"{self.scale_min} is above --scale-max ({self.scale_max})"
            raise UserError(problem, option="scale_min", fix="lower it or raise --scale-max")
        for one, other in EXCLUSIVE:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                name = other.replace("_", "-")
                raise UserError(f"cannot be combined with --{name}", option=one, fix="pass one of them")
        if self.activation_checkpointing and self.freeze_encoder:
            raise UserError(
                "has no effect with --freeze-encoder", option="activation_checkpointing", fix="pass one of them"
            )
        if self.tensorboard:
            warnings.warn("--tensorboard is deprecated. Pass --tracker tensorboard.", DeprecatedOption, stacklevel=3)
            if self.tracker == "none":
                object.__setattr__(self, "tracker", "tensorboard")
                object.__setattr__(self, "tensorboard", False)

    @property
    def batch(self) -> int:
        """The batch size as a number; ``auto`` has been replaced by one when a run starts."""
        assert self.batch_size != "auto"
        return self.batch_size


def _accepts(value: Any, hint: Any) -> bool:
    """Return whether ``value`` has the annotated type; an int passes for a float, a list for a tuple."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_accepts(value, arm) for arm in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is tuple:
        return isinstance(value, (list, tuple)) and all(_accepts(v, get_args(hint)[0]) for v in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if hint is type(None) else isinstance(value, hint)


def _undo_yaml_type(value: Any, hint: Any) -> Any:
    """Convert a number that YAML read for text (``labeled: 23``) and text that it read for a number (``lr: 1e-3``)."""
    arms = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if isinstance(value, int) and not isinstance(value, bool) and str in arms and int not in arms:
        return str(value)
    if isinstance(value, str) and float in arms and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def check_mapping(classes: tuple[type, ...], values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return ``values`` with ``_`` for ``-`` in its keys and each value converted to the type of its field.

    Args:
        classes: The dataclasses that the keys may belong to.
        values: The options by name.
        source: The file that the values come from, or ``options``; begins every message.

    Raises:
        UserError: A key belongs to none of the classes, or a value has the wrong type.
    """
    hints = [(cls, get_type_hints(cls)) for cls in classes]
    known = {field.name: types[field.name] for cls, types in hints for field in fields(cls)}
    checked = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            raise unknown("key", key, known, source)
        checked[name] = _undo_yaml_type(value, known[name])
        if not _accepts(checked[name], known[name]):
            problem = f"{short_repr(value)} is not allowed"
            raise UserError(problem, path=source, option=name, fix=f"give {describe(known[name])}")
    return checked


def from_mapping(classes: tuple[type, ...], values: Mapping[str, Any], source: str) -> tuple[Any, ...]:
    """Build one instance of each dataclass from flat ``values``; keys may be written with ``-`` or ``_``.

    Raises:
        UserError: As `check_mapping`, or a value is out of its range.
    """
    values = check_mapping(classes, values, source)
    instances = []
    for cls in classes:
        own = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        own = {k: tuple(v) if isinstance(v, list) else v for k, v in own.items()}
        try:
            instances.append(cls(**own))
        except UserError as error:
            raise UserError(error.problem, path=source, option=error.option, fix=error.fix) from None
        except ValueError as error:
            raise UserError(str(error), path=source) from None
    return tuple(instances)


def read_train_config(values: Mapping[str, Any], source: str) -> TrainConfig:
    """Return the options of a run without those of its method, whose code may not be available.

    Raises:
        UserError: As `from_mapping`.
    """
    known = {field.name for field in fields(TrainConfig)}
    (config,) = from_mapping((TrainConfig,), {key: values[key] for key in values if key in known}, source)
    return config


def describe(hint: Any) -> str:
    """Return a type annotation in words for users."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(describe(arm) for arm in get_args(hint))
    if origin is Literal:
        return " or ".join(map(str, get_args(hint)))
    if origin is tuple:
        return f"a list ({describe(get_args(hint)[0])})"
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(hint, str(hint))


def to_mapping(*parts: Any) -> dict[str, Any]:
    """Merge dataclass instances into one flat dict of plain values, in field order."""
    merged: dict[str, Any] = {}
    for part in parts:
        assert is_dataclass(part) and not isinstance(part, type)
        merged |= {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(part).items()}
    return merged


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping with ``safe_load``, which runs no code.

    Raises:
        UserError: The file is missing, is not valid YAML or not a mapping, or has more than ``MAX_YAML_ALIASES``.
    """
    try:
        text = require_regular_file(path).read_text(encoding="utf-8")
        if text.count("[") + text.count("{") > 1000:  # nested lists take quadratic time to parse
            raise ValueError("more than 1000 lists")
        if sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)) > MAX_YAML_ALIASES:
            raise ValueError(f"more than {MAX_YAML_ALIASES} aliases")
        values = yaml.safe_load(text)
    except OSError as error:
        raise os_error(error, "cannot be read", path, "check the path") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"not valid YAML ({' '.join(str(error).split())})", path=path, fix="correct the file") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError("not a mapping of options to values", path=path, fix="write lines 'option: value'")
    return values
