"""A copy of a network for prediction on a CPU: BatchNorm folded into the convolutions, with their activations.

A BatchNorm with fixed statistics scales and shifts each channel, which the convolution before it does with its own
weights. oneDNN applies ReLU and ReLU6 in the same kernel, before the result leaves the cache.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from semiseg.networks import SegmentationNetwork
from semiseg.ops.bilinear import plain_layers

SIDE = 64  # of the image that is traced
TOLERANCE = 1e-3  # of the largest logit, for the check of the copy
ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}
"""oneDNN's name and arguments of each activation that it applies."""


class FoldedConv2d(nn.Module):
    """A convolution with a folded BatchNorm and an activation, for float32 on a CPU.

    Args:
        conv: The convolution, with BatchNorm in its weights.
        activation: A key of ``ACTIVATIONS``.
    """

    def __init__(self, conv: nn.Conv2d, activation: type[nn.Module]) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias, requires_grad=False)
        self.stride, self.dilation, self.groups = list(conv.stride), list(conv.dilation), conv.groups
        self.pads_as_needed = type(conv).forward is not nn.Conv2d.forward and type(conv).__name__ in SAME
        self.padding = [0, 0] if self.pads_as_needed else [int(side) for side in conv.padding]
        self.activation = ACTIVATIONS[activation]

    def forward(self, input: Tensor, *layers: nn.Module) -> Tensor:
        """Convolve ``input`` ``(N, C, H, W)``, then apply ``layers``, as does `FastConv2d`."""
        if self.pads_as_needed:
            input = F.pad(input, self._same_padding(input.shape[-2:]))
        convolve = torch.ops.mkldnn._convolution_pointwise
        arguments = (self.padding, self.stride, self.dilation, self.groups, *self.activation, "")
        result: Tensor = convolve(input, self.weight, self.bias, *arguments)
        for layer in layers:
            result = layer(result)
        return result

    def _same_padding(self, size: torch.Size) -> list[int]:
        """Return TensorFlow's "same" padding for an input of ``size`` ``(H, W)``, in the order of ``F.pad``."""
        padding: list[int] = []
        for side, stride, kernel, dilation in zip(
            size, self.stride, self.weight.shape[-2:], self.dilation, strict=True
        ):
            total = max((-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
            padding = [total // 2, total - total // 2, *padding]
        return padding


SAME = ("SameConv2d", "Conv2dSame")  # of this project and of timm
PLAIN = ("Conv2d", "FastConv2d", *SAME)


def fold(network: nn.Module) -> nn.Module:
    """Return a folded copy of ``network`` in eval mode, or the network itself where that is not possible.

    It is possible for a `SegmentationNetwork` in float32 on a CPU with oneDNN. A pass over a small image finds which
    convolution each BatchNorm follows, and another one checks the copy.
    """
    if not (isinstance(network, SegmentationNetwork) and torch.backends.mkldnn.is_available()):
        return network
    if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in network.parameters()):
        return network
    try:
        with torch.inference_mode(False), torch.no_grad(), plain_layers():
            copy = deepcopy(network).eval().requires_grad_(False)
            image = torch.linspace(0, 1, network.channels * SIDE * SIDE).view(1, -1, SIDE, SIDE)
            expected, pairs, activations = _trace(copy, image)
            _replace(copy, pairs, activations)
            difference = (copy(image) - expected).abs().max()
            return copy if difference <= TOLERANCE * expected.abs().max().clamp(min=1) else network
    except (RuntimeError, AttributeError):  # an encoder or a version of PyTorch that differs from what is assumed
        return network


def _trace(
    network: nn.Module, image: Tensor
) -> tuple[Tensor, dict[nn.Module, nn.Module], dict[nn.Module, set[nn.Module]]]:
    """Return the logits, the BatchNorm that follows each convolution, and the BatchNorms before each activation."""
    producers: dict[int, tuple[nn.Module, int, Tensor]] = {}  # tensors are kept, so that their ids stay unique
    calls: dict[nn.Module, int] = {}
    pairs: dict[nn.Module, nn.Module] = {}
    activations: dict[nn.Module, set[nn.Module]] = {}

    def before(module: nn.Module, inputs: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        source, version, _ = producers.get(id(inputs[0]), (None, 0, None))
        if inputs[0]._version != version:  # changed in place, as by the skip connection of a ResNet
            source = None
        if isinstance(module, nn.Conv2d) and len(inputs) > 1:  # `FastConv2d`, which calls the layers that follow it
            pairs[module] = inputs[1]
            for activation in inputs[2:]:
                activations.setdefault(activation, set()).add(inputs[1])
        elif isinstance(module, nn.BatchNorm2d) and isinstance(source, nn.Conv2d):
            pairs[source] = module
        elif type(module) in ACTIVATIONS and isinstance(source, nn.BatchNorm2d):
            activations.setdefault(module, set()).add(source)

    def after(module: nn.Module, inputs: Any, output: Tensor) -> None:
        producers[id(output)] = (module, output._version, output)

    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6)
    found = [module for module in network.modules() if isinstance(module, kinds)]
    handles = [module.register_forward_pre_hook(before) for module in found]
    handles += [module.register_forward_hook(after) for module in found if not isinstance(module, nn.ReLU | nn.ReLU6)]
    try:
        logits: Tensor = network(image)
    finally:
        for handle in handles:
            handle.remove()
    pairs = {conv: norm for conv, norm in pairs.items() if calls[conv] == calls[norm] == 1}
    activations = {module: norms for module, norms in activations.items() if len(norms) == calls[module]}
    return logits, pairs, activations


def _replace(
    network: nn.Module, pairs: dict[nn.Module, nn.Module], activations: dict[nn.Module, set[nn.Module]]
) -> None:
    """Fold each BatchNorm of ``pairs``, and each of ``activations`` that follows only such BatchNorms."""
    folded = {norm for conv, norm in pairs.items() if type(conv).__name__ in PLAIN}
    fused = {module: norms for module, norms in activations.items() if norms <= folded}
    kind_after = {norm: type(module) for module, norms in fused.items() for norm in norms}
    new: dict[nn.Module, nn.Module] = {module: nn.Identity() for module in fused}
    for conv, norm in pairs.items():
        own = getattr(norm, "act", nn.Identity())  # timm's layers contain their activation
        kind = type(own) if type(own) in ACTIVATIONS and norm in folded else nn.Identity
        new[norm] = nn.Identity() if type(own) is kind else own
        _fold_weights(conv, norm)
        if norm in folded:
            new[conv] = FoldedConv2d(conv, kind_after.get(norm, kind))  # type: ignore[arg-type]
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child in new:
                setattr(parent, name, new[child])


def _fold_weights(conv: Any, norm: Any) -> None:
    scale = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight
    shift = torch.zeros_like(norm.running_var) if norm.bias is None else norm.bias
    statistics = (norm.running_mean, norm.running_var, norm.eps)
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, scale, shift)
