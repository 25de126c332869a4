"""Write a mask as an annotation file of LabelMe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiseg.data.dataset import IGNORE
from semiseg.inference.formats.outlines import background_of, nested_polygons

VERSION = "5.4.1"
IGNORED_LABEL = "__ignore__"


def write_labelme(path: Path, image: str, mask: NDArray[np.uint8], classes: Sequence[str]) -> None:
    """Write one polygon for each region of a mask, and for holes that show the background.

    Args:
        path: The file.
        image: The file name of the image, in the same folder.
        mask: Class indices ``(H, W)``; the label of 255 is ``__ignore__``.
        classes: The class names.
    """
    labels = {**dict(enumerate(classes)), IGNORE: IGNORED_LABEL}
    shapes = [
        {"label": labels[value], "points": points.tolist(), "group_id": None, "shape_type": "polygon", "flags": {}}
        for value, points in nested_polygons(mask, background_of(classes))
    ]
    content: dict[str, Any] = {"version": VERSION, "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None}
    content |= {"imageHeight": mask.shape[0], "imageWidth": mask.shape[1]}
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def labels_text(classes: Sequence[str]) -> str:
    """Return ``labels.txt``, for ``labelme --labels``."""
    return "".join(f"{name}\n" for name in (IGNORED_LABEL, *classes))
