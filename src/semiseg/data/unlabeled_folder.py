"""A folder of photographs outside the data: ``--unlabeled FOLDER``."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.file_dataset import FileDataset
from semiseg.data.files.file_lists import IMAGE_SUFFIXES, list_files
from semiseg.data.files.string_array import StringArray, sorted_keys
from semiseg.data.stream.shards import holds_shards
from semiseg.errors import UserError

PREFIX = "@unlabeled/"
"""The id of a photograph is this prefix and its path below the folder without suffix, wherever the folder is."""


class PrefixedFiles(Mapping[str, Path]):
    """The files of a data set, and those of a folder under ``PREFIX``. The data set takes precedence."""

    def __init__(self, own: Mapping[str, Path], added: Mapping[str, Path]) -> None:
        self.own, self.added = own, added

    def __getitem__(self, id: str) -> Path:
        if id in self.own or not id.startswith(PREFIX):
            return self.own[id]
        return self.added[id.removeprefix(PREFIX)]

    def __iter__(self) -> Iterator[str]:
        return chain(self.own, (id for id in map(PREFIX.__add__, self.added) if id not in self.own))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def is_photograph_folder(text: str | None) -> bool:
    """Return whether ``--unlabeled`` names a folder of photographs, not a list or shards.

    Raises:
        UserError: A folder holds both.
    """
    return bool(text) and os.path.isdir(text or "") and not holds_shards(text or "")


def add_photographs(dataset: SegmentationDataset, folder: str | Path) -> tuple[SegmentationDataset, StringArray]:
    """Return the data set with the photographs of a folder as unlabeled images, and their ids.

    Subfolders are read, too; of a folder that holds ``images/``, only that. A photograph whose id is an image of the
    data set is left out: it has been copied there with a mask.

    Raises:
        UserError: The data set has no files, or the folder holds no images or images of the data set.
    """
    folder = Path(folder)
    folder = folder / "images" if (folder / "images").is_dir() else folder
    if not isinstance(dataset, FileDataset):
        raise UserError("a folder needs data in files", option="unlabeled", fix="give a folder of images with --data")
    own, source = (path.resolve() for path in (dataset.root / "images", folder))
    if own.is_dir() and (source.is_relative_to(own) or own.is_relative_to(source)):
        problem = f"its images are those of {dataset.root}, which are used already"
        raise UserError(problem, path=folder, option="unlabeled", fix="leave --unlabeled out")
    files = list_files(folder, IMAGE_SUFFIXES, nested=True)
    if not files:
        raise UserError("holds neither images nor shards", path=folder, option="unlabeled", fix="check the path")
    extended: Any = copy.copy(dataset)
    extended.images = PrefixedFiles(dataset.images, files)
    added = StringArray(id for id in map(PREFIX.__add__, sorted_keys(files)) if id not in dataset.images)
    extended.ids = StringArray(sorted(chain(dataset.ids, added)))
    return extended, added
