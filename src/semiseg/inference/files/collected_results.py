"""Write one file that collects the masks of all images: COCO or Label Studio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from semiseg.inference.files.find_images import FoundImage
from semiseg.inference.formats.coco_results import write_coco
from semiseg.inference.formats.geotiff import open_raster
from semiseg.inference.formats.label_studio_results import write_label_studio
from semiseg.inference.formats.prediction_writer import MASK, PredictionWriter, file_of
from semiseg.inference.formats.write_error import complete_file

COLLECTED = {"coco": "coco.json", "label-studio": "label-studio.json"}


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
