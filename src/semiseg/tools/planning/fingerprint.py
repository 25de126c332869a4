"""The fingerprint of the data that a plan is made for: counts, image sizes and class areas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.files.image_files import image_size
from semiseg.data.preview_selection import evenly_spaced
from semiseg.data.splits.dataset_split import Split
from semiseg.errors import UserError

SIZES = 64  # images whose headers are read
MASKS = 40  # labeled masks whose pixels are counted


@dataclass(frozen=True)
class Fingerprint:
    """A data set, as far as a plan depends on it.

    Attributes:
        labeled: Number of labeled images.
        unlabeled: Number of unlabeled images.
        val: Number of validation images.
        test: Number of test images.
        classes: Number of classes.
        sizes: Width and height of the smallest, the median and the largest image of a sample, by area.
        areas: Share of each class in the annotated pixels of a sample of labeled masks.
        rarest: Median pixels of the smallest class in the sampled masks that contain it; 0 if unknown.
        held_out: The validation images, if the data has no val list.
    """

    labeled: int
    unlabeled: int
    val: int
    test: int
    classes: int
    sizes: tuple[tuple[int, int], ...]
    areas: tuple[float, ...] = ()
    rarest: float = 0.0
    held_out: tuple[str, ...] = ()

    @property
    def short_side(self) -> int:
        """The shorter side of the median image."""
        return min(self.sizes[1])


def read_fingerprint(dataset: SegmentationDataset, split: Split) -> Fingerprint:
    """Read headers and masks of a bounded sample, evenly spaced over the lists.

    Files that cannot be read are left out; training reports them.
    """
    images = [*evenly_spaced(split.labeled, SIZES // 2), *evenly_spaced(split.unlabeled, SIZES // 2)]
    sizes = sorted(filter(None, (_size(dataset, id) for id in images)), key=lambda size: size[0] * size[1])
    shown = (sizes[0], sizes[len(sizes) // 2], sizes[-1]) if sizes else ((256, 256),) * 3
    areas, rarest = class_areas(dataset, evenly_spaced(split.labeled, MASKS))
    counts = len(split.labeled), split.unlabeled_count, len(split.val), len(split.test)
    held_out = split.val if dataset.split("val", missing=[]) is None else ()
    return Fingerprint(*counts, len(dataset.classes), shown, areas, rarest, held_out)


def class_areas(dataset: SegmentationDataset, ids: Sequence[str]) -> tuple[tuple[float, ...], float]:
    """Return the share of each class in the annotated pixels, and the pixels of the smallest class where it occurs."""
    counts = []
    for id in ids:
        try:
            mask = dataset.read_mask(id)
        except (UserError, OSError):
            continue
        counts.append(torch.bincount(mask.flatten().long(), minlength=256)[: len(dataset.classes)].tolist())
    total = sum(map(sum, counts))
    if not total:
        return (), 0.0
    by_class = list(zip(*counts, strict=True))
    present = [median(pixels for pixels in of_class if pixels) for of_class in by_class if any(of_class)]
    return tuple(sum(of_class) / total for of_class in by_class), float(min(present))


def _size(dataset: SegmentationDataset, id: str) -> tuple[int, int] | None:
    """Return width and height from the header of an image file, or of a generated image."""
    path = dataset.image_path(id)
    try:
        if path is not None:
            return image_size(Path(path))
        height, width = dataset.read_image(id).shape[-2:]
    except (UserError, OSError, ValueError):
        return None
    return width, height
