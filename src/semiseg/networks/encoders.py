"""Encoders by name, from timm or else from segmentation_models_pytorch."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from semiseg.errors import UserError
from semiseg.networks.efficientnet_lite import LITE0, MEAN, STD, EfficientNetLite0

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Encoders of segmentation_models_pytorch that are not in timm and do not use ImageNet's mean.
_HALF_NORMALIZED = ("inceptionresnetv2", "inceptionv4")
DEPTH = 5


def smp_name(name: str) -> str:
    """Return the name of an encoder in segmentation_models_pytorch (``tu-...`` for timm's encoders).

    Raises:
        UserError: Neither library has the encoder. The message suggests similar names.
    """
    name = name.removeprefix("tu-")
    if name == LITE0:  # without timm, whose import is slow
        return f"tu-{name}"
    import segmentation_models_pytorch as smp
    import timm

    if timm.is_model(name):
        return f"tu-{name}"
    # smp deprecated its names with timm-.
    own = [known for known in smp.encoders.get_encoder_names() if not known.startswith("timm-")]
    if name in own:
        return name
    suggestion = did_you_mean(name, [*timm.list_models(), *own])
    raise UserError(f"unknown encoder {name!r}{suggestion}", fix="`semiseg networks` lists suggested ones")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean a, b or c?"`` with similar names, or an empty string."""
    close = difflib.get_close_matches(name.lower(), sorted(set(known)), n=3, cutoff=0.6)
    if not close:
        return ""
    return f"; did you mean {', '.join(close[:-1]) + ' or ' + close[-1] if len(close) > 1 else close[0]}?"


def mean_and_std(name: str, channels: int = 3) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of the encoder's pretraining, per channel in [0, 1].

    If there are not three channels, each gets the averages over red, green and blue.
    """
    mean, std = _rgb_mean_and_std(name)
    if channels == 3:
        return mean, std
    return (sum(mean) / 3,) * channels, (sum(std) / 3,) * channels


def _rgb_mean_and_std(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    name = smp_name(name)
    if name == f"tu-{LITE0}":
        return MEAN, STD
    if name.startswith("tu-"):
        import timm

        settings = timm.get_pretrained_cfg(name.removeprefix("tu-"))
        if settings is not None:
            return tuple(settings.mean), tuple(settings.std)
    if name in _HALF_NORMALIZED:
        return (0.5,) * 3, (0.5,) * 3
    return IMAGENET_MEAN, IMAGENET_STD


def make_encoder(name: str, output_stride: int = 32, channels: int = 3) -> tuple[nn.Module, list[int]]:
    """Return an encoder with random weights, and the channels of its features.

    The features have strides 1 (the image), 2, 4, 8, 16 and 32, finest first. The stride-2 map may have 0 channels.

    Args:
        name: An encoder of timm or segmentation_models_pytorch.
        output_stride: 16 keeps the deepest features at stride 16, with dilated convolutions.
        channels: Number of channels of the images.

    Raises:
        UserError: The encoder is unknown or lacks such features.
    """
    full_name = smp_name(name)
    if full_name == f"tu-{LITE0}":
        default = EfficientNetLite0(channels, output_stride)
        return default, default.out_channels
    import segmentation_models_pytorch as smp

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            encoder = smp.encoders.get_encoder(full_name, channels, DEPTH, weights=None, output_stride=output_stride)
            sizes = _feature_sizes(encoder, channels, side=64)
    except Exception as error:  # the constructors raise many types of exceptions
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise _unsuitable(name, output_stride, reason) from error
    wanted = [64 // min(2**level, output_stride) for level in range(2, DEPTH + 1)]
    if sizes[2:] != wanted:
        strides = ", ".join(str(64 // max(size, 1)) for size in sizes[2:]) or "none"
        raise _unsuitable(name, output_stride, f"it has strides {strides}")
    return encoder, list(encoder.out_channels)


def _unsuitable(name: str, output_stride: int, reason: str) -> UserError:
    needed = f"features at strides 4 to {output_stride} of images of any size are needed"
    fix = "choose another encoder, e.g. tf_efficientnet_lite0 or resnet50"
    return UserError(f"encoder {name!r} cannot be used: {needed} ({reason})", fix=fix)


@torch.no_grad()
def _feature_sizes(encoder: nn.Module, channels: int, side: int) -> list[int]:
    was_training = encoder.training
    features: list[Tensor] = encoder.eval()(torch.zeros(1, channels, side, side))
    encoder.train(was_training)
    return [feature.shape[-1] for feature in features]
