"""Small generated pictures with masks, and writers of the folders that people have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NAMES = "background", "square", "disc"
COLORS = np.array([[0, 0, 0], [220, 20, 60], [0, 160, 80]], dtype=np.uint8)
PALETTE = "background 0 0 0\nsquare 220 20 60\ndisc 0 160 80\n"
Pixels = NDArray[np.uint8]


def scene(seed: int, side: int = 48, disc: bool = True) -> tuple[Pixels, Pixels]:
    """Return an image ``(side, side, 3)`` of noise with a square and a disc, and its mask of 0, 1 and 2."""
    random = np.random.default_rng(seed)
    image, mask = random.normal(110, 25, (side, side, 3)), np.zeros((side, side), np.uint8)
    x, y = random.integers(0, side - 12, 2)
    mask[y : y + 12, x : x + 12] = 1
    if disc:
        rows, columns = np.mgrid[:side, :side]
        x, y = random.integers(8, side - 8, 2)
        mask[(columns - x) ** 2 + (rows - y) ** 2 < 64] = 2
    image[mask == 1] += [90, -60, -60]
    image[mask == 2] += [-60, 90, -60]
    return image.clip(0, 255).astype(np.uint8), mask


def corners(seed: int) -> tuple[int, int, int, int]:
    """Return the first and last column, and the first and last row of the square of a scene without a disc."""
    rows, columns = np.nonzero(scene(seed, disc=False)[1])
    return int(columns.min()), int(columns.max()), int(rows.min()), int(rows.max())


def save_image(path: Path, pixels: Pixels, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def write_own(
    root: Path,
    image: str = "img{:02d}.jpg",
    mask: str = "img{:02d}.png",
    save: Callable[[Path, Pixels, int], None] | None = None,
    classes: tuple[str, ...] = NAMES,
) -> Path:
    """Write eight images to ``images/``, five masks to ``masks/`` and ``classes.txt``."""
    for number in range(8):
        pixels, values = scene(number)
        save_image(root / "images" / image.format(number), pixels, quality=95)
        path = root / "masks" / mask.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < 5:
            (save or (lambda path, values, _: save_image(path, values)))(path, values, number)
    if classes:
        (root / "classes.txt").write_text("\n".join(classes) + "\n")
    return root
