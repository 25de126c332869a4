"""A plain folder: DIR/images, DIR/masks with the same stems, and optional class names and lists."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.class_file import read_class_file, write_class_file
from semiseg.data.dataset import IGNORE, Color, SegmentationDataset, default_palette
from semiseg.data.file_dataset import FileDataset, value_table
from semiseg.data.files.atomic_folder import require_free
from semiseg.data.files.file_lists import IMAGE_SUFFIXES, JPEG_SUFFIXES, MASK_SUFFIXES, list_files
from semiseg.data.files.image_files import write_image_file
from semiseg.data.files.mask_files import color_indices, lossy_mask_error, read_mask_file, write_mask_file
from semiseg.data.files.mask_matching import check_mask_names, match_masks
from semiseg.data.files.string_array import sorted_keys
from semiseg.data.palette_file import PALETTE_FILES, read_palette
from semiseg.data.splits.list_files import read_lines, write_list
from semiseg.data.tag_file import Tags, read_tags
from semiseg.errors import UserError


class FolderDataset(FileDataset):
    """A plain folder, which needs no configuration.

    ``images/**`` and ``masks/**`` share their ids, which are paths without suffix (a mask may end with ``_L``, as
    CamVid's). An image without a mask is unlabeled. A mask holds integers, palette indices, or colors of a palette; 255
    is ignored. Optional files:

    - ``classes.txt`` (one name per line), ``classes.json`` (see ``class_file``) or a palette file (see
      ``palette_file``; integers in masks are then indices of its entries),
    - ``splits/{train,val,test}.txt`` (one id per line) and ``splits/1_16/seed0/{labeled,unlabeled}.txt``,
    - ``tags.csv`` (see ``tag_file``).

    Without a class file the classes are ``class0`` to the largest mask value, and every mask is read on opening.

    Raises:
        UserError: A folder or file is missing, unreadable or ambiguous.
    """

    mask_folder = "masks"
    tree: ClassVar[tuple[str, ...]] = (
        "images/NAME.jpg, .png, ...  or in subfolders",
        "masks/NAME.png              for annotated images, in the same subfolders",
        "classes.txt, classes.json or palette.txt (name r g b), splits/{train,val,test}.txt: optional",
    )

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not os.path.isdir(root):  # False for invalid names, on which Path raises
            fix = "give one that holds images/ and masks/"
            raise UserError("there is no such folder", path=f"{root!s:.200}", fix=fix)
        self.name = self.root.resolve().name
        self.images, self.masks = self._find_files()
        self.ids = sorted_keys(self.images)
        self._ignored: tuple[int, ...] = ()
        self._skipped: tuple[int, ...] = ()  # values of palette entries that are not classes
        self._colors: tuple[Color, ...] = ()
        class_files = (self.root / name for name in ("classes.json", "classes.txt", *PALETTE_FILES))
        self._class_file = next((path for path in class_files if path.exists()), None)
        self.classes = self._read_classes()
        self._check_classes(self.classes)
        values = [value for value in range(IGNORE) if value not in self._skipped][: len(self.classes)]
        self._table = value_table({value: index for index, value in enumerate(values)})
        self._table[list(self._ignored)] = IGNORE  # takes precedence over a class with this value
        given = tuple(self._colors[value] for value in values if value < len(self._colors))
        self.palette = given + default_palette(len(self.classes))[len(given) :]
        self._tags = self._read_tags()

    def read_mask(self, id: str) -> Tensor:
        """Read a mask as uint8 ``(H, W)``: class index or 255."""
        path = self.masks[id]
        values = self._read_indices(path)
        mask = self._table[values]
        if (mask < 0).any():
            count = len(self.classes)
            raise UserError(
                f"value {values[mask < 0].min()} is not one of the {count} classes (0 to {count - 1}, 255 is ignored)",
                path=path,
                fix=f"correct the mask or {self._class_file or 'the classes'}",
            )
        return torch.from_numpy(mask.astype(np.uint8))

    def tags(self, id: str) -> Tags | None:
        """Return the tags of an image in ``tags.csv``, or None if it has none."""
        return self._tags.get(id)

    def any_tags(self, *lists: Sequence[str]) -> bool:
        """Return whether any image in the lists has tags."""
        return bool(self._tags) and super().any_tags(*lists)

    def _read_tags(self) -> dict[str, Tags]:
        path = self.root / "tags.csv"
        return read_tags(path, self.classes, self.ids) if path.exists() else {}

    def _find_files(self) -> tuple[Mapping[str, Path], Mapping[str, Path]]:
        images = list_files(self.root / "images", IMAGE_SUFFIXES, nested=True)
        if not images:
            fix = self._hint("images", IMAGE_SUFFIXES) + f"add your images ({' '.join(IMAGE_SUFFIXES)})"
            raise UserError("no images there", path=self.root / "images", fix=fix)
        masks = list_files(self.root / "masks", MASK_SUFFIXES, nested=True)
        for path in list_files(self.root / "masks", JPEG_SUFFIXES, nested=True).values():
            raise lossy_mask_error(path, "JPEG")
        matched = match_masks(images, masks)
        check_mask_names(self.root, images, masks, matched)
        return images, matched

    def _hint(self, name: str, suffixes: tuple[str, ...], stems: Iterable[str] | None = None) -> str:
        """Suggest renaming the folder with the most matching files to ``name``; empty if no folder has any."""
        others = (path for path in sorted(self.root.glob("*/")) if path.name not in ("images", "masks"))
        found = {path: set(list_files(path, suffixes, clashes=[])) for path in others}
        counts = {path: len(names if stems is None else names.intersection(stems)) for path, names in found.items()}
        best = max(counts, key=lambda path: counts[path], default=None)
        return f"rename {best} to {name} if it holds the {name}, or " if best and counts[best] else ""

    def _read_classes(self) -> tuple[str, ...]:
        if self._class_file is None:
            return tuple(f"class{index}" for index in range(self._largest_value() + 1))
        if self._class_file.name == "classes.txt":
            return read_lines(self._class_file)
        if self._class_file.name in PALETTE_FILES:
            palette = read_palette(self._class_file)
            self._colors, self._ignored, self._skipped = palette.colors, palette.unknown, palette.unknown
            return tuple(palette.names[index] for index in palette.known)
        names, self._colors, self._ignored = read_class_file(self._class_file)
        return names

    def _check_classes(self, classes: tuple[str, ...]) -> None:
        if not 1 <= len(classes) <= IGNORE or len(set(classes)) < len(classes):
            raise UserError(f"{len(classes)} names", path=self._class_file, fix="write 1 to 255 different class names")

    def _mask_values(self) -> set[int]:
        """Return the values of all masks, skipping unreadable ones, which raise when they are used."""

        def values(path: Path) -> list[int]:
            try:
                return np.flatnonzero(np.bincount(self._read_indices(path).ravel())).tolist()
            except UserError:
                return []

        with ThreadPoolExecutor() as pool:
            return {value for values in pool.map(values, self.masks.values()) for value in values}

    def _largest_value(self) -> int:
        """Return the largest value of any mask."""
        directory = self.root / "masks"
        if not self.masks:
            hint = self._hint("masks", MASK_SUFFIXES, self.images)
            raise UserError("no masks there", path=directory, fix=f"{hint}annotate a few images, as masks/NAME.png")
        found = self._mask_values()
        if not found:
            self._read_indices(next(iter(self.masks.values())))  # raises
        if found <= {0, IGNORE}:
            values = " and ".join(map(str, sorted(found)))
            raise UserError(
                f"the masks hold only {values} and there is no class file",
                path=directory,
                fix="write classes.txt with a name for 0 and one for 1, and save masks as 0/1 (255 means ignore)",
            )
        return max(found - {IGNORE})

    def _read_indices(self, path: Path) -> NDArray[np.uint8]:
        values = read_mask_file(path)
        if values.ndim == 2:
            return values
        if self._colors:
            if twice := next((c for c, times in Counter(self._colors).items() if times > 1), None):
                fix = "give each class its own color"
                raise UserError(f"the color {twice} is listed twice", path=self._class_file, fix=fix)
            indices = color_indices(values, self._colors)
            if isinstance(indices, tuple):
                problem = f"color {indices} is not in the palette of {self._class_file}"
                raise UserError(problem, path=path, fix="add it there")
            return indices
        if (values == values[..., :1]).all():
            return values[..., 0].copy()  # integers in a file of three equal channels
        color = tuple(values[(values != values[..., :1]).any(axis=-1)][0].tolist())
        raise UserError(
            f"the mask holds colors, such as {color}",
            path=path,
            fix="write their palette into classes.json (or into palette.txt, one name r g b per line, in place of "
            "classes.txt), or save integers",
        )


def write_folder(dataset: SegmentationDataset, directory: str | Path, ids: Iterable[str] | None = None) -> Path:
    """Write a data set, or the given ids of it, as a plain folder of PNG files, and return the folder.

    Raises:
        UserError: The folder exists and is not empty.
    """
    root = Path(directory)
    require_free(root)
    for name in ("images", "masks", "splits"):
        (root / name).mkdir(parents=True)
    chosen = dataset.ids if ids is None else tuple(ids)
    for id in chosen:
        write_image_file(root / "images" / f"{id}.png", dataset.read_image(id))
        if dataset.has_mask(id):
            write_mask_file(root / "masks" / f"{id}.png", dataset.read_mask(id), dataset.palette)
    write_class_file(root / "classes.json", dataset)
    for name in ("train", "val", "test"):
        listed = [id for id in dataset.split(name) or () if id in set(chosen)]
        if listed:
            write_list(root / "splits" / f"{name}.txt", listed)
    return root
