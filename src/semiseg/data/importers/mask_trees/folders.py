"""Trees of images and masks that are not an own folder, such as ``train/images`` and ``train/masks``."""

from __future__ import annotations

import os
from itertools import islice, takewhile
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from semiseg.data.files.file_lists import IMAGE_SUFFIXES, JPEG_SUFFIXES
from semiseg.data.files.mask_files import lossy_mask_error
from semiseg.data.importers.foreign_data import ForeignData, ImportOptions
from semiseg.data.importers.list_folders import lists_by_folder
from semiseg.data.importers.mask_trees.groups import Group, locate, masks_beside
from semiseg.data.importers.mask_trees.own_masks import OwnMasks, class_folder
from semiseg.data.importers.mask_trees.pairs import Located, notes_on, own_folders, pair_masks
from semiseg.data.importers.mask_trees.roles import Tree
from semiseg.data.importers.mask_trees.threshold import ThresholdMasks, is_binary
from semiseg.data.importers.source_files import as_id, is_own_folder, walk_files
from semiseg.errors import UserError

SCANNED = 2000
"""The number of files whose names decide whether a folder has this form."""


class MaskTree(ForeignData):
    """Images and masks in any folders, or side by side.

    Folders are taken for images or masks by their names (``images``, ``imgs``; ``masks``, ``labels``, ``annotations``,
    ``gt``) or else by the pixels of a few files. Folders called ``train``, ``val`` and ``test`` become lists. Masks are
    named after their images, with or without a suffix such as ``_mask``. Masks are read as those of an own folder; the
    class file may be in any folder.
    """

    form = "folders"
    title = "a tree of images and masks"
    tree: ClassVar[tuple[str, ...]] = (
        "train/images/NAME.jpg        or images/train/, train_images/, imgs/, or the folder of the masks",
        "train/masks/NAME.png         or masks/train/, labels/, annotations/, NAME_mask.png, NAME.jpg.png",
        "classes.txt or another class file, in any folder",
    )

    uses: ClassVar[tuple[str, ...]] = ("threshold", "mask_suffix", "images", "masks")
    list_locations: ClassVar[dict[str, tuple[str, ...]]] = {
        name: (f"{name}.txt", f"ImageSets/Segmentation/{name}.txt") for name in ("train", "val", "test")
    }

    def __init__(self, root: Path, options: ImportOptions) -> None:
        super().__init__(root, options)
        tree = Tree(root, options)
        files = name_files(tree.images)
        self.set_images(files)
        ids = {path: id for id, path in files.items()}
        self.masks = dict(sorted((ids[pair.image], pair.mask) for pair in tree.pairs))
        if len(ends := sorted({pair.rest for pair in tree.pairs if pair.rest})) > 1:
            fix = "pass --form mask-per-class if they are classes, else --mask-suffix"
            raise UserError(f"names of masks end in {ends[0]} and {ends[1]}", path=root, fix=fix)
        self._require_one_class_per_folder(tree)
        places = {ids[path]: place for group in tree.images for path, place in group.files}
        self.lists = lists_by_folder(places, self.masks)
        self.notes += [*tree.notes, *notes_on(tree.pairs)]
        self._reader = self._make_reader(self.masks)
        self.classes, self.palette = self._reader.classes, self._reader.palette
        if self._reader.class_file is None:
            self.notes.append("no class file: write the names into classes.json of the new folder")
        self._note_missing()

    def _require_one_class_per_folder(self, tree: Tree) -> None:
        """Raise UserError if folders of binary masks, as ``masks/square/``, may each stand for a class."""
        places = {path: place for group in (*tree.images, *tree.masks) for path, place in group.files}
        masks: dict[str, list[Path]] = {}
        for pair in tree.pairs:
            masks.setdefault(own_folders(places[pair.image], places[pair.mask]), []).append(pair.mask)
        if (
            len(masks) > 1
            and "" not in masks
            and all(is_binary(path) for paths in masks.values() for path in paths[:3])
        ):
            first, second = list(masks)[:2]
            problem = f"folders {first} and {second} hold masks of two values, which may be two classes"
            fix = "pass --form mask-per-class if each folder is a class, else move the masks into one folder"
            raise UserError(problem, path=self.root, fix=fix)

    def list_path(self, name: str) -> Path | None:
        """Return the file of a list, also in ``ImageSets/Segmentation/`` at most two levels below if there is one."""
        below = [
            path for level in ("*/", "*/*/") for path in self.root.glob(f"{level}ImageSets/Segmentation/{name}.txt")
        ]
        return super().list_path(name) or (below[0] if len(below) == 1 else None)

    def _note_missing(self) -> None:
        """Note images in list files that do not exist."""
        for name in ("train", "val", "test"):
            missing: list[str] = []
            self.split(name, missing)
            if missing:
                self.notes.append(f"images of the {name} list that do not exist: {len(missing)}, such as {missing[0]}")

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether the names of the first files are those of images and masks, but not of an own folder."""
        if is_own_folder(root):
            return False
        images, masks = listed_sample(root)
        return bool(pair_masks(images, masks, None)) or _has_masks_beside(root)

    def read_mask(self, id: str) -> Tensor:
        """Read a mask as uint8 ``(H, W)`` of class indices or 255."""
        return self._reader.read_mask(id)

    def describe(self) -> list[str]:
        """Return the lines of the base class, and what a threshold changed."""
        return [*super().describe(), *self._reader.describe()]

    def _make_reader(self, masks: dict[str, Path]) -> OwnMasks:
        folder = class_folder(self.root) or self.root
        if self.options.threshold is not None:
            return ThresholdMasks(folder, self.images, masks, self.options.threshold)
        if lossy := next((path for path in masks.values() if path.suffix.lower() in JPEG_SUFFIXES), None):
            raise lossy_mask_error(lossy, "JPEG")
        return OwnMasks(folder, self.images, masks)


class Roboflow(MaskTree):
    """A semantic segmentation export of Roboflow: ``NAME.jpg`` with ``NAME_mask.png``, and ``_classes.csv``."""

    form = "roboflow"
    title = "a semantic segmentation export of Roboflow"
    tree: ClassVar[tuple[str, ...]] = (
        "{train,valid,test}/NAME.jpg",
        "{train,valid,test}/NAME_mask.png",
        "{train,valid,test}/_classes.csv",
    )

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a ``_classes.csv`` here or one level below lists pixel values."""
        files = [root / "_classes.csv", *islice(root.glob("*/_classes.csv"), 10)]
        return any(path.is_file() and path.read_bytes()[:200].lower().startswith(b"pixel value") for path in files)


def listed_sample(root: Path) -> tuple[list[Located], list[Located]]:
    """Return the first images and masks of a tree by the names of their folders, without opening files."""
    found: dict[str, list[Located]] = {"image": [], "mask": [], "": []}
    for path in islice(walk_files(root), SCANNED):
        role, _, place = locate(path.relative_to(root).parts[:-1])
        if path.suffix.lower() in IMAGE_SUFFIXES:
            found[role].append((path, place))
    return found["image"] or found[""], found["mask"]


def has_own_names(root: Path) -> bool:
    """Return whether one of the first masks of an own folder has the name of an image."""
    for mask in islice(walk_files(root / "masks"), 50):
        stem = root / "images" / mask.relative_to(root / "masks").with_suffix("")
        suffixes = (end for suffix in IMAGE_SUFFIXES for end in (suffix, suffix.upper()))
        if any(stem.with_name(stem.name + suffix).is_file() for suffix in suffixes):
            return True
    return False


def name_files(groups: list[Group]) -> dict[str, Path]:
    """Return images by id, sorted: folders without words for images or masks, and stem.

    Images whose ids are equal get their suffix too, or their folders.
    """
    located = [(path, place) for group in groups for path, place in group.files]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*(place for _, place in located), strict=False))
    common = len(list(levels))
    named: dict[str, list[Path]] = {}
    for path, place in located:
        named.setdefault(as_id(Path(*place[common:], path.stem)), []).append(path)
    images: dict[str, Path] = {}
    for id, paths in named.items():
        for number, path in enumerate(paths):
            unique = id if len(paths) == 1 else f"{id}_{path.suffix[1:]}"
            while unique in images or (unique != id and unique in named):
                unique += f"_{number}"
            images[unique] = path
    return dict(sorted(images.items()))


def _has_masks_beside(root: Path) -> bool:
    """Return whether masks are beside their images, in the folder or one level below."""
    for folder in (root, *islice(sorted(root.glob("*/")), 20)):
        files = [Path(folder, name) for name in islice(sorted(os.listdir(folder)), SCANNED)]
        if len(masks_beside(files, None)) > len(files) // 4:
            return True
    return False
