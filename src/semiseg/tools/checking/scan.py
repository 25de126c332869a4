"""Read every image and mask once and keep the statistics that the findings need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.dataset import IGNORE, MaskRecord, SegmentationDataset, check_size, read_ahead
from semiseg.errors import UserError
from semiseg.tools.checking.near_duplicates import Fingerprint, fingerprint

T = TypeVar("T")
READ_AHEAD = 64  # images that are read in advance
Progress = Callable[[int, int], None]
"""Called with the number of images read and their total number."""


@dataclass(frozen=True)
class SampleScan:
    """Statistics of one image and its mask.

    Attributes:
        id: The image id.
        size: Width and height of the image; None if it cannot be read.
        digest: Hash of the pixels of the image, independent of its file format.
        fingerprint: Features that find near-duplicates of the image; None if it cannot be read.
        pixels: int64 ``(256,)``, the number of pixels with each value of the mask; None without a valid mask.
        mask_digest: Hash of the pixels of the mask.
        record: What the mask has to agree on with others; None without a valid mask.
        image_error: The error of reading the image.
        mask_error: The error of reading the mask, or of comparing its size with the image.
    """

    id: str
    size: tuple[int, int] | None = None
    digest: bytes = b""
    fingerprint: Fingerprint | None = None
    pixels: NDArray[np.int64] | None = None
    mask_digest: bytes = b""
    record: MaskRecord | None = None
    image_error: UserError | None = None
    mask_error: UserError | None = None


def scan(dataset: SegmentationDataset, progress: Progress | None = None) -> list[SampleScan]:
    """Read every image and mask of a data set in several threads. Errors are kept in the result, not raised."""
    scans: list[SampleScan] = []
    for sample in read_ahead(lambda id: _scan_sample(dataset, id), dataset.ids, workers=None, ahead=READ_AHEAD):
        scans.append(sample)
        if progress:
            progress(len(scans), len(dataset))
    return scans


def _scan_sample(dataset: SegmentationDataset, id: str) -> SampleScan:
    image, image_error = _read(dataset.read_image, id)
    found, mask_error = _read(dataset.read_mask_record, id) if dataset.has_mask(id) else (None, None)
    mask, record = found or (None, None)
    if image is not None and mask is not None:
        try:
            check_size(dataset, id, image.shape[-2:], mask)
        except UserError as error:
            mask_error, mask = error, None
    return SampleScan(
        id=id,
        size=None if image is None else (image.shape[2], image.shape[1]),
        digest=b"" if image is None else _digest(image),
        fingerprint=None if image is None else fingerprint(image),
        pixels=None if mask is None else np.bincount(mask.numpy().ravel(), minlength=IGNORE + 1),
        mask_digest=b"" if mask is None else _digest(mask),
        record=None if mask is None else record,
        image_error=image_error,
        mask_error=mask_error,
    )


def _read(read: Callable[[str], T], id: str) -> tuple[T | None, UserError | None]:
    try:
        return read(id), None
    except UserError as error:
        return None, error


def _digest(values: Tensor) -> bytes:
    shape = str(tuple(values.shape)).encode()
    return hashlib.blake2b(values.contiguous().numpy().data, digest_size=16, key=shape).digest()
