"""Write draft masks in a format of CVAT, for annotators to correct."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from semiseg.data.dataset import Color

Mask = NDArray[np.uint8]
BACKGROUND = "background"


def write_cvat(path: Path, masks: Mapping[str, Mask], classes: Sequence[str], palette: Sequence[Color]) -> None:
    """Write an archive in CVAT's format "Segmentation mask 1.1", for *Upload annotations* in a task.

    ``labelmap.txt`` contains classes and colors, ``SegmentationClass/STEM.png`` the masks in color, and
    ``ImageSets/Segmentation/default.txt`` the stems.

    Args:
        path: The archive to write.
        masks: Class indices ``(H, W)`` by stem.
        classes: Class names.
        palette: One RGB color per class.
    """
    colors = replace_black(palette)
    lines = ["# label:color_rgb:parts:actions", *([] if BACKGROUND in classes else [f"{BACKGROUND}:0,0,0::"])]
    if BACKGROUND in classes:
        colors[classes.index(BACKGROUND)] = (0, 0, 0)
    # In labelmap.txt a colon ends a name and "#" begins a comment.
    named = [name.replace(":", "_").lstrip("#") for name in classes]
    lines += [f"{name}:{red},{green},{blue}::" for name, (red, green, blue) in zip(named, colors, strict=True)]
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colors)] = colors
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labelmap.txt", "\n".join(lines) + "\n")
        archive.writestr("ImageSets/Segmentation/default.txt", "".join(f"{stem}\n" for stem in masks))
        for stem, mask in masks.items():
            file = io.BytesIO()
            PIL.Image.fromarray(table[mask]).save(file, format="PNG")
            archive.writestr(f"SegmentationClass/{stem}.png", file.getvalue())


def replace_black(palette: Sequence[Color]) -> list[Color]:
    """Return the colors with unused, nearly black colors instead of black, which CVAT reads as background."""
    nearly_black = ((r, g, b) for r, g, b in product(range(1, 256), repeat=3) if (r, g, b) not in palette)
    return [color if any(color) else next(nearly_black) for color in palette]
