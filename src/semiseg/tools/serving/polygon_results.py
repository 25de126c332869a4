"""Outlines of masks as polygons of Label Studio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray

TOLERANCE = 1.0  # pixels by which a simplified outline may differ
LEAST_AREA = 16.0  # square pixels; smaller regions are noise to an annotator

Points = NDArray[np.float64]


def polygon_results(
    id: str, mask: NDArray[np.uint8], labels: Mapping[int, str], controls: tuple[str, str]
) -> list[dict[str, Any]]:
    """Return one polygon for each connected region of a class that has a label. Polygons have no holes.

    Args:
        id: The beginning of the ids of the polygons.
        mask: Class indices ``(H, W)``; others are left out.
        labels: The label of each class.
        controls: The names of the control and of the image in the labeling interface.
    """
    height, width = mask.shape
    common = {"from_name": controls[0], "to_name": controls[1], "original_width": width, "original_height": height}
    return [
        {"id": f"{id}-{index}-{number}", "type": "polygonlabels", "image_rotation": 0, **common}
        | {"value": {"points": (points / (width, height) * 100).tolist(), "polygonlabels": [label], "closed": True}}
        for index, label in labels.items()
        for number, points in enumerate(outlines(mask == index))
    ]


def outlines(region: NDArray[np.bool_]) -> Iterator[Points]:
    """Yield the outer outline of each connected part of a region ``(H, W)``, as points ``(N, 2)`` of x and y."""
    padded = np.pad(region, 1).astype(np.float32)
    for line in contour_generator(z=padded).lines(0.5):
        points: Points = np.asarray(line, dtype=np.float64) - 0.5  # without the padding; pixel centers are at 0.5
        x, y = points[:-1].T
        area = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2  # positive around the region, negative around holes
        if area >= LEAST_AREA:
            yield simplify(points)[:-1].clip(0, region.shape[::-1])


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
