"""Bilinear interpolation as two matrix products, which a CPU computes several times as fast in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 128  # longest side of a map for which products with a whole matrix pay
FEW_CHANNELS = 32


_plain: list[None] = []  # one entry for each active block of `plain_layers`


@contextmanager
def plain_layers() -> Iterator[None]:
    """Use PyTorch's own layers inside the block, also on a CPU."""
    _plain.append(None)
    try:
        yield
    finally:
        _plain.pop()


def runs_eagerly_on_cpu(x: Tensor) -> bool:
    """Return whether ``x`` is float32 on a CPU with oneDNN, outside of autocast, compilation and export."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and torch.backends.mkldnn.is_available()
        and not _plain
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and not torch.jit.is_tracing()
    )


def bilinear(x: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Return ``F.interpolate(x, size, mode="bilinear")`` for ``(N, C, h, w)``, up to rounding."""
    n, channels, height, width = x.shape
    if not runs_eagerly_on_cpu(x) or max(height, width) > LARGEST:
        return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)
    rows, columns = _matrix(height, size[0], align_corners), _matrix(width, size[1], align_corners)
    if channels < FEW_CHANNELS or not x.is_contiguous(memory_format=torch.channels_last):
        return rows @ x.contiguous() @ columns.t()
    high = rows @ x.permute(0, 2, 3, 1).reshape(n, height, width * channels)
    return (columns @ high.view(n * size[0], width, channels)).view(n, *size, channels).permute(0, 3, 1, 2)


@lru_cache(maxsize=64)
def _matrix(inputs: int, outputs: int, align_corners: bool) -> Tensor:
    """Return the weights ``(outputs, inputs)`` of linear interpolation."""
    with torch.inference_mode(False), torch.no_grad():
        weights = F.interpolate(torch.eye(inputs)[None], outputs, mode="linear", align_corners=align_corners)
        return weights[0].t().contiguous()
