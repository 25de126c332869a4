"""Write a mask as a label file of YOLO segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from semiseg.data.dataset import IGNORE
from semiseg.inference.formats.outlines import background_of, nested_polygons


def write_yolo(path: Path, mask: NDArray[np.uint8], classes: Sequence[str]) -> None:
    """Write one line for each region: the number of its class and the corners x y, from 0 to 1.

    The format has no background, no holes and no unknown pixels: these have no lines.

    Args:
        path: The file.
        mask: Class indices ``(H, W)``.
        classes: The class names.
    """
    size = mask.shape[::-1]
    numbers = {name: number for number, name in enumerate(object_classes(classes))}
    lines = [
        " ".join([str(numbers[classes[value]]), *(f"{number:.6f}" for number in (points / size).flat)])
        for value, points in nested_polygons(mask, background_of(classes))
        if value != IGNORE and classes[value] in numbers
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def object_classes(classes: Sequence[str]) -> list[str]:
    """Return the classes without the background."""
    background = background_of(classes)
    return [name for index, name in enumerate(classes) if index != background]


def data_yaml(classes: Sequence[str]) -> str:
    """Return ``data.yaml`` with the names of the classes."""
    content = {"train": "images", "names": dict(enumerate(object_classes(classes)))}
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
