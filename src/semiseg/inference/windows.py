"""Predict an image in overlapping windows, whose probabilities are blended in memory bounded by rows of the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from semiseg.inference.predictor import WINDOWS_AT_ONCE, Predictor, resized, window_starts

BUFFER_BYTES = 256 * 2**20
PIXELS_AT_ONCE = 2**20  # of the windows that are predicted together
Read = Callable[[int, int, int, int], Tensor]
"""Returns the pixels of a rectangle (top, left, height, width), uint8 ``(3, h, w)``."""


class Region(NamedTuple):
    """A predicted rectangle of an image: its corner and its probabilities, float32 ``(C, h, w)``."""

    top: int
    left: int
    probabilities: Tensor


def predict_windows(
    predictor: Predictor, read: Read, size: tuple[int, int], window: int, buffer_bytes: int = BUFFER_BYTES
) -> Iterator[Region]:
    """Yield the probabilities of an image in disjoint rectangles that cover it.

    Windows start every two thirds of a window, the last one inside the image. Their weights fall linearly towards the
    border of the window, over the width of the overlap. Accumulated probabilities cover one row of windows, and as many
    columns as fit into ``buffer_bytes``; windows at the border of two such blocks are predicted for both.

    Args:
        predictor: Its mode must be ``whole``.
        read: Reads a rectangle of the image.
        size: Height and width of the image.
        window: The side of the window, in pixels of the image.
        buffer_bytes: The size of the accumulated probabilities.
    """
    height, width = size
    tops, lefts = window_starts(height, window), window_starts(width, window)
    tall, wide = min(window, height), min(window, width)
    rows, columns = _weights(tops, tall, height), _weights(lefts, wide, width)
    weight = (_ramp(tall)[:, None] * _ramp(wide)).to(predictor.device)
    block = wide  # until the number of classes is known
    first = 0
    while first < width:
        last = min(first + block, width)
        inside = [left for left in lefts if left < last and left + wide > first]
        buffer: Tensor | None = None
        for top, bottom in zip(tops, [*tops[1:], height], strict=True):
            strip = read(top, inside[0], tall, inside[-1] + wide - inside[0])
            for left, probabilities in _predict(predictor, strip, inside, wide):
                if buffer is None:
                    block = max(wide, buffer_bytes // (4 * tall * len(probabilities)))
                    buffer = weight.new_zeros(len(probabilities), tall, last - first)
                begin, end = max(left, first), min(left + wide, last)
                part = slice(begin - left, end - left)
                buffer[..., begin - first : end - first] += probabilities[..., part] * weight[:, part]
            assert buffer is not None
            total = rows[top:bottom, None] * columns[first:last]
            yield Region(top, first, buffer[:, : bottom - top] / total.to(buffer.device))
            buffer = torch.cat([buffer[:, bottom - top :], torch.zeros_like(buffer[:, : bottom - top])], dim=1)
        first = last


@torch.inference_mode()
def _predict(predictor: Predictor, strip: Tensor, lefts: list[int], wide: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the probabilities ``(C, h, wide)`` of the windows in a strip, which starts at the first of ``lefts``."""
    count = max(1, min(WINDOWS_AT_ONCE, PIXELS_AT_ONCE // (strip.shape[-2] * wide)))
    for start in range(0, len(lefts), count):
        some = lefts[start : start + count]
        crops = [strip[..., left - lefts[0] : left - lefts[0] + wide] for left in some]
        images = torch.cat([predictor.network_input(crop) for crop in crops])
        with predictor.ready_networks() as networks:
            total: Tensor | None = None
            for network in networks:
                scores = resized(network(images).float(), crops[0].shape[-2:]).softmax(dim=1)
                total = scores if total is None else total.add_(scores)
        assert total is not None
        yield from zip(some, total / len(predictor.networks), strict=True)


def _ramp(length: int) -> Tensor:
    """Return the weights of a window along one side, which fall towards both ends over a third of it."""
    position = torch.arange(length)
    distance = torch.minimum(position, length - 1 - position) + 1.0
    return (distance / (length // 3 + 1)).clamp(max=1)


def _weights(starts: list[int], length: int, total: int) -> Tensor:
    """Return the sum of the weights of all windows along one side of the image."""
    weights = torch.zeros(total)
    for start in starts:
        weights[start : start + length] += _ramp(length)
    return weights
