"""Segmentation networks. ``build(architecture, encoder, classes, weights)`` makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from semiseg.errors import UserError
from semiseg.networks.deeplabv3plus import FORMS, DeepLab, DeepLabV3PlusDecoder, adapt_encoder, auxiliary_head
from semiseg.networks.encoder_weights import load_encoder_weights
from semiseg.networks.encoders import DEPTH, did_you_mean, make_encoder, mean_and_std
from semiseg.networks.fast_layers import use_fast_layers
from semiseg.networks.network_options import DEFAULTS, NetworkOptions, require_general
from semiseg.networks.segmentation_network import SegmentationNetwork, make_batch_norm_lenient
from semiseg.networks.separable_decoder import SeparableDecoder
from semiseg.ops.stochastic_depth import residual_sites

__all__ = ["ARCHITECTURES", "NetworkOptions", "SegmentationNetwork", "build", "describe", "list_networks"]

WIDTH = 256


class Parts(NamedTuple):
    """The parts of a network, and further arguments of `SegmentationNetwork`."""

    encoder: nn.Module
    decoder: nn.Module
    head: nn.Module
    stride: int
    decoder_stride: float = 4
    settings: Mapping[str, Any] = MappingProxyType({})


def _deeplabv3plus(form: DeepLab, encoder_name: str, classes: int, bands: int, options: NetworkOptions) -> Parts:
    form = form.changed(options)
    encoder, channels = make_encoder(encoder_name, output_stride=form.output_stride, channels=bands)
    adapt_encoder(encoder, encoder_name, form)
    decoder, head = DeepLabV3PlusDecoder(channels, form), nn.Conv2d(form.width, classes, 1)
    settings = {
        "fit": "keep" if form.align_corners else "pad",
        "align_corners": form.align_corners,
        "head_dropout": form.head_dropout,
        "aux_head": auxiliary_head(channels[-2], classes) if form.aux_head else None,
    }
    return Parts(encoder, decoder, head, 16, settings=settings)


def _deeplabv3plus_separable(encoder_name: str, classes: int, bands: int, options: NetworkOptions) -> Parts:
    require_general(options, "deeplabv3plus-separable")
    encoder, channels = make_encoder(encoder_name, output_stride=16, channels=bands)
    return Parts(encoder, SeparableDecoder(channels, WIDTH), nn.Conv2d(WIDTH, classes, 1), 16)


def _segformer(encoder_name: str, classes: int, bands: int, options: NetworkOptions) -> Parts:
    """SegFormer (Xie et al., NeurIPS 2021, https://arxiv.org/abs/2105.15203): one MLP per level, then fusion."""
    from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
    from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder

    require_general(options, "segformer")
    encoder, channels = make_encoder(encoder_name, channels=bands)
    decoder = SegformerDecoder(channels, DEPTH, segmentation_channels=WIDTH)
    head = nn.Conv2d(WIDTH, classes, 1)
    initialize_decoder(decoder)
    initialize_head(head)
    return Parts(encoder, decoder, head, 32)


def _dpt(encoder_name: str, classes: int, bands: int, options: NetworkOptions) -> Parts:
    from semiseg.networks.dpt import DPTDecoder, ViTEncoder
    from semiseg.networks.dpt_version1 import DPTDecoderVersion1

    require_general(options, "dpt")
    encoder = ViTEncoder(encoder_name, bands, options.version)
    if options.version == 1:
        earlier = DPTDecoderVersion1(encoder.channels, WIDTH)
        return Parts(encoder, earlier, nn.Conv2d(WIDTH, classes, 1), 2 * encoder.patch, encoder.patch / 8)
    decoder = DPTDecoder(encoder.channels[-1])
    settings = {"fit": "resize", "align_corners": True, "one_channel_mask": True}
    head = nn.Conv2d(decoder.width, classes, 1)
    return Parts(encoder, decoder, head, encoder.patch, encoder.patch / 8, settings)


ARCHITECTURES: dict[str, Callable[[str, int, int, NetworkOptions], Parts]] = {
    **{name: partial(_deeplabv3plus, form) for name, form in FORMS.items()},
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
    architecture: str,
    encoder: str,
    classes: int,
    weights: str = "imagenet",
    channels: int = 3,
    options: NetworkOptions = DEFAULTS,
) -> SegmentationNetwork:
    """Make a segmentation network.

    Args:
        architecture: A key of ``ARCHITECTURES``.
        encoder: Name of an encoder in timm or, if timm lacks it, in segmentation_models_pytorch.
        classes: Number of classes, at least 1.
        weights: Initial weights of the encoder: ``"imagenet"``, ``"none"`` (random), or the path of a state dict.
        channels: Number of channels of the images. Pretrained weights of the first convolution are repeated over them.
        options: Changes to the architecture.

    Raises:
        UserError: The architecture or encoder is unknown, the encoder lacks the required features, an option does not
            apply, or the weights cannot be loaded.
    """
    if architecture not in ARCHITECTURES:
        suggestion = did_you_mean(architecture, ARCHITECTURES)
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"unknown architecture {architecture!r}{suggestion}", fix=f"choose from {known}")
    parts = ARCHITECTURES[architecture](encoder, classes, channels, options)
    _set_drop_path(parts.encoder, encoder, options.encoder_drop_path)
    make_batch_norm_lenient(parts.decoder)
    for part in (parts.encoder, parts.decoder, parts.head):
        use_fast_layers(part)
    load_encoder_weights(parts.encoder, encoder, weights)
    mean, std = mean_and_std(encoder, channels)
    settings = dict(parts.settings)
    if options.head_dropout is not None:
        settings["head_dropout"] = options.head_dropout
    return SegmentationNetwork(
        parts.encoder,
        parts.decoder,
        parts.head,
        stride=parts.stride,
        mean=mean,
        std=std,
        architecture=architecture,
        encoder_name=encoder,
        classes=classes,
        decoder_stride=parts.decoder_stride,
        **settings,
    )


def _set_drop_path(encoder: nn.Module, name: str, rate: float) -> None:
    """Set the drop path of MiT, which rises linearly to ``rate`` at the last block (SegFormer: 0.1).

    It is off by default, so that only `stochastic_depth` drops branches.

    Raises:
        UserError: The rate is above 0 and the encoder has no drop path of its own.
    """
    drop_paths = [module for module in encoder.modules() if hasattr(module, "drop_prob")]
    if rate and not drop_paths:
        raise UserError(f"applies to MiT, not to {name}", option="encoder-drop-path", fix="leave it out")
    for index, module in enumerate(drop_paths, start=1):  # the first block has none
        setattr(module, "drop_prob", rate * index / len(drop_paths))  # noqa: B010 (mypy takes it for a submodule)


def describe(architecture: str, encoder: str, classes: int, options: NetworkOptions = DEFAULTS) -> dict[str, str | int]:
    """Return the names of a network and its numbers of parameters and residual sites (`stochastic_depth`)."""
    network = build(architecture, encoder, classes, "none", options=options)
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
