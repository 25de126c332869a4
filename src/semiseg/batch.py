"""The shard of a batch that one rank processes in one step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


def _no_fill() -> Tensor:
    return torch.empty((0, 0, 0), dtype=torch.bool)


def _no_tags() -> Tensor:
    return torch.empty((0, 0), dtype=torch.int8)


def _no_area() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass
class Batch:
    """Labeled and unlabeled images of one step, for one rank.

    Masks of unlabeled images have no field, so a method cannot use them by mistake.

    Attributes:
        labeled_images: uint8 ``(B, 3, S, S)``, RGB, weakly augmented (scale, crop, flip).
        masks: int64 ``(B, S, S)``, class index, or 255 where the class is unknown or the pixel is padding.
        labeled_valid: bool ``(B, S, S)``, False on padding. Where True, a mask value of 255 means "unknown class".
        unlabeled_images: uint8 ``(B_u, 3, S, S)``, RGB, weakly augmented. ``B_u`` is 0 for supervised methods.
        unlabeled_valid: bool ``(B_u, S, S)``, False on padding.
        fill: bool ``(B, S, S)``, unannotated pixels of labeled images, which a teacher may label. Its length is 0 if
            the annotation is full, so methods can skip the term without reading values.
        labeled_tags: int8 ``(B, C)``: class present in the image (1), absent (0) or unknown (-1). ``(0, 0)`` if the
            data has no tags.
        unlabeled_tags: int8 ``(B_u, C)`` or ``(0, 0)``, as above.
        labeled_area: int64 ``(B,)``, pixels of the whole image at the scale of the view, which shows a part of it. By
            default the number of valid pixels: each view shows its whole image.
        unlabeled_area: int64 ``(B_u,)``, as above.
    """

    labeled_images: Tensor
    masks: Tensor
    labeled_valid: Tensor
    unlabeled_images: Tensor
    unlabeled_valid: Tensor
    fill: Tensor = field(default_factory=_no_fill)
    labeled_tags: Tensor = field(default_factory=_no_tags)
    unlabeled_tags: Tensor = field(default_factory=_no_tags)
    labeled_area: Tensor = field(default_factory=_no_area)
    unlabeled_area: Tensor = field(default_factory=_no_area)

    def __post_init__(self) -> None:
        """Set areas that were not given."""
        if not len(self.labeled_area):
            self.labeled_area = self.labeled_valid.flatten(1).sum(dim=1)
        if not len(self.unlabeled_area):
            self.unlabeled_area = self.unlabeled_valid.flatten(1).sum(dim=1)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Return a copy of the batch on ``device``."""
        return Batch(**{name: tensor.to(device, non_blocking=non_blocking) for name, tensor in vars(self).items()})

    def split(self, parts: int) -> list[Batch]:
        """Return ``parts`` micro-batches of equal size; the numbers of images must be multiples of ``parts``."""
        split = {name: tensor.tensor_split(parts) for name, tensor in vars(self).items()}
        return [Batch(**{name: tensors[part] for name, tensors in split.items()}) for part in range(parts)]

    def pin_memory(self) -> Batch:
        """Return a copy of the batch in page-locked memory; the data loader calls this for a GPU."""
        return Batch(**{name: tensor.pin_memory() for name, tensor in vars(self).items()})
