"""Regions of an image as annotation files write them, polygons and run lengths of two kinds, as masks of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import UserError

BACKGROUND = ("background", "_background_")
FURTHEST = 10
"""How many sides of the image a corner may lie outside: drawing far lines takes time and memory without end."""


def polygon_region(polygons: Sequence[Any], height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels of polygons, ``x, y, x, y, ...`` each, bool ``(H, W)``, by pycocotools: it says which they are.

    Raises:
        ValueError: one has less than three corners, or they are no numbers near the image.
        UserError: pycocotools is not installed.
    """
    if not polygons:
        raise ValueError("it has no polygon")
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon is a list of x, y, x, y, ... of three corners or more")
        if not all(_is_number(value) and abs(value) <= FURTHEST * max(height, width) for value in polygon):
            raise ValueError("a corner of a polygon is no pair of numbers in or near the image")
    try:
        from pycocotools import mask as coco  # an extra: the import waits until there is a polygon
    except ImportError as error:
        raise UserError(
            "polygons are drawn by pycocotools, which is not installed: pip install 'semiseg[coco]'"
        ) from error
    return coco.decode(coco.merge(coco.frPyObjects(list(polygons), height, width))).astype(bool)


def counts_region(counts: Any, size: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels of COCO's run lengths, bool ``(H, W)``: column by column, outside and inside in turn.

    Args:
        counts: the lengths, or the text that they are compressed into.
        size: height and width as the file says.
        height: of the image.
        width: of the image.

    Raises:
        ValueError: the sizes differ, or the lengths do not cover the image exactly.
    """
    if size is not None and (not isinstance(size, list) or size != [height, width]):
        raise ValueError(f"its run lengths are for height and width {size}, and the image has {[height, width]}")
    lengths = _decompress(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(type(length) is int and length >= 0 for length in lengths):
        raise ValueError("its run lengths are no list of whole numbers")
    if sum(lengths) != height * width:
        raise ValueError(f"its run lengths cover {sum(lengths)} pixels, and the image has {height * width}")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, np.array(lengths, dtype=np.int64)).reshape(width, height).T


def _decompress(text: str) -> list[int]:
    """Turn COCO's text into lengths: 5 bits a character from 48 on, low bits first, the sixth bit says "goes on".

    From the fourth number on, each is the difference to the one two places before.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"its run lengths hold {character!r}, which is no part of them")
        if shift > 60:  # of no image; and numbers without end take time without end
            raise ValueError("its run lengths hold a number of more than 60 bits")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (bits & 16) >> 4 << shift  # the highest bit is the sign
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("its run lengths are cut off")
    return lengths


def brush_region(rle: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels of a brush in Label Studio's run lengths (thi.ng's rle-pack), bool ``(H, W)``.

    A stream of bits: the number of values (32), the bits of a value less one (5), four widths less one (4 each); then
    blocks of a bit "one value repeated", the number of a width (2), a count less one of that width, and the one or all
    of the values. The values are bytes of R, G, B, A; a pixel is in the region where its alpha is not 0.

    Raises:
        ValueError: it is none of that, or covers another number of pixels.
    """
    if not isinstance(rle, list) or not all(type(byte) is int and 0 <= byte < 256 for byte in rle):
        raise ValueError("its run lengths are no list of bytes")
    bits = f"{int.from_bytes(rle):0{8 * len(rle)}b}"
    position = 0

    def read(size: int) -> int:
        nonlocal position
        position += size
        if position > len(bits):
            raise ValueError("its run lengths are cut off")
        return int(bits[position - size : position], 2)

    count, word = read(32), read(5) + 1
    widths = [read(4) + 1 for _ in range(4)]
    if count != height * width * 4 or word != 8:
        raise ValueError(
            f"its run lengths are of {count} values of {word} bits, and the image has {height * width * 4} of 8"
        )
    values, done = np.zeros(count, dtype=np.uint8), 0
    while done < count:
        repeated = read(1)
        length = read(widths[read(2)]) + 1
        if done + length > count:
            raise ValueError(f"its run lengths go beyond the {height * width} pixels of the image")
        block = read(8) if repeated else np.frombuffer(read(8 * length).to_bytes(length), dtype=np.uint8)
        values[done : done + length] = block
        done += length
    return values.reshape(height, width, 4)[..., 3] > 0


def with_background(names: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Return the classes and the number of the one that is where no region is: one of that name, else a new first."""
    own = next((index for index, name in enumerate(names) if name.lower() in BACKGROUND), None)
    return (("background", *names), 0) if own is None else (tuple(names), own)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
