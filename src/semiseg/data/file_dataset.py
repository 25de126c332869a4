"""What data sets whose images and masks are files have in common."""

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
from semiseg.data.files.image_files import decode, read_image_file, read_mask_file, reason
from semiseg.data.splits.list_files import read_list, read_text
from semiseg.errors import UserError


class FileDataset(SegmentationDataset):
    """Images and masks in files under one folder, and lists beside them.

    A subclass fills ``root``, ``images`` and ``masks`` and says how to read a mask.

    Attributes:
        images: the file of each image, by id.
        masks: the file of each mask, by id; an image without one is unlabeled.
        list_places: where a list may lie, beside ``splits/NAME.txt``, in the order in which they are looked for.
        tree: how the files lie, line by line, for a person to read.
    """

    root: Path
    images: Mapping[str, Path]
    masks: Mapping[str, Path]
    list_locations: ClassVar[dict[str, tuple[str, ...]]] = {}
    tree: ClassVar[tuple[str, ...]] = ()

    def read_image(self, id: str) -> Tensor:
        """Read an image as uint8 ``(3, H, W)``, RGB, upright."""
        return read_image_file(self.images[id])

    def read_decoded(self, id: str, factor: int) -> Decoded:
        """Read an image decoded at ``1 / factor`` of its size."""
        path = self.images[id]
        return super().read_decoded(id, factor) if factor == 1 else decode(path, str(path), factor)

    def has_mask(self, id: str) -> bool:
        """Tell whether there is a mask, without opening it."""
        return id in self.masks

    def image_path(self, id: str) -> Path:
        """Return the image's file."""
        return self.images[id]

    def mask_path(self, id: str) -> Path | None:
        """Return the mask's file, None where there is none."""
        return self.masks.get(id)

    def split(self, name: str, missing: list[str] | None = None) -> tuple[str, ...] | None:
        """Return the ids in ``splits/NAME.txt`` or another place of the format, None if there is no such file."""
        path = self.list_path(name)
        return read_list(path, self, missing) if path else None

    def list_path(self, name: str) -> Path | None:
        """Return the file of the list ``train``, ``val`` or ``test``, None if there is none."""
        places = (self.root / file for file in (f"splits/{name}.txt", *self.list_locations.get(name, ())))
        return next((path for path in places if path.is_file()), None)

    def published_lists(self, labeled: str, seed: int) -> tuple[Path, Path] | None:
        """Return the files in ``splits/1_16/seed0``, ``splits/1_16/split_0`` (ST++) or ``splits/1_16``."""
        return lists_in(self.root / "splits" / labeled.replace("/", "_"), seed)


def lists_in(folder: Path, seed: int) -> tuple[Path, Path] | None:
    """Return the lists of labeled and unlabeled images in ``seed0``, ``split_0`` or the folder itself, if any."""
    for place in (folder / f"seed{seed}", folder / f"split_{seed}", folder):
        if (place / "labeled.txt").is_file() and (place / "unlabeled.txt").is_file():
            return place / "labeled.txt", place / "unlabeled.txt"
    return None


def value_table(classes: dict[int, int], ignored: tuple[int, ...] = (IGNORE,)) -> NDArray[np.int16]:
    """Return what each value 0 to 255 of a mask file means, int16 ``(256,)``: a class, 255, or -1 where nothing."""
    table = np.full(256, -1, dtype=np.int16)
    table[list(ignored)] = IGNORE
    table[list(classes)] = list(classes.values())
    return table


def read_mask_values(path: Path, table: NDArray[np.int16], rule: str) -> Tensor:
    """Read a mask of integers or palette indices by what its values mean, as uint8 ``(H, W)``.

    Args:
        path: the file.
        table: from ``value_table``.
        rule: which values there may be and what to do about others, for the message.

    Raises:
        UserError: it cannot be read, holds colors, or a value that means nothing.
    """
    values = read_mask_file(path)
    if values.ndim != 2:
        raise UserError(f"{path}: the mask holds colors, not class numbers; {rule}")
    mask = table[values]
    if (mask < 0).any():
        raise UserError(f"{path}: value {values[mask < 0].min()} means no class; {rule}")
    return torch.from_numpy(mask.astype(np.uint8))


def read_json(path: Path) -> Any:
    """Read a JSON file; raises UserError, naming it, if it cannot be read."""
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {reason(error)}); export it anew") from error
