"""Files of class names and colors: ``palette.txt``, CamVid's ``label_colors.txt`` and ``class_dict.csv``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from semiseg.data.dataset import Color
from semiseg.data.splits.list_files import read_lines
from semiseg.errors import UserError

PALETTE_FILES = ("palette.txt", "palette.csv", "label_colors.txt", "class_dict.csv")
UNKNOWN = ("void", "ignore", "ignored", "unlabeled", "unlabelled")
"""Names, in any case, of entries that are not classes. Their pixels become 255."""


@dataclass(frozen=True)
class Palette:
    """The entries of a palette file, in order.

    Attributes:
        names: The name of each entry.
        colors: The color of each entry.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]

    @property
    def known(self) -> tuple[int, ...]:
        """The indices of the entries that are classes."""
        return tuple(index for index, name in enumerate(self.names) if name.lower() not in UNKNOWN)

    @property
    def unknown(self) -> tuple[int, ...]:
        """The indices of the entries that are ignored."""
        return tuple(index for index in range(len(self.names)) if index not in self.known)


def read_palette(path: Path) -> Palette:
    """Read one entry per line, ``name r g b`` or ``r g b name``, separated by spaces, tabs, commas or semicolons.

    A header (``name,r,g,b``) and lines that start with ``#`` are skipped.

    Raises:
        UserError: A line has another form, or a name or color is listed twice.
    """
    entries: list[tuple[str, Color]] = []
    for line in read_lines(path):
        heading = not entries and not re.search(r"\d", line) and len(re.split(r"[,;\s]+", line.strip())) >= 4
        if line.startswith("#") or heading:
            continue
        line = " ".join(line.split())  # long runs of spaces would make the match below slow
        between = "(?: ?[,;] ?| )"
        numbers = between.join([r"(\d+)"] * 3)
        if match := re.fullmatch(rf"(.+?){between}{numbers}", line):
            name, *color = match.groups()
        elif match := re.fullmatch(rf"{numbers}{between}(.+)", line):
            *color, name = match.groups()
        else:
            raise UserError(f"{line!r} is not a name and a color", path=path, fix="write lines such as: tree 0 128 0")
        entries.append((name.strip("\"' "), make_color(path, line, color)))
    return make_palette(path, entries)


def make_color(path: Path, line: str, values: list[str]) -> Color:
    """Convert three numbers from 0 to 255 to a color. Raises UserError, quoting the line, for other values."""
    if len(values) != 3 or not all(re.fullmatch(r"\s*\d{1,3}\s*", value) and int(value) <= 255 for value in values):
        raise UserError(f"the color in {line!r} is not three numbers from 0 to 255", path=path, fix="correct the line")
    red, green, blue = (int(value) for value in values)
    return red, green, blue


def make_palette(path: Path, entries: list[tuple[str, Color]]) -> Palette:
    """Return the palette. Raises UserError if it has no classes, or a name or color is listed twice."""
    names, colors = tuple(name for name, _ in entries), tuple(color for _, color in entries)
    for kind, values in (("name", names), ("color", colors)):
        for index, value in enumerate(values):
            if value in values[:index]:
                first = names[values.index(value)]
                problem = f"the {kind} {value} is listed twice, first for {first}"
                raise UserError(problem, path=path, fix=f"give each entry its own {kind}")
    palette = Palette(names, colors)
    if not palette.known or len(names) > 255:
        raise UserError(f"{len(palette.known)} classes in {len(names)} lines", path=path, fix="list 1 to 255 classes")
    return palette
