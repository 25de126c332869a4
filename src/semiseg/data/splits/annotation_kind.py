"""How masks are to be read: in full, in part, or as one class an image; and whether that fits what lies there."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from semiseg.data.dataset import IGNORE, SegmentationDataset
from semiseg.data.tag_file import ABSENT
from semiseg.errors import UserError

Annotation = Literal["full", "partial", "single-positive"]
SPARSE_SHARE = 0.5
"""Share of known pixels below which masks do not look like full ones: published ones leave 2 to 10 % at 255."""


def check_annotation(
    dataset: SegmentationDataset, labeled: tuple[str, ...], pixels: NDArray[np.int64], annotation: Annotation
) -> list[str]:
    """Hold labeled masks against the kind of annotation they are said to be; return what a person should know.

    Args:
        dataset: the data.
        labeled: ids of the labeled images.
        pixels: ``(len(labeled), 256)``, pixels of each mask value (``splits.count_pixels``).
        annotation: how the masks are to be read.

    Raises:
        UserError: a single-positive mask shows no class or several, or a mask shows what the image's tags deny.
    """
    shown = pixels[:, : len(dataset.classes)] > 0
    for id, row in zip(labeled, shown, strict=True):
        where = f"{dataset.mask_path(id) or id}"
        names = [name for name, there in zip(dataset.classes, row, strict=True) if there]
        denied = [c for c, tag in enumerate(dataset.tags(id) or ()) if tag == ABSENT and row[c]]
        if denied:
            name = dataset.classes[denied[0]]
            raise UserError(f"{where}: the mask shows {name}, the tags say that it is absent; correct one of the two")
        if annotation == "single-positive" and len(names) != 1:
            raise UserError(
                f"{where}: a single-positive mask shows one class, this one {', '.join(names) or 'none'}; leave all "
                "else at 255, or take --annotation partial"
            )
    known = 1 - pixels[:, IGNORE].sum() / max(1, pixels.sum())
    if annotation != "full":
        note = f"{annotation} annotation: {known:.1%} of the pixels of labeled images are annotated"
        every = "; warning: what is unknown has to be 255 in the masks, not 0" if known == 1 else ""
        return [note + every]
    if known < SPARSE_SHARE:
        return [
            f"warning: {known:.1%} of the pixels of labeled images are annotated: this looks like partial annotation: "
            "--annotation partial"
        ]
    return []
