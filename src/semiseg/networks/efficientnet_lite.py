"""The default encoder, EfficientNet-Lite0, with the names and weights of timm's ``tf_efficientnet_lite0``.

It is written here because importing timm takes as long as importing PyTorch. Tan & Le, ICML 2019
(https://arxiv.org/abs/1905.11946); the Lite variants have ReLU6 and neither squeeze-and-excitation nor swish.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semiseg.networks.fast_layers import FastConv2d

LITE0 = "tf_efficientnet_lite0"
MEAN, STD = (0.5,) * 3, (0.5,) * 3
# Blocks, kernel size, stride and channels of each stage.
STAGES = (
    (1, 3, 1, 16),
    (2, 3, 2, 24),
    (2, 5, 2, 40),
    (3, 3, 2, 80),
    (3, 5, 1, 112),
    (4, 5, 2, 192),
    (1, 3, 1, 320),
)
EXPANSION = 6  # the first stage has 1
FEATURES = (0, 1, 2, 4, 6)  # stages at strides 2, 4, 8, 16 and 32
EPSILON = 1e-3
HEAD = (
    "conv_head.weight",
    *(f"bn2.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    "classifier.weight",
    "classifier.bias",
)
"""The tensors of timm's classifier that the encoder lacks."""


class SameConv2d(FastConv2d):
    """A convolution with TensorFlow's "same" padding, which depends on the size of the input."""

    def padded(self, input: Tensor) -> Tensor:
        """Pad ``input``, so that the output has sides ``ceil(H / stride)`` and ``ceil(W / stride)``."""
        padding: list[int] = []
        for axis in (1, 0):  # F.pad starts with the last dimension
            side, stride = input.shape[2 + axis], self.stride[axis]
            extent = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            total = max((-(-side // stride) - 1) * stride + extent - side, 0)
            padding += [total // 2, total - total // 2]
        return F.pad(input, padding) if any(padding) else input


def _conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1
) -> FastConv2d:
    if stride > 1:
        return SameConv2d(inputs, outputs, kernel, stride, dilation=dilation, groups=groups, bias=False)
    return FastConv2d(
        inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=groups, bias=False
    )


class SeparableBlock(nn.Module):
    """The block of the first stage: a depthwise convolution, then a 1x1 convolution."""

    def __init__(self, channels: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.has_skip = False
        self.conv_dw = _conv(channels, channels, kernel, groups=channels)
        self.bn1 = nn.BatchNorm2d(channels, EPSILON)
        self.act = nn.ReLU6(inplace=True)
        self.conv_pw = _conv(channels, outputs)
        self.bn2 = nn.BatchNorm2d(outputs, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output ``(N, outputs, H, W)``."""
        return self.conv_pw(self.conv_dw(x, self.bn1, self.act), self.bn2)


class InvertedResidual(nn.Module):
    """Expand the channels, convolve depthwise, project; with a skip connection if the shape stays the same."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, dilation: int) -> None:
        super().__init__()
        width = EXPANSION * inputs
        self.has_skip = inputs == outputs and stride == 1
        self.conv_pw = _conv(inputs, width)
        self.bn1 = nn.BatchNorm2d(width, EPSILON)
        self.conv_dw = _conv(width, width, kernel, stride, dilation, groups=width)
        self.bn2 = nn.BatchNorm2d(width, EPSILON)
        self.conv_pwl = _conv(width, outputs)
        self.bn3 = nn.BatchNorm2d(outputs, EPSILON)
        self.act = nn.ReLU6(inplace=True)
        self.drop_path = nn.Identity()  # the site of stochastic depth

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output ``(N, outputs, H / stride, W / stride)``."""
        wide = self.conv_dw(self.conv_pw(x, self.bn1, self.act), self.bn2, self.act)
        branch = self.conv_pwl(wide, self.bn3)
        return self.drop_path(branch) + x if self.has_skip else branch


class _Stages(nn.Module):
    """The stem and all blocks."""

    def __init__(self, channels: int, output_stride: int) -> None:
        super().__init__()
        self.conv_stem = _conv(channels, 32, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(32, EPSILON)
        self.act = nn.ReLU6(inplace=True)
        for _ in range(2):  # timm samples these weights when it tries its attention layer
            nn.Conv2d(8, 8, 1)
        stages, inputs, reached, dilation = [], 32, 2, 1
        for number, (count, kernel, stride, outputs) in enumerate(STAGES):
            blocks: list[nn.Module] = []
            for index in range(count):
                step, spread = (stride if index == 0 else 1), dilation
                if step > 1 and reached >= output_stride:  # dilate from the next block on instead
                    dilation, step = dilation * step, 1
                reached *= step
                if number == 0:
                    blocks.append(SeparableBlock(inputs, outputs, kernel))
                else:
                    blocks.append(InvertedResidual(inputs, outputs, kernel, step, spread))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 with random weights, sampled in timm's order, so that a seed gives the same network.

    Args:
        channels: Number of channels of the images.
        output_stride: 32, or 16 with dilated convolutions in the last stages.
    """

    def __init__(self, channels: int = 3, output_stride: int = 32) -> None:
        super().__init__()
        self.model = _Stages(channels, output_stride)
        self.out_channels = [channels, *(STAGES[stage][-1] for stage in FEATURES)]
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of normalized images ``(N, channels, H, W)``: the images, then strides 2 to 32."""
        x = self.model.conv_stem(images, self.model.bn1, self.model.act)
        features = [images]
        for number, stage in enumerate(self.model.blocks):
            x = stage(x)
            if number in FEATURES:
                features.append(x)
        return features


def classifier_names() -> list[str]:
    """Return the names of all tensors of timm's classifier, in its order."""
    with torch.device("meta"):
        return [*_Stages(3, 32).state_dict(), *HEAD]
