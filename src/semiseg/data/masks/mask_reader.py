"""Read the masks of a plain folder as class indices, by values, indices or colors, or explain why they cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.class_file import INVALID, JSON, SMALLEST_VALUE, ClassFile
from semiseg.data.dataset import IGNORE
from semiseg.data.files.mask_files import StoredMask, load_mask
from semiseg.data.masks.mask_colors import (
    classes_of_colors,
    gray_is_color,
    gray_values,
    palette_agrees,
    table_of_colors,
)
from semiseg.data.masks.mask_patterns import (
    MOST_LEVELS,
    SPECKS,
    SPECKS_FIX,
    implausible_classes,
    speckled_values,
    used_values,
    values_fix,
)
from semiseg.errors import UserError

EIGHT_BITS = "save an 8-bit mask, with 255 where nothing is known"
EXAMPLES = 8  # masks that are read again to explain an error


class MaskReader:
    """Converts stored masks to class indices.

    Args:
        masks: The file of each mask, by id.
        file: The class file; None if the classes follow from the masks.
    """

    def __init__(self, masks: Mapping[str, Path], file: ClassFile | None) -> None:
        self.masks, self.file = masks, file
        self._agreeing = dict[bytes, bool]()
        self.classes = len(file.names) if file else 0
        self.starts_at = 0  # the smallest value of the masks, if the classes follow from them
        self.table = _value_table(file.values if file else {IGNORE: IGNORE})

    def infer_classes(self, folder: Path) -> tuple[str, ...]:
        """Return ``class0`` to the largest value of any mask, and read masks accordingly from now on.

        Raises:
            UserError: No mask is readable, or the values do not look like classes. The error names ``folder``.
        """
        used = self._used_values()
        if not used:
            self._integers(next(iter(self.masks.values())))  # raises
        found = sorted({int(value) for values in used for value in values if np.isfinite(value)})
        if found and found[0] < 0:
            problem = f"the masks hold negative values, such as {found[0]}"
            raise UserError(
                problem, path=folder, fix=self.values_fix(found) if found[0] >= SMALLEST_VALUE else EIGHT_BITS
            )
        if set(found) <= {0, IGNORE}:
            shown = " and ".join(map(str, found))
            names = "write classes.txt with a name for 0 and one for 1, and annotate both"
            fix = self.values_fix(found) if len(found) == 2 else names
            raise UserError(f"the masks hold only {shown} and there is no class file", path=folder, fix=fix)
        if pattern := implausible_classes(used, self._examples, self.values_fix, inferred=True):
            raise UserError(pattern[0], path=folder, fix=pattern[1])
        self._set_classes(max((value for value in found if value < IGNORE), default=0) + 1)
        self.starts_at = next(iter(found), 0)
        return tuple(f"class{index}" for index in range(self.classes))

    def accept_values(self) -> tuple[str, ...]:
        """Return ``class0`` to the largest value of any mask up to 254, whatever the values look like."""
        largest = max((int(value) for values in self._used_values() for value in values if value < IGNORE), default=0)
        self._set_classes(max(0, largest) + 1)
        return tuple(f"class{index}" for index in range(self.classes))

    def _set_classes(self, count: int) -> None:
        """Read mask values 0 to ``count - 1`` as these classes, and 255 as ignored."""
        self.classes = count
        self.table = _value_table({value: value for value in range(count)} | {IGNORE: IGNORE})

    def read(self, path: Path) -> tuple[Tensor, StoredMask]:
        """Read a mask as uint8 ``(H, W)``, class index or 255, and as stored."""
        stored = load_mask(path, str(path))
        return self._classes_of(stored, path), stored

    def values_fix(self, values: Sequence[int]) -> str:
        """Return the line of ``classes.json`` that names mask values, with the class names if there are enough."""
        return values_fix(values, self.file.names if self.file else (), bool(self.file and self.file.path.name == JSON))

    def mixed_fix(self, names: Sequence[str]) -> str:
        """Return the line of ``classes.json`` that makes 255 another value of the second class."""
        of_class = {index: value for value, index in self.file.values.items()} if self.file else {}
        values = [of_class.get(index, index) for index in range(len(names))]
        json_file = bool(self.file and self.file.path.name == JSON)
        return values_fix([*values, IGNORE], [*names, names[1]], json_file)

    def _classes_of(self, stored: StoredMask, path: Path) -> Tensor:
        values, table, file = stored.values, self.table, self.file
        with_colors = file is not None and bool(file.colors)
        if values.ndim == 3:
            if file and with_colors:
                return self._checked(classes_of_colors(values, file, path), values, path)
            values = gray_values(values, path)
        elif file and with_colors and values.dtype == np.uint8:
            if stored.palette is not None:
                # Counting indices takes as long as decoding: do so only if the palette gives a class another color.
                if not self._agrees(stored, file) or _invalid(values, table):
                    table = table_of_colors(stored, table, file, path)
            elif gray_is_color(values, table, file):
                return self._classes_of(StoredMask(np.repeat(values[..., None], 3, axis=2)), path)
        if values.dtype != np.uint8:
            values = self._as_integers(values, path)
            return self._checked(table[values], values, path)
        if invalid := _invalid(values, table):
            raise self._value_error(min(invalid), path)
        # A third of the time of indexing the table.
        mask = bytearray(values.tobytes()).translate(table[: IGNORE + 1].astype(np.uint8).tobytes())
        return torch.frombuffer(mask, dtype=torch.uint8).reshape(values.shape)

    def _agrees(self, stored: StoredMask, file: ClassFile) -> bool:
        """Return whether the palette shows no class in the color of another one."""
        palette = b"" if stored.palette is None else stored.palette[: stored.entries].tobytes()
        if palette not in self._agreeing:
            self._agreeing[palette] = palette_agrees(stored, self.table, file)
        return self._agreeing[palette]

    def _as_integers(self, values: NDArray[Any], path: Path) -> NDArray[np.int64]:
        """Return values of any type as integers within the table."""
        with np.errstate(invalid="ignore"):  # NaN raises UserError below
            integers = values.astype(np.int64)
            wrong = integers != values
        if wrong.any():
            problem = f"value {values[wrong][0]} is not an integer from 0 to 255"
            raise UserError(problem, path=path, fix="save an 8-bit mask")
        lowest = min([0, *self.file.values]) if self.file else 0
        if (beyond := (integers >= len(self.table) + lowest) | (integers < lowest)).any():
            raise self._value_error(integers[beyond].min(), path)
        return integers

    def _checked(self, mask: NDArray[np.int16], values: NDArray[Any], path: Path) -> Tensor:
        """Return a mask as tensor. Raises UserError if it holds -1."""
        if (mask < 0).any():
            raise self._value_error(values[mask < 0].min(), path)
        return torch.from_numpy(mask.astype(np.uint8))

    def _value_error(self, value: Any, path: Path) -> UserError:
        """Return the error for a value that is not a class, which names the pattern of the values if there is any."""
        problem = f"value {value} is not one of the {self.classes} classes ({self._listed()})"
        if value < 0 and not (self.file and self.file.listed_values):
            known = (
                {v for v, index in self.file.values.items() if index != IGNORE} if self.file else {*range(self.classes)}
            )
            fix = self.values_fix(sorted({int(value), *known})) if value >= SMALLEST_VALUE else EIGHT_BITS
            return UserError(problem, path=path, fix=fix)
        if self.file and self.file.listed_values and value <= IGNORE:
            fix = f'add "{value}", with its class or "ignore", to values in {self.file.path}'
            return UserError(problem, path=path, fix=fix)
        levels: set[int] = set()
        with suppress(UserError):
            examples = [self._integers(path), *self._examples]
            used = [used_values(mask)[0] for mask in examples]
            if pattern := implausible_classes(used, examples, self.values_fix):
                return UserError(f"{problem}: {pattern[0]}", path=path, fix=pattern[1])
            if int(value) in speckled_values(examples):
                return UserError(f"{problem}: {SPECKS}", path=path, fix=SPECKS_FIX)
            levels = {int(level) for mask in used for level in mask} - {IGNORE}
        if value > IGNORE:
            fix = "save an 8-bit mask"
            if 0 < len(levels) <= MOST_LEVELS:
                fix = f"{fix}, or {self.values_fix(sorted(levels))}"
            return UserError(f"value {value} is not an integer from 0 to 255", path=path, fix=fix)
        return UserError(problem, path=path, fix=self._naming_fix(int(value), levels))

    def _listed(self) -> str:
        """Return the values of the classes, for messages."""
        values = sorted(value for value, index in self.file.values.items() if index != IGNORE) if self.file else []
        if self.file and self.file.listed_values:
            return f"{self.file.path.name} lists the values {', '.join(map(str, sorted(self.file.values)))}"
        first, last = (values[0], values[-1]) if values else (0, self.classes - 1)
        return f"{first} to {last}, 255 is ignored"

    def _naming_fix(self, value: int, levels: set[int]) -> str:
        """Return how to name a value that the class file does not name. ``levels`` are the values of a few masks."""
        if self.file is None:
            return "correct the mask or the classes"
        if value == 0:
            return f"name value 0 in {self.file.path} too, such as background"
        if levels == set(range(1, self.classes + 1)):
            return f"if the names are those of 1 to {self.classes}, {self.values_fix(sorted(levels))}"
        if levels == set(range(self.classes + 1)):
            if self.file.path.name == "data.yaml":  # names of YOLO lack the background
                return "write classes.txt with the name of value 0, such as background, and then those of data.yaml"
            return f"add the name of value 0, such as background, above the others in {self.file.path}"
        return f"name it in {self.file.path}, or save the class of each pixel if the values number objects"

    def _integers(self, path: Path) -> NDArray[Any]:
        """Return the stored integers of a mask. Raises UserError for colors."""
        stored = load_mask(path, str(path))
        return stored.values if stored.values.ndim == 2 else gray_values(stored.values, path)

    def _used_values(self) -> list[NDArray[Any]]:
        """Return the used values of each mask, without unreadable ones, which raise when they are used."""

        def used(path: Path) -> NDArray[Any] | None:
            try:
                return used_values(self._integers(path))[0]
            except UserError:
                return None

        with ThreadPoolExecutor() as pool:
            return [values for values in pool.map(used, self.masks.values()) if values is not None]

    @cached_property
    def _examples(self) -> list[NDArray[Any]]:
        """The stored integers of a few masks."""
        examples = []
        for path in list(self.masks.values())[:EXAMPLES]:
            with suppress(UserError):
                examples.append(self._integers(path))
        return examples


def _invalid(values: NDArray[np.uint8], table: NDArray[np.int16]) -> bytes:
    """Return the values that are -1 in the table, once for each pixel."""
    return values.tobytes().translate(None, np.flatnonzero(table[: IGNORE + 1] >= 0).astype(np.uint8).tobytes())


def _value_table(values: Mapping[int, int]) -> NDArray[np.int16]:
    """Return a table from mask values to class indices, 255 (ignored) or -1 (invalid), of at least 256 entries."""
    lowest = min([0, *values])  # negative values index the table from its end
    table = np.full(max([IGNORE, *values]) + 1 - lowest, INVALID, dtype=np.int16)
    table[list(values)] = list(values.values())
    return table
