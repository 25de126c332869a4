"""Segmentation networks. ``build(architecture, encoder, classes, weights)`` makes them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from semiseg.errors import UserError
from semiseg.networks.deeplabv3plus import DeepLabV3PlusDecoder
from semiseg.networks.depthwise import speed_up_dilated_depthwise
from semiseg.networks.encoder_weights import load_encoder_weights
from semiseg.networks.encoders import DEPTH, did_you_mean, make_encoder, mean_and_std
from semiseg.networks.segmentation_network import SegmentationNetwork, make_batch_norm_lenient
from semiseg.networks.separable_decoder import SeparableDecoder
from semiseg.ops.stochastic_depth import residual_sites

__all__ = ["ARCHITECTURES", "SegmentationNetwork", "build", "describe", "list_networks"]

WIDTH = 256
# Encoder, decoder, head, the stride whose multiples images are padded to, and the stride of the decoder's map.
Parts = tuple[nn.Module, nn.Module, nn.Module, int, float]


def _deeplabv3plus(encoder_name: str, classes: int, bands: int) -> Parts:
    encoder, channels = make_encoder(encoder_name, output_stride=16, channels=bands)
    return encoder, DeepLabV3PlusDecoder(channels, WIDTH), nn.Conv2d(WIDTH, classes, 1), 16, 4


def _deeplabv3plus_separable(encoder_name: str, classes: int, bands: int) -> Parts:
    encoder, channels = make_encoder(encoder_name, output_stride=16, channels=bands)
    return encoder, SeparableDecoder(channels, WIDTH), nn.Conv2d(WIDTH, classes, 1), 16, 4


def _segformer(encoder_name: str, classes: int, bands: int) -> Parts:
    """SegFormer (Xie et al., NeurIPS 2021, https://arxiv.org/abs/2105.15203): one MLP per level, then fusion."""
    from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
    from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder

    encoder, channels = make_encoder(encoder_name, channels=bands)
    decoder = SegformerDecoder(channels, DEPTH, segmentation_channels=WIDTH)
    head = nn.Conv2d(WIDTH, classes, 1)
    initialize_decoder(decoder)
    initialize_head(head)
    return encoder, decoder, head, 32, 4


def _dpt(encoder_name: str, classes: int, bands: int) -> Parts:
    from semiseg.networks.dpt import DPTDecoder, ViTEncoder

    encoder = ViTEncoder(encoder_name, bands)
    decoder = DPTDecoder(encoder.channels, WIDTH)
    return encoder, decoder, nn.Conv2d(WIDTH, classes, 1), 2 * encoder.patch, encoder.patch / 8


ARCHITECTURES: dict[str, Callable[[str, int, int], Parts]] = {
    "deeplabv3plus": _deeplabv3plus,
    "deeplabv3plus-separable": _deeplabv3plus_separable,
    "segformer": _segformer,
    "dpt": _dpt,
}

# Shown by `semiseg networks`, small to large. Each architecture accepts any encoder with suitable features (dpt: plain
# vision transformers).
SUGGESTED: tuple[tuple[str, str], ...] = (
    ("deeplabv3plus-separable", "tf_efficientnet_lite0"),
    ("segformer", "mit_b0"),
    ("segformer", "mit_b1"),
    ("deeplabv3plus-separable", "resnet50"),
    ("deeplabv3plus", "resnet50"),
    ("deeplabv3plus", "resnet101"),
    ("dpt", "vit_small_patch14_dinov2"),
)


def build(
    architecture: str, encoder: str, classes: int, weights: str = "imagenet", channels: int = 3
) -> SegmentationNetwork:
    """Make a segmentation network.

    Args:
        architecture: A key of ``ARCHITECTURES``.
        encoder: Name of an encoder in timm or, if timm lacks it, in segmentation_models_pytorch.
        classes: Number of classes, at least 1.
        weights: Initial weights of the encoder: ``"imagenet"``, ``"none"`` (random), or the path of a state dict.
        channels: Number of channels of the images. Pretrained weights of the first convolution are repeated over them.

    Raises:
        UserError: The architecture or encoder is unknown, the encoder lacks the required features, or the weights
            cannot be loaded.
    """
    if architecture not in ARCHITECTURES:
        suggestion = did_you_mean(architecture, ARCHITECTURES)
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"unknown architecture {architecture!r}{suggestion}", fix=f"choose from {known}")
    body, decoder, head, stride, decoder_stride = ARCHITECTURES[architecture](encoder, classes, channels)
    for module in body.modules():
        if hasattr(module, "drop_prob"):  # smp's MiT has its own drop path; only `stochastic_depth` may drop branches
            setattr(module, "drop_prob", 0.0)  # noqa: B010 (mypy takes it for a submodule)
    make_batch_norm_lenient(decoder)
    for part in (body, decoder):
        speed_up_dilated_depthwise(part)
    load_encoder_weights(body, encoder, weights)
    mean, std = mean_and_std(encoder, channels)
    return SegmentationNetwork(
        body,
        decoder,
        head,
        stride=stride,
        mean=mean,
        std=std,
        architecture=architecture,
        encoder_name=encoder,
        classes=classes,
        decoder_stride=decoder_stride,
    )


def describe(architecture: str, encoder: str, classes: int) -> dict[str, str | int]:
    """Return the names of a network and its numbers of parameters and residual sites (`stochastic_depth`)."""
    network = build(architecture, encoder, classes, weights="none")
    encoder_parameters = sum(parameter.numel() for parameter in network.encoder_parameters())
    return {
        "architecture": architecture,
        "encoder": encoder,
        "parameters": encoder_parameters + sum(parameter.numel() for parameter in network.decoder_parameters()),
        "encoder_parameters": encoder_parameters,
        "residual_sites": len(residual_sites(network)),
    }


def list_networks(classes: int = 21) -> list[dict[str, str | int]]:
    """Describe the suggested networks, the default first."""
    return [describe(architecture, encoder, classes) for architecture, encoder in SUGGESTED]
