"""Kinds of annotation: full, partial or single-positive masks, and whether the labeled masks match."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semiseg.config import Annotation
from semiseg.data.dataset import IGNORE, SegmentationDataset
from semiseg.data.tag_file import ABSENT
from semiseg.errors import UserError

SPARSE_SHARE = 0.5
"""Masks with a smaller share of known pixels look partial. Published full masks leave 2 to 10 % at 255."""


def check_annotation(
    dataset: SegmentationDataset, labeled: tuple[str, ...], pixels: NDArray[np.int64], annotation: Annotation
) -> list[str]:
    """Compare labeled masks with the declared kind of annotation.

    Args:
        dataset: The data.
        labeled: Ids of the labeled images.
        pixels: ``(len(labeled), 256)``, the pixels of each mask value (``mask_validation.count_pixels``).
        annotation: The declared kind.

    Returns:
        Notes and warnings for the user.

    Raises:
        UserError: A single-positive mask shows no class or several, or a mask contradicts the tags of its image.
    """
    shown = pixels[:, : len(dataset.classes)] > 0
    for id, row in zip(labeled, shown, strict=True):
        path = dataset.mask_path(id) or id
        names = [name for name, present in zip(dataset.classes, row, strict=True) if present]
        denied = [c for c, tag in enumerate(dataset.tags(id) or ()) if tag == ABSENT and row[c]]
        if denied:
            name = dataset.classes[denied[0]]
            raise UserError(f"the mask shows {name}, but its tags say absent", path=path, fix="correct one of the two")
        if annotation == "single-positive" and len(names) != 1:
            raise UserError(
                f"a single-positive mask shows one class, but this one shows {', '.join(names) or 'none'}",
                path=path,
                fix="set all other pixels to 255, or choose --annotation partial",
            )
    known = 1 - pixels[:, IGNORE].sum() / max(1, pixels.sum())
    share = f"{known:.1%} of the pixels of labeled images are annotated"
    if annotation != "full":
        warning = ". Warning: unknown pixels must be 255 in the masks, not 0" if known == 1 else ""
        return [f"{annotation} annotation: {share}{warning}"]
    if known < SPARSE_SHARE:
        return [f"warning: {share}, which looks like partial annotation. Consider --annotation partial"]
    return []
