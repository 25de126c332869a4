"""Read every image and every mask once and keep the little that the findings need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.dataset import IGNORE, SegmentationDataset, check_size, read_ahead
from semiseg.errors import UserError
from semiseg.tools.checking.near_duplicates import Look, look_of

AHEAD = 64  # images that may wait for a thread
Progress = Callable[[int, int], None]
"""Is told how many images have been read, of how many."""


@dataclass(frozen=True)
class Seen:
    """What was seen of one image and its mask.

    Attributes:
        id: the image.
        size: its width and height, None where it cannot be read.
        digest: of its pixels; equal for images that are equal, whatever their files are.
        look: what it looks like from afar, to find its twins.
        pixels: int64 ``(256,)``, how many pixels of its mask have each value; None without a mask that can be read.
        mask_digest: of the mask's pixels.
        image_fault: what reading the image said, and of its mask:
        mask_fault: what reading the mask said, or that it does not fit its image.
    """

    id: str
    size: tuple[int, int] | None = None
    digest: bytes = b""
    look: Look | None = None
    pixels: NDArray[np.int64] | None = None
    mask_digest: bytes = b""
    image_fault: str = ""
    mask_fault: str = ""


def scan(dataset: SegmentationDataset, progress: Progress | None = None) -> list[Seen]:
    """Read every image and mask of a data set, several at a time (decoding lets other threads run).

    Nothing raises UserError here: what it would say is kept.
    """
    seen: list[Seen] = []
    for one in read_ahead(lambda id: _look_at(dataset, id), dataset.ids, workers=None, ahead=AHEAD):
        seen.append(one)
        if progress:
            progress(len(seen), len(dataset))
    return seen


def _look_at(dataset: SegmentationDataset, id: str) -> Seen:
    image, image_fault = _read(dataset.read_image, id)
    mask, mask_fault = _read(dataset.read_mask, id) if dataset.has_mask(id) else (None, "")
    if image is not None and mask is not None:
        try:
            check_size(dataset, id, image.shape[-2:], mask)
        except UserError as error:
            mask_fault, mask = str(error), None
    return Seen(
        id=id,
        size=None if image is None else (image.shape[2], image.shape[1]),
        digest=b"" if image is None else _digest(image),
        look=None if image is None else look_of(image),
        pixels=None if mask is None else np.bincount(mask.numpy().ravel(), minlength=IGNORE + 1),
        mask_digest=b"" if mask is None else _digest(mask),
        image_fault=image_fault,
        mask_fault=mask_fault,
    )


def _read(read: Callable[[str], Tensor], id: str) -> tuple[Tensor | None, str]:
    try:
        return read(id), ""
    except UserError as error:
        return None, str(error)


def _digest(values: Tensor) -> bytes:
    shape = str(tuple(values.shape)).encode()
    return hashlib.blake2b(values.contiguous().numpy().data, digest_size=16, key=shape).digest()
