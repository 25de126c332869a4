"""Every mask of some lists, read and counted before anything learns from it."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from semiseg.data.dataset import IGNORE, SegmentationDataset, read_sample
from semiseg.errors import UserError


def count_pixels(dataset: SegmentationDataset, ids: Iterable[str]) -> NDArray[np.int64]:
    """Read each image and its mask once and return ``(images, 256)``: the pixels of each value in each mask.

    Raises:
        UserError: an image cannot be read, or its mask is missing, unreadable, of another size or holds values outside
            the classes; the message names the first such file in the order of ``ids``.
    """

    def pixels(id: str) -> NDArray[np.int64]:
        mask = read_sample(dataset, id).mask
        if mask is None:
            raise UserError(f"{dataset.image_path(id) or id}: the image has no mask; add it or take it out of the list")
        return np.bincount(mask.numpy().ravel(), minlength=IGNORE + 1)

    with ThreadPoolExecutor() as pool:
        return np.array(list(pool.map(pixels, ids)), dtype=np.int64).reshape(-1, IGNORE + 1)


def check_masks(dataset: SegmentationDataset, ids: Iterable[str]) -> tuple[int, ...]:
    """Return the number of pixels of each class over all masks; raises UserError as ``count_pixels``."""
    return tuple(count_pixels(dataset, ids).sum(axis=0)[: len(dataset.classes)].tolist())
