"""The part of a batch that one rank processes in one step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Batch:
    """What one process sees in one step.

    Attributes:
        labeled_images: uint8 ``(B, 3, S, S)``, RGB, weakly augmented (scale, crop, flip).
        masks: int64 ``(B, S, S)``, class index or 255 where nothing is known (padding included).
        labeled_valid: bool ``(B, S, S)``, False on padding; where it is True, 255 means that nobody knows.
        unlabeled_images: uint8 ``(B_u, 3, S, S)``, RGB, weakly augmented; ``B_u`` is 0 for methods without them.
        unlabeled_valid: bool ``(B_u, S, S)``, False on padding. There are no masks here: nothing may look at them.
        fill: bool ``(B, S, S)``, pixels of labeled images that nobody annotated and a teacher may label; ``(0, S, S)``
            where the annotation is full, so that a method knows without looking at values.
        labeled_tags: int8 ``(B, C)``: class present in the image (1), absent (0), unknown (-1); ``(0, 0)`` where the
            data has no tags.
        unlabeled_tags: likewise, int8 ``(B_u, C)`` or ``(0, 0)``.
        labeled_area: int64 ``(B,)``, pixels of the whole image at the view's scale, of which the view shows a part.
        unlabeled_area: likewise, int64 ``(B_u,)``.
    """

    labeled_images: Tensor
    masks: Tensor
    labeled_valid: Tensor
    unlabeled_images: Tensor
    unlabeled_valid: Tensor
    fill: Tensor = None  # type: ignore[assignment]
    labeled_tags: Tensor = None  # type: ignore[assignment]
    unlabeled_tags: Tensor = None  # type: ignore[assignment]
    labeled_area: Tensor = None  # type: ignore[assignment]
    unlabeled_area: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Fill in what a batch of fully annotated, whole images without tags has."""
        if self.fill is None:
            self.fill = self.labeled_valid[:0]
        for kind in ("labeled", "unlabeled"):
            if getattr(self, f"{kind}_tags") is None:
                setattr(self, f"{kind}_tags", torch.empty((0, 0), dtype=torch.int8, device=self.masks.device))
            if getattr(self, f"{kind}_area") is None:
                setattr(self, f"{kind}_area", getattr(self, f"{kind}_valid").flatten(1).sum(dim=1))

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Return the batch on ``device``."""
        return Batch(**{name: tensor.to(device, non_blocking=non_blocking) for name, tensor in vars(self).items()})

    def split(self, parts: int) -> list[Batch]:
        """Return the batch as ``parts`` batches of as many images each; their number has to divide."""
        split = {name: tensor.tensor_split(parts) for name, tensor in vars(self).items()}
        return [Batch(**{name: tensors[part] for name, tensors in split.items()}) for part in range(parts)]

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory (the data loader calls this for a GPU)."""
        return Batch(**{name: tensor.pin_memory() for name, tensor in vars(self).items()})
