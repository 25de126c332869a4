"""The boundary IoU of Cheng et al., "Boundary IoU", CVPR 2021 (https://arxiv.org/abs/2103.16562)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.dataset import IGNORE

WIDTH = 0.02  # of the image's diagonal, as in the paper


class BoundaryIoU:
    """The IoU of each class, counted only near the contours of truth and prediction.

    A pixel counts if the square of ``2 d + 1`` pixels around it leaves the region of its class or the image; ``d`` is
    2 % of the image's diagonal, at least 1. This equals ``d`` erosions with 3 x 3 pixels. Pixels with value 255 in the
    mask are not counted; they limit the regions of both truth and prediction.

    Attributes:
        hits: int64 ``(C,)``: pixels of the intersection by class, over all images.
        unions: int64 ``(C,)``: pixels of the union.
    """

    def __init__(self, classes: int) -> None:
        self.hits = np.zeros(classes, dtype=np.int64)
        self.unions = np.zeros(classes, dtype=np.int64)

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Count the pixels of one image.

        Args:
            prediction: Integers ``(H, W)``, each a class.
            mask: Integers ``(H, W)``, each a class or 255.
        """
        truth = mask.cpu().numpy().astype(np.uint8)
        if truth.size == 0:
            return
        predicted = np.where(truth == IGNORE, IGNORE, prediction.cpu().numpy()).astype(np.uint8)
        distance = max(1, round(WIDTH * math.hypot(*truth.shape)))
        near_truth, near_predicted = near_contour(truth, distance), near_contour(predicted, distance)
        both = (truth == predicted) & near_truth & near_predicted
        regions = truth[both], truth[near_truth], predicted[near_predicted]
        hits, ours, theirs = (self._count(labels) for labels in regions)
        self.hits += hits
        self.unions += ours + theirs - hits

    def _count(self, labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        return np.bincount(labels, minlength=IGNORE + 1)[: len(self.hits)]

    def iou(self) -> list[float | None]:
        """Return the boundary IoU of each class in percent; None for a class in neither truth nor prediction."""
        pairs = zip(self.hits.tolist(), self.unions.tolist(), strict=True)
        return [100 * hit / union if union else None for hit, union in pairs]


def near_contour(labels: NDArray[np.uint8], distance: int) -> NDArray[np.bool_]:
    """Return bool ``(H, W)``: whether the square around a pixel leaves the region of its class or the image."""
    from scipy.ndimage import maximum_filter, minimum_filter

    near = np.ones(labels.shape, dtype=bool)
    inside = (slice(distance, -distance), slice(distance, -distance))
    size = 2 * distance + 1
    near[inside] = (minimum_filter(labels, size) != maximum_filter(labels, size))[inside]
    return near
