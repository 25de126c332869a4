"""``classes.json`` of an own folder: names, and optionally a color for each and what else is ignored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from semiseg.data.dataset import IGNORE, Color
from semiseg.data.files.image_files import reason
from semiseg.data.splits.list_files import read_text
from semiseg.errors import UserError


class ClassFile(NamedTuple):
    """What it says.

    Attributes:
        names: of the classes.
        colors: of the values 0, 1, ... of a mask, as far as they have one; at most 256.
        ignored: the value that is ignored beside 255, none or one.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignored: tuple[int, ...]


def read_class_file(path: Path) -> ClassFile:
    """Read ``{"classes": ["name", ...], "palette": [[red, green, blue], ...], "ignore": value or color}``.

    Raises:
        UserError: it is none of that.
    """
    try:
        content = json.loads(read_text(path))
        if not isinstance(content["classes"], list):
            raise TypeError("classes is no list")
        names = tuple(str(name) for name in content["classes"])
        colors, ignored = _palette(content.get("palette") or (), content.get("ignore"), len(names))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be used ({type(error).__name__}: {reason(error)}); write "
            '{"classes": ["name", ...], "palette": [[red, green, blue], ...], "ignore": 255}, the last two optional'
        ) from error
    return ClassFile(names, colors, ignored)


def _palette(palette: Any, ignore: Any, classes: int) -> tuple[tuple[Color, ...], tuple[int, ...]]:
    """Return the colors and the value to ignore, which is that of its color where ``ignore`` is one."""
    colors = tuple(_color(entry) for entry in palette)
    if isinstance(ignore, list):
        if len(colors) < classes:
            raise ValueError("ignore is a color, so the palette needs a color for each class")
        if (color := _color(ignore)) not in colors:
            colors = (*colors, color)  # with an index of its own, after the palette's
        ignore = colors.index(color)
    if ignore is not None and type(ignore) is not int:  # True is 1 to Python, and 1.9 to int()
        raise TypeError(f"ignore is {ignore!r:.40}, which is neither a whole number nor a color")
    if len(colors) > IGNORE + 1:
        raise ValueError(f"{len(colors)} colors, but a mask has 256 values at most")
    return colors, (ignore,) if ignore is not None and 0 <= ignore <= IGNORE else ()


def _color(entry: Any) -> Color:
    red, green, blue = entry
    if not all(type(value) is int and 0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"color {entry!r:.60} is not three whole numbers from 0 to 255")
    return red, green, blue
