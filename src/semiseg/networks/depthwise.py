"""Dilated depthwise convolutions with a fast backward pass on CPUs.

PyTorch's backward pass takes several times as long on the last stage of the default encoder
(``benchmarks/depthwise.py``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _DilatedDepthwise(torch.autograd.Function):
    """Depthwise convolution of stride 1, with PyTorch's forward pass.

    The gradient of the input is a convolution with the flipped kernel; that of the weight is one sum per kernel tap.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.dilation = padding, dilation
        return F.conv2d(x, weight, padding=padding, dilation=dilation, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        padding, dilation, kernel = ctx.padding, ctx.dilation, weight.shape[-2:]
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            pad = tuple(d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True))
            grad_x = F.conv2d(gradient, weight.flip(2, 3), padding=pad, dilation=dilation, groups=len(weight))
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
            for i in range(kernel[0]):
                down, rows = _overlap(i * dilation[0] - padding[0], x.shape[2], gradient.shape[2])
                for j in range(kernel[1]):
                    across, columns = _overlap(j * dilation[1] - padding[1], x.shape[3], gradient.shape[3])
                    grad_weight[:, 0, i, j] = (gradient[:, :, rows, columns] * x[:, :, down, across]).sum((0, 2, 3))
        return grad_x, grad_weight, None, None


def _overlap(offset: int, inputs: int, outputs: int) -> tuple[slice, slice]:
    """Return the input and output positions where a kernel tap at ``offset`` meets the input."""
    start = max(0, -offset)
    stop = max(start, min(outputs, inputs - offset))
    return slice(start + offset, stop + offset), slice(start, stop)


class DilatedDepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` with stride 1 and one channel per group; same state dict. Input and output ``(N, C, H, W)``."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input``; anything but float32 on a CPU uses PyTorch's convolution."""
        if input.device.type != "cpu" or input.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        output: Tensor = _DilatedDepthwise.apply(input, self.weight, self.padding, self.dilation)
        return output if self.bias is None else output + self.bias[:, None, None]


def speed_up_dilated_depthwise(module: nn.Module) -> None:
    """Turn every dilated depthwise convolution in ``module`` into a ``DilatedDepthwiseConv2d`` with its weights."""
    for child in module.modules():
        if (
            type(child) is nn.Conv2d
            and child.groups == child.in_channels == child.out_channels
            and child.stride == (1, 1)
            and max(child.dilation) > 1
            and child.padding_mode == "zeros"
            and not isinstance(child.padding, str)
        ):
            child.__class__ = DilatedDepthwiseConv2d
