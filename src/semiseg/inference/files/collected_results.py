"""Write what a format needs for all images together: COCO, Label Studio, and the folders of LabelMe and YOLO."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from semiseg.data.importers.write_import import link_or_copy
from semiseg.inference.files.find_images import FoundImage
from semiseg.inference.formats.coco_results import write_coco
from semiseg.inference.formats.geotiff import open_raster
from semiseg.inference.formats.label_studio_results import write_label_studio
from semiseg.inference.formats.labelme_results import labels_text
from semiseg.inference.formats.prediction_writer import LABELME, MASK, YOLO, PredictionWriter, file_of
from semiseg.inference.formats.write_error import complete_file
from semiseg.inference.formats.yolo_results import data_yaml

COLLECTED = {"coco": "coco.json", "label-studio": "label-studio.json"}
CLASS_FILES = {LABELME: ("labelme/labels.txt", labels_text), YOLO: ("yolo/data.yaml", data_yaml)}
PHOTOGRAPHS = {LABELME: "labelme", YOLO: "yolo/images"}
"""The folder of a format with links to the predicted images, which its tool opens."""


def write_collected(writer: PredictionWriter, images: Sequence[FoundImage], out: Path, format: str) -> None:
    """Write the file of a format from the masks in ``out``; images without a mask are left out.

    COCO names images by their path below the given directory, Label Studio by the path that begins with its name.

    Raises:
        WriteError: The file cannot be written.
    """
    found = ((image, mask) for image in images if (mask := read_mask(out, image.name)) is not None)
    with complete_file(out / COLLECTED[format]) as draft:
        if format == "coco":
            write_coco(draft, ((image.relative, mask) for image, mask in found), writer.classes)
        else:
            tasks = ((image.name, f"{image.root.resolve().name}/{image.relative}", mask) for image, mask in found)
            write_label_studio(draft, tasks, writer.classes, writer.palette)


def complete_folder(classes: Sequence[str], images: Sequence[FoundImage], out: Path, format: str) -> None:
    """Add links to the images (else copies) and the class file to the folder of a format, for its tool and imports.

    Raises:
        WriteError: A file cannot be written.
    """
    for image in images:
        link = out / PHOTOGRAPHS[format] / f"{image.name}{image.path.suffix}"
        if file_of(out, image.name, format, georeferenced=False).exists() and not os.path.lexists(link):
            with complete_file(link) as draft:
                link_or_copy(image.path, draft)
    name, text = CLASS_FILES[format]
    with complete_file(out / name) as draft:
        draft.write_text(text(classes), encoding="utf-8")


def read_mask(out: Path, name: str) -> NDArray[np.uint8] | None:
    """Return the mask of an image, uint8 ``(H, W)``, or None if it does not exist."""
    if (path := file_of(out, name, MASK, georeferenced=False)).exists():
        with PIL.Image.open(path) as opened:
            return np.asarray(opened)
    if (path := file_of(out, name, MASK, georeferenced=True)).exists():
        with open_raster(path) as dataset:
            mask: NDArray[np.uint8] = dataset.read(1)
            return mask
    return None
