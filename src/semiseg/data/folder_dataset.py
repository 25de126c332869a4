"""The own-folder form: DIR/images, DIR/masks with the same stems, and optional class names and lists."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from semiseg.data.class_file import read_class_file
from semiseg.data.dataset import IGNORE, Color, SegmentationDataset, default_palette
from semiseg.data.file_dataset import FileDataset, value_table
from semiseg.data.files.image_files import (
    IMAGE_SUFFIXES,
    JPEG_MASK,
    JPEG_SUFFIXES,
    MASK_SUFFIXES,
    color_indices,
    list_files,
    read_mask_file,
    write_mask_file,
)
from semiseg.data.files.string_array import sorted_keys
from semiseg.data.palette_file import PALETTE_FILES, read_palette
from semiseg.data.splits.list_files import read_lines, write_list
from semiseg.data.tag_file import Tags, read_tags
from semiseg.errors import UserError


class FolderDataset(FileDataset):
    """A person's own folder, which needs no configuration.

    ``images/*`` and ``masks/*`` share their stems (CamVid's ``_L`` behind a mask's is tolerated); an image without a
    mask is unlabeled. A mask holds integers, palette indices, or colors of a palette; 255 is ignored. Optional:
    ``classes.txt`` (a name a line), ``classes.json`` (``classes``; ``palette``: RGB a class; ``ignore``: one more value
    or color to ignore) or a palette file (``palette.txt``, ``label_colors.txt`` and the like, see ``data.palette``; an
    integer is then the position in it), ``splits/{train,val,test}.txt`` (a stem a line),
    ``splits/1_16/seed0/{labeled,unlabeled}.txt``, and ``tags.csv`` (what is known of whole images, see ``data.tags``).
    Without a class file the classes are ``class0`` to the largest mask value: only then is every mask read once, on
    opening.

    Raises:
        UserError: a folder or file is missing, unreadable or ambiguous; the message names it.
    """

    mask_folder = "masks"
    tree: ClassVar[tuple[str, ...]] = (
        "images/NAME.jpg, .png, ...",
        "masks/NAME.png              for those that are annotated",
        "classes.txt, classes.json or palette.txt (name r g b), splits/{train,val,test}.txt: optional",
    )

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not os.path.isdir(root):  # False for what is no possible name, where Path raises
            raise UserError(f"{root!s:.200}: there is no such folder; give one that holds images/ and masks/")
        self.name = self.root.resolve().name
        self.images, self.masks = self._find_files()
        self.ids = sorted_keys(self.images)
        self._ignored: tuple[int, ...] = ()
        self._skipped: tuple[int, ...] = ()  # values between those of the classes
        self._colors: tuple[Color, ...] = ()
        class_files = (self.root / name for name in ("classes.json", "classes.txt", *PALETTE_FILES))
        self._class_file = next((path for path in class_files if path.exists()), None)
        self.classes = self._read_classes()
        self._check_classes(self.classes)
        values = [value for value in range(IGNORE) if value not in self._skipped][: len(self.classes)]
        self._table = value_table({value: index for index, value in enumerate(values)})
        self._table[list(self._ignored)] = IGNORE  # also where that is the value of a class
        given = tuple(self._colors[value] for value in values if value < len(self._colors))
        self.palette = given + default_palette(len(self.classes))[len(given) :]
        self._tags = self._read_tags()

    def read_mask(self, id: str) -> Tensor:
        """Read a mask as uint8 ``(H, W)``: class index or 255."""
        path = self.masks[id]
        values = self._read_indices(path)
        mask = self._table[values]
        if (mask < 0).any():
            raise UserError(
                f"{path}: value {values[mask < 0].min()} is none of the {len(self.classes)} classes (0 to "
                f"{len(self.classes) - 1}, 255 is ignored); correct the mask or {self._class_file or 'the classes'}"
            )
        return torch.from_numpy(mask.astype(np.uint8))

    def tags(self, id: str) -> Tags | None:
        """Return the image's line of ``tags.csv``, None where it has none."""
        return self._tags.get(id)

    def any_tags(self, *lists: Sequence[str]) -> bool:
        """Tell whether any image of some lists has tags, without a look at each where there is no file of them."""
        return bool(self._tags) and super().any_tags(*lists)

    def _read_tags(self) -> dict[str, Tags]:
        path = self.root / "tags.csv"
        return read_tags(path, self.classes, self.ids) if path.exists() else {}

    def _find_files(self) -> tuple[Mapping[str, Path], Mapping[str, Path]]:
        images = list_files(self.root / "images", IMAGE_SUFFIXES)
        if not images:
            hint = self._hint("images", IMAGE_SUFFIXES)
            raise UserError(f"{self.root / 'images'}: no images there; {hint}put yours in ({' '.join(IMAGE_SUFFIXES)})")
        masks = list_files(self.root / "masks", MASK_SUFFIXES)
        for path in list_files(self.root / "masks", JPEG_SUFFIXES).values():
            raise UserError(f"{path}: {JPEG_MASK}")
        matched = match_masks(images, masks)
        if masks and not matched:
            path = next(iter(masks.values()))
            raise UserError(f"{path}: no image has the stem of this or any other mask; name masks after images")
        return images, matched

    def _hint(self, name: str, suffixes: tuple[str, ...], stems: Iterable[str] | None = None) -> str:
        """Name the folder that may hold what ``name`` should: the one with the most such files, of these stems."""
        others = (path for path in sorted(self.root.glob("*/")) if path.name not in ("images", "masks"))
        found = {path: set(list_files(path, suffixes, clashes=[])) for path in others}
        counts = {path: len(names if stems is None else names.intersection(stems)) for path, names in found.items()}
        best = max(counts, key=lambda path: counts[path], default=None)
        return f"rename {best} to {name} if these are the {name}, or " if best and counts[best] else ""

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
            raise UserError(f"{self._class_file}: {len(classes)} names; write 1 to 255 class names, each once")

    def _mask_values(self) -> set[int]:
        """Find the values of all masks; a mask that cannot be read is left to whoever uses it."""

        def values(path: Path) -> list[int]:
            try:
                return np.flatnonzero(np.bincount(self._read_indices(path).ravel())).tolist()
            except UserError:
                return []

        with ThreadPoolExecutor() as pool:
            return {value for values in pool.map(values, self.masks.values()) for value in values}

    def _largest_value(self) -> int:
        """Find the largest value of any mask."""
        if not self.masks:
            hint = self._hint("masks", MASK_SUFFIXES, self.images)
            raise UserError(f"{self.root / 'masks'}: no masks there; {hint}annotate a few images, as masks/NAME.png")
        found = self._mask_values()
        if not found:
            self._read_indices(next(iter(self.masks.values())))  # says what is wrong with it
        if found <= {0, IGNORE}:
            raise UserError(
                f"{self.root / 'masks'}: the masks hold only {' and '.join(map(str, sorted(found)))} and there is no "
                "class file; write classes.txt with two lines, a name for 0 and one for 1, and store masks as 0/1 (255 "
                "means ignore)"
            )
        return max(found - {IGNORE})

    def _read_indices(self, path: Path) -> NDArray[np.uint8]:
        values = read_mask_file(path)
        if values.ndim == 2:
            return values
        if self._colors:
            if twice := next((c for c, times in Counter(self._colors).items() if times > 1), None):
                raise UserError(f"{self._class_file}: the color {twice} stands there twice; give each class its own")
            indices = color_indices(values, self._colors)
            if isinstance(indices, tuple):
                raise UserError(f"{path}: color {indices} is not in the palette of {self._class_file}; add it there")
            return indices
        if (values == values[..., :1]).all():
            return values[..., 0].copy()  # integers in a file of three equal channels
        color = tuple(values[(values != values[..., :1]).any(axis=-1)][0].tolist())
        raise UserError(
            f"{path}: the mask holds colors, such as {color}; write their palette into classes.json (or into "
            "palette.txt, name r g b a line, in place of classes.txt), or save integers"
        )


def match_masks(images: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, Path]:
    """Return the masks of images: of the same stem, or of that and ``_L``, as CamVid's own are named.

    A mask of an image's own stem is that image's alone: ``a_L`` is none of ``a`` where there is an image ``a_L``.
    """
    tolerated = {s.removesuffix("_L"): path for s, path in masks.items() if s.endswith("_L") and s not in images}
    return {stem: path for stem, path in (tolerated | dict(masks)).items() if stem in images}


def write_folder(dataset: SegmentationDataset, directory: str | Path, ids: Iterable[str] | None = None) -> Path:
    """Write a data set, or the given ids of it, in the own-folder form (PNG), and return the folder.

    Raises:
        UserError: the folder exists and is not empty.
    """
    root = Path(directory)
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root}: the folder is not empty; give a new one")
    for name in ("images", "masks", "splits"):
        (root / name).mkdir(parents=True)
    chosen = dataset.ids if ids is None else tuple(ids)
    for id in chosen:
        pixels = dataset.read_image(id).permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(root / "images" / f"{id}.png", compress_level=1)
        if dataset.has_mask(id):
            write_mask_file(root / "masks" / f"{id}.png", dataset.read_mask(id), dataset.palette)
    content = {"classes": dataset.classes, "palette": dataset.palette, "ignore": IGNORE}
    (root / "classes.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for name in ("train", "val", "test"):
        listed = [id for id in dataset.split(name) or () if id in set(chosen)]
        if listed:
            write_list(root / "splits" / f"{name}.txt", listed)
    return root
