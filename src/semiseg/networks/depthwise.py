"""Depthwise convolutions on CPUs: taps and gradients for which oneDNN has no fast kernel.

PyTorch's own gradients of the default encoder's kernels of 5x5 pixels and of its dilated last stage take 5 to 60 times
as long (``benchmarks/depthwise.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]
ONE: Pair = (1, 1)


def live_taps(kernel: Sequence[int], padding: Pair, dilation: Pair, size: Sequence[int]) -> tuple[slice, slice]:
    """Return the rows and columns of a kernel of stride 1 that meet an image of ``size`` anywhere.

    On the 8x8 map of a small crop, a kernel with dilation 12 has one such tap, its center.
    """
    rows, columns = (
        [tap for tap in range(k) if abs(tap * d - p) < side]
        for k, p, d, side in zip(kernel, padding, dilation, size, strict=True)
    )
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def input_gradient(gradient: Tensor, weight: Tensor, padding: Pair, dilation: Pair) -> Tensor:
    """Return the gradient of the input for stride 1: a convolution of ``gradient`` with the flipped kernel."""
    rest = tuple(d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[-2:], padding, strict=True))
    return F.conv2d(gradient, weight.flip(2, 3), padding=rest, dilation=dilation, groups=len(weight))


def weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor, padding: Pair, dilation: Pair) -> Tensor:
    """Return the gradient of ``weight`` ``(C, 1, k, k)`` for stride 1."""
    if dilation == ONE:
        return _dense(x, gradient, weight, padding)
    height, width = x.shape[-2:]
    same_size = x.shape == gradient.shape
    (down, across), (pad_rows, pad_columns) = dilation, padding
    if not same_size or height % down or width % across or pad_rows % down or pad_columns % across:
        return sum_of_each_tap(x, gradient, weight, padding, dilation)
    # The pixels that one output sees are a grid of every d-th pixel. On these grids the kernel is not dilated.
    rows = max(0, weight.shape[2] - height // down)  # oneDNN is slow for maps lower than the kernel
    x, gradient = _grids(x, dilation, rows), _grids(gradient, dilation, rows)
    return _dense(x, gradient, weight, (pad_rows // down, pad_columns // across))


def _dense(x: Tensor, gradient: Tensor, weight: Tensor, padding: Pair) -> Tensor:
    """Return the gradient of a kernel without dilation."""
    if weight.shape[3] != 5 or padding[1] != 2 or x.shape[3] % 2 or gradient.shape[3] % 2:
        return native(x, gradient, weight, padding)
    # oneDNN is fast up to three columns. A pair of neighboring pixels seen as one pixel with 2 C channels gives the
    # two outer columns, because a step to its neighbor is a step of two pixels.
    inner = native(x, gradient, weight[..., 1:4], (padding[0], 1))
    doubled = weight.new_empty(2 * len(weight), 1, weight.shape[2], 3)
    outer = native(_pixel_pairs(x), _pixel_pairs(gradient), doubled, (padding[0], 1)).view(2, *inner.shape).sum(0)
    return torch.cat([outer[..., :1], inner, outer[..., 2:]], dim=-1)


def native(x: Tensor, gradient: Tensor, weight: Tensor, padding: Pair, dilation: Pair = ONE) -> Tensor:
    """Return PyTorch's gradient of ``weight``."""
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, ONE, padding, dilation, False, (0, 0), len(weight), (False, True, False)
    )[1]


def _pixel_pairs(x: Tensor) -> Tensor:
    """View ``(N, C, H, W)`` in channels-last order as ``(N, 2 C, H, W/2)``."""
    n, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, height, width // 2, 2 * channels).permute(0, 3, 1, 2)


def _grids(x: Tensor, dilation: Pair, rows: int) -> Tensor:
    """Return the grids of every d-th pixel of ``x`` ``(N, C, H, W)`` as ``(N d d, C, H/d + rows, W/d)``."""
    (n, channels, height, width), (down, across) = x.shape, dilation
    pixels = x.permute(0, 2, 3, 1).reshape(n, height // down, down, width // across, across, channels)
    grids = x.new_zeros(n, down, across, height // down + rows, width // across, channels)
    grids[:, :, :, : height // down] = pixels.permute(0, 2, 4, 1, 3, 5)
    return grids.flatten(0, 2).permute(0, 3, 1, 2)


def sum_of_each_tap(x: Tensor, gradient: Tensor, weight: Tensor, padding: Pair, dilation: Pair) -> Tensor:
    """Return the gradient of ``weight`` as one sum per kernel tap."""
    result = torch.zeros_like(weight)
    for i in range(weight.shape[2]):
        down, rows = _overlap(i * dilation[0] - padding[0], x.shape[2], gradient.shape[2])
        for j in range(weight.shape[3]):
            across, columns = _overlap(j * dilation[1] - padding[1], x.shape[3], gradient.shape[3])
            result[:, 0, i, j] = (gradient[:, :, rows, columns] * x[:, :, down, across]).sum((0, 2, 3))
    return result


def _overlap(offset: int, inputs: int, outputs: int) -> tuple[slice, slice]:
    """Return the input and output positions where a kernel tap at ``offset`` meets the input."""
    start = max(0, -offset)
    stop = max(start, min(outputs, inputs - offset))
    return slice(start + offset, stop + offset), slice(start, stop)
