"""Pascal VOC 2012 (Everingham et al., 2010/2015) in 21 classes, with the SBD masks (Hariharan et al., 2011)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from semiseg.data.dataset import default_palette
from semiseg.data.file_dataset import FileDataset, read_mask_values, value_table
from semiseg.data.files.file_lists import IMAGE_SUFFIXES, MASK_SUFFIXES, list_files
from semiseg.data.files.string_array import sorted_keys
from semiseg.errors import UserError

CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
TABLE = value_table({index: index for index in range(len(CLASSES))})
MASK_FIX = "use the original palette PNGs (0 to 20, and 255 for borders)"


class Voc(FileDataset):
    """Pascal VOC 2012 in 21 classes, with the masks of SBD if they are present.

    Publications train on the 10,582 images of the list ``train_aug``. Their masks, those of SBD, are in
    ``SegmentationClassAug``. A mask that is missing there is taken from ``SegmentationClass``. The masks of the test
    images are not public; publications report ``val``.

    Args:
        root: The folder that holds ``JPEGImages``, or a parent that holds it as ``VOC2012`` or ``VOCdevkit/VOC2012``.

    Raises:
        UserError: A folder is missing or empty.
    """

    tree = (
        "JPEGImages/ID.jpg",
        "SegmentationClassAug/ID.png or SegmentationClass/ID.png",
        "ImageSets/Segmentation/{train,val}.txt or splits/{train_aug,val}.txt",
        "splits/{92,...,1_16,...}/{labeled,unlabeled}.txt: optional",
    )
    list_locations: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": (
            "splits/train_aug.txt",
            "ImageSets/SegmentationAug/train_aug.txt",
            "ImageSets/Segmentation/train_aug.txt",
            "ImageSets/Segmentation/trainaug.txt",
            "ImageSets/Segmentation/train.txt",
        ),
        "val": ("ImageSets/Segmentation/val.txt",),
    }

    def __init__(self, root: str | Path) -> None:
        found = voc_root(root)
        if found is None:
            raise UserError("Pascal VOC was not found", path=root, fix="give the folder that holds JPEGImages/")
        self.name, self.root = "voc2012", found
        self.classes, self.palette = CLASSES, default_palette(len(CLASSES))
        self.images = list_files(self.root / "JPEGImages", IMAGE_SUFFIXES)
        if not self.images:
            raise UserError("no images found", path=self.root / "JPEGImages", fix="unpack VOCtrainval_11-May-2012.tar")
        self.masks = {}
        for folder in ("SegmentationClass", "SegmentationClassAug"):  # SBD masks replace those of VOC
            masks = list_files(self.root / folder, MASK_SUFFIXES)
            self.masks |= {id: path for id, path in masks.items() if id in self.images}
        if not self.masks:
            raise UserError(
                "no masks of these images found in SegmentationClassAug/ or SegmentationClass/",
                path=self.root,
                fix="copy the masks of SBD or VOC there, as ID.png",
            )
        self.ids = sorted_keys(self.images)

    def read_mask(self, id: str) -> Tensor:
        """Read a mask, its palette indices, as uint8 ``(H, W)`` of classes or 255."""
        return read_mask_values(self.masks[id], TABLE, MASK_FIX)


def voc_root(root: str | Path) -> Path | None:
    """Return the folder at or below ``root`` that has the layout of VOC2012, or None."""
    candidates = (Path(root) / below for below in ("", "VOC2012", "VOCdevkit/VOC2012"))
    return next((folder for folder in candidates if (folder / "JPEGImages").is_dir()), None)
