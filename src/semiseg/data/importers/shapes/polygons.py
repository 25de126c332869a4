"""Convert polygons and two kinds of run lengths to boolean masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BACKGROUND = ("background", "_background_")
FINE = 5
FURTHEST = 10
"""The largest coordinate in units of the longer side. Rendering points further away takes unbounded memory."""


class DegenerateShapeError(ValueError):
    """A polygon with fewer than three corners or an ellipse of no size. It has no area, so it can be left out."""


def polygon_region(polygons: Sequence[Any], height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels inside polygons as bool ``(H, W)``, as pycocotools defines them.

    Polygons with fewer than three corners are left out.

    Args:
        polygons: Lists ``x, y, x, y, ...`` in pixels, or one such list.
        height: Height of the image.
        width: Width of the image.

    Raises:
        DegenerateShapeError: No polygon has three corners.
        ValueError: A corner is not a pair of numbers near the image.
    """
    if polygons and all(map(_is_number, polygons)):
        polygons = [polygons]
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2:
            raise ValueError("a polygon needs at least three corners, as a list x, y, x, y, ...")
        if not all(_is_number(value) and abs(value) <= FURTHEST * max(height, width) for value in polygon):
            raise ValueError("a corner of a polygon is not a pair of numbers in or near the image")
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]
    if not polygons:
        raise DegenerateShapeError("a polygon needs at least three corners, as a list x, y, x, y, ...")
    region = np.zeros((height, width), dtype=bool)
    for polygon in polygons:
        region |= _inside(np.array(polygon, dtype=np.float64).reshape(-1, 2), height, width)
    return region


def _inside(corners: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels whose centers lie inside a polygon, by the rounding of pycocotools (``rleFrPoly``).

    The outline is traced on a grid of ``FINE`` points per pixel. A column of pixels enters or leaves the polygon where
    the outline passes its center.
    """
    points = np.trunc(FINE * corners + 0.5).astype(np.int64)
    traced = [_trace(start, end) for start, end in zip(points, np.roll(points, -1, axis=0), strict=True)]
    x, y = np.concatenate(traced).T
    moved = np.flatnonzero(np.diff(x))
    column = np.minimum(x[moved], x[moved + 1]) + 0.5
    row = np.minimum(y[moved], y[moved + 1]) + 0.5
    column, row = column / FINE - 0.5, np.ceil(np.clip(row / FINE - 0.5, 0, height))
    centers = (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
    crossings = np.sort(column[centers].astype(np.int64) * height + row[centers].astype(np.int64))
    lengths = np.diff(crossings, prepend=0, append=height * width)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T


def _trace(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the points of a line between two grid points ``(n, 2)``, one for each step along its longer axis."""
    across, down = np.abs(end - start)
    axis = 0 if across >= down else 1
    steps = max(across, down)
    first, last = (end, start) if start[axis] > end[axis] else (start, end)
    along = np.arange(steps + 1)
    slope = (last[1 - axis] - first[1 - axis]) / steps if steps else 0.0
    other = np.trunc(first[1 - axis] + slope * along + 0.5).astype(np.int64)
    line = np.stack([first[axis] + along, other] if axis == 0 else [other, first[axis] + along], axis=1)
    return line if first is start else line[::-1]


def box_region(left: float, top: float, right: float, bottom: float, height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels inside a box as bool ``(H, W)``. Raises ValueError unless the edges are finite numbers."""
    if not all(_is_number(value) for value in (left, top, right, bottom)):
        raise ValueError("an edge of a box is not a number")
    region = np.zeros((height, width), dtype=bool)
    first, last = (max(0, math.ceil(value - 0.5)) for value in (top, bottom))
    region[first:last, max(0, math.ceil(left - 0.5)) : max(0, math.ceil(right - 0.5))] = True
    return region


def counts_region(counts: Any, size: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels of COCO run lengths as bool ``(H, W)``.

    The lengths alternate between outside and inside, column by column.

    Args:
        counts: The lengths, as a list or as compressed text.
        size: Height and width according to the file.
        height: Height of the image.
        width: Width of the image.

    Raises:
        ValueError: The sizes differ, or the lengths do not cover the image exactly.
    """
    if size is not None and (not isinstance(size, list) or size != [height, width]):
        raise ValueError(f"height and width {size} of the run lengths do not match the image {[height, width]}")
    lengths = _decompress(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(type(length) is int and length >= 0 for length in lengths):
        raise ValueError("the run lengths are not a list of non-negative integers")
    if sum(lengths) != height * width:
        raise ValueError(f"the run lengths cover {sum(lengths)} pixels, but the image has {height * width}")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, np.array(lengths, dtype=np.int64)).reshape(width, height).T


def _decompress(text: str) -> list[int]:
    """Decompress the run lengths of COCO.

    A character minus 48 holds 5 bits of a number, low bits first; the sixth bit is set if the number continues. From
    the fourth number on, each is the difference to the number two positions before.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the run lengths contain the invalid character {character!r}")
        if shift > 60:  # larger than any image; unbounded numbers would take unbounded time
            raise ValueError("the run lengths contain a number of more than 60 bits")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (bits & 16) >> 4 << shift  # the highest bit is the sign
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the run lengths are truncated")
    return lengths


def brush_region(rle: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels of a brush in the run lengths of Label Studio (rle-pack of thi.ng) as bool ``(H, W)``.

    The bit stream starts with the number of values (32 bits), the bits per value minus one (5 bits) and four widths
    minus one (4 bits each). Blocks follow: a bit that is set if one value repeats, the index of a width (2 bits), the
    count minus one in that width, and the one or all values. The values are bytes of R, G, B and A. A pixel belongs to
    the region if its alpha is not 0.

    Raises:
        ValueError: The stream is malformed or covers another number of pixels.
    """
    if not isinstance(rle, list) or not all(type(byte) is int and 0 <= byte < 256 for byte in rle):
        raise ValueError("the run lengths are not a list of bytes")
    bits = f"{int.from_bytes(rle):0{8 * len(rle)}b}"
    position = 0

    def read(size: int) -> int:
        nonlocal position
        position += size
        if position > len(bits):
            raise ValueError("the run lengths are truncated")
        return int(bits[position - size : position], 2)

    count, word = read(32), read(5) + 1
    widths = [read(4) + 1 for _ in range(4)]
    if count != height * width * 4 or word != 8:
        raise ValueError(
            f"the run lengths hold {count} values of {word} bits, but the image has {height * width * 4} of 8 bits"
        )
    values, done = np.zeros(count, dtype=np.uint8), 0
    while done < count:
        repeated = read(1)
        length = read(widths[read(2)]) + 1
        if done + length > count:
            raise ValueError(f"the run lengths exceed the {height * width} pixels of the image")
        block = read(8) if repeated else np.frombuffer(read(8 * length).to_bytes(length), dtype=np.uint8)
        values[done : done + length] = block
        done += length
    return values.reshape(height, width, 4)[..., 3] > 0


def with_background(names: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Return the classes and the index of ``background``, which is added as the first class if it is missing."""
    own = next((index for index, name in enumerate(names) if name.lower() in BACKGROUND), None)
    return (("background", *names), 0) if own is None else (tuple(names), own)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
