"""Antialiased and JPEG masks: gray values above a threshold, or the nearest color of a palette."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.dataset import Color
from semiseg.data.files.file_lists import JPEG_SUFFIXES
from semiseg.data.files.image_files import read_image_file
from semiseg.data.files.mask_files import load_mask
from semiseg.data.importers.mask_trees.own_masks import OwnMasks
from semiseg.errors import UserError


class ThresholdMasks(OwnMasks):
    """Masks whose values are rounded to classes.

    Gray masks have two classes: values below the threshold, and others. Colored masks have the classes of a palette
    file, and each pixel becomes the nearest color.

    Args:
        folder: The folder of the class file.
        images: The images, by id.
        masks: The masks, by id.
        threshold: The smallest gray value of the second class.

    Raises:
        UserError: The class file has neither colors nor two classes.
    """

    def __init__(self, folder: Path, images: Mapping[str, Path], masks: Mapping[str, Path], threshold: int) -> None:
        self._threshold, self._changed = threshold, dict[Path, float]()
        super().__init__(folder, images, masks)
        if not self._colors and len(self.classes) != 2:
            name = self.class_file.path.name if self.class_file else "the class file"
            problem = f"makes two classes, but {name} names {len(self.classes)}"
            raise UserError(problem, option="threshold", fix="name two classes, or give their colors in palette.txt")

    @property
    def _colors(self) -> tuple[tuple[Color, int], ...]:
        """The colors of the class file, each with its class index or 255."""
        return self.class_file.colors if self.class_file else ()

    def describe(self) -> list[str]:
        """Return a line with the share of pixels that had another value than those of the classes."""
        how = "the nearest color" if self._colors else f"less than {self._threshold}, or not"
        return share_note(self._changed.values(), how)

    def read_mask(self, id: str) -> Tensor:
        """Read a mask and round its values."""
        path = self.masks[id]
        values = read_values(path)
        if self._colors:
            colors = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
            indices, self._changed[path] = nearest_colors(colors, tuple(color for color, _ in self._colors))
            return torch.from_numpy(np.array([index for _, index in self._colors], dtype=np.uint8)[indices])
        if values.ndim == 3 and int(np.ptp(values, axis=2).max()) > _gray_tolerance(path):
            fix = "write palette.txt with one line per class: name red green blue"
            raise UserError("the mask is colored, and no palette names its colors", path=path, fix=fix)
        values = values if values.ndim == 2 else values[..., 0]
        self._changed[path] = between(values)
        return torch.from_numpy((values >= self._threshold).astype(np.uint8))

    def _infer_classes(self) -> tuple[str, ...]:
        return "background", "foreground"


def share_note(changed: Collection[float], how: str) -> list[str]:
    """Return a note on the mean of the shares of changed pixels, if there are any masks."""
    if not changed:
        return []
    share = 100 * sum(changed) / len(changed)
    return [f"{share:.2g} % of the pixels of the masks were between the classes: rounded to {how}"]


def between(values: NDArray[Any]) -> float:
    """Return the share of pixels that are neither the smallest nor the largest value of a gray mask."""
    return float(((values != values.min()) & (values != values.max())).mean())


def nearest_colors(values: NDArray[Any], colors: tuple[Color, ...]) -> tuple[NDArray[np.uint8], float]:
    """Return the index of the nearest color for each pixel ``(H, W, 3)``, and the share of pixels of other colors."""
    red, green, blue = np.moveaxis(values.astype(np.int32), -1, 0)
    codes, where = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
    found = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
    distance = np.stack([((found - np.array(color)) ** 2).sum(axis=1) for color in colors], axis=1)
    nearest = distance.argmin(axis=1)
    changed = distance.min(axis=1) > 0
    where = where.reshape(values.shape[:2])
    return nearest[where].astype(np.uint8), float(changed[where].mean())


def read_values(path: Path) -> NDArray[Any]:
    """Return the values ``(H, W)`` or colors ``(H, W, 3)`` of a mask, which may be a JPEG."""
    if path.suffix.lower() in JPEG_SUFFIXES:
        return read_image_file(path).permute(1, 2, 0).numpy()
    mask = load_mask(path, str(path))
    return mask.values if mask.palette is None else mask.palette[mask.values]


def _gray_tolerance(path: Path) -> int:
    """Return the difference between channels that a gray mask may have."""
    return 8 if path.suffix.lower() in JPEG_SUFFIXES else 0


def is_binary(path: Path) -> bool:
    """Return whether a mask can be read and holds at most 0 and one other value."""
    try:
        values = np.unique(read_values(path))
    except UserError:
        return False
    return len(values) < 2 or (len(values) == 2 and values[0] == 0)
