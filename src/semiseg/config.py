"""What defines a run, as one frozen dataclass, to and from YAML; strict about its keys."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from semiseg.errors import UserError, did_you_mean, is_utf8, require_regular_file, short_repr

MOST_ALIASES = 20  # of YAML's *name: each may stand for many others, so that a page of them would fill memory
MOST = {"seed": 2**63 - 1, "crop_size": 2**14, "workers": 2**10, "devices": 2**12}  # beyond is a slip of the keys
MOST_OF_ANY = 10**9
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class TrainConfig:
    """A training run, but for the method's own options."""

    data: str = ""
    """Data set: a directory (`semiseg datasets`), hf:FOLDER|NAME, or shapes[:images=N,size=S,...], generated."""
    method: str = "dual-teacher"
    """Training method; `semiseg methods` lists them."""
    labeled: str | None = None
    """Labels to use: a share (1/16), a number (23), a list in a file, or split_0.pkl:N; all masks where absent."""
    unlabeled: str | None = None
    """Unlabeled images: a list in a file, or shards (a folder, a URL); else the published list, or the rest."""
    existing_only: bool = False
    """Leave images that are not there out of the lists, and say how many; they are an error otherwise."""
    strict: bool = False
    """End the run at an unlabeled image that cannot be read; otherwise another one stands in, and the run says so."""
    annotation: Literal["full", "partial", "single-positive"] = "full"
    """What 255 in a labeled mask means: nothing to learn (full), or that nobody annotated it (partial: any pixels are;
    single-positive: those of one class an image), so that a teacher may label it."""

    architecture: str = "deeplabv3plus-separable"
    """Decoder; `semiseg networks` lists them."""
    encoder: str = "tf_efficientnet_lite0"
    """Encoder, by its name in timm or segmentation-models-pytorch."""
    weights: str = "imagenet"
    """Encoder's start: imagenet, none, or a file."""
    batchnorm: Literal["train", "frozen-encoder", "sync"] = "train"
    """frozen-encoder keeps the encoder's running statistics as pretrained: better at small batches; sync: as train, but
    on several GPUs statistics are those of all processes' images together."""
    freeze_encoder: bool = False
    """Keep the whole encoder as pretrained: only the decoder learns; much less memory."""

    steps: int | None = None
    """Optimizer steps (2000 where neither steps nor epochs is given)."""
    epochs: int | None = None
    """Passes over the unlabeled images, instead of steps."""
    batch_size: int | Literal["auto"] = 8
    """B labeled and B unlabeled images a step, over all processes together; auto, on a GPU: the largest power of two a
    process that fits."""
    accumulate: int = 1
    """Parts in which a step takes its batch, one after the other: 1/K of the memory for the passes, a little slower."""
    crop_size: int = 256
    """Side of the training crop, in pixels of the scaled image."""
    image_scale: float = 1.0
    """Factor on the size at which the network sees images (0.5: half the width and height); masks keep their size."""
    scale_min: float = 0.5
    """Smallest random resizing in the weak view."""
    scale_max: float = 2.0
    """Largest random resizing in the weak view."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw, or sgd with momentum 0.9."""
    lr: float = 1e-3
    """Learning rate of the decoder."""
    encoder_lr_factor: float = 0.3
    """Learning rate of the encoder, relative to lr."""
    weight_decay: float = 0.01
    """Weight decay, on weights of two and more dimensions."""
    warmup_steps: int = 20
    """Steps over which the learning rate rises linearly."""
    poly_power: float = 0.9
    """Power of the polynomial decay of the learning rate."""
    clip_norm: float = 5.0
    """Largest norm of the gradient; 0: no clipping."""
    class_balance: float = 0.0
    """Exponent by which rare classes weigh more in the labeled loss: share^-x of pixels; 0: all alike."""
    supervised_loss: Literal["ce", "ohem"] = "ce"
    """Loss of the labels: cross-entropy, or ohem, that of the hard pixels only (Cityscapes in most papers)."""
    ohem_threshold: float = 0.7
    """ohem: a pixel is hard if its class has at most this probability (CPS, U2PL, AugSeg, UniMatch)."""
    ohem_min_kept: int = 100_000
    """ohem: at least so many pixels of a process's batch count as hard (U2PL, AugSeg; UniMatch 200,000)."""
    seed: int = 0
    """Seed of everything random."""

    val_every: int | Literal["auto", "never"] = "auto"
    """Steps between validations; auto: ten in a run; never: none, but the checkpoints of auto."""
    val_limit: int | None = None
    """Validate on N images of the val list only, spread evenly over it."""
    keep: int = 0
    """Keep the checkpoints of the last N validations, beside last and best."""
    workers: int = 2
    """Processes that load images; 0: none."""
    decode: Literal["full", "reduced"] = "full"
    """reduced: decode images at 1/2, 1/4 or 1/8 of their size where no view needs more; quicker, slightly sharper."""
    cache: str | None = None
    """Folder to keep decoded images in, for later readings, runs and processes; auto: the user's cache folder."""
    accelerator: Device = "auto"
    """cpu, cuda, mps, or auto."""
    devices: int | Literal["auto"] = "auto"
    """Number of devices (processes); auto: one."""
    nodes: int = 1
    """Number of machines."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 on a GPU that has it natively, else fp32."""
    teacher_precision: Literal["same", "bf16"] = "same"
    """Precision in which teachers label: that of the step, or bf16 while the student learns in fp32. Their weights stay
    fp32."""
    activation_checkpointing: bool = False
    """Keep the inputs of the encoder's blocks alone, and compute the rest again in the backward pass (also known as
    gradient checkpointing): less memory, more time, the same result."""
    deterministic: bool = False
    """On a GPU too, the same run twice is the same to the bit, for a price in time; on a CPU it always is."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Tell this tracker too what metrics.jsonl says (extra of its name)."""
    tensorboard: bool = False
    """Write TensorBoard files too, whatever the tracker (extra: tensorboard)."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            self._check(not isinstance(value, float) or math.isfinite(value), name, "a finite number")
            most = MOST.get(name, MOST_OF_ANY)
            self._check(not isinstance(value, int) or abs(value) <= most, name, f"at most {most}")
            self._check(not isinstance(value, str) or is_utf8(value), name, "UTF-8: rename what it stands for")
        self._check(self.batch_size == "auto" or self.batch_size >= 1, "batch-size", "auto or at least 1")
        self._check(self.accumulate >= 1, "accumulate", "at least 1")
        self._check(self.crop_size >= 16, "crop-size", "at least 16")
        self._check(0 < self.image_scale <= 4, "image-scale", "in (0, 4]")
        self._check(0 < self.scale_min <= self.scale_max, "scale-min", "positive and at most scale-max")
        self._check(self.steps is None or self.steps >= 1, "steps", "at least 1")
        self._check(self.epochs is None or self.epochs >= 1, "epochs", "at least 1")
        self._check(self.steps is None or self.epochs is None, "steps", "absent where epochs is given")
        self._check(self.lr > 0, "lr", "positive")
        self._check(0 <= self.class_balance <= 1, "class-balance", "in [0, 1]")
        self._check(0 <= self.ohem_threshold <= 1, "ohem-threshold", "in [0, 1]")
        self._check(self.ohem_min_kept >= 1, "ohem-min-kept", "at least 1")
        for option in ("weight-decay", "encoder-lr-factor", "clip-norm", "poly-power", "keep", "warmup-steps"):
            self._check(getattr(self, option.replace("-", "_")) >= 0, option, "0 or more")
        self._check(self.workers >= 0, "workers", "0 or more")
        self._check(self.devices == "auto" or self.devices >= 1, "devices", "auto or at least 1")
        self._check(self.nodes >= 1, "nodes", "at least 1")
        both = self.activation_checkpointing and self.freeze_encoder
        self._check(not both, "activation-checkpointing", "absent with --freeze-encoder, which keeps nothing anyway")
        self._check(self.val_every in ("auto", "never") or int(self.val_every) >= 1, "val-every", "at least 1")
        self._check(self.val_limit is None or self.val_limit >= 1, "val-limit", "at least 1")

    @property
    def batch(self) -> int:
        """B, where ``auto`` has become a number, as in every run (`training.batch_size`)."""
        assert self.batch_size != "auto"
        return self.batch_size

    def _check(self, ok: bool, option: str, rule: str) -> None:
        if not ok:
            value = getattr(self, option.replace("-", "_"))
            raise UserError(f"--{option.replace('_', '-')} is {value}: it must be {rule}")


def _accepts(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the annotated type (an int passes for a float, a list for a tuple)."""
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


def _as_meant(value: Any, hint: Any) -> Any:
    """Undo what YAML makes of ``labeled: 23`` (a number, where text is expected) and ``lr: 1e-3`` (text)."""
    arms = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if isinstance(value, int) and not isinstance(value, bool) and str in arms and int not in arms:
        return str(value)
    if isinstance(value, str) and float in arms and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def check_mapping(classes: tuple[type, ...], values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return ``values`` with ``_`` for ``-`` in its keys, each value as the type that its key asks for.

    Raises:
        UserError: a key that belongs to none of the classes, or a value of the wrong type; names ``source``.
    """
    known = {f.name: get_type_hints(cls)[f.name] for cls in classes for f in fields(cls)}
    checked = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            raise UserError(f"{source}: unknown key {short_repr(key)}: {did_you_mean(name, known)}")
        checked[name] = _as_meant(value, known[name])
        if not _accepts(checked[name], known[name]):
            raise UserError(f"{source}: {key} is {short_repr(value)}: expected {describe(known[name])}")
    return checked


def from_mapping(classes: tuple[type, ...], values: Mapping[str, Any], source: str) -> tuple[Any, ...]:
    """Build one instance of each dataclass from flat ``values``; keys may be written with ``-`` or ``_``.

    Raises:
        UserError: as ``check_mapping``, or a value out of its range; names ``source``.
    """
    values = check_mapping(classes, values, source)
    instances = []
    for cls in classes:
        own = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        own = {k: tuple(v) if isinstance(v, list) else v for k, v in own.items()}
        try:
            instances.append(cls(**own))
        except ValueError as error:
            raise UserError(f"{source}: {error}") from None
    return tuple(instances)


def describe(hint: Any) -> str:
    """Return a type annotation in words a user knows."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(describe(arm) for arm in get_args(hint))
    if origin is Literal:
        return ", ".join(map(str, get_args(hint)))
    if origin is tuple:
        return f"a list of {describe(get_args(hint)[0])}"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(hint, str(hint))


def to_mapping(*parts: Any) -> dict[str, Any]:
    """Merge dataclass instances into one flat dict of plain values, in field order."""
    merged: dict[str, Any] = {}
    for part in parts:
        assert is_dataclass(part) and not isinstance(part, type)
        merged |= {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(part).items()}
    return merged


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping, without running anything of it (``safe_load``).

    Raises:
        UserError: a missing file, broken YAML, YAML that is not a mapping, or one of more than ``MOST_ALIASES``.
    """
    try:
        text = require_regular_file(path).read_text(encoding="utf-8")
        if text.count("[") + text.count("{") > 1000:  # for lists within lists, YAML's reader takes the square of time
            raise ValueError("more than 1000 lists")
        if sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)) > MOST_ALIASES:
            raise ValueError(f"it has more than {MOST_ALIASES} aliases")
        values = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}): check the path") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())}): correct the file") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path}: expected lines of 'option: value'")
    return values
