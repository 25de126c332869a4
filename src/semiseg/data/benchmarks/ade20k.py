"""ADE20K (Zhou et al., 2017) in the 150 classes of its scene parsing benchmark (ADEChallengeData2016)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from semiseg.data.dataset import default_palette
from semiseg.data.file_dataset import FileDataset, read_mask_values, value_table
from semiseg.data.files.file_lists import IMAGE_SUFFIXES, MASK_SUFFIXES, list_files
from semiseg.data.splits.list_files import read_lines
from semiseg.errors import UserError

CLASSES = 150
TABLE = value_table({value: value - 1 for value in range(1, CLASSES + 1)}, ignored=(0,))
MASK_FIX = "use the original annotations of ADEChallengeData2016 (0 to 150), not annotations shifted to 0 to 149"
UNPACK = "unpack ADEChallengeData2016.zip"
FOLDERS = {"train": "training", "val": "validation"}


class Ade20k(FileDataset):
    """ADE20K in the 150 classes of its scene parsing benchmark.

    In the published masks, 0 is ignored and 1 to 150 are the classes. They are read as 0 to 149. A class name is the
    first synonym of its line in ``objectInfo150.txt``; without that file the names are ``class1`` to ``class150``.
    Annotations that have been shifted to 0 to 149 raise an error if they contain 255. Otherwise they cannot be
    distinguished from the published ones.

    Args:
        root: The folder that holds ``images`` and ``annotations``, or its parent.

    Raises:
        UserError: A folder is missing or empty, or the class names cannot be read.
    """

    tree = (
        "images/{training,validation}/ID.jpg",
        "annotations/{training,validation}/ID.png",
        "objectInfo150.txt, splits/{1_32,...}/{labeled,unlabeled}.txt: optional",
    )

    def __init__(self, root: str | Path) -> None:
        found = ade20k_root(root)
        if found is None:
            raise UserError("ADE20K was not found", path=root, fix="give the folder that holds images/training/")
        self.name, self.root = "ade20k", found
        self.classes, self.palette = read_names(found / "objectInfo150.txt"), default_palette(CLASSES)
        self.images, self.masks = {}, {}
        for folder in FOLDERS.values():
            images = list_files(found / "images" / folder, IMAGE_SUFFIXES)
            masks = list_files(found / "annotations" / folder, MASK_SUFFIXES)
            self.images |= images
            self.masks |= {id: path for id, path in masks.items() if id in images}
        if not self.images:
            raise UserError("no images found", path=found / "images" / "training", fix=UNPACK)
        if not self.masks:
            raise UserError("no masks of these images found", path=found / "annotations" / "training", fix=UNPACK)
        self.ids = tuple(sorted(self.images))

    def split(self, name: str, missing: list[str] | None = None) -> tuple[str, ...] | None:
        """Return the ids of a list: ``splits/NAME.txt``, else the folder ``training`` or ``validation``."""
        ids = super().split(name, missing)
        if ids is None and name in FOLDERS:
            ids = tuple(id for id in self.ids if self.images[id].parent.name == FOLDERS[name]) or None
        return ids

    def read_mask(self, id: str) -> Tensor:
        """Read a mask as uint8 ``(H, W)`` of classes 0 to 149 or 255."""
        return read_mask_values(self.masks[id], TABLE, MASK_FIX)


def ade20k_root(root: str | Path) -> Path | None:
    """Return ``root`` or ``root/ADEChallengeData2016``, whichever has the layout of ADE20K, or None."""
    candidates = (Path(root), Path(root) / "ADEChallengeData2016")
    return next((folder for folder in candidates if (folder / "images" / "training").is_dir()), None)


def read_names(path: Path) -> tuple[str, ...]:
    """Read the class names from ``objectInfo150.txt``.

    The file has a header line and one line per class. The last column holds the names of the class.

    Raises:
        UserError: The file does not list 150 distinct names.
    """
    if not path.exists():
        return tuple(f"class{value}" for value in range(1, CLASSES + 1))
    rows = [line.split("\t") for line in read_lines(path)]
    names = tuple(row[-1].split(",")[0].strip() for row in rows if row[0].strip().isdigit())
    if len(set(names)) != CLASSES or len(names) != CLASSES or "" in names:
        raise UserError(
            f"expected {CLASSES} distinct class names, found {len(set(names))} in {len(names)} lines",
            path=path,
            fix=f"use the original file, or remove it to get the names class1 to class{CLASSES}",
        )
    return names
