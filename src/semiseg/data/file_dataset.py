"""The base class of data sets whose images and masks are files, and helpers for reading mask values and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.dataset import IGNORE, Decoded, SegmentationDataset
from semiseg.data.files.image_files import decode, read_image_file
from semiseg.data.files.image_header import reason
from semiseg.data.files.mask_files import read_mask_file
from semiseg.data.files.pixel_format import Bands, PixelFormat, White
from semiseg.data.pixel_range import choose_pixel_format
from semiseg.data.splits.list_files import read_list, read_text
from semiseg.errors import UserError


class FileDataset(SegmentationDataset):
    """Images, masks and lists in files below one folder.

    A subclass sets ``root``, ``images`` and ``masks`` and implements ``read_mask``.

    Attributes:
        images: The file of each image, by id.
        masks: The file of each mask, by id. Images without one are unlabeled.
        list_locations: Further locations of the train, val and test lists below ``root``. They are searched in order
            after ``splits/NAME.txt``.
        tree: The layout of the files, one line of text per entry, for help texts.
    """

    root: Path
    images: Mapping[str, Path]
    masks: Mapping[str, Path]
    list_locations: ClassVar[dict[str, tuple[str, ...]]] = {}
    tree: ClassVar[tuple[str, ...]] = ()
    _pixel_format: PixelFormat | None = None

    @property
    def pixel_format(self) -> PixelFormat:
        """The bands and the white value of the images, chosen on first use unless they are set."""
        if self._pixel_format is None:
            self.choose_pixel_format()
        assert self._pixel_format is not None
        return self._pixel_format

    @pixel_format.setter
    def pixel_format(self, value: PixelFormat) -> None:
        self._pixel_format = value

    def choose_pixel_format(self, bands: Bands = None, white: White = None) -> None:
        """Choose the pixel format from a sample of the images, by the options of a run or of ``classes.json``.

        Raises:
            UserError: An option is invalid, or the images do not have the same bands.
        """
        choice = choose_pixel_format(self.images, self.root, bands, white)
        self.pixel_format, self.pixel_notes = choice.format, choice.notes

    def read_image(self, id: str) -> Tensor:
        """Read an image as uint8 ``(channels, H, W)``, upright."""
        return read_image_file(self.images[id], self.pixel_format)

    def read_decoded(self, id: str, factor: int) -> Decoded:
        """Read an image at ``1 / factor`` of its size."""
        path = self.images[id]
        return super().read_decoded(id, factor) if factor == 1 else decode(path, str(path), factor, self.pixel_format)

    def has_mask(self, id: str) -> bool:
        """Return whether the image has a mask, without opening it."""
        return id in self.masks

    def image_path(self, id: str) -> Path:
        """Return the image file."""
        return self.images[id]

    def mask_path(self, id: str) -> Path | None:
        """Return the mask file, or None if there is none."""
        return self.masks.get(id)

    def split(self, name: str, missing: list[str] | None = None) -> tuple[str, ...] | None:
        """Return the ids in ``splits/NAME.txt`` or another location of the format, or None if there is no such file."""
        path = self.list_path(name)
        return read_list(path, self, missing) if path else None

    def list_path(self, name: str) -> Path | None:
        """Return the file of the list ``train``, ``val`` or ``test``, or None if there is none."""
        paths = (self.root / file for file in (f"splits/{name}.txt", *self.list_locations.get(name, ())))
        return next((path for path in paths if path.is_file()), None)

    def published_lists(self, labeled: str, seed: int) -> tuple[Path, Path] | None:
        """Return the files in ``splits/1_16/seed0``, ``splits/1_16/split_0`` (ST++) or ``splits/1_16``."""
        return lists_in(self.root / "splits" / labeled.replace("/", "_"), seed)


def lists_in(folder: Path, seed: int) -> tuple[Path, Path] | None:
    """Return the lists of labeled and unlabeled images in ``seed0``, ``split_0`` or the folder itself, if any."""
    for directory in (folder / f"seed{seed}", folder / f"split_{seed}", folder):
        if (directory / "labeled.txt").is_file() and (directory / "unlabeled.txt").is_file():
            return directory / "labeled.txt", directory / "unlabeled.txt"
    return None


def value_table(classes: dict[int, int], ignored: tuple[int, ...] = (IGNORE,)) -> NDArray[np.int16]:
    """Return a lookup table int16 ``(256,)`` from mask values to classes, 255 (ignored) or -1 (invalid)."""
    table = np.full(256, -1, dtype=np.int16)
    table[list(ignored)] = IGNORE
    table[list(classes)] = list(classes.values())
    return table


def read_mask_values(path: Path, table: NDArray[np.int16], fix: str) -> Tensor:
    """Read a mask of integers or palette indices and map its values by a table.

    Args:
        path: The file.
        table: From ``value_table``.
        fix: The fix in the error message for values that are not in the table.

    Returns:
        uint8 ``(H, W)``, class or 255.

    Raises:
        UserError: The file cannot be read, or holds colors or invalid values.
    """
    values = read_mask_file(path)
    if values.ndim != 2:
        raise UserError("the mask holds colors instead of class numbers", path=path, fix=fix)
    mask = table[values]
    if (mask < 0).any():
        raise UserError(f"value {values[mask < 0].min()} is not a class", path=path, fix=fix)
    return torch.from_numpy(mask.astype(np.uint8))


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises UserError if it cannot be read."""
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        problem = f"cannot be read ({type(error).__name__}: {reason(error)})"
        raise UserError(problem, path=path, fix="export it again") from error
