"""One binary mask per class: ``NAME_square.png`` and ``NAME_disc.png``, or a folder for each class."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.files.file_lists import IMAGE_SUFFIXES, JPEG_SUFFIXES, MASK_SUFFIXES
from semiseg.data.files.mask_files import lossy_mask_error
from semiseg.data.importers.foreign_data import ForeignData, ImportOptions
from semiseg.data.importers.list_folders import lists_by_folder
from semiseg.data.importers.mask_trees.folders import SCANNED, has_own_names, listed_sample, name_files
from semiseg.data.importers.mask_trees.groups import IMAGE_WORDS, MASK_WORDS, locate
from semiseg.data.importers.mask_trees.own_masks import class_folder
from semiseg.data.importers.mask_trees.pairs import Located, Pair, own_folders, pair_masks
from semiseg.data.importers.mask_trees.roles import Tree
from semiseg.data.importers.mask_trees.threshold import between, is_binary, read_values, share_note
from semiseg.data.importers.shapes.polygons import BACKGROUND, with_background
from semiseg.data.importers.source_files import is_own_folder, walk_files
from semiseg.data.splits.list_files import read_lines
from semiseg.errors import UserError


class MaskPerClass(ForeignData):
    """One mask per image and class, whose pixels are 0 or one other value.

    The class is what follows the name of the image (``NAME_class_square.png``), or the folder (``masks/square/``). The
    classes are those of ``classes.txt``, else the names that occur, sorted. ``background`` comes first unless it has
    masks of its own. Pixels in no mask are background; where masks overlap, the later class counts.
    """

    form = "mask-per-class"
    title = "a set of images with one binary mask per class"
    uses: ClassVar[tuple[str, ...]] = ("threshold", "mask_suffix", "images", "masks")
    tree: ClassVar[tuple[str, ...]] = (
        "images/NAME.jpg              or in other folders, as for folders",
        "masks/NAME_CLASS.png         or masks/CLASS/NAME.png",
        "classes.txt                  optional",
    )

    def __init__(self, root: Path, options: ImportOptions) -> None:
        super().__init__(root, options)
        tree = Tree(root, options, several=True)
        files = name_files(tree.images)
        self.set_images(files)
        ids = {path: id for id, path in files.items()}
        places = {path: place for group in (*tree.images, *tree.masks) for path, place in group.files}
        self._layers: dict[str, dict[str, Path]] = defaultdict(dict)
        self._require_names(tree.pairs, places)
        for pair in tree.pairs:
            label = class_of(pair, places[pair.image], places[pair.mask])
            if not label:
                raise UserError("the name does not say the class", path=pair.mask, fix="name masks NAME_CLASS.png")
            first = self._layers[ids[pair.image]].setdefault(label, pair.mask)
            if first != pair.mask:
                fix = "name the folders with --images DIR --masks DIR"
                raise UserError(f"class {label} of {pair.image.name} is also in {first}", path=pair.mask, fix=fix)
        self.masks = {id: next(iter(layers.values())) for id, layers in sorted(self._layers.items())}
        self.lists = lists_by_folder({ids[path]: places[path] for path in ids}, self.masks)
        self._overlaps: Counter[str] = Counter()
        self._pixels: Counter[str] = Counter()
        self._changed: dict[Path, float] = {}
        self.notes += [*tree.notes, *self._set_classes()]

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether several masks with different ends belong to one of the first images."""
        if is_own_folder(root) and has_own_names(root):
            return False
        images, masks = listed_sample(root)
        if not masks:
            images, masks = class_folders(root)
        places = dict([*images, *masks])
        named: dict[Path, set[str]] = defaultdict(set)
        below: dict[Path, set[str]] = defaultdict(set)
        pairs = pair_masks(images, masks, None, several=True)
        for pair in pairs:
            named[pair.image].add(class_of(pair, (), ()))
            below[pair.image].add(own_folders(places[pair.image], places[pair.mask]))
        several = [image for image, found in named.items() if len(found) > 1 and "" not in found]
        if 2 * len(several) >= len(named) > 0:
            return True
        return any(len(found) > 1 and "" not in found for found in below.values()) and all(
            is_binary(pair.mask) for pair in pairs[:6]
        )

    def read_mask(self, id: str) -> Tensor:
        """Combine the masks of an image to uint8 ``(H, W)`` of class indices."""
        mask: NDArray[np.uint8] | None = None
        covered: NDArray[np.bool_] | None = None
        for label, path in sorted(self._layers[id].items(), key=lambda item: self.classes.index(item[0])):
            region = self._read_region(path)
            if mask is None or covered is None:
                mask, covered = np.full(region.shape, self._background, np.uint8), np.zeros_like(region)
            elif region.shape != mask.shape:
                problem = "size {1}x{0} differs from {3}x{2} of the first mask".format(*region.shape, *mask.shape)
                raise UserError(problem, path=path, fix="save both at the size of the image")
            self._pixels[id] = region.size
            self._overlaps[id] += int((covered & region).sum())
            covered |= region
            mask[region] = self.classes.index(label)
        assert mask is not None  # an image in masks has at least one layer
        return torch.from_numpy(mask)

    def describe(self) -> list[str]:
        """Return the lines of the base class, and how overlaps were resolved."""
        lines = super().describe()
        lines += share_note(self._changed.values(), f"less than {self.options.threshold}, or not")
        if overlaps := +self._overlaps:
            if 2 * overlaps.total() > self._pixels.total():
                problem = f"masks of two classes overlap in {overlaps.total()} of {self._pixels.total()} pixels"
                fix = "invert the masks, if they show objects as 0"
                raise UserError(problem, path=self.masks[next(iter(overlaps))], fix=fix)
            order = ", ".join(self.classes)
            lines.append(
                f"masks of two classes overlap in {len(overlaps)} images ({overlaps.total()} pixels): "
                f"the later class of {order} counts. The order is that of classes.txt"
            )
        return lines

    def _read_region(self, path: Path) -> NDArray[np.bool_]:
        """Return the pixels of one class as bool ``(H, W)``."""
        threshold = self.options.threshold
        if threshold is None and path.suffix.lower() in JPEG_SUFFIXES:
            raise lossy_mask_error(path, "JPEG")
        values = read_values(path)
        if values.ndim == 3:
            values = values.max(axis=2)
        if threshold is not None:
            self._changed[path] = between(values)
            return values >= threshold
        if len(found := np.unique(values)) > 2 or (len(found) == 2 and found[0] != 0):
            shown = ", ".join(map(str, found[:4]))
            problem = f"the mask of one class holds {len(found)} values ({shown}, ...) instead of 0 and one other"
            raise UserError(problem, path=path, fix="pass --threshold 128 if its edges are antialiased")
        return values > 0

    def _require_names(self, pairs: list[Pair], places: Mapping[Path, tuple[str, ...]]) -> None:
        """Raise UserError if the masks of an image are numbered: these are objects, not classes."""
        labels = {class_of(pair, places[pair.image], places[pair.mask]): pair.mask for pair in pairs}
        folder = class_folder(self.root)
        names = read_lines(folder / "classes.txt") if folder and (folder / "classes.txt").is_file() else ()
        numbers = sorted(label for label in labels if label.isdecimal() and label not in names)
        if numbers:
            problem = f"masks of one image are numbered ({', '.join(numbers[:3])}), which are not names of classes"
            fix = (
                "merge them into one mask per image, or list the numbers in classes.txt and pass --form mask-per-class"
            )
            raise UserError(problem, path=labels[numbers[0]], fix=fix)

    def _set_classes(self) -> list[str]:
        """Set the classes and return a note on their order."""
        labels = sorted({label for layers in self._layers.values() for label in layers})
        folder = class_folder(self.root)
        file = folder / "classes.txt" if folder else None
        names = list(read_lines(file)) if file and file.is_file() else labels
        if unknown := sorted(set(labels).difference(names)):
            raise UserError(f"class {unknown[0]!r} of a mask is not listed", path=file, fix="add it there")
        classes, self._background = with_background(names)
        self.set_classes(classes, file or self.root)
        own = [label for label in labels if label.lower() in BACKGROUND]
        return [] if own else ["pixels in no mask are background"]


def class_of(pair: Pair, image_place: tuple[str, ...], mask_place: tuple[str, ...]) -> str:
    """Return the class of a mask: the end of its name without words for masks, else its folder; empty if unknown."""
    words = [word for word in re.split(r"[\s_.-]+", pair.rest) if word]
    while words and words[0].lower() in MASK_WORDS | {"class", "cls", "category"}:
        words.pop(0)
    while words and words[-1].lower() in MASK_WORDS | IMAGE_WORDS:
        words.pop()
    if words:
        return "_".join(words)
    return own_folders(image_place, mask_place)


def class_folders(root: Path) -> tuple[list[Located], list[Located]]:
    """Return the first images in ``images/``, and the files in folders beside it that are named after its files."""
    found = {role: list[Located]() for role in ("image", "")}
    for path in islice(walk_files(root), SCANNED):
        role, _, place = locate(path.relative_to(root).parts[:-1])
        if role in found and path.suffix.lower() in (IMAGE_SUFFIXES if role else MASK_SUFFIXES):
            found[role].append((path, place))
    return found["image"], found[""]
