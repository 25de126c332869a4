"""Data sets, split lists and the training stream."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from semiseg.data.benchmarks.ade20k import Ade20k, ade20k_root
from semiseg.data.benchmarks.camvid import CamVid, is_segnet_layout
from semiseg.data.benchmarks.cityscapes import Cityscapes, is_cityscapes_layout
from semiseg.data.benchmarks.voc import Voc, voc_root
from semiseg.data.dataset import IGNORE, Sample, SegmentationDataset
from semiseg.data.files.image_files import read_image_file
from semiseg.data.files.mask_files import write_mask_file
from semiseg.data.folder_dataset import FolderDataset, write_folder
from semiseg.data.generated_shapes import Shapes
from semiseg.data.importers import IMPORTERS, detect_form
from semiseg.data.importers.coco import Coco, coco_files
from semiseg.data.importers.huggingface import HuggingFace
from semiseg.data.importers.label_studio import LabelStudio, is_label_studio_layout
from semiseg.data.mask_validation import check_masks
from semiseg.data.splits.dataset_split import Split, read_split, resolve_split, write_split
from semiseg.data.stream.loader import StepLoader, StreamConfig, TrainStream, make_loader
from semiseg.data.stream.weak_view import weak_view
from semiseg.errors import UserError

DATASETS: dict[str, Callable[[str], SegmentationDataset]] = {
    "folder": FolderDataset,
    "camvid": CamVid,
    "voc2012": Voc,
    "cityscapes": Cityscapes,
    "ade20k": Ade20k,
    "coco": Coco,
    "label-studio": LabelStudio,
    "hf": HuggingFace,
    "shapes": Shapes.from_text,
}
"""The supported data sets by name. Each is opened from a directory, or from the text after ``shapes:`` or ``hf:``."""

LAYOUTS: dict[str, Callable[[str], object]] = {
    "voc2012": voc_root,
    "cityscapes": is_cityscapes_layout,
    "ade20k": ade20k_root,
    "camvid": is_segnet_layout,
    "label-studio": is_label_studio_layout,
    "coco": coco_files,
}
"""Functions that recognize the layout of a directory. A directory that none of them recognizes is a ``folder``."""


def open_dataset(data: str | Path) -> SegmentationDataset:
    """Open a directory, whose layout is detected, ``hf:...``, or generated data: ``shapes[:KEY=VALUE,...]``.

    Raises:
        UserError: The data does not exist or cannot be used.
    """
    name, _, options = str(data).partition(":")
    if name in ("shapes", "hf"):
        return DATASETS[name](options)
    if os.path.isdir(data) and (form := detect_form(Path(data))):
        command = shlex.join(["semiseg", "import", str(data), "--out", f"{str(data).rstrip('/')}-semiseg"])
        raise UserError(f"this is {IMPORTERS[form].title}", path=data, fix=f"run: {command}")
    return DATASETS[detect_layout(data)](str(data))


def detect_layout(directory: str | Path) -> str:
    """Return the name in ``DATASETS`` of the layout of a directory; ``folder`` if none of ``LAYOUTS`` matches."""
    if not os.path.isdir(directory):  # False for invalid names, on which Path raises
        return "folder"
    return next((form for form, recognizes in LAYOUTS.items() if recognizes(str(directory))), "folder")


__all__ = [
    "DATASETS",
    "IGNORE",
    "Ade20k",
    "CamVid",
    "Cityscapes",
    "Coco",
    "FolderDataset",
    "HuggingFace",
    "LabelStudio",
    "Sample",
    "SegmentationDataset",
    "Shapes",
    "Split",
    "StepLoader",
    "StreamConfig",
    "TrainStream",
    "Voc",
    "check_masks",
    "detect_layout",
    "make_loader",
    "open_dataset",
    "read_image_file",
    "read_split",
    "resolve_split",
    "weak_view",
    "write_folder",
    "write_mask_file",
    "write_split",
]
