"""Compute segmentation metrics from an exact confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from semiseg.data.dataset import IGNORE


class ConfusionMatrix:
    """Pixel counts by true and predicted class, from which every metric is computed.

    IoU of class c = TP / (TP + FP + FN); mIoU is the mean over the classes that occur (Everingham et al., "The PASCAL
    Visual Object Classes Challenge", IJCV 2010). Pixels with the value 255 in the mask are not counted.

    Attributes:
        counts: int64 ``(C, C)``; rows are the truth, columns the prediction. Integer sums are exact, so ranks can add
            their counts.

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
            prediction: Integers ``(H, W)`` or ``(N, H, W)``, each in [0, classes).
            mask: Integers of the same shape, each in [0, classes) or 255.

        Raises:
            ValueError: The shapes differ, or a value is not a class.
        """
        if prediction.shape != mask.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and mask {tuple(mask.shape)} differ in shape")
        if mask.numel() == 0:
            return
        truth, predicted = mask.to(self.counts.device), prediction.to(self.counts.device)
        extremes = torch.stack(
            [v.long() for v in (*truth.aminmax(), *predicted.aminmax())]
        ).tolist()  # one synchronization
        if min(extremes) < 0 or extremes[1] > IGNORE or extremes[3] >= self.classes:
            raise ValueError(
                f"labels must lie in [0, {self.classes}): mask has {extremes[0]}..{extremes[1]}, "
                f"prediction has {extremes[2]}..{extremes[3]}"
            )
        pairs = truth.int().mul_(self.classes).add_(predicted.int()).flatten()
        counts = torch.bincount(pairs, minlength=(IGNORE + 1) * self.classes).view(-1, self.classes)
        if counts[self.classes : IGNORE].any():
            unknown = int(counts[self.classes : IGNORE].sum(dim=1).nonzero()[0]) + self.classes
            raise ValueError(f"labels must lie in [0, {self.classes}): mask has {unknown}")
        self.counts += counts[: self.classes]

    def iou(self) -> list[float | None]:
        """Return the IoU of each class in percent; None for a class in neither truth nor prediction."""
        counts = self.counts.cpu()
        hits = counts.diagonal()
        unions = counts.sum(0) + counts.sum(1) - hits
        pairs = zip(hits.tolist(), unions.tolist(), strict=True)  # integers: bit-identical on every device
        return [100 * hit / union if union else None for hit, union in pairs]

    def miou(self) -> float | None:
        """Return the mean IoU in percent over the classes that occur; None if there are no valid pixels."""
        present = [value for value in self.iou() if value is not None]
        return sum(present) / len(present) if present else None

    def pixel_accuracy(self) -> float | None:
        """Return the percentage of valid pixels predicted correctly; None if there are no valid pixels."""
        total = int(self.counts.sum())
        return 100 * int(self.counts.diagonal().sum()) / total if total else None

    def summary(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return ``miou``, ``pixel_accuracy`` and ``iou`` by class name, in percent, ready for metrics.jsonl.

        Raises:
            ValueError: The number of names differs from the number of classes.
        """
        return {
            "miou": self.miou(),
            "pixel_accuracy": self.pixel_accuracy(),
            "iou": dict(zip(classes, self.iou(), strict=True)),
        }
