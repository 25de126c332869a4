"""Data sets, split lists and the training stream."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from semiseg.config import TrainConfig
from semiseg.data.benchmarks.ade20k import Ade20k
from semiseg.data.benchmarks.camvid import CamVid
from semiseg.data.benchmarks.cityscapes import Cityscapes
from semiseg.data.benchmarks.recognition import recognize_benchmark
from semiseg.data.benchmarks.voc import Voc
from semiseg.data.dataset import IGNORE, Sample, SegmentationDataset
from semiseg.data.files.image_files import read_image_file
from semiseg.data.files.mask_files import write_mask_file
from semiseg.data.files.pixel_format import PixelFormat
from semiseg.data.folder_dataset import FolderDataset, write_folder
from semiseg.data.generated_shapes import Shapes
from semiseg.data.importers import IMPORTERS, detect_form
from semiseg.data.importers.huggingface import HuggingFace
from semiseg.data.importers.source_files import is_own_folder
from semiseg.data.importers.survey import unknown_form_error
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
    "shapes": Shapes.from_text,
}
"""The data sets that training reads. Each is opened from a directory; ``shapes`` from the text after the colon.

The forms of other tools are in ``semiseg.data.importers.IMPORTERS``.
"""


def open_dataset(data: str | Path) -> SegmentationDataset:
    """Open a directory, whose layout is detected, or generated data: ``shapes[:KEY=VALUE,...]``.

    A directory that exists is opened even if it is called ``shapes``.

    Raises:
        UserError: The data does not exist, is in the form of another tool, or cannot be used.
    """
    text = str(data)
    name, colon, options = text.partition(":")
    if os.path.isdir(data):  # False for invalid names, on which Path raises
        dataset = _open_directory(Path(data))
        if name == "shapes" and not colon:
            dataset.read_as = f"{text} is a directory. For generated data, write shapes: with a colon."
        return dataset
    if name == "shapes":
        return Shapes.from_text(options)
    if name == "hf":
        raise _import_first(HuggingFace.title, text, Path(options.partition(":")[0]).name)
    return FolderDataset(text)  # raises


def saved_format(config: TrainConfig) -> PixelFormat:
    """Return the pixel format that a run has saved; runs of version 0.1.0 have none and use its rule."""
    bands = config.bands if isinstance(config.bands, tuple) else None
    return PixelFormat(bands, config.white if isinstance(config.white, (int, float)) else None)


def detect_layout(directory: str | Path) -> str:
    """Return the name in ``DATASETS`` of the layout of a directory, ``folder`` if it is not one of a benchmark."""
    if not os.path.isdir(directory):
        return "folder"
    return (not is_own_folder(Path(directory)) and recognize_benchmark(Path(directory))[0]) or "folder"


def _open_directory(root: Path) -> SegmentationDataset:
    """Open an own folder or a benchmark. Raises UserError, naming the import, for the form of another tool."""
    if is_own_folder(root):
        return FolderDataset(root)
    name, reason = recognize_benchmark(root)
    if name:
        dataset = DATASETS[name](str(root))
        dataset.read_as = reason
        return dataset
    if form := detect_form(root):
        raise _import_first(IMPORTERS[form].title, str(root), str(root))
    if not (root / "images").is_dir():
        raise unknown_form_error(root)
    return FolderDataset(root)


def _import_first(title: str, data: str, name: str) -> UserError:
    """Return the error for data in the form of another tool, with the command that imports it."""
    command = shlex.join(["semiseg", "import", data, "--out", f"{name}-semiseg"])
    return UserError(f"this is {title}", path=data, fix=f"run: {command}")


__all__ = [
    "DATASETS",
    "IGNORE",
    "Ade20k",
    "CamVid",
    "Cityscapes",
    "FolderDataset",
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
