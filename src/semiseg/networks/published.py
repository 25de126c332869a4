"""Checkpoints that the authors of published methods have released: recognize them and map them to our networks.

Facts about the releases: docs/published-networks.md.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semiseg.errors import UserError
from semiseg.networks.network_options import NetworkOptions

TEACHERS_FIRST = ("model_ema", "teacher_state", "model", "model_state")
"""Entries of a checkpoint that hold a network. The releases evaluate the teacher if there is one."""
CITYSCAPES = 19  # number of classes
RESNETS = {6: "resnet50s", 23: "resnet101s"}  # by the number of blocks in the third stage
DINOV2 = {384: "vit_small_patch14_dinov2", 768: "vit_base_patch14_dinov2"}  # by the width of the tokens
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Published:
    """A published network in our form.

    Attributes:
        release: Name of the release.
        entry: Entry of the checkpoint that held the weights, or "" if they were not nested.
        architecture, encoder, options: Arguments of ``build``.
        classes: Number of outputs.
        crop_size: Crop of the release's training, the window of its sliding evaluation.
        weights: State dict under the names of `SegmentationNetwork`.
        left_out: Modules that evaluation does not need, such as a representation head.
    """

    release: str
    entry: str
    architecture: str
    encoder: str
    options: NetworkOptions
    classes: int
    crop_size: int
    weights: dict[str, Tensor]
    left_out: tuple[str, ...]

    @property
    def description(self) -> str:
        """The release and the network, for messages."""
        weights = f"weights of {self.entry}" if self.entry else "weights"
        left_out = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        return f"network of {self.release}, {self.architecture} with {self.encoder}, {weights}{left_out}"


@dataclass(frozen=True)
class Release:
    """How to recognize the networks of a release, and their names in our form.

    Attributes:
        name: The release.
        architecture: The architecture.
        options: Its options.
        marks: Entries that identify the release.
        classifier: The weight of the classifier, whose first dimension is the number of classes.
        names: Patterns of entries, and our name for each.
        unused: Patterns of entries that evaluation does not need.
        rolled: Weights whose input channels start with what ours end with: our name, and how many channels.
        encoder: Returns the name of the encoder.
        crops: Crop of training on Cityscapes, and on other data.
    """

    name: str
    architecture: str
    options: NetworkOptions
    marks: tuple[str, ...]
    classifier: str
    names: tuple[tuple[str, str], ...]
    unused: tuple[str, ...]
    rolled: Mapping[str, int]
    encoder: Callable[[State], str]
    crops: tuple[int, int]


def _resnet(state: State) -> str:
    stages = [re.match(r"(?:backbone|encoder)\.layer3\.(\d+)\.", key) for key in state]
    blocks = 1 + max((int(found[1]) for found in stages if found), default=-1)
    if blocks not in RESNETS:
        raise ValueError(f"its encoder has {blocks} blocks in the third stage; ResNet-50 has 6, ResNet-101 23")
    return RESNETS[blocks]


def _dinov2(state: State) -> str:
    width = state["backbone.pos_embed"].shape[-1]
    if width not in DINOV2:
        raise ValueError(f"its tokens have {width} channels; DINOv2 small has 384, base 768")
    return DINOV2[width]


_U2PL_NAMES = (
    (r"encoder\.(.+)", r"encoder.model.\1"),
    (r"decoder\.low_conv\.([01]\..+)", r"decoder.skip.\1"),
    (r"decoder\.aspp\.conv1\.([12]\..+)", r"decoder.aspp.pool.\1"),
    *((rf"decoder\.aspp\.conv{i + 2}\.([01]\..+)", rf"decoder.aspp.branches.{i}.\1") for i in range(4)),
    (r"decoder\.head\.([01]\..+)", r"decoder.aspp.project.\1"),
    (r"decoder\.classifier\.([01]\..+)", r"decoder.fuse.0.\1"),
)
_REFINENET = r"head\.scratch\.refinenet"
_U2PL_UNUSED = (r"decoder\.representation\..+", r"auxor\..+")
FUSE, PROJECT = "decoder.fuse.0.0.weight", "decoder.aspp.project.0.weight"

RELEASES = (
    Release(
        name="UniMatch",
        architecture="deeplabv3plus",
        options=NetworkOptions(align_corners=True),
        marks=("backbone.conv1.0.weight", "head.b0.0.weight", "reduce.0.weight"),
        classifier="classifier.weight",
        names=(
            (r"backbone\.(.+)", r"encoder.model.\1"),
            (r"head\.b([0-3])\.([01]\..+)", r"decoder.aspp.branches.\1.\2"),
            (r"head\.b4\.gap\.([12]\..+)", r"decoder.aspp.pool.\1"),
            (r"head\.project\.([01]\..+)", r"decoder.aspp.project.\1"),
            (r"reduce\.([01]\..+)", r"decoder.skip.\1"),
            (r"fuse\.([01]\..+)", r"decoder.fuse.0.\1"),
            (r"fuse\.3\.(.+)", r"decoder.fuse.1.0.\1"),
            (r"fuse\.4\.(.+)", r"decoder.fuse.1.1.\1"),
            (r"classifier\.(weight|bias)", r"head.\1"),
        ),
        unused=(),
        rolled={FUSE: 48},  # the low-level features come first
        encoder=_resnet,
        crops=(801, 321),
    ),
    Release(
        name="UniMatch V2",
        architecture="dpt",
        options=NetworkOptions(),
        marks=("backbone.pos_embed", "head.scratch.layer1_rn.weight"),
        classifier="head.scratch.output_conv.2.weight",
        names=(
            (r"backbone\.(.+)", r"encoder.model.\1"),
            (r"head\.projects\.(.+)", r"decoder.projects.\1"),
            (r"head\.resize_layers\.(.+)", r"decoder.resize.\1"),
            *((rf"head\.scratch\.layer{i + 1}_rn\.(.+)", rf"decoder.reduce.{i}.\1") for i in range(4)),
            *((rf"{_REFINENET}{i + 1}\.out_conv\.(.+)", rf"decoder.fuse.{i}.out.\1") for i in range(4)),
            *((rf"{_REFINENET}{i + 1}\.resConfUnit1\.(.+)", rf"decoder.fuse.{i}.residual.\1") for i in range(3)),
            *((rf"{_REFINENET}{i + 1}\.resConfUnit2\.(.+)", rf"decoder.fuse.{i}.refine.\1") for i in range(4)),
            (r"head\.scratch\.output_conv\.0\.(.+)", r"decoder.project.0.\1"),
            (r"head\.scratch\.output_conv\.2\.(.+)", r"head.\1"),
        ),
        # The release's forward pass does not use them either.
        unused=(r"backbone\.mask_token", r"head\.scratch\.refinenet4\.resConfUnit1\..+"),
        rolled={},
        encoder=_dinov2,
        crops=(798, 518),
    ),
    Release(
        name="U2PL or GTA-Seg",
        architecture="deeplabv3plus-u2pl",
        options=NetworkOptions(),
        marks=("encoder.conv1.0.weight", "decoder.low_conv.0.weight", "decoder.classifier.8.weight"),
        classifier="decoder.classifier.8.weight",
        names=(
            *_U2PL_NAMES,
            (r"decoder\.classifier\.4\.(.+)", r"decoder.fuse.1.0.\1"),
            (r"decoder\.classifier\.5\.(.+)", r"decoder.fuse.1.1.\1"),
            (r"decoder\.classifier\.8\.(.+)", r"head.\1"),
        ),
        unused=_U2PL_UNUSED,
        rolled={FUSE: 256, PROJECT: 256},  # the low-level features come first, and the pooled features in ASPP
        encoder=_resnet,
        crops=(769, 513),
    ),
    Release(
        name="AugSeg",
        architecture="deeplabv3plus-augseg",
        options=NetworkOptions(),
        marks=("encoder.conv1.0.weight", "decoder.low_conv.0.weight", "decoder.classifier.6.weight"),
        classifier="decoder.classifier.6.weight",
        names=(
            *_U2PL_NAMES,
            (r"decoder\.classifier\.3\.(.+)", r"decoder.fuse.1.0.\1"),
            (r"decoder\.classifier\.4\.(.+)", r"decoder.fuse.1.1.\1"),
            (r"decoder\.classifier\.6\.(.+)", r"head.\1"),
        ),
        unused=_U2PL_UNUSED,
        rolled={FUSE: 48, PROJECT: 256},
        encoder=_resnet,
        crops=(769, 513),
    ),
)


def load_tensors(path: Path) -> Any:
    """Return the content of a file of ``torch.save`` on the CPU, without running code (``weights_only=True``).

    Numbers of NumPy are allowed besides tensors and plain values; releases save their best mIoU as one.

    Raises:
        Exception: The file is damaged, compressed, or holds other objects; the type depends on the reason.
    """
    if _is_compressed(path):
        raise ValueError("compressed archive")
    kinds = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    cores = ("core", "_core")  # before and since NumPy 2
    allowed: list[Any] = [np.dtype, *kinds, *((_number, f"numpy.{core}.multiarray.scalar") for core in cores)]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)


def _number(kind: np.dtype[Any], data: bytes) -> float:
    """Return a number of NumPy from its bytes, instead of NumPy's function, which makes any object."""
    if kind.kind not in "biuf":
        raise ValueError(f"{kind} is not a number")
    return float(np.frombuffer(data, kind, 1)[0])


def _is_compressed(path: Path) -> bool:
    """Return whether an archive unpacks to more bytes than it has. PyTorch's do not, and a bomb would fill memory."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size


def read_published(content: Any) -> Published | None:
    """Return the published network in the content of a checkpoint, or None if it is not one.

    Args:
        content: What ``torch.load`` returned: a state dict, possibly nested in an entry of ``TEACHERS_FIRST``, whose
            keys may begin with ``module.``.

    Raises:
        UserError: The network is recognized but not complete.
    """
    entry, state = _find_state(content)
    release = next((r for r in RELEASES if all(mark in state for mark in r.marks)), None)
    if release is None:
        return None
    try:
        return _convert(release, entry, state)
    except (ValueError, TypeError, IndexError) as error:
        problem = f"is a network of {release.name}, but {error}"
        raise UserError(problem, fix="use an unchanged checkpoint of the release") from None


def _find_state(content: Any) -> tuple[str, dict[str, Tensor]]:
    if not isinstance(content, Mapping):
        return "", {}
    entry = next((name for name in TEACHERS_FIRST if isinstance(content.get(name), Mapping)), "")
    state = content[entry] if entry else content
    named = {key: value for key, value in state.items() if isinstance(key, str) and _is_dense(value)}
    return entry, {key.removeprefix("module."): value for key, value in named.items()}


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"


def _convert(release: Release, entry: str, state: State) -> Published:
    weights, left_out = {}, []
    for key, value in state.items():
        if any(re.fullmatch(pattern, key) for pattern in release.unused):
            left_out.append(re.sub(r"\.(conv\d|\d)\..+", "", key))
            continue
        names = (re.sub(pattern, ours, key) for pattern, ours in release.names if re.fullmatch(pattern, key))
        name = next(names, None)
        if name is None:
            raise ValueError(f"has an unknown entry {key}")
        weights[name] = value
    if release.classifier not in state:
        raise ValueError(f"lacks {release.classifier}")
    classes = len(state[release.classifier])
    published = Published(
        release=release.name,
        entry=entry,
        architecture=release.architecture,
        encoder=release.encoder(state),
        options=release.options,
        classes=classes,
        crop_size=release.crops[classes != CITYSCAPES],
        weights=weights,
        left_out=tuple(dict.fromkeys(left_out)),
    )
    _require_same_entries(published)  # before the copies below: a small file may hold huge tensors of stride 0
    for name, channels in release.rolled.items():
        value = weights[name]
        weights[name] = torch.cat([value[:, channels:], value[:, :channels]], dim=1)
    return published


def _require_same_entries(published: Published) -> None:
    """Raise ValueError if an entry of the network is missing, unknown, or of another shape."""
    from semiseg.networks import build

    with torch.device("meta"):
        network = build(published.architecture, published.encoder, published.classes, "none", options=published.options)
    ours = {name: value.shape for name, value in network.state_dict().items()}
    theirs = {name: value.shape for name, value in published.weights.items()}
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs:
            raise ValueError(f"lacks {name}")
        if name not in ours:
            raise ValueError(f"has an unknown entry for {name}")
        if ours[name] != theirs[name]:
            raise ValueError(f"{name} has shape {tuple(theirs[name])} instead of {tuple(ours[name])}")
        value = published.weights[name]
        if value.is_complex() or value.is_floating_point() == name.endswith("num_batches_tracked"):
            raise ValueError(f"{name} has type {str(value.dtype).removeprefix('torch.')}")
