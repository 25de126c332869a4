"""Pascal VOC 2012 (Everingham et al., 2010/2015) in 21 classes, with the masks of SBD (Hariharan et al., 2011)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from semiseg.data.dataset import default_palette
from semiseg.data.file_dataset import FileDataset, read_mask_values, value_table
from semiseg.data.files.image_files import IMAGE_SUFFIXES, MASK_SUFFIXES, list_files
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
RULE = "masks are palette PNGs of 0 to 20, and 255 for the borders: take the original files"


class Voc(FileDataset):
    """Pascal VOC 2012 in 21 classes, with the masks of SBD where they are there.

    The 10,582 training images of the field are the list ``train_aug``, whose masks, those of SBD, are in
    ``SegmentationClassAug``; where that folder has no mask, the one of ``SegmentationClass`` is taken. Masks of the
    test images are not public: ``val`` is what the field reports.

    Args:
        root: the folder that holds ``JPEGImages``, or one above it (``VOC2012``, ``VOCdevkit/VOC2012``).

    Raises:
        UserError: a folder is missing or empty; the message names it.
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
            raise UserError(f"{root}: no Pascal VOC there; give the folder that holds JPEGImages/")
        self.name, self.root = "voc2012", found
        self.classes, self.palette = CLASSES, default_palette(len(CLASSES))
        self.images = list_files(self.root / "JPEGImages", IMAGE_SUFFIXES)
        if not self.images:
            raise UserError(f"{self.root / 'JPEGImages'}: no images there; unpack VOCtrainval_11-May-2012.tar")
        self.masks = {}
        for folder in ("SegmentationClass", "SegmentationClassAug"):  # the later wins
            masks = list_files(self.root / folder, MASK_SUFFIXES)
            self.masks |= {id: path for id, path in masks.items() if id in self.images}
        if not self.masks:
            raise UserError(
                f"{self.root}: no mask of these images in SegmentationClassAug/ or SegmentationClass/; put SBD's (or "
                "VOC's own) masks there, as ID.png"
            )
        self.ids = sorted_keys(self.images)

    def read_mask(self, id: str) -> Tensor:
        """Read a mask as uint8 ``(H, W)``: the palette index, class or 255."""
        return read_mask_values(self.masks[id], TABLE, RULE)


def voc_root(root: str | Path) -> Path | None:
    """Return the folder at or below ``root`` that is laid out as VOC2012, None if there is none."""
    places = (Path(root) / below for below in ("", "VOC2012", "VOCdevkit/VOC2012"))
    return next((place for place in places if (place / "JPEGImages").is_dir()), None)
