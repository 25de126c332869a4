"""A network as a graph for any number of images of any size that is a multiple of its stride."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from semiseg.networks import SegmentationNetwork
from semiseg.networks.depthwise import DilatedDepthwiseConv2d

LARGEST = 4096  # times the stride: the bound on a side that torch.export is told of


class Graph(nn.Module):
    """The network without what any size needs: images ``(N, 3, H, W)`` in [0, 1] to logits ``(N, C, H, W)``.

    H and W are multiples of the stride, so nothing is padded or cut off. Padding any size inside would do, but leaves
    torch.export to prove divisibilities for every layer, for which it takes minutes to forever.
    """

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = deepcopy(network).cpu().eval().requires_grad_(False)
        for module in self.network.modules():
            kind = type(module)
            if kind in REPLACED:
                module.__class__ = REPLACED[kind]

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        network = self.network
        logits = network.decode(list(network.encoder((images - network.mean) / network.std)))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


class _PaddedConv2d(Conv2dSame):
    """TensorFlow's "same" padding for sides that the stride divides: the same for each of them, so a constant."""

    def forward(self, x: Tensor) -> Tensor:
        padding: list[int] = []
        for axis in (1, 0):  # F.pad begins with the last dimension
            extent = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            total = max(extent - self.stride[axis], 0)
            padding += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, padding), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


REPLACED: dict[type[nn.Module], type[nn.Module]] = {
    Conv2dSame: _PaddedConv2d,
    DilatedDepthwiseConv2d: nn.Conv2d,  # it is quicker backward, and nothing goes backward here
}


def size_rule(network: SegmentationNetwork) -> tuple[int, int]:
    """Return of what the sides of a graph's input are multiples, and their least length, in pixels.

    Two strides at least: torch.export takes a dimension of 1 for a constant.
    """
    return network.stride, 2 * network.stride


def make_program(network: SegmentationNetwork) -> torch.export.ExportedProgram:
    """Trace the network; batch, height and width stay dynamic.

    Raises whatever torch.export does for an encoder that it cannot follow.
    """
    stride, _ = size_rule(network)
    dimension = torch.export.Dim
    rows, columns = (dimension(name, min=2, max=LARGEST) for name in ("rows", "columns"))
    shapes = {0: dimension("batch"), 2: stride * rows, 3: stride * columns}
    images = torch.rand(2, 3, 3 * stride, 5 * stride)
    with torch.no_grad(), quiet():
        return torch.export.export(Graph(network).eval(), (images,), dynamic_shapes=(shapes,))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' progress and their advice to developers from the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
