"""Data: what can be read, and how it becomes batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from semiseg.data.camvid import CamVid, is_segnet_layout
from semiseg.data.dataset import IGNORE, Sample, SegmentationDataset
from semiseg.data.folder import FolderDataset, write_folder
from semiseg.data.images import read_image_file, write_mask_file
from semiseg.data.loaders import StepLoader, StreamConfig, TrainStream, make_loader
from semiseg.data.shapes import Shapes
from semiseg.data.splits import Split, check_masks, read_split, resolve_split, write_split
from semiseg.data.views import weak_view

DATASETS: dict[str, Callable[[str], SegmentationDataset]] = {
    "folder": FolderDataset,
    "camvid": CamVid,
    "shapes": Shapes.from_text,
}
"""Every form of data: from a directory, or from the text after ``shapes:``."""


def open_dataset(data: str | Path) -> SegmentationDataset:
    """Open a directory (own-folder form or CamVid's) or ``shapes[:KEY=VALUE,...]``, which is generated.

    Raises:
        UserError: it is not there or cannot be used.
    """
    name, _, options = str(data).partition(":")
    if name == "shapes":
        return DATASETS["shapes"](options)
    return DATASETS["camvid" if is_segnet_layout(data) else "folder"](str(data))


__all__ = [
    "DATASETS",
    "IGNORE",
    "CamVid",
    "FolderDataset",
    "Sample",
    "SegmentationDataset",
    "Shapes",
    "Split",
    "StepLoader",
    "StreamConfig",
    "TrainStream",
    "check_masks",
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
