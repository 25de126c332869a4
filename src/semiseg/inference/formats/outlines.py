"""Outlines of the regions of a mask as polygons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from semiseg.data.importers.shapes.polygons import BACKGROUND

TOLERANCE = 1.0  # pixels by which a simplified outline may differ
LEAST_AREA = 16.0  # square pixels; smaller regions are noise to an annotator
BETWEEN, INSIDE = 0.5, 0.999
"""The level of an outline: between the pixels, or through the centers of the outermost pixels."""

Points = NDArray[np.float64]


class Polygon(NamedTuple):
    """The outer outline of a region.

    Attributes:
        value: The value of its pixels.
        points: The centers ``(N, 2)`` of its corner pixels: column and row. Lines between them belong to the region.
    """

    value: int
    points: NDArray[np.int64]


def background_of(classes: Sequence[str]) -> int | None:
    """Return the class that importers draw where no region is: ``background`` or ``_background_``, or None."""
    return next((index for index, name in enumerate(classes) if name.lower() in BACKGROUND), None)


def nested_polygons(mask: NDArray[np.uint8], background: int | None) -> list[Polygon]:
    """Return the regions of a mask as polygons, larger ones first.

    Polygons have no holes. Later polygons lie on top of earlier ones: this order shows a region inside another one.

    Args:
        mask: Values ``(H, W)``.
        background: A value that only gets polygons inside other regions.
    """
    from scipy.ndimage import binary_fill_holes

    polygons = []
    enclosed = np.zeros(mask.shape, dtype=bool)
    for value in np.unique(mask).tolist():
        if value != background:
            region = mask == value
            polygons += [Polygon(value, points.round().astype(np.int64)) for points in outlines(region, INSIDE)]
            enclosed |= binary_fill_holes(region)
    if background is not None:
        inside = outlines(enclosed & (mask == background), INSIDE)
        polygons += [Polygon(background, points.round().astype(np.int64)) for points in inside]
    return sorted(polygons, key=lambda polygon: -signed_area(polygon.points))


def outlines(region: NDArray[np.bool_], level: float = BETWEEN) -> Iterator[Points]:
    """Yield the outer outline of each connected part of a region ``(H, W)``, as points ``(N, 2)`` of x and y.

    At the level ``BETWEEN``, the first pixel extends from 0 to 1. At the level ``INSIDE``, its center is 0, and points
    are whole numbers up to 0.001.
    """
    from contourpy import contour_generator

    padded = np.pad(region, 1).astype(np.float32)
    offset = 0.5 if level == BETWEEN else 1.0  # of the padding, and of the pixel centers
    for line in contour_generator(z=padded).lines(level):
        points: Points = np.asarray(line, dtype=np.float64) - offset
        if signed_area(points[:-1]) >= LEAST_AREA:
            yield simplify(points)[:-1].clip(0, region.shape[::-1])


def signed_area(points: NDArray[np.generic]) -> float:
    """Return the area of a polygon ``(N, 2)``: positive around a region of `outlines`, negative around a hole."""
    x, y = points.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def simplify(points: Points, tolerance: float = TOLERANCE) -> Points:
    """Remove points of a line ``(N, 2)`` that are within ``tolerance`` of it (Douglas and Peucker 1973)."""
    keep = np.zeros(len(points), dtype=bool)
    keep[[0, len(points) // 2, -1]] = True  # a closed line needs a point opposite to its start
    pending = [(0, len(points) // 2), (len(points) // 2, len(points) - 1)]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        start, along = points[first], points[last] - points[first]
        away = points[first + 1 : last] - start
        length = float(np.hypot(*along))
        distance = abs(along[0] * away[:, 1] - along[1] * away[:, 0]) / length if length else np.hypot(*away.T)
        if distance.max() > tolerance:
            middle = first + 1 + int(distance.argmax())
            keep[middle] = True
            pending += [(first, middle), (middle, last)]
    return points[keep]
