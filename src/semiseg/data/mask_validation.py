"""Read and count the masks of lists before training starts."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from semiseg.data.dataset import IGNORE, MaskRecord, SegmentationDataset, check_size
from semiseg.errors import UserError


def count_pixels(dataset: SegmentationDataset, ids: Iterable[str], notes: list[str] | None = None) -> NDArray[np.int64]:
    """Read each image with its mask once, count the mask's pixels of each value and compare the masks.

    Args:
        dataset: The data.
        ids: The images.
        notes: Collects notes for the user.

    Returns:
        int64 ``(images, 256)``.

    Raises:
        UserError: An image cannot be read, or its mask is missing, unreadable, of another size, holds values that are
            not classes or contradicts other masks. The error names the first such file in the order of ``ids``.
    """

    def read(id: str) -> tuple[NDArray[np.int64], MaskRecord | None]:
        image = dataset.read_image(id)
        if not dataset.has_mask(id):
            fix = "add a mask or remove the image from the list"
            raise UserError("the image has no mask", path=dataset.image_path(id) or id, fix=fix)
        mask, record = dataset.read_mask_record(id)
        check_size(dataset, id, image.shape[-2:], mask)
        return np.bincount(mask.numpy().ravel(), minlength=IGNORE + 1), record

    ids = tuple(ids)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(read, ids))
    pixels = np.array([counts for counts, _ in found], dtype=np.int64).reshape(-1, IGNORE + 1)
    records = {id: record for id, (_, record) in zip(ids, found, strict=True) if record is not None}
    further = dataset.compare_masks(records, pixels)
    if notes is not None:
        notes += further
    return pixels


def check_masks(dataset: SegmentationDataset, ids: Iterable[str]) -> tuple[int, ...]:
    """Return the number of pixels of each class over all masks. Raises UserError like ``count_pixels``."""
    return tuple(count_pixels(dataset, ids).sum(axis=0)[: len(dataset.classes)].tolist())
