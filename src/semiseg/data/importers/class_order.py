"""Number the classes of an import like those of an own folder, so that its masks can be copied there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from semiseg.data.class_file import ClassFile, find_class_file, read_class_file
from semiseg.data.dataset import IGNORE, Color, default_palette
from semiseg.errors import UserError


@dataclass(frozen=True)
class ClassOrder:
    """Classes in the order of an own folder.

    Attributes:
        path: The class file.
        names: The class names.
        palette: Their colors.
    """

    path: Path
    names: tuple[str, ...]
    palette: tuple[Color, ...]

    def table(self, names: Sequence[str], source: Path) -> Tensor:
        """Return the index of each class of an import, uint8 ``(256,)``. Raises UserError, naming ``source``."""
        if unknown := [name for name in names if name not in self.names]:
            problem = f"{self.path} lacks the classes {', '.join(map(repr, unknown))}, and has {', '.join(self.names)}"
            raise UserError(problem, path=source, fix="rename them in the annotation, or add them there at the end")
        table = torch.full((IGNORE + 1,), IGNORE, dtype=torch.uint8)
        table[: len(names)] = torch.tensor([self.names.index(name) for name in names], dtype=torch.uint8)
        return table


def read_class_order(path: str | Path) -> ClassOrder:
    """Read the classes of an own folder or of a class file.

    Raises:
        UserError: There is no class file, or its mask values are not 0, 1, 2, ...
    """
    given = Path(path)
    file: ClassFile | None = None
    if given.is_dir():
        file = find_class_file(given, [])
    elif given.is_file():
        file = read_class_file(given)
    if file is None:
        raise UserError(f"{path} has no class file", option="classes", fix="give an own folder with classes.json")
    values = {value: index for value, index in file.values.items() if index != IGNORE}
    if values != {index: index for index in range(len(file.names))}:
        problem = f"{file.path} gives the classes other mask values than 0 to {len(file.names) - 1}"
        raise UserError(problem, option="classes", fix="import without it, and train on the new folder")
    colors = dict(reversed([(index, color) for color, index in file.colors]))
    palette = tuple(colors.get(index, color) for index, color in enumerate(default_palette(len(file.names))))
    return ClassOrder(file.path, file.names, palette)
