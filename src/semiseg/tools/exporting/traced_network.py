"""Trace a network as a graph for any number of images whose sides are multiples of its stride."""

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
from semiseg.networks.efficientnet_lite import SameConv2d

LARGEST = 4096  # largest side given to torch.export, in units of the stride


class Graph(nn.Module):
    """The network without fitting images to it: images ``(N, channels, H, W)`` in [0, 1] to logits ``(N, C, H, W)``.

    H and W must be multiples of the stride. With padding inside the graph, torch.export would have to prove
    divisibility for every layer, which takes minutes or does not finish.
    """

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = deepcopy(network).cpu().eval().requires_grad_(False)
        for module in self.network.modules():
            if type(module) in (Conv2dSame, SameConv2d):
                module.__class__ = _PaddedConv2d

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        network = self.network
        logits = network.decode(list(network.encoder((images - network.mean) / network.std)))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=network.align_corners)


class _PaddedConv2d(SameConv2d):
    """TensorFlow's "same" padding for sides that are multiples of the stride, for which it is constant."""

    def padded(self, input: Tensor) -> Tensor:
        padding: list[int] = []
        for axis in (1, 0):  # F.pad starts with the last dimension
            extent = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            total = max(extent - self.stride[axis], 0)
            padding += [total // 2, total - total // 2]
        return F.pad(input, padding)


def size_rule(network: SegmentationNetwork) -> tuple[int, int]:
    """Return the number of which input sides must be multiples, and the smallest side, in pixels.

    The smallest side is two strides because torch.export treats a dimension of 1 as constant.
    """
    return network.stride, 2 * network.stride


def make_program(network: SegmentationNetwork) -> torch.export.ExportedProgram:
    """Trace the network with dynamic batch size, height and width.

    Raises:
        Exception: torch.export cannot trace the encoder; the type depends on the reason.
    """
    stride, _ = size_rule(network)
    dimension = torch.export.Dim
    rows, columns = (dimension(name, min=2, max=LARGEST) for name in ("rows", "columns"))
    shapes = {0: dimension("batch"), 2: stride * rows, 3: stride * columns}
    images = torch.rand(2, network.channels, 3 * stride, 5 * stride)
    with torch.no_grad(), quiet():
        return torch.export.export(Graph(network).eval(), (images,), dynamic_shapes=(shapes,))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress messages and warnings of the exporters."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
