"""Draw polygons with holes, ellipses, rectangles and small bitmaps as boolean masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from semiseg.data.importers.shapes.polygons import DegenerateShapeError

FURTHEST = 10
"""The largest coordinate in units of the longer side; drawing shapes further away takes unbounded memory."""

Region = NDArray[np.bool_]


def fill_polygon(exterior: Any, holes: Sequence[Any], height: int, width: int) -> Region:
    """Return the pixels of a polygon with its outline, without the holes and their outlines, as bool ``(H, W)``.

    Args:
        exterior: The corners, pairs x, y in pixels, which are rounded.
        holes: The corners of each hole.
        height: Height of the image.
        width: Width of the image.

    Raises:
        ValueError: A corner is not a pair of numbers in or near the image.
    """
    image = Image.new("1", (width, height))
    for path, value in ((exterior, 1), *((hole, 0) for hole in holes)):
        corners, draw = _corners(path, height, width), ImageDraw.Draw(image)
        draw.polygon(corners, fill=value)
        draw.polygon(corners, outline=value)  # PIL omits an outline in the color of the inside
    return np.array(image)


def fill_even_odd(paths: Sequence[Any], height: int, width: int) -> Region:
    """Return the pixels inside an odd number of closed paths, and those of all outlines, as bool ``(H, W)``.

    The arguments and errors are those of ``fill_polygon``.
    """
    inside, outlines = np.zeros((height, width), dtype=bool), Image.new("1", (width, height))
    for path in paths:
        corners = _corners(path, height, width)
        filled = Image.new("1", (width, height))
        ImageDraw.Draw(filled).polygon(corners, fill=1, outline=1)
        ImageDraw.Draw(outlines).polygon(corners, outline=1)
        inside ^= np.array(filled)
    return inside | np.array(outlines)


def fill_ellipse(center: Any, radii: Any, angle: Any, height: int, width: int) -> Region:
    """Return the pixels of an ellipse as bool ``(H, W)``.

    Args:
        center: The center x, y in pixels.
        radii: The half axes in pixels.
        angle: The rotation in radians, from the x axis towards the y axis.
        height: Height of the image.
        width: Width of the image.

    Raises:
        DegenerateShapeError: A half axis is 0.
        ValueError: A value is not a number in or near the image, or a half axis is negative.
    """
    (x, y), (along, across) = _numbers(center, height, width), _numbers(radii, height, width)
    (turn,) = _numbers([angle], height, width)
    if along < 0 or across < 0:
        raise ValueError("a half axis is negative")
    if not (along and across):
        raise DegenerateShapeError("a half axis is 0")
    rows, columns = np.ogrid[:height, :width]
    right, down = columns - x, rows - y
    first = (right * math.cos(turn) + down * math.sin(turn)) / along
    second = (down * math.cos(turn) - right * math.sin(turn)) / across
    return first**2 + second**2 <= 1


def fill_rectangle(left: Any, top: Any, right: Any, bottom: Any, height: int, width: int) -> Region:
    """Return the pixels from ``left`` and ``top`` up to but without ``right`` and ``bottom`` as bool ``(H, W)``.

    Raises:
        ValueError: A value is not a number in or near the image.
    """
    x0, y0, x1, y1 = (max(0, round(value)) for value in _numbers([left, top, right, bottom], height, width))
    region = np.zeros((height, width), dtype=bool)
    region[y0:y1, x0:x1] = True
    return region


def place(bitmap: Region, left: int, top: int, height: int, width: int) -> Region:
    """Return a bitmap whose first pixel is at ``left, top`` as bool ``(H, W)``. One pixel beyond the edge is cut off.

    Raises:
        ValueError: The bitmap extends further beyond the image.
    """
    below, beside = top + bitmap.shape[0], left + bitmap.shape[1]
    if left < -1 or top < -1 or below > height + 1 or beside > width + 1:
        raise ValueError(f"the bitmap ends at {beside}, {below}, outside the image of {width}x{height}")
    framed = np.zeros((height + 2, width + 2), dtype=bool)
    framed[top + 1 : below + 1, left + 1 : beside + 1] = bitmap
    return framed[1:-1, 1:-1]


def _corners(path: Any, height: int, width: int) -> list[tuple[int, int]]:
    return [(round(x), round(y)) for x, y in check_corners(path, height, width)]


def check_corners(path: Any, height: int, width: int, least: int = 3) -> list[tuple[float, float]]:
    """Return corners as pairs x, y. Raises ValueError unless there are ``least`` pairs of numbers near the image."""
    corners = [tuple(_numbers(corner, height, width)) for corner in path]
    if not all(len(corner) == 2 for corner in corners):
        raise ValueError("a corner is not a pair of numbers")
    if len(corners) < least:
        raise DegenerateShapeError(f"a shape needs at least {least} corners")
    return [(x, y) for x, y in corners]


def _numbers(values: Any, height: int, width: int) -> list[float]:
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or abs(value) > FURTHEST * max(height, width):
            raise ValueError(f"{value!r:.40} is not a number in or near the image")
    return list(values)
