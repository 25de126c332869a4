"""Encoders by name: timm's first, then those of segmentation_models_pytorch."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from semiseg.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The encoders of segmentation_models_pytorch, absent from timm, that do not use the above.
_HALF_NORMALIZED = ("inceptionresnetv2", "inceptionv4")
DEPTH = 5


def smp_name(name: str) -> str:
    """Return the name under which segmentation_models_pytorch makes encoder ``name`` (``tu-...`` for timm's).

    Raises:
        UserError: neither library has it; the message suggests names that are close.
    """
    name = name.removeprefix("tu-")
    if timm.is_model(name):
        return f"tu-{name}"
    own = [known for known in smp.encoders.get_encoder_names() if not known.startswith("timm-")]  # deprecated there
    if name in own:
        return name
    raise UserError(f"unknown encoder {name!r}{did_you_mean(name, [*timm.list_models(), *own])}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean a, b or c?"``, or a hint where nothing is close."""
    close = difflib.get_close_matches(name.lower(), sorted(set(known)), n=3, cutoff=0.6)
    if not close:
        return "; `semiseg networks` lists good ones"
    return f"; did you mean {', '.join(close[:-1]) + ' or ' + close[-1] if len(close) > 1 else close[0]}?"


def mean_and_std(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation per channel of RGB in [0, 1] with which the encoder was trained."""
    name = smp_name(name)
    if name.startswith("tu-"):
        settings = timm.get_pretrained_cfg(name.removeprefix("tu-"))
        if settings is not None:
            return tuple(settings.mean), tuple(settings.std)
    if name in _HALF_NORMALIZED:
        return (0.5,) * 3, (0.5,) * 3
    return IMAGENET_MEAN, IMAGENET_STD


def make_encoder(name: str, output_stride: int = 32) -> tuple[nn.Module, list[int]]:
    """Return the encoder with random weights, and the channels of its features.

    The features are at strides 1 (the image), 2, 4, 8, 16 and 32, finest first; that at 2 may have no channels.

    Args:
        name: an encoder of timm, or of segmentation_models_pytorch.
        output_stride: 16 keeps the deepest features at stride 16, with dilated convolutions.

    Raises:
        UserError: no such encoder, or one that has no such features.
    """
    full_name = smp_name(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            encoder = smp.encoders.get_encoder(full_name, depth=DEPTH, weights=None, output_stride=output_stride)
            sizes = _feature_sizes(encoder, side=64)
    except Exception as error:  # each of a thousand constructors objects in its own way; the remedy is the same
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise UserError(_refusal(name, output_stride, reason)) from error
    wanted = [64 // min(2**level, output_stride) for level in range(2, DEPTH + 1)]
    if sizes[2:] != wanted:
        strides = ", ".join(str(64 // max(size, 1)) for size in sizes[2:]) or "none"
        raise UserError(_refusal(name, output_stride, f"it has strides {strides}"))
    return encoder, list(encoder.out_channels)


def _refusal(name: str, output_stride: int, reason: str) -> str:
    return (
        f"encoder {name!r} cannot be used: features at strides 4 to {output_stride} of images of any size are needed"
        f" ({reason}); take another, e.g. tf_efficientnet_lite0 or resnet50"
    )


@torch.no_grad()
def _feature_sizes(encoder: nn.Module, side: int) -> list[int]:
    was_training = encoder.training
    features: list[Tensor] = encoder.eval()(torch.zeros(1, 3, side, side))
    encoder.train(was_training)
    return [feature.shape[-1] for feature in features]
