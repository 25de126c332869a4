"""ADE20K (Zhou et al., 2017) in the 150 classes of its scene parsing benchmark (ADEChallengeData2016)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from semiseg.data.dataset import default_palette
from semiseg.data.file_dataset import FileDataset, read_mask_values, value_table
from semiseg.data.files.image_files import IMAGE_SUFFIXES, MASK_SUFFIXES, list_files
from semiseg.data.splits.list_files import read_lines
from semiseg.errors import UserError

CLASSES = 150
TABLE = value_table({value: value - 1 for value in range(1, CLASSES + 1)}, ignored=(0,))
RULE = (
    "the original annotations hold 0 (ignored) to 150: take those of ADEChallengeData2016, not ones shifted to 0 to 149"
)
FOLDERS = {"train": "training", "val": "validation"}


class Ade20k(FileDataset):
    """ADE20K in the 150 classes of its scene parsing benchmark.

    In the masks as delivered, 0 is ignored and 1 to 150 are the classes; here these are 0 to 149. Names come from
    ``objectInfo150.txt``, the first of each line's synonyms; without that file they are ``class1`` to ``class150``. A
    copy whose annotations have been shifted to 0 to 149 is refused where it holds 255; otherwise nothing tells it.

    Args:
        root: the folder that holds ``images`` and ``annotations``, or the one above (``ADEChallengeData2016``).

    Raises:
        UserError: a folder is missing or empty, or the names cannot be read; the message names it.
    """

    tree = (
        "images/{training,validation}/ID.jpg",
        "annotations/{training,validation}/ID.png",
        "objectInfo150.txt, splits/{1_32,...}/{labeled,unlabeled}.txt: optional",
    )

    def __init__(self, root: str | Path) -> None:
        found = ade20k_root(root)
        if found is None:
            raise UserError(f"{root}: no ADE20K there; give the folder that holds images/training/")
        self.name, self.root = "ade20k", found
        self.classes, self.palette = read_names(found / "objectInfo150.txt"), default_palette(CLASSES)
        self.images, self.masks = {}, {}
        for folder in FOLDERS.values():
            images = list_files(found / "images" / folder, IMAGE_SUFFIXES)
            masks = list_files(found / "annotations" / folder, MASK_SUFFIXES)
            self.images |= images
            self.masks |= {id: path for id, path in masks.items() if id in images}
        if not self.images:
            raise UserError(f"{found / 'images' / 'training'}: no images there; unpack ADEChallengeData2016.zip")
        if not self.masks:
            raise UserError(
                f"{found / 'annotations' / 'training'}: no masks of these images there; unpack ADEChallengeData2016.zip"
            )
        self.ids = tuple(sorted(self.images))

    def split(self, name: str, missing: list[str] | None = None) -> tuple[str, ...] | None:
        """Return the ids in ``splits/NAME.txt`` or else in ``training`` or ``validation``; there is no ``test``."""
        ids = super().split(name, missing)
        if ids is None and name in FOLDERS:
            ids = tuple(id for id in self.ids if self.images[id].parent.name == FOLDERS[name]) or None
        return ids

    def read_mask(self, id: str) -> Tensor:
        """Read a mask as uint8 ``(H, W)``: 0 to 149 or 255."""
        return read_mask_values(self.masks[id], TABLE, RULE)


def ade20k_root(root: str | Path) -> Path | None:
    """Return the folder at or below ``root`` that is laid out as ADEChallengeData2016, None if there is none."""
    places = (Path(root), Path(root) / "ADEChallengeData2016")
    return next((place for place in places if (place / "images" / "training").is_dir()), None)


def read_names(path: Path) -> tuple[str, ...]:
    """Read the class names from ``objectInfo150.txt``: a heading, then a class a line, its names in the last column.

    Raises:
        UserError: it does not list 150 different names.
    """
    if not path.exists():
        return tuple(f"class{value}" for value in range(1, CLASSES + 1))
    rows = [line.split("\t") for line in read_lines(path)]
    names = tuple(row[-1].split(",")[0].strip() for row in rows if row[0].strip().isdigit())
    if len(set(names)) != CLASSES or len(names) != CLASSES or "" in names:
        raise UserError(
            f"{path}: {len(set(names))} different names in {len(names)} lines, not {CLASSES}; take the original file, "
            "or remove it (the classes are then class1 to class150)"
        )
    return names
