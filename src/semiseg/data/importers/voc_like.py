"""VOC folders with own classes, as labelme2voc writes them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semiseg.data.dataset import IGNORE
from semiseg.data.files.file_lists import MASK_SUFFIXES
from semiseg.data.files.image_header import reason
from semiseg.data.importers.cvat import CvatMask
from semiseg.data.importers.foreign_data import ForeignData, ImportOptions
from semiseg.data.importers.mask_trees.folders import MaskTree
from semiseg.data.importers.source_files import as_id, find_images, walk_files
from semiseg.errors import UserError, require_regular_file

FOLDERS = ("SegmentationClassNpy", "SegmentationClassPNG", "SegmentationClass")
"""Folders of masks; later ones are preferred. labelme2voc has written all three."""
MAX_PIXELS = 178_956_970
"""The largest array that is read, as many values as the largest image has pixels."""


class VocLike(MaskTree):
    """VOC folders with own classes: indexed PNG, or NumPy arrays of integers, and ``class_names.txt``.

    Masks are read as those of an own folder. In NumPy arrays, -1 is ignored too. Without a class file the classes are
    named by their values.
    """

    form = "voc-like"
    title = "a folder in VOC form with own classes (labelme2voc)"
    tree: ClassVar[tuple[str, ...]] = (
        "JPEGImages/NAME.jpg, .png, ...",
        "SegmentationClass/NAME.png or NAME.npy, or SegmentationClassPNG/, SegmentationClassNpy/",
        "class_names.txt, labels.txt or another class file",
        "ImageSets/Segmentation/{train,val,test}.txt: optional",
    )
    uses: ClassVar[tuple[str, ...]] = ("threshold",)
    list_locations: ClassVar[dict[str, tuple[str, ...]]] = CvatMask.list_locations

    def __init__(self, root: Path, options: ImportOptions) -> None:
        ForeignData.__init__(self, root, options)  # the folders are known
        self.set_images(find_images(root / "JPEGImages"), root / "JPEGImages")
        ids = {as_id(path.relative_to(root / "JPEGImages").with_suffix("")): id for id, path in self.images.items()}
        for folder in (root / name for name in FOLDERS):
            found = {as_id(path.relative_to(folder).with_suffix("")): path for path in _mask_files(folder)}
            self.masks |= {ids[name]: path for name, path in found.items() if name in ids}
        self.require_masks(root / FOLDERS[-1])
        self._reader = self._make_reader(self._as_images(self.masks))
        self.classes, self.palette = self._reader.classes, self._reader.palette

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a folder has images and masks in VOC folders."""
        return (root / "JPEGImages").is_dir() and any((root / name).is_dir() for name in FOLDERS)

    def _as_images(self, masks: dict[str, Path]) -> dict[str, Path]:
        """Return the masks, with NumPy arrays converted to PNG in a folder that is removed with this object."""
        converted = {id: path for id, path in masks.items() if path.suffix == ".npy"}
        if not converted:
            return masks
        self._folder = tempfile.TemporaryDirectory(prefix="semiseg-voc-")
        for number, (id, path) in enumerate(converted.items()):
            target = Path(self._folder.name, f"{number}.png")
            Image.fromarray(read_array(path)).save(target)
            masks = masks | {id: target}
        return masks


def _mask_files(folder: Path) -> list[Path]:
    """Return the masks in a folder, arrays first, which images of the same name replace."""
    files = [path for path in walk_files(folder) if path.suffix.lower() in (*MASK_SUFFIXES, ".npy")]
    return sorted(files, key=lambda path: (path.suffix.lower() != ".npy", path))


def read_array(path: Path) -> NDArray[np.uint8]:
    """Read a mask from a NumPy file without executing code in it. -1 becomes 255.

    Raises:
        UserError: The file holds anything but an array ``(H, W)`` of integers from -1 to 255.
    """
    try:
        with require_regular_file(path).open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, kind = header(file)
            if len(shape) != 2 or kind.kind not in "iub" or not 0 < shape[0] * shape[1] <= MAX_PIXELS:
                raise ValueError(f"shape {shape} of {kind} is not a mask of integers")
            file.seek(0)
            values = np.lib.format.read_array(file, allow_pickle=False).astype(np.int64)
        if values.min() < -1 or values.max() > IGNORE:
            raise ValueError("it holds values outside of -1 to 255")
    except (OSError, ValueError, MemoryError) as error:
        problem = f"the mask cannot be read ({reason(error)})"
        raise UserError(problem, path=path, fix="export it again") from error
    return np.where(values < 0, IGNORE, values).astype(np.uint8)
