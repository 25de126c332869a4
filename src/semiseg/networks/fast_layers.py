"""Convolutions, BatchNorm and activations in the form that a CPU computes fastest, chosen in each forward pass.

Weights, names and state dicts do not change. GPUs, autocast, other types than float32 and exports use the layers as
they are. Three changes are made, each exact except for rounding:

- A BatchNorm with fixed statistics scales and shifts, so the convolution before it does both with its own weights.
- ReLU and ReLU6 are applied by the same oneDNN kernel as the convolution, before the result leaves the cache.
- The gradients of 1x1 convolutions are matrix products, those of depthwise ones are in ``depthwise.py``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from semiseg.networks.depthwise import ONE, Pair, input_gradient, live_taps, weight_gradient
from semiseg.ops.bilinear import bilinear, runs_eagerly_on_cpu

LIMITS: dict[type, tuple[float, float]] = {nn.ReLU: (0, math.inf), nn.ReLU6: (0, 6)}


def use_fast_layers(network: nn.Module) -> None:
    """Give the convolutions and upsampling layers in ``network`` their fast form, keeping all weights."""
    fast: dict[type, type[nn.Module]] = {nn.Conv2d: FastConv2d, nn.Upsample: FastUpsample}
    for module in network.modules():
        if type(module) in fast:
            module.__class__ = fast[type(module)]


class FastConv2d(nn.Conv2d):
    """``nn.Conv2d``, fast on a CPU; optionally with the layers that follow it."""

    def forward(self, input: Tensor, norm: nn.Module | None = None, activation: nn.Module | None = None) -> Tensor:
        """Convolve ``input`` ``(N, C, H, W)``, then apply ``norm`` and ``activation`` if given."""
        input = self.padded(input)
        if not runs_eagerly_on_cpu(input) or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return _then(super().forward(input), norm, activation)
        weight, bias, limits = self.weight, self.bias, None
        if is_fixed(norm) and (activation is None or type(activation) in LIMITS):
            weight, bias = fold(weight, bias, norm)
            limits = LIMITS.get(type(activation))
            norm = activation = None
        input = input.contiguous(memory_format=torch.channels_last)
        options = (self.stride, self.padding, self.dilation, self.groups, limits)
        return _then(_Convolution.apply(input, weight, bias, *options), norm, activation)

    def padded(self, input: Tensor) -> Tensor:
        """Return ``input`` with padding that is not the same on both sides; here, without."""
        return input


class FastUpsample(nn.Upsample):
    """``nn.Upsample``, fast on a CPU if it is bilinear."""

    def forward(self, input: Tensor) -> Tensor:
        """Upsample ``input`` ``(N, C, h, w)``."""
        factor = self.scale_factor
        if self.mode != "bilinear" or not isinstance(factor, float) or factor % 1 or not runs_eagerly_on_cpu(input):
            return super().forward(input)
        return bilinear(input, [int(factor) * side for side in input.shape[-2:]], bool(self.align_corners))


def _then(x: Tensor, *layers: nn.Module | None) -> Tensor:
    for layer in layers:
        x = x if layer is None else layer(x)
    return x


def is_fixed(norm: nn.Module | None) -> bool:
    """Return whether ``norm`` is a BatchNorm that uses its running statistics."""
    return type(norm) is nn.BatchNorm2d and not norm.training and norm.affine and norm.running_mean is not None


def fold(weight: Tensor, bias: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    """Return weight and bias of one convolution that equals a convolution and a fixed BatchNorm, with gradients."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    return weight * scale[:, None, None, None], shift if bias is None else torch.addcmul(shift, bias, scale)


class _Convolution(torch.autograd.Function):
    """Convolution, bias and clamp on a CPU, float32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
        limits: tuple[float, float] | None,
    ) -> Tensor:
        ctx.taps = (slice(None), slice(None))
        ctx.depthwise = groups == x.shape[1] == len(weight) and stride == ONE
        if ctx.depthwise:
            ctx.taps = live_taps(weight.shape[-2:], padding, dilation, x.shape[-2:])
        used = weight[:, :, ctx.taps[0], ctx.taps[1]]
        ctx.padding = tuple(p - (t.start or 0) * d for p, t, d in zip(padding, ctx.taps, dilation, strict=True))
        y = _convolve(x, used, bias, stride, ctx.padding, dilation, groups, limits)
        ctx.stride, ctx.dilation, ctx.groups, ctx.limits = stride, dilation, groups, limits
        ctx.save_for_backward(x, weight, *([y] if limits else []))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, weight, *clamped) = gradients, ctx.saved_tensors
        if clamped and ctx.limits[1] == math.inf:
            gradient = torch.ops.aten.threshold_backward(gradient, clamped[0], 0)
        elif clamped:
            gradient = torch.ops.aten.hardtanh_backward(gradient, clamped[0], *ctx.limits)
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        used = weight[:, :, ctx.taps[0], ctx.taps[1]]
        grad_x, grad_weight = _gradients(ctx, gradient, x, used, need_x, need_weight)
        if grad_weight is not None and used.shape != weight.shape:
            whole = torch.zeros_like(weight)
            whole[:, :, ctx.taps[0], ctx.taps[1]] = grad_weight
            grad_weight = whole
        grad_bias = gradient.sum((0, 2, 3)) if need_bias else None
        return grad_x, grad_weight, grad_bias, None, None, None, None, None


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    limits: tuple[float, float] | None,
) -> Tensor:
    kind, bounds = ("none", []) if limits is None else ("hardtanh", list(limits))
    if kind == "hardtanh" and bounds[1] == math.inf:
        kind, bounds = "relu", []
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, dilation, groups, kind, bounds, "")


def _gradients(
    ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of ``x`` and ``weight``."""
    if is_matrix_product(ctx, weight):
        rows, matrix = _rows(gradient), weight[:, :, 0, 0]
        grad_x = _images(rows @ matrix, x) if need_x else None
        return grad_x, (rows.t() @ _rows(x)).view_as(weight) if need_weight else None
    if ctx.depthwise:
        grad_x = input_gradient(gradient, weight, ctx.padding, ctx.dilation) if need_x else None
        return grad_x, weight_gradient(x, gradient, weight, ctx.padding, ctx.dilation) if need_weight else None
    found = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, ctx.stride, ctx.padding, ctx.dilation, False, (0, 0), ctx.groups,
        (need_x, need_weight, False),
    )  # fmt: skip
    return found[0], found[1]


def is_matrix_product(ctx: Any, weight: Tensor) -> bool:
    """Return whether the convolution multiplies each pixel by one matrix."""
    return weight.shape[2:] == (1, 1) and ctx.stride == ONE and ctx.padding == (0, 0) and ctx.groups == 1


def _rows(x: Tensor) -> Tensor:
    """View ``(N, C, H, W)`` in channels-last order as ``(N H W, C)``."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _images(rows: Tensor, like: Tensor) -> Tensor:
    """View ``(N H W, C)`` as a tensor of the shape of ``like`` ``(N, C, H, W)``."""
    n, channels, height, width = like.shape
    return rows.view(n, height, width, channels).permute(0, 3, 1, 2)
