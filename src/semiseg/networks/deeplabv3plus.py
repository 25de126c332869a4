"""DeepLabv3+ with full convolutions and the forms that published methods use.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018
(https://arxiv.org/abs/1802.02611). Parameter counts of all forms: docs/published-networks.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semiseg.errors import UserError
from semiseg.networks.network_options import NetworkOptions

MULTI_GRID = (2, 2, 4)
AUX_WIDTH, AUX_DROPOUT = 256, 0.1  # mmsegmentation, U2PL


@dataclass(frozen=True)
class DeepLab:
    """A form of DeepLabv3+. The defaults are those of UniMatch's release, except for ``align_corners``.

    Attributes:
        output_stride: Stride of the deepest features. ASPP's rates are 6, 12, 18 for 16 and 12, 24, 36 for 8.
        multi_grid: Factors of the dilations of the blocks in the encoder's last stage.
        low_level_channels: Width of the reduced stride-4 features (paper, table 1: 48).
        align_corners: Interpolate with ``align_corners=True``, without padding images.
        aux_head: Whether there is a second classifier.
        head_dropout: Probability of dropping a channel before the classifier.
        width: Channels of the decoder.
        project_kernel: Size of the convolution after ASPP.
        low_level_bias, fuse_bias: Whether these convolutions have a bias although BatchNorm follows.
        dropout: Probability of dropping a channel after each fusing convolution.
        separable: Use depthwise separable convolutions in ASPP's branches and for fusing.
        leaky: Use LeakyReLU in ASPP.
        ceil_mode: Round sizes up in the encoder's max pooling.
    """

    output_stride: int = 16
    multi_grid: tuple[int, ...] = ()
    low_level_channels: int = 48
    align_corners: bool = False
    aux_head: bool = False
    head_dropout: float = 0.0
    width: int = 256
    project_kernel: int = 1
    low_level_bias: bool = False
    fuse_bias: bool = False
    dropout: float = 0.0
    separable: bool = False
    leaky: bool = False
    ceil_mode: bool = False

    @property
    def rates(self) -> tuple[int, ...]:
        """The dilations of ASPP's 3x3 convolutions (Chen et al. 2017, section 3.3)."""
        return tuple(rate * 16 // self.output_stride for rate in (6, 12, 18))

    def changed(self, options: NetworkOptions) -> DeepLab:
        """Return this form with ``options``.

        Raises:
            UserError: A value is not possible.
        """
        names = ("output_stride", "multi_grid", "low_level_channels", "head_dropout")
        given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
        given |= {name: True for name in ("aux_head", "align_corners") if getattr(options, name)}
        return replace(self, **given)


FORMS: dict[str, DeepLab] = {
    "deeplabv3plus": DeepLab(),  # UniMatch: with align_corners
    "deeplabv3plus-augseg": DeepLab(
        multi_grid=MULTI_GRID, low_level_bias=True, align_corners=True, ceil_mode=True
    ),  # augseg/models
    "deeplabv3plus-cps": DeepLab(multi_grid=MULTI_GRID, leaky=True, align_corners=True),  # CPS, network.py
    "deeplabv3plus-mmseg": DeepLab(
        output_stride=8, width=512, project_kernel=3, separable=True, aux_head=True, head_dropout=0.1
    ),  # mmsegmentation, deeplabv3plus_r50-d8
    "deeplabv3plus-u2pl": DeepLab(
        output_stride=8,
        multi_grid=MULTI_GRID,
        low_level_channels=256,
        align_corners=True,
        project_kernel=3,
        low_level_bias=True,
        fuse_bias=True,
        dropout=0.1,
        ceil_mode=True,
    ),  # u2pl/models, without the representation head; also GTA-Seg
}


def conv_bn_relu(
    inputs: int,
    outputs: int,
    kernel_size: int,
    dilation: int = 1,
    *,
    groups: int = 1,
    bias: bool = False,
    leaky: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return a convolution that keeps the size, BatchNorm, (leaky) ReLU and, above 0, dropout of channels."""
    padding = dilation * (kernel_size // 2)
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel_size, padding=padding, dilation=dilation, groups=groups, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(inplace=True) if leaky else nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers, *([nn.Dropout2d(dropout)] if dropout else []))


def separable_conv(inputs: int, outputs: int, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    """Return a depthwise and a pointwise convolution, each with BatchNorm and ReLU, as in mmsegmentation."""
    depthwise = conv_bn_relu(inputs, inputs, kernel_size, dilation, groups=inputs)
    return nn.Sequential(depthwise, conv_bn_relu(inputs, outputs, 1))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: context at several distances and of the whole image.

    Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, section 3.3. Input
    ``(N, C, h, w)``, output ``(N, width, h, w)``. With LeakyReLU it equals ASPP of CPS, which adds two projections
    instead of concatenating their inputs.
    """

    def __init__(self, inputs: int, form: DeepLab) -> None:
        super().__init__()
        conv = partial(conv_bn_relu, leaky=form.leaky)
        atrous: Callable[..., nn.Sequential] = separable_conv if form.separable else conv
        self.branches = nn.ModuleList([conv(inputs, form.width, 1)])
        self.branches.extend(atrous(inputs, form.width, 3, dilation=rate) for rate in form.rates)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv(inputs, form.width, 1))
        self.project = conv((len(form.rates) + 2) * form.width, form.width, form.project_kernel)

    def forward(self, features: Tensor) -> Tensor:
        """Return the projected concatenation of all branches."""
        context = self.pool(features).expand(-1, -1, *features.shape[-2:])
        return self.project(torch.cat([*(branch(features) for branch in self.branches), context], dim=1))


class DeepLabV3PlusDecoder(nn.Module):
    """ASPP on the deepest features, combined with the stride-4 features for sharp borders.

    Args:
        encoder_channels: Channels of the encoder's features, finest first (strides 1, 2, 4, ...).
        form: The form of the network.
    """

    def __init__(self, encoder_channels: Sequence[int], form: DeepLab | None = None) -> None:
        super().__init__()
        form = form or DeepLab()
        self.align_corners, width, low_level = form.align_corners, form.width, form.low_level_channels
        self.aspp = ASPP(encoder_channels[-1], form)
        self.skip = conv_bn_relu(encoder_channels[2], low_level, 1, bias=form.low_level_bias)
        fuse: Callable[..., nn.Sequential] = (
            separable_conv if form.separable else partial(conv_bn_relu, bias=form.fuse_bias, dropout=form.dropout)
        )
        self.fuse = nn.Sequential(fuse(width + low_level, width, 3), fuse(width, width, 3))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return ``(N, width, H/4, W/4)`` for the list of features at strides 1, 2, 4, ..."""
        skip = self.skip(features[2])
        size = skip.shape[-2:]
        context = F.interpolate(self.aspp(features[-1]), size, mode="bilinear", align_corners=self.align_corners)
        return self.fuse(torch.cat([context, skip], dim=1))


def auxiliary_head(inputs: int, classes: int) -> nn.Sequential:
    """Return a classifier of the features at stride 16 (8 for output stride 8), as in mmsegmentation and U2PL."""
    return nn.Sequential(
        conv_bn_relu(inputs, AUX_WIDTH, 3, dropout=AUX_DROPOUT),
        nn.Conv2d(AUX_WIDTH, classes, 1),
    )


def adapt_encoder(encoder: nn.Module, name: str, form: DeepLab) -> None:
    """Apply ``multi_grid`` and ``ceil_mode`` to a ResNet, in place.

    The dilations of the last stage become 2, 4, 8 for output stride 16 and a multi-grid of 2, 2, 4 (4, 8, 16 for 8).
    Further blocks repeat the last factor.

    Raises:
        UserError: The encoder is not a ResNet.
    """
    if form.multi_grid:
        blocks = list(getattr(getattr(encoder, "model", encoder), "layer4", []))
        if not blocks or not all(hasattr(block, "conv2") for block in blocks):
            raise UserError(f"needs a ResNet, not {name}", option="multi-grid", fix="choose another encoder")
        factors = form.multi_grid + form.multi_grid[-1:] * len(blocks)
        for block, factor in zip(blocks, factors, strict=False):
            for module in block.modules():
                if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                    dilation = module.dilation[0] * factor
                    module.dilation, module.padding = (dilation, dilation), (dilation, dilation)
    if form.ceil_mode:
        for module in encoder.modules():
            if isinstance(module, nn.MaxPool2d):
                module.ceil_mode = True
