"""Write masks as one COCO file (extra: coco)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import UserError
from semiseg.inference.formats.outlines import background_of


def require_pycocotools() -> None:
    """Raise UserError if the extra is not installed."""
    if find_spec("pycocotools") is None:
        raise UserError("the format coco needs an extra", fix="run pip install 'semiseg[coco]'")


def write_coco(path: Path, images: Iterable[tuple[str, NDArray[np.uint8]]], classes: Sequence[str]) -> None:
    """Write one annotation per image and class as compressed run lengths, as in COCO-Stuff.

    Category ``k + 1`` is class ``k``. The background has no annotations, like the pixels with value 255.

    Args:
        path: The file.
        images: The file name and the class indices ``(H, W)`` of each image.
        classes: The class names.
    """
    from pycocotools import mask as coco_mask

    background = background_of(classes)
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    for image_id, (name, mask) in enumerate(images, 1):
        height, width = mask.shape
        content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        for index in np.unique(mask).tolist():
            if index >= len(classes) or index == background:
                continue
            encoded = coco_mask.encode(np.asfortranarray(mask == index, dtype=np.uint8))
            annotation = {"id": len(content["annotations"]) + 1, "image_id": image_id, "category_id": index + 1}
            annotation |= {"segmentation": {"size": [height, width], "counts": encoded["counts"].decode()}}
            annotation |= {"area": int(coco_mask.area(encoded)), "bbox": coco_mask.toBbox(encoded).tolist()}
            content["annotations"].append(annotation | {"iscrowd": 0})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(classes) if index != background]
    path.write_text(json.dumps(content | {"categories": categories}, ensure_ascii=False) + "\n", encoding="utf-8")
