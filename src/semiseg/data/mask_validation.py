"""Read and count the masks of lists before training starts."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from semiseg.data.dataset import IGNORE, SegmentationDataset, read_sample
from semiseg.errors import UserError


def count_pixels(dataset: SegmentationDataset, ids: Iterable[str]) -> NDArray[np.int64]:
    """Read each image with its mask once and count the mask's pixels of each value.

    Returns:
        int64 ``(images, 256)``.

    Raises:
        UserError: An image cannot be read, or its mask is missing, unreadable, of another size or holds values that
            are not classes. The error names the first such file in the order of ``ids``.
    """

    def pixels(id: str) -> NDArray[np.int64]:
        mask = read_sample(dataset, id).mask
        if mask is None:
            fix = "add a mask or remove the image from the list"
            raise UserError("the image has no mask", path=dataset.image_path(id) or id, fix=fix)
        return np.bincount(mask.numpy().ravel(), minlength=IGNORE + 1)

    with ThreadPoolExecutor() as pool:
        return np.array(list(pool.map(pixels, ids)), dtype=np.int64).reshape(-1, IGNORE + 1)


def check_masks(dataset: SegmentationDataset, ids: Iterable[str]) -> tuple[int, ...]:
    """Return the number of pixels of each class over all masks. Raises UserError like ``count_pixels``."""
    return tuple(count_pixels(dataset, ids).sum(axis=0)[: len(dataset.classes)].tolist())
