"""Masks of several layers, one per class: TIFF pages or planes, and arrays of NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.dataset import IGNORE
from semiseg.data.files.image_files import image_size
from semiseg.data.files.image_header import UNREADABLE, reason
from semiseg.data.importers.foreign_data import ForeignData, ImportOptions
from semiseg.data.importers.list_folders import lists_by_folder
from semiseg.data.importers.mask_trees.folders import name_files
from semiseg.data.importers.mask_trees.own_masks import class_folder
from semiseg.data.importers.mask_trees.roles import Tree
from semiseg.data.importers.shapes.polygons import BACKGROUND
from semiseg.data.splits.list_files import read_lines
from semiseg.errors import UserError

LARGEST = 2 * 178_956_970
"""The largest number of pixels of all layers of a mask."""


class OneHot(ForeignData):
    """Masks with one layer per class: multi-page TIFF, TIFF with a plane per class, or ``.npy``.

    A layer holds 0 and one other value. If the class file names the background and one class per layer, layer k is
    class k + 1. Otherwise layer k is class k. Without a class file, the first layer is a class like the others if every
    pixel is in exactly one layer, else ``background`` is added for pixels in none.
    """

    form = "one-hot"
    title = "a set of images with masks of one layer per class"
    uses: ClassVar[tuple[str, ...]] = ("mask_suffix", "images", "masks")
    tree: ClassVar[tuple[str, ...]] = (
        "images/NAME.jpg              or in other folders, as for folders",
        "masks/NAME.tif, .npy         with one page, plane or array per class",
        "classes.txt                  optional",
    )

    def __init__(self, root: Path, options: ImportOptions) -> None:
        super().__init__(root, options)
        tree = Tree(root, options, arrays=True)
        files = name_files(tree.images)
        self.set_images(files)
        ids = {path: id for id, path in files.items()}
        self.masks = dict(sorted((ids[pair.image], pair.mask) for pair in tree.pairs))
        self.lists = lists_by_folder(
            {ids[path]: place for group in tree.images for path, place in group.files}, self.masks
        )
        self.notes += tree.notes
        self._set_classes(*self._scan())

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return False: layers can mean other things, so the form has to be named."""
        return False

    def read_mask(self, id: str) -> Tensor:
        """Combine the layers of a mask to uint8 ``(H, W)``: class index, or 255 in no layer if none is background."""
        layers = self._read_layers(id)
        mask = np.full(layers.shape[1:], self._rest, dtype=np.uint8)
        for number, layer in enumerate(layers):
            mask[layer] = number + self._first
        return torch.from_numpy(mask)

    def _read_layers(self, id: str) -> NDArray[np.bool_]:
        """Return the layers as bool ``(classes, H, W)``."""
        path, (width, height) = self.masks[id], image_size(self.images[id])
        values = read_array(path)
        leading, trailing = values.shape[1:] == (height, width), values.shape[:2] == (height, width)
        if values.ndim != 3 or leading == trailing:
            problem = f"shape {values.shape} is not one layer of {height}x{width} pixels per class"
            raise UserError(problem, path=path, fix="save it as (classes, height, width)")
        values = values if leading else np.moveaxis(values, -1, 0)
        for number, layer in enumerate(values):
            found = np.unique(layer)
            if len(found) > 2 or (len(found) == 2 and found[0] != 0):
                problem = f"layer {number} holds {len(found)} values, from {found[0]} to {found[-1]}"
                raise UserError(problem, path=path, fix="save layers of 0 and 1")
        return values > 0

    def _scan(self) -> tuple[int, bool]:
        """Return the number of layers, and whether every pixel of all masks is in exactly one."""
        counts: dict[int, Path] = {}
        once = True
        overlapping = 0
        for id, path in self.masks.items():
            layers = self._read_layers(id)
            counts.setdefault(len(layers), path)
            times = layers.sum(axis=0)
            once, overlapping = once and bool((times == 1).all()), overlapping + bool((times > 1).any())
        if len(counts) > 1:
            (few, first), (many, second) = list(counts.items())[:2]
            problem = f"{few} layers, but {second} has {many}"
            raise UserError(problem, path=first, fix="save the same layers in all masks")
        if overlapping:
            self.notes.append(f"layers overlap in {overlapping} masks: the later layer counts")
        return next(iter(counts)), once

    def _set_classes(self, layers: int, once: bool) -> None:
        folder = class_folder(self.root)
        file = folder / "classes.txt" if folder else self.root
        names = list(read_lines(file)) if folder and file.is_file() else []
        if names and len(names) not in (layers, layers + 1):
            raise UserError(f"{len(names)} names for {layers} layers", path=file, fix="name each layer")
        if not names:
            names = [f"class{number}" for number in range(layers)] if once else ["background"]
            names += [f"class{number + 1}" for number in range(layers)] if not once else []
        self._first = len(names) - layers  # 1 if pixels in no layer are the first class
        background = next((number for number, name in enumerate(names) if name.lower() in BACKGROUND), IGNORE)
        self._rest = 0 if self._first else background
        rest = names[self._rest] if self._rest < IGNORE else "ignored"
        shown = ", ".join(f"{number} is {name}" for number, name in enumerate(names[self._first :]))
        self.notes.append(f"layers: {shown}" + ("" if once else f". Pixels in no layer are {rest}"))
        self.set_classes(names, file)


def read_array(path: Path) -> NDArray[Any]:
    """Read all pages or planes of a TIFF, or an array of NumPy, without executing code.

    Raises:
        UserError: The file cannot be read or is too large.
    """
    try:
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            import tifffile

            with tifffile.TiffFile(path) as tiff:
                if sum(page.size for page in tiff.pages) > LARGEST:
                    raise ValueError("it is too large")
                array = tiff.asarray()
        if array.size > LARGEST:
            raise ValueError("it is too large")
        return np.asarray(array)
    except (*UNREADABLE, RuntimeError) as error:
        fix = "save TIFF pages or .npy of shape (classes, height, width)"
        raise UserError(f"the layers cannot be read ({reason(error)})", path=path, fix=fix) from error
