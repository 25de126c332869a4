"""Segmentation metrics from one exact confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from semiseg.data.dataset import IGNORE


class ConfusionMatrix:
    """Counts of (true class, predicted class) over pixels; every metric is read from it.

    IoU of class c = TP / (TP + FP + FN); mIoU is the mean over the classes that occur (Everingham et al., "The PASCAL
    Visual Object Classes Challenge", IJCV 2010). Pixels of 255 in the truth count nowhere, neither as hit
    nor as false positive.

    Attributes:
        counts: int64 ``(C, C)``, rows are the truth, columns the prediction. Sums over images and processes are exact,
            so several processes add their counts and no image is averaged twice.

    Example:
        >>> matrix = ConfusionMatrix(2)
        >>> matrix.update(torch.tensor([[0, 1]]), torch.tensor([[0, 255]]))
        >>> matrix.iou(), matrix.miou()
        ([100.0, None], 100.0)
    """

    def __init__(self, classes: int, device: torch.device | str = "cpu") -> None:
        if not 0 < classes <= IGNORE:
            raise ValueError(f"the number of classes must be in 1..{IGNORE}, got {classes}")
        self.classes = classes
        self.counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Count the pixels of one image or one batch.

        Args:
            prediction: integers ``(H, W)`` or ``(N, H, W)``, each in [0, classes).
            mask: integers of the same shape, each in [0, classes) or 255.

        Raises:
            ValueError: shapes differ, or a value counts for no class (it would be booked under another one).
        """
        if prediction.shape != mask.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and mask {tuple(mask.shape)} differ in shape")
        if mask.numel() == 0:
            return
        truth, predicted = mask.to(self.counts.device), prediction.to(self.counts.device)
        extremes = torch.stack([v.long() for v in (*truth.aminmax(), *predicted.aminmax())]).tolist()  # one wait
        if min(extremes) < 0 or extremes[1] > IGNORE or extremes[3] >= self.classes:
            raise ValueError(
                f"labels must lie in [0, {self.classes}): mask has {extremes[0]}..{extremes[1]}, "
                f"prediction has {extremes[2]}..{extremes[3]}"
            )
        pairs = truth.int().mul_(self.classes).add_(predicted.int()).flatten()
        counts = torch.bincount(pairs, minlength=(IGNORE + 1) * self.classes).view(-1, self.classes)
        if counts[self.classes : IGNORE].any():
            strange = int(counts[self.classes : IGNORE].sum(dim=1).nonzero()[0]) + self.classes
            raise ValueError(f"labels must lie in [0, {self.classes}): mask has {strange}")
        self.counts += counts[: self.classes]

    def iou(self) -> list[float | None]:
        """Return the IoU of each class in percent, None for a class in neither truth nor prediction."""
        counts = self.counts.cpu()
        hits = counts.diagonal()
        unions = counts.sum(0) + counts.sum(1) - hits
        pairs = zip(hits.tolist(), unions.tolist(), strict=True)  # integers, so that the division is exact to the bit
        return [100 * hit / union if union else None for hit, union in pairs]

    def miou(self) -> float | None:
        """Return the mean IoU in percent over the classes that occur, None when none does (no valid pixel)."""
        present = [value for value in self.iou() if value is not None]
        return sum(present) / len(present) if present else None

    def pixel_accuracy(self) -> float | None:
        """Return the share of valid pixels labeled correctly in percent, None when there is no valid pixel."""
        total = int(self.counts.sum())
        return 100 * int(self.counts.diagonal().sum()) / total if total else None

    def summary(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return ``miou``, ``pixel_accuracy`` and ``iou`` by class name, in percent, ready for metrics.jsonl.

        Raises:
            ValueError: there are not as many names as classes.
        """
        return {
            "miou": self.miou(),
            "pixel_accuracy": self.pixel_accuracy(),
            "iou": dict(zip(classes, self.iou(), strict=True)),
        }
