"""What masks of one data set have to agree on: displayed colors of indices, EXIF orientations, the meaning of 255."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiseg.data.dataset import IGNORE, Color, MaskRecord, default_palette
from semiseg.data.files.image_header import UNREADABLE, open_header
from semiseg.data.files.mask_files import StoredMask, exif_orientation
from semiseg.data.masks.mask_patterns import used_values

PALETTE_FIX = "write palette.txt with a name and a color (name r g b) per class, so that masks are read by color"


def make_record(mask: StoredMask, image: Path, with_colors: bool) -> MaskRecord:
    """Return the record of a mask and its image, with the displayed colors of its indices if wanted."""
    colors: dict[int, Color] = {}
    if with_colors and mask.palette is not None:
        for index in used_values(mask.values)[0].tolist():
            red, green, blue = mask.palette[index].tolist()
            if index != IGNORE:
                colors[index] = red, green, blue
    turn = image_orientation(image)
    sizes_decide = (turn >= 5) != (mask.orientation >= 5) and mask.values.shape[0] != mask.values.shape[1]
    return MaskRecord(colors, turn, mask.orientation, turn != mask.orientation and not sizes_decide)


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


def contradicting_palettes(records: Mapping[str, MaskRecord]) -> tuple[str, str, str] | None:
    """Return the ids of two indexed masks whose palettes disagree, and how; None if colors and indices go together.

    Palettes that only serve for display do not count: those with one color for several used indices, and where an
    index has its color of VOC's palette or its gray level, other colors for it.
    """
    colors: dict[int, tuple[Color, str]] = {}
    indices: dict[Color, tuple[int, str]] = {}
    usual = default_palette(IGNORE + 1)
    for id, record in records.items():
        if len(set(record.colors.values())) < len(record.colors):
            continue
        for index, color in record.colors.items():
            position, first = indices.setdefault(color, (index, id))
            if position != index:
                return first, id, f"the color {color} has the index {position} in one and {index} in the other"
            if color in (usual[index], (index,) * 3):
                continue
            other, first = colors.setdefault(index, (color, id))
            if other != color:
                return first, id, f"index {index} is displayed as {other} in one and as {color} in the other"
    return None


def black_and_white(pixels: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the masks of only 0 and 255 among others in which 255 does not occur. ``pixels`` has a row per mask."""
    ignored = pixels[:, IGNORE] > 0
    suspect = ignored & (pixels[:, 0] > 0) & ~pixels[:, 1:IGNORE].any(axis=1)
    return np.flatnonzero(suspect) if not (ignored & ~suspect).any() else np.flatnonzero([])


def foreground_is_255(pixels: NDArray[np.int64], classes: int) -> bool:
    """Return whether all masks show nothing but class 0 and 255, which then probably is another class.

    Args:
        pixels: ``(masks, 256)``, the pixels of each class index.
        classes: The number of classes.
    """
    shown = np.flatnonzero(pixels.sum(axis=0)).tolist() if len(pixels) else []
    return classes > 1 and shown == [0, IGNORE]
