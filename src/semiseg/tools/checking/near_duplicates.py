"""Which images look alike: a difference hash finds candidates, a thumbnail of each has the last word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from torch import Tensor

BITS = 64
# Chosen by images of Pascal VOC and CamVid, saved anew as JPEG of quality 30, 1.3 times as bright, half as large, or
# less 2 % at each side: nine of ten pass both bounds. Of different photographs of VOC no pair passes either; of
# CamVid's, a second apart, those pass in which the car stands.
DISTANCE = 8  # bits of the hash that may differ
LIKENESS = 0.95  # correlation of the thumbnails
FLAT = 3.0  # gray levels of standard deviation below which an image shows nothing that could look alike
SIDE = 16
PAIRS_AT_ONCE = 1 << 24  # 64 MB a matrix


@dataclass(frozen=True)
class Look:
    """An image from afar.

    Attributes:
        hash: bool ``(64,)``: whether each of 8 x 9 fields is darker than its neighbor on the right.
        thumbnail: float32 ``(256,)``, gray, of mean 0 and norm 1.
        flat: whether it shows nothing.
    """

    hash: NDArray[np.bool_]
    thumbnail: NDArray[np.float32]
    flat: bool


def look_of(image: Tensor) -> Look:
    """Return what an image, uint8 ``(3, H, W)``, looks like; brightness and contrast leave no trace in it."""
    gray = PIL.Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).convert("L")
    fields, small = (
        np.asarray(gray.resize(size, PIL.Image.Resampling.BOX), dtype=np.float32) for size in ((9, 8), (SIDE, SIDE))
    )
    centered = (small - small.mean()).ravel()
    norm = float(np.linalg.norm(centered))
    return Look((fields[:, 1:] > fields[:, :-1]).ravel(), centered / max(norm, 1e-6), norm / SIDE < FLAT)


@dataclass(frozen=True)
class Twin:
    """The image at place ``one`` of the first list and the one at ``other`` of the second, and how alike they are."""

    one: int
    other: int
    likeness: float


def twins(first: Sequence[Look], second: Sequence[Look] | None = None) -> list[Twin]:
    """Return for each image of the first list that has a twin in the second its nearest one there.

    All pairs are compared, as products of matrices: some seconds for twenty thousand images. Flat images have no twin.

    Args:
        first: images.
        second: others; where absent, each image of the first list is compared with the rest of it.
    """
    others = first if second is None else second
    if not first or not others:
        return []
    bits, thumbs, flat = _stacked(others)
    found = []
    block = max(1, PAIRS_AT_ONCE // len(others))
    for start in range(0, len(first), block):
        own_bits, own_thumbs, own_flat = _stacked(first[start : start + block])
        near = (BITS - own_bits @ bits.T) / 2 <= DISTANCE
        near &= ~own_flat[:, None] & ~flat
        if second is None:
            near[np.arange(len(near)), start + np.arange(len(near))] = False
        rows = np.flatnonzero(near.any(axis=1))
        alike = np.where(near[rows], own_thumbs[rows] @ thumbs.T, -1)
        best = alike.argmax(axis=1)
        scores = alike[np.arange(len(rows)), best]
        chosen = scores >= LIKENESS
        found += [
            Twin(start + int(row), int(column), float(score))
            for row, column, score in zip(rows[chosen], best[chosen], scores[chosen], strict=True)
        ]
    return found


def _stacked(looks: Sequence[Look]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Return hashes as -1 and 1, so that their product counts differing bits; thumbnails; which are flat."""
    bits = np.where([look.hash for look in looks], np.float32(1), np.float32(-1))
    return bits, np.array([look.thumbnail for look in looks]), np.array([look.flat for look in looks])
