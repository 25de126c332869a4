"""Files of class names and colors: CamVid's ``label_colors.txt``, ``class_dict.csv``, and what people write alike."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from semiseg.data.dataset import Color
from semiseg.data.splits.list_files import read_lines
from semiseg.errors import UserError

PALETTE_FILES = ("palette.txt", "palette.csv", "label_colors.txt", "class_dict.csv")
UNKNOWN = ("void", "ignore", "ignored", "unlabeled", "unlabelled")
"""Names, in any case, that say that nothing is known of a pixel: no class, but 255."""


@dataclass(frozen=True)
class Palette:
    """The entries of a palette, in the order of the file.

    Attributes:
        names: of all entries.
        colors: likewise.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]

    @property
    def known(self) -> tuple[int, ...]:
        """The positions of the entries that are classes."""
        return tuple(index for index, name in enumerate(self.names) if name.lower() not in UNKNOWN)

    @property
    def unknown(self) -> tuple[int, ...]:
        """The positions of the entries that are ignored."""
        return tuple(index for index in range(len(self.names)) if index not in self.known)


def read_palette(path: Path) -> Palette:
    """Read a name and three numbers a line, ``name r g b`` or ``r g b name``, with spaces, tabs or commas between.

    A heading (``name,r,g,b``) and lines that begin with ``#`` are passed over.

    Raises:
        UserError: a line is none of that, or a name or color stands there twice.
    """
    entries: list[tuple[str, Color]] = []
    for line in read_lines(path):
        heading = not entries and not re.search(r"\d", line) and len(re.split(r"[,;\s]+", line.strip())) >= 4
        if line.startswith("#") or heading:
            continue
        line = " ".join(line.split())  # many spaces in a row would take the search for a match a long time
        between = "(?: ?[,;] ?| )"
        numbers = between.join([r"(\d+)"] * 3)
        if match := re.fullmatch(rf"(.+?){between}{numbers}", line):
            name, *color = match.groups()
        elif match := re.fullmatch(rf"{numbers}{between}(.+)", line):
            *color, name = match.groups()
        else:
            raise UserError(f"{path}: {line!r} is no class; write its name and three numbers, such as: tree 0 128 0")
        entries.append((name.strip("\"' "), make_color(path, line, color)))
    return make_palette(path, entries)


def make_color(path: Path, line: str, values: list[str]) -> Color:
    """Return the color; raises UserError, with the line, unless it is three numbers from 0 to 255."""
    if len(values) != 3 or not all(re.fullmatch(r"\s*\d{1,3}\s*", value) and int(value) <= 255 for value in values):
        raise UserError(f"{path}: {line!r}: a color is three numbers from 0 to 255; correct the line")
    red, green, blue = (int(value) for value in values)
    return red, green, blue


def make_palette(path: Path, entries: list[tuple[str, Color]]) -> Palette:
    """Return the palette; raises UserError where it is empty or a name or color stands there twice."""
    names, colors = tuple(name for name, _ in entries), tuple(color for _, color in entries)
    for kind, values in (("name", names), ("color", colors)):
        for index, value in enumerate(values):
            if value in values[:index]:
                first = names[values.index(value)]
                raise UserError(f"{path}: the {kind} {value} stands there twice, first for {first}; give each its own")
    palette = Palette(names, colors)
    if not palette.known or len(names) > 255:
        raise UserError(f"{path}: {len(palette.known)} classes in {len(names)} lines; write 1 to 255, a line each")
    return palette
