"""The export format "Segmentation mask 1.1" of CVAT: VOC folders, color masks and ``labelmap.txt``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from semiseg.data.dataset import IGNORE, Color, default_palette
from semiseg.data.file_dataset import value_table
from semiseg.data.files.file_lists import MASK_SUFFIXES
from semiseg.data.files.mask_files import color_indices, read_mask_file
from semiseg.data.importers.foreign_data import ForeignData, ImportOptions
from semiseg.data.importers.source_files import as_id, find_images, walk_files
from semiseg.data.palette_file import Palette, make_color, make_palette
from semiseg.data.splits.list_files import read_lines
from semiseg.errors import UserError


class CvatMask(ForeignData):
    """CVAT "Segmentation mask 1.1": ``labelmap.txt`` and masks in its colors.

    The classes are the labels in the order of ``labelmap.txt``. CVAT adds ``background`` for the pixels without
    annotation. The labels ``ignored``, ``void`` and ``unlabeled`` are read as 255. The lists are the subsets of the
    tasks, ``Train``, ``Validation`` and ``Test`` in several spellings. An image without a mask is unlabeled.

    Exports made without "Save images" need the images in ``JPEGImages``.

    Raises:
        UserError: A folder or file is missing or malformed.
    """

    form = "cvat-mask"
    title = 'a CVAT export ("Segmentation mask 1.1")'
    tree: ClassVar[tuple[str, ...]] = (
        "labelmap.txt                name:red,green,blue:: per line",
        "JPEGImages/NAME.jpg, .png, ...",
        "SegmentationClass/NAME.png  for annotated images",
        "ImageSets/Segmentation/{Train,Validation,Test}.txt, splits/{train,val,test}.txt: optional",
    )
    list_locations: ClassVar[dict[str, tuple[str, ...]]] = {
        name: tuple(f"ImageSets/Segmentation/{file}.txt" for file in files)
        for name, files in {
            "train": ("train", "Train"),
            "val": ("val", "Val", "validation", "Validation"),
            "test": ("test", "Test"),
        }.items()
    }

    def __init__(self, root: Path, options: ImportOptions) -> None:
        super().__init__(root, options)
        self._labels = read_labelmap(root / "labelmap.txt")
        known = self._labels.known
        self.set_classes((self._labels.names[index] for index in known), root / "labelmap.txt")
        self.palette = tuple(self._labels.colors[index] for index in known)
        self._table = value_table(
            {index: number for number, index in enumerate(known)}, (*self._labels.unknown, IGNORE)
        )
        folder = root / "JPEGImages"
        self.set_images(find_images(folder), folder, 'export with "Save images" or copy the images there')
        masks = root / "SegmentationClass"
        files = {as_id(path.relative_to(masks).with_suffix("")): path for path in walk_files(masks)}
        for id, image in self.images.items():
            path = files.get(as_id(image.relative_to(folder).with_suffix("")))
            if path is not None and path.suffix.lower() in MASK_SUFFIXES:
                self.masks[id] = path
        if not self.masks:
            fix = "annotate a few images and export them again"
            raise UserError("no masks of these images found", path=masks, fix=fix)

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a folder has a ``labelmap.txt``, unlike Pascal VOC."""
        return (root / "labelmap.txt").is_file() and (root / "SegmentationClass").is_dir()

    def read_mask(self, id: str) -> Tensor:
        """Read a mask as uint8 ``(H, W)`` of class indices or 255."""
        path = self.masks[id]
        values = read_mask_file(path, colors=True)
        indices = color_indices(values, self._labels.colors)
        if isinstance(indices, tuple):
            raise UserError(
                f"color {indices} is not in {self.root / 'labelmap.txt'}",
                path=path,
                fix="add its label there or export both again",
            )
        return torch.from_numpy(self._table[indices].astype(np.uint8))


def read_labelmap(path: Path) -> Palette:
    """Read lines of ``name:red,green,blue:parts:actions``. If no line has a color, use the color map of Pascal VOC.

    Raises:
        UserError: A line is malformed, or a name or color is listed twice.
    """
    rows = [line.split(":") for line in read_lines(path) if not line.startswith("#")]
    for row in rows:
        if len(row) < 2 or not row[0]:
            raise UserError(f"{':'.join(row)!r} is not a label", path=path, fix="write name:red,green,blue:: per line")
    entries: list[tuple[str, Color]]
    if any(row[1].strip() for row in rows):
        entries = [(row[0].strip(), make_color(path, ":".join(row), row[1].split(","))) for row in rows]
    else:
        entries = list(zip((row[0].strip() for row in rows), default_palette(len(rows)), strict=True))
    return make_palette(path, entries)
