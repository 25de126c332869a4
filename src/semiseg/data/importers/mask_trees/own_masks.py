"""Read the masks of a tree as those of an own folder, with the class file from any folder of the tree."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.class_file import CLASS_FILES
from semiseg.data.dataset import Color, MaskRecord
from semiseg.data.folder_dataset import FolderDataset
from semiseg.data.importers.source_files import walk_files
from semiseg.errors import UserError


class OwnMasks(FolderDataset):
    """The masks of a tree, read as those of an own folder.

    Args:
        folder: The folder of the class file.
        images: The images, by id.
        masks: The masks, by id.
    """

    def __init__(self, folder: Path, images: Mapping[str, Path], masks: Mapping[str, Path]) -> None:
        self._files = images, masks
        self._records = dict[str, MaskRecord]()
        self._shown = dict[str, NDArray[np.bool_]]()
        self._palettes = dict[frozenset[tuple[int, Color]], str]()
        super().__init__(folder)

    def read_mask(self, id: str) -> Tensor:
        """Read a mask like an own folder. Raises UserError also if its palette contradicts that of a mask before."""
        mask, record = self.read_mask_record(id)
        self._shown[id] = np.bincount(mask.numpy().ravel(), minlength=256) > 0
        if record is not None:
            self._records[id] = record
            colors = frozenset(record.colors.items())
            if colors not in self._palettes and not (self.class_file and self.class_file.colors):
                self._palettes[colors] = id
                self.check_palettes({other: self._records[other] for other in list(self._palettes.values())})
        return mask

    def describe(self) -> list[str]:
        """Return lines on how the masks were read. Raises UserError if together they are not those of classes."""
        shown = np.array(list(self._shown.values()), dtype=np.int64).reshape(-1, 256)
        return [*self.notes, *self.compare_masks(self._records, shown)]

    @property
    def masks_path(self) -> Path:
        """The folder that holds all masks, for messages."""
        return Path(os.path.commonpath([path.parent for path in self.masks.values()])) if self.masks else self.root

    def _find_files(self) -> tuple[Mapping[str, Path], Mapping[str, Path]]:
        return self._files


def class_folder(root: Path) -> Path | None:
    """Return the folder of the class file: the root, else any folder below, or None.

    Raises:
        UserError: Folders hold class files of different content.
    """
    if any((root / name).is_file() for name in CLASS_FILES):
        return root
    files = [path for path in walk_files(root) if path.name in CLASS_FILES]
    for path in files[1:]:
        if path.name == files[0].name and path.read_bytes() != files[0].read_bytes():
            fix = f"import each folder on its own, such as: semiseg import {path.parent} --out {path.parent}-semiseg"
            raise UserError(f"its classes differ from those of {files[0]}", path=path, fix=fix)
    return files[0].parent if files else None
