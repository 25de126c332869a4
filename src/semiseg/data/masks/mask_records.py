"""Record what masks have to agree on, and compare them: EXIF orientations, the meaning of 255."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiseg.data.dataset import IGNORE, Color, MaskRecord
from semiseg.data.files.image_header import UNREADABLE, open_header
from semiseg.data.files.mask_files import StoredMask, exif_orientation
from semiseg.data.masks.mask_doubts import count_steps
from semiseg.data.masks.mask_patterns import used_values
from semiseg.data.splits.annotation_kind import SPARSE_SHARE

STRAY = 200  # a class is stray if 255 has at least this many times its pixels


def make_record(mask: StoredMask, image: Path) -> MaskRecord:
    """Return the record of a mask and its image, with the displayed colors of its indices."""
    colors: dict[int, Color] = {}
    if mask.palette is not None:
        for index in used_values(mask.values)[0].tolist():
            red, green, blue = mask.palette[index].tolist()
            if index != IGNORE:
                colors[index] = red, green, blue
    plain = mask.palette is None and bool(((mask.values != 0) & (mask.values != IGNORE)).any())
    turn = image_orientation(image)
    sizes_decide = (turn >= 5) != (mask.orientation >= 5) and mask.values.shape[0] != mask.values.shape[1]
    steps = count_steps(mask.values) if mask.values.ndim == 2 else (0, 0)
    return MaskRecord(colors, turn, mask.orientation, turn != mask.orientation and not sizes_decide, steps, plain)


def image_orientation(path: Path) -> int:
    """Return the EXIF orientation of an image from its header, 1 to 8; 1 if it cannot be read."""
    try:
        with open_header(path) as opened:
            # PIL would decode a PNG whose orientation does not come first, which is rare.
            return 1 if opened.format == "PNG" and "exif" not in opened.info else exif_orientation(opened)
    except UNREADABLE:
        return 1


def rotation_note(records: Mapping[str, MaskRecord], files: Mapping[str, Path]) -> str:
    """Return a note on images that EXIF turns differently from their masks, or an empty string if there are none."""
    ids = [id for id, record in records.items() if record.turned_apart]
    if not ids:
        return ""
    first = records[ids[0]]
    return (
        f"{len(ids)} labeled images are rotated or flipped by EXIF differently from their masks, first "
        f"{files[ids[0]]} (orientation {first.image_orientation}, its mask {first.mask_orientation}): both are used as "
        "they are displayed"
    )


def black_and_white(pixels: NDArray[np.int64]) -> tuple[NDArray[np.bool_], bool]:
    """Find masks of 0 and 255 in which 255 probably means a class, up to stray pixels of other values.

    Where most pixels of other masks are 255, it means "not annotated" in these masks too.

    Args:
        pixels: ``(masks, 256)``, the pixels of each class index.

    Returns:
        Whether each mask is one of them, and whether others hold 255 beside classes.
    """
    zero, ignored, rest = pixels[:, 0], pixels[:, IGNORE], pixels[:, 1:IGNORE].sum(axis=1)
    known = 1 - ignored / np.maximum(1, pixels.sum(axis=1))
    stray = (rest > 0) & (rest * STRAY <= ignored) & (known >= SPARSE_SHARE)
    suspect = (ignored > 0) & (zero > 0) & ((rest == 0) | stray)
    others = ~suspect & (ignored > 0) & (zero + rest > 0)
    if others.any() and (np.median(known[others]) < SPARSE_SHARE or suspect.mean() > 0.5):
        suspect[:] = False
    return suspect, bool(others.any())


def foreground_is_255(pixels: NDArray[np.int64]) -> bool:
    """Return whether all masks show nothing but class 0 and 255. ``pixels`` has a row per mask."""
    return bool(len(pixels)) and np.flatnonzero(pixels.sum(axis=0)).tolist() == [0, IGNORE]
