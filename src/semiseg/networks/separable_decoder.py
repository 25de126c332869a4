"""DeepLabv3+ with separable convolutions: the default decoder, with the names of segmentation_models_pytorch.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018
(https://arxiv.org/abs/1802.02611). It is written here because segmentation_models_pytorch imports timm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RATES = (6, 12, 18)  # of the paper, for output stride 16
SKIP_CHANNELS = 48  # paper, table 1
DROPOUT = 0.5


def _separable(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    """Return a depthwise 3x3 convolution that keeps the size, and a 1x1 convolution."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
    )


def _normalized(*layers: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU())


class _Pooling(nn.Sequential):
    """The average of the image, at the size of the input."""

    def forward(self, input: Tensor) -> Tensor:
        return F.interpolate(super().forward(input), input.shape[-2:], mode="bilinear", align_corners=False)


class _ASPP(nn.Module):
    """Context at several distances and of the whole image."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([_normalized(nn.Conv2d(inputs, width, 1, bias=False), channels=width)])
        self.convs.extend(_normalized(_separable(inputs, width, rate), channels=width) for rate in RATES)
        pooled = nn.Conv2d(inputs, width, 1, bias=False)
        self.convs.append(_Pooling(nn.AdaptiveAvgPool2d(1), pooled, nn.BatchNorm2d(width), nn.ReLU()))
        self.project = _normalized(nn.Conv2d(5 * width, width, 1, bias=False), channels=width)
        self.project.append(nn.Dropout(DROPOUT))

    def forward(self, features: Tensor) -> Tensor:
        """Return the projected concatenation of all branches ``(N, width, h, w)``."""
        return self.project(torch.cat([conv(features) for conv in self.convs], dim=1))


class SeparableDecoder(nn.Module):
    """Separable ASPP on the features at stride 16, combined with those at stride 4.

    Args:
        encoder_channels: Channels of the encoder's features, finest first (strides 1, 2, 4, ...).
        width: Channels of the output.
    """

    def __init__(self, encoder_channels: Sequence[int], width: int = 256) -> None:
        super().__init__()
        aspp = _ASPP(encoder_channels[-1], width)
        self.aspp = nn.Sequential(aspp, *_normalized(_separable(width, width), channels=width))
        self.up = nn.Upsample(mode="bilinear", scale_factor=4, align_corners=True)
        skip = nn.Conv2d(encoder_channels[2], SKIP_CHANNELS, 1, bias=False)
        self.block1 = _normalized(skip, channels=SKIP_CHANNELS)
        self.block2 = _normalized(_separable(SKIP_CHANNELS + width, width), channels=width)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return ``(N, width, H/4, W/4)`` for the features at strides 1, 2, 4, ..."""
        context = self.up(self.aspp(features[-1]))
        return self.block2(torch.cat([context, self.block1(features[2])], dim=1))
