"""Outlines of masks as polygons of Label Studio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiseg.inference.formats.outlines import outlines


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
