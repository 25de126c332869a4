"""DeepLabv3+ with full convolutions, as in UniMatch and AugSeg: the decoder of most published results.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018
(https://arxiv.org/abs/1802.02611), as used in the semi-supervised literature: full 3x3 convolutions instead of
separable ones. With ResNet-50 and 21 classes the network has 40.4 M parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn_relu(inputs: int, outputs: int, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size, BatchNorm and ReLU."""
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: context at several distances and of the whole image.

    Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, section 3.3; rates for output
    stride 16. Input ``(N, C, h, w)``, output ``(N, channels, h, w)``.
    """

    def __init__(self, inputs: int, channels: int = 256, rates: Sequence[int] = (6, 12, 18)) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_bn_relu(inputs, channels, 1)])
        self.branches.extend(conv_bn_relu(inputs, channels, 3, dilation=rate) for rate in rates)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(inputs, channels, 1))
        self.project = conv_bn_relu((len(rates) + 2) * channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the projected concatenation of all branches."""
        context = self.pool(features).expand(-1, -1, *features.shape[-2:])
        return self.project(torch.cat([*(branch(features) for branch in self.branches), context], dim=1))


class DeepLabV3PlusDecoder(nn.Module):
    """ASPP on the deepest features, combined with the stride-4 features for sharp borders.

    Args:
        encoder_channels: Channels of the encoder's features, finest first (strides 1, 2, 4, ...).
        channels: Width of the decoder and its output.
        skip_channels: Width of the reduced stride-4 features (paper, table 1: 48).
    """

    def __init__(self, encoder_channels: Sequence[int], channels: int = 256, skip_channels: int = 48) -> None:
        super().__init__()
        self.aspp = ASPP(encoder_channels[-1], channels)
        self.skip = conv_bn_relu(encoder_channels[2], skip_channels, 1)
        self.fuse = nn.Sequential(
            conv_bn_relu(channels + skip_channels, channels, 3),
            conv_bn_relu(channels, channels, 3),
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return ``(N, channels, H/4, W/4)`` for the list of features at strides 1, 2, 4, ..."""
        skip = self.skip(features[2])
        context = F.interpolate(self.aspp(features[-1]), skip.shape[-2:], mode="bilinear", align_corners=False)
        return self.fuse(torch.cat([context, skip], dim=1))
