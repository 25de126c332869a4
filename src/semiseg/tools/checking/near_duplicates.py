"""Find near-duplicate images: a difference hash selects candidates, the correlation of thumbnails confirms them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

BITS = 64
# Chosen on images of Pascal VOC and CamVid that were saved as JPEG of quality 30, brightened by 1.3, halved in size, or
# cropped by 2 % at each side: nine of ten pass both thresholds. No pair of distinct VOC images passes either threshold.
# Frames of CamVid one second apart pass only while the car stands.
MAX_DISTANCE = 8  # bits of the hash
MIN_SIMILARITY = 0.95  # correlation of the thumbnails
FLAT_DEVIATION = 3.0  # gray levels of standard deviation below which an image has no usable content
THUMBNAIL_SIDE = 16
PAIRS_PER_BLOCK = 1 << 24  # 64 MB per matrix


@dataclass(frozen=True)
class Fingerprint:
    """Features of an image that are invariant to brightness and contrast.

    Attributes:
        hash: bool ``(64,)``; whether each of 8 x 9 cells is darker than its right neighbor.
        thumbnail: float32 ``(256,)``, gray, with mean 0 and norm 1.
        flat: Whether the image has (nearly) one color throughout.
    """

    hash: NDArray[np.bool_]
    thumbnail: NDArray[np.float32]
    flat: bool


def fingerprint(image: Tensor) -> Fingerprint:
    """Return the fingerprint of an image, uint8 ``(channels, H, W)``."""
    if image.shape[0] == 3:
        gray = PIL.Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).convert("L")
    else:
        gray = PIL.Image.fromarray(image.float().mean(dim=0).to(torch.uint8).numpy())
    cells, thumbnail = (
        np.asarray(gray.resize(size, PIL.Image.Resampling.BOX), dtype=np.float32)
        for size in ((9, 8), (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    )
    centered = (thumbnail - thumbnail.mean()).ravel()
    norm = float(np.linalg.norm(centered))
    flat = norm / THUMBNAIL_SIDE < FLAT_DEVIATION
    return Fingerprint((cells[:, 1:] > cells[:, :-1]).ravel(), centered / max(norm, 1e-6), flat)


@dataclass(frozen=True)
class Match:
    """Two similar images, by their index in the first and the second list."""

    first: int
    second: int
    similarity: float


def find_near_duplicates(first: Sequence[Fingerprint], second: Sequence[Fingerprint] | None = None) -> list[Match]:
    """Return the most similar near-duplicate in the second list for each image of the first that has one.

    All pairs are compared by matrix products, which takes some seconds for twenty thousand images. Flat images have no
    near-duplicates.

    Args:
        first: Fingerprints of images.
        second: Fingerprints of other images. If None, the images of the first list are compared with one another.
    """
    others = first if second is None else second
    if not first or not others:
        return []
    hashes, thumbnails, flat = _stack(others)
    matches = []
    block = max(1, PAIRS_PER_BLOCK // len(others))
    for start in range(0, len(first), block):
        own_hashes, own_thumbnails, own_flat = _stack(first[start : start + block])
        near = (BITS - own_hashes @ hashes.T) / 2 <= MAX_DISTANCE
        near &= ~own_flat[:, None] & ~flat
        if second is None:
            near[np.arange(len(near)), start + np.arange(len(near))] = False
        rows = np.flatnonzero(near.any(axis=1))
        similarity = np.where(near[rows], own_thumbnails[rows] @ thumbnails.T, -1)
        best = similarity.argmax(axis=1)
        scores = similarity[np.arange(len(rows)), best]
        chosen = scores >= MIN_SIMILARITY
        matches += [
            Match(start + int(row), int(column), float(score))
            for row, column, score in zip(rows[chosen], best[chosen], scores[chosen], strict=True)
        ]
    return matches


def _stack(prints: Sequence[Fingerprint]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Return the hashes as -1 and 1 (so that a product counts differing bits), the thumbnails and the flat flags."""
    hashes = np.where([one.hash for one in prints], np.float32(1), np.float32(-1))
    return hashes, np.array([one.thumbnail for one in prints]), np.array([one.flat for one in prints])
