"""Choose the folders of images and of masks in a tree, or refuse an ambiguous one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from semiseg.data.files.file_lists import IMAGE_SUFFIXES
from semiseg.data.importers.foreign_data import ImportOptions
from semiseg.data.importers.list_folders import LIST_FOLDERS
from semiseg.data.importers.mask_trees.groups import Group, Role, find_groups, group_below
from semiseg.data.importers.mask_trees.pairs import Pair, pair_masks
from semiseg.errors import UserError

ASK = "name the folders with --images DIR --masks DIR"


class NoPairsError(UserError):
    """A tree does not hold images and masks."""


class Tree:
    """The images and masks of a tree, and the pairs of both.

    Args:
        root: The folder.
        options: The options of ``semiseg import``.
        several: Whether an image may have several masks.
        arrays: Whether masks may be arrays of NumPy.

    Attributes:
        images: The groups of images.
        masks: The groups of masks.
        pairs: The masks with their images.
        notes: Files that are left out, and folders whose names do not say what they hold.

    Raises:
        UserError: There are no images or masks, or it is unclear which folder holds them.
    """

    def __init__(self, root: Path, options: ImportOptions, several: bool = False, arrays: bool = False) -> None:
        self.root, self.notes, self._by_pixels = root, list[str](), set[int]()
        self._suffixes = (*IMAGE_SUFFIXES, ".npy") if arrays else IMAGE_SUFFIXES
        groups = self._find(options)
        self.masks = [group for group in groups if group.role == "mask"]
        candidates = [group for group in groups if group.role == "image"]
        if not candidates or not self.masks:
            raise self._nothing(groups)
        files = [file for group in candidates for file in group.files]
        every = [path for group in self.masks for path, _ in group.files]
        masks = [file for group in self.masks for file in group.files]
        pairs = {pair.mask: pair for pair in pair_masks(files, masks, options.mask_suffix, several)}
        found = {id(group): [pairs[path] for path, _ in group.files if path in pairs] for group in self.masks}
        self.masks = [group for group in self.masks if found[id(group)]]
        if not self.masks:
            raise self._no_pairs(candidates, groups)
        if not several:
            self._require_one(found)
        self.pairs = [pair for group in self.masks for pair in found[id(group)]]
        self._note_unmatched(every)
        self.images = list(self._used(candidates))

    def _find(self, options: ImportOptions) -> list[Group]:
        """Return the groups, each with its role: the given one, else that of the names, else that of the pixels."""
        named = list[Group]()
        roles: tuple[tuple[str, Role, str | None], ...]
        roles = (("images", "image", options.images), ("masks", "mask", options.masks))
        for option, role, folder in roles:
            if folder is None:
                continue
            path, root = (self.root / folder).resolve(), self.root.resolve()
            if not path.is_dir() or not path.is_relative_to(root):
                raise UserError(f"{self.root} has no folder {folder}", option=option, fix="give one below it")
            named.append(group_below(self.root, path.relative_to(root).as_posix(), role, self._suffixes))
        if len(named) == 2:
            return named
        groups = [
            group for group in find_groups(self.root, options.mask_suffix, self._suffixes) if not _below(group, named)
        ]
        for group in groups:
            if group.role == "mask" and group.content == "image":
                group.role = ""  # photographs, such as masks drawn over them
                self.notes.append(f"{group} does not hold masks by its pixels: left out")
            elif not group.role and group.content:
                group.role = group.content
                self._by_pixels.add(id(group))
                words = "images" if group.role == "image" else "masks"
                self.notes.append(f"{group} is taken for {words} by its pixels")
        taken = {group.role for group in named}
        return named + [group for group in groups if group.role not in taken]

    def _require_one(self, found: dict[int, list[Pair]]) -> None:
        """Raise UserError if an image has several masks."""
        of: dict[Path, tuple[Path, Group]] = {}
        for group in self.masks:
            for pair in found[id(group)]:
                mask, first = of.setdefault(pair.image, (pair.mask, group))
                if mask == pair.mask:
                    continue
                problem = f"the image has two masks, {_short(mask, self.root)} and {_short(pair.mask, self.root)}"
                choice = f"--masks {first.folder} or --masks {group.folder}" if first is not group else "--mask-suffix"
                fix = f"choose with {choice}, or pass --form mask-per-class if each shows one class"
                raise UserError(problem, path=pair.image, fix=fix)

    def _note_unmatched(self, masks: list[Path]) -> None:
        """Note masks without an image."""
        paired = {pair.mask for pair in self.pairs}
        alone = [path for path in masks if path not in paired]
        if alone:
            self.notes.append(f"masks without an image: {len(alone)}, such as {_short(alone[0], self.root)}")

    def _used(self, candidates: list[Group]) -> Iterator[Group]:
        """Yield the groups of images, except those by pixels only that repeat the names of images with masks."""
        paired = {pair.image for pair in self.pairs}
        stems = {path.stem for path in paired}
        for group in candidates:
            files = {path for path, _ in group.files}
            known = id(group) not in self._by_pixels or {*map(str.lower, group.folder.parts)} & {*LIST_FOLDERS}
            if known or files & paired or not stems.intersection(path.stem for path in files):
                yield group
            else:
                self.notes.append(f"{group} repeats names of annotated images: left out")

    def _nothing(self, groups: list[Group]) -> NoPairsError:
        if not groups:
            return NoPairsError("no images there", path=self.root, fix="give the folder that holds images and masks")
        found = ", ".join(sorted({str(group) for group in groups})[:4])
        missing = "masks" if any(group.role == "image" for group in groups) else "photographs"
        return NoPairsError(f"no {missing} found in {found}", path=self.root, fix=ASK)

    def _no_pairs(self, candidates: list[Group], groups: list[Group]) -> UserError:
        mask = next(group for group in groups if group.role == "mask").files[0][0]
        image = candidates[0].files[0][0]
        problem = f"no mask is named after an image, such as {mask.name} after {image.name}"
        return UserError(
            problem, path=self.root, fix="pass --mask-suffix for what follows the name, or rename the masks"
        )


def _below(group: Group, named: list[Group]) -> bool:
    return any(other.folder == group.folder or other.folder in group.folder.parents for other in named)


def _short(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
