"""Compute segmentation metrics from an exact confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from semiseg.data.dataset import IGNORE


class ConfusionMatrix:
    """Pixel counts by true and predicted class, from which every metric is computed.

    IoU of class c = TP / (TP + FP + FN); mIoU is the mean over the classes in truth or prediction (Everingham et al.,
    "The PASCAL Visual Object Classes Challenge", IJCV 2010). Pixels with the value 255 in the mask are not counted.

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
        hits, truth, predicted = self._sums()
        return self._percent(hits, truth + predicted - hits)

    def dice(self) -> list[float | None]:
        """Return the Dice coefficient (F1 score) of each class in percent, None as for `iou`."""
        hits, truth, predicted = self._sums()
        return self._percent(2 * hits, truth + predicted)

    def precision(self) -> list[float | None]:
        """Return TP / (TP + FP) of each class in percent: 0 if it is never predicted, None as for `iou`."""
        hits, _, predicted = self._sums()
        return self._percent(hits, predicted)

    def recall(self) -> list[float | None]:
        """Return TP / (TP + FN) of each class in percent: 0 if the truth lacks it, None as for `iou`."""
        hits, truth, _ = self._sums()
        return self._percent(hits, truth)

    def _sums(self) -> tuple[Tensor, Tensor, Tensor]:
        counts = self.counts.cpu()
        return counts.diagonal(), counts.sum(1), counts.sum(0)

    def _percent(self, parts: Tensor, wholes: Tensor) -> list[float | None]:
        """Return percentages of integers, which are bit-identical on every device; None for classes that are absent."""
        _, truth, predicted = self._sums()
        rows = zip(parts.tolist(), wholes.tolist(), (truth + predicted).tolist(), strict=True)
        return [(100 * part / whole if whole else 0.0) if occurs else None for part, whole, occurs in rows]

    def miou(self) -> float | None:
        """Return the mean IoU in percent over the classes in truth or prediction; None if there are no valid pixels.

        A class that is predicted but absent from the truth counts with an IoU of 0. Networks that predict different
        such classes are therefore averaged over different classes; `miou_of_shown` avoids this.
        """
        return mean(self.iou())

    def miou_of_shown(self) -> float | None:
        """Return the mean IoU in percent over the classes in the truth; None if there are no valid pixels."""
        shown = self._sums()[1].tolist()
        return mean([value for value, pixels in zip(self.iou(), shown, strict=True) if pixels])

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

    def details(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return ``dice``, ``precision`` and ``recall`` by class name and their means as ``mean_dice`` and so on."""
        return named("dice", classes, self.dice()) | (
            named("precision", classes, self.precision()) | named("recall", classes, self.recall())
        )


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there are none."""
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def named(name: str, classes: Sequence[str], values: Sequence[float | None]) -> dict[str, Any]:
    """Return a figure by class name, and its mean over the classes that occur."""
    return {f"mean_{name}": mean(values), name: dict(zip(classes, values, strict=True))}
