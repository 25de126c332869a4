"""A plain folder: DIR/images, DIR/masks with the same stems, and optional class names and lists."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.class_file import ClassFile, find_class_file, write_class_file
from semiseg.data.dataset import IGNORE, Color, MaskRecord, SegmentationDataset, default_palette
from semiseg.data.file_dataset import FileDataset
from semiseg.data.files.atomic_folder import require_free
from semiseg.data.files.file_lists import IMAGE_SUFFIXES, JPEG_SUFFIXES, MASK_SUFFIXES, list_files
from semiseg.data.files.image_files import write_image_file
from semiseg.data.files.mask_files import SOURCE, StoredMask, load_mask, lossy_mask_error, write_mask_file
from semiseg.data.files.mask_matching import check_mask_names, match_masks
from semiseg.data.files.string_array import sorted_keys
from semiseg.data.masks.mask_doubts import Doubt, doubtful_masks
from semiseg.data.masks.mask_reader import MaskReader
from semiseg.data.masks.mask_records import (
    black_and_white,
    foreground_is_255,
    image_orientation,
    make_record,
    rotation_note,
)
from semiseg.data.masks.palette_conflict import PaletteConflict, palette_conflict
from semiseg.data.splits.list_files import write_list
from semiseg.data.tag_file import Tags, read_tags
from semiseg.errors import UserError


class FolderDataset(FileDataset):
    """A plain folder, which needs no configuration.

    ``images/**`` and ``masks/**`` share their ids, which are paths without suffix (a mask may end with ``_L``, as
    CamVid's). An image without a mask is unlabeled. A mask holds integers, palette indices, or colors of a palette; 255
    is ignored. Optional files:

    - a class file: ``classes.json``, ``classes.txt`` (one name per line), a palette file or another of
      ``class_file.CLASS_FILES`` (integers in masks are then indices of its entries),
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
            problem, fix = "there is no such folder", "give one that holds images/ and masks/"
            if os.path.isfile(root):
                problem, fix = "this is a file", "unpack it if it is an archive, and give its folder"
            raise UserError(problem, path=f"{root!s:.200}", fix=fix)
        self.name = self.root.resolve().name
        self.images, self.masks = self._find_files()
        self.ids = sorted_keys(self.images)
        self.notes: list[str] = []
        self.class_file = self._read_class_file()
        self._reader = MaskReader(self.masks, self.class_file)
        self.classes = self.class_file.names if self.class_file else self._infer_classes()
        given = dict(reversed([(index, color) for color, index in self.class_file.colors])) if self.class_file else {}
        self.palette = tuple(given.get(index, color) for index, color in enumerate(default_palette(len(self.classes))))
        if self.class_file and self.class_file.listed_values:
            first = {index: value for value, index in sorted(self.class_file.values.items(), reverse=True)}
            self.file_values = tuple(first.get(index, IGNORE) for index in range(len(self.classes)))
        self._tags = self._read_tags()

    def read_mask(self, id: str) -> Tensor:
        """Read a mask as uint8 ``(H, W)``: class index or 255."""
        return self._read_stored(id)[0]

    def read_mask_record(self, id: str) -> tuple[Tensor, MaskRecord | None]:
        """Read a mask and what it has to agree on with the others."""
        mask, stored = self._read_stored(id)
        return mask, make_record(stored, self.images[id])

    def _read_stored(self, id: str) -> tuple[Tensor, StoredMask]:
        try:
            return self._reader.read(self.masks[id])
        except UserError as error:
            raise self._with_source(error) from error.__cause__

    def _with_source(self, error: UserError) -> UserError:
        """Name this folder in the command of a fix."""
        if error.fix and SOURCE in error.fix:
            files = [*self.images.values(), *self.masks.values()] if hasattr(self, "masks") else []
            source = os.path.commonpath([self.root, *(path.parent for path in files)])
            error.fix = error.fix.replace(SOURCE, shlex.join([source, "--out", f"{source}-semiseg"]))
        return error

    def compare_masks(self, records: Mapping[str, MaskRecord], pixels: NDArray[np.int64]) -> list[str]:
        """Return notes on palettes, EXIF and 255. Raise UserError if palettes disagree or 255 is a class."""
        notes = self.check_palettes(records)
        if not self.file_values and foreground_is_255(pixels):
            problem = f"all {len(pixels)} masks hold only 0 and 255, and 255 is ignored"
            raise UserError(problem, path=self.masks_path, fix=self.values_fix([0, IGNORE]))
        if note := rotation_note(records, self.images):
            notes.append(f"warning: {note}")
        found, beside_ignored = black_and_white(pixels)
        if len(self.classes) > 1 and not self.file_values and found.any():
            first = self.masks[list(records)[int(found.argmax())]]
            fix = self.mixed_fix(beside_ignored)
            notes.append(
                f"warning: {found.sum()} masks of 0 and 255, first {first}: 255 is ignored. {fix[0].upper()}{fix[1:]}"
            )
        for doubt in self.doubts(records, pixels):
            fix, first = doubt.fix, self.masks[doubt.ids[0]]
            notes.append(f"warning: {doubt.problem}, first {first}. If so, {fix}")
        return notes

    def doubts(self, records: Mapping[str, MaskRecord], pixels: NDArray[np.int64]) -> list[Doubt]:
        """Return why the values of masks may not be class numbers. ``pixels`` has a row per record."""
        by_value = not (self.class_file and (self.class_file.colors or self.file_values))
        return doubtful_masks(records, pixels, lambda id: self.read_mask(id).numpy(), by_value)

    def check_palettes(self, records: Mapping[str, MaskRecord]) -> list[str]:
        """Return a warning if palettes may contradict each other. Raise UserError if they certainly do."""
        found = self.palette_conflict(records)
        if found is None:
            return []
        if not found.ids:
            raise UserError(found.text, path=self.masks_path, fix=found.fix)
        first, second = (self.masks[id] for id in found.ids)
        if found.certain:
            raise UserError(f"its palette and that of {first} disagree: {found.text}", path=second, fix=found.fix)
        fix = found.fix[0].upper() + found.fix[1:]
        return [f"warning: the palettes of {first} and {second} disagree: {found.text}. {fix}"]

    def palette_conflict(self, records: Mapping[str, MaskRecord]) -> PaletteConflict | None:
        """Return how the palettes of masks contradict each other or the classes, or None."""
        listed: dict[int, set[Color]] = {}
        if self.class_file and self.class_file.colors:
            of_class: dict[int, set[Color]] = {}
            for color, index in self.class_file.colors:
                of_class.setdefault(index, set()).add(color)
            listed = {value: of_class.get(index, set()) for value, index in self.class_file.values.items()}
        return palette_conflict(records, self.classes[0], listed)

    @property
    def masks_path(self) -> Path:
        """The folder of the masks, for messages."""
        return self.root / "masks"

    def values_fix(self, values: Sequence[int]) -> str:
        """Return the line of ``classes.json`` that names mask values."""
        return self._reader.values_fix(values)

    def mixed_fix(self, beside_ignored: bool) -> str:
        """Return the fix for masks of 0 and 255 among others. ``beside_ignored``: 255 is ignored in the others."""
        line = "save it as 1 like the other masks" if beside_ignored else self._reader.mixed_fix(self.classes)
        return f"if it means {self.classes[1]}, {line}"

    def size_hint(self, id: str) -> str:
        """Return why a mask may be turned against its image, or nothing without EXIF orientations."""
        path = self.masks[id]
        image, mask = image_orientation(self.images[id]), load_mask(path, str(path)).orientation
        if (image >= 5) == (mask >= 5):
            return ""
        turned, other = ("image", "mask") if image >= 5 else ("mask", "image")
        return f", because EXIF rotates the {turned} (orientation {max(image, mask)}) and not the {other}"

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
            raise _no_images_error(self.root / "images")
        masks = list_files(self.root / "masks", MASK_SUFFIXES, nested=True)
        for path in list_files(self.root / "masks", JPEG_SUFFIXES, nested=True).values():
            raise self._with_source(lossy_mask_error(path, "JPEG"))
        matched = match_masks(images, masks)
        check_mask_names(self.root, images, masks, matched)
        return images, matched

    def _read_class_file(self) -> ClassFile | None:
        return find_class_file(self.root, self.notes)

    def _infer_classes(self) -> tuple[str, ...]:
        """Return the classes of a folder without class file."""
        if not self.masks:
            raise self._no_masks_error()
        try:
            names = self._reader.infer_classes(self.masks_path)
        except UserError as error:
            raise self._with_source(error) from error.__cause__
        if first := self._reader.starts_at:
            fix = self.values_fix(range(first, len(names)))
            self.notes.append(
                f"warning: no mask holds a value below {first}, so {names[0]} stays empty. If not wanted, {fix}"
            )
        return names

    def other_annotation(self) -> str | None:
        """Return the import of annotation in another form that lies in this folder, or None if there is none."""
        from semiseg.data.importers import GENERAL, IMPORTERS, detect_form

        form = detect_form(self.root)
        if form is None or IMPORTERS[form] in GENERAL:
            return None
        command = ["semiseg", "import", str(self.root), "--out", f"{self.root}-semiseg", "--form", form]
        return f"annotate a few images, or run: {shlex.join(command)} (the folder holds {IMPORTERS[form].title})"

    def _no_masks_error(self) -> UserError:
        """Return the error for a folder without masks, which names other folders that may hold them."""
        others = [path for path in sorted(self.root.glob("*/")) if path.name not in ("images", "masks", "splits")]
        others = [path for path in others if path.name[0] != "." and list_files(path, MASK_SUFFIXES, [], nested=True)]
        if not others:
            fix = self.other_annotation() or "annotate a few images, as masks/NAME.png"
            return UserError("no masks there", path=self.masks_path, fix=fix)
        names = ", ".join(f"{path.name}/" for path in others[:4])
        command = shlex.join(["semiseg", "import", str(self.root), "--out", f"{self.root}-semiseg"])
        fix = f"run: {command} (with --form mask-per-class if each of these folders shows one class)"
        return UserError(f"no masks there, but images in {names}", path=self.masks_path, fix=fix)


def _no_images_error(folder: Path) -> UserError:
    """Return the error for a folder without images, which names the files that it holds instead."""
    files = (Path(name) for _, _, names in os.walk(folder) for name in names if not name.startswith("."))
    kinds = Counter(path.suffix.lower() or "other" for path in islice(files, 100_000))
    if not kinds:
        return UserError("no images there", path=folder, fix=f"add your images ({' '.join(IMAGE_SUFFIXES)})")
    found = ", ".join(f"{count} {kind} file{'s' * (count > 1)}" for kind, count in kinds.most_common(4))
    fix = "convert them to PNG or TIFF of 8 or 16 bits, with the same names"
    return UserError(f"no images there, but {found}", path=folder, fix=fix)


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
