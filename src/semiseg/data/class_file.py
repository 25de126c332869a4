"""``classes.json``: class names, and optionally colors and a value to ignore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from semiseg.data.dataset import IGNORE, Color, SegmentationDataset
from semiseg.data.files.image_header import reason
from semiseg.data.splits.list_files import read_text
from semiseg.errors import UserError


class ClassFile(NamedTuple):
    """The content of ``classes.json``.

    Attributes:
        names: The class names.
        colors: The colors of mask values 0, 1, ..., at most 256; empty without a palette.
        ignored: The value to ignore besides 255: none or one.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignored: tuple[int, ...]


def read_class_file(path: Path) -> ClassFile:
    """Read ``{"classes": ["name", ...], "palette": [[red, green, blue], ...], "ignore": value or color}``.

    Raises:
        UserError: The file has another form.
    """
    try:
        content = json.loads(read_text(path))
        if not isinstance(content["classes"], list):
            raise TypeError("classes must be a list")
        names = tuple(str(name) for name in content["classes"])
        colors, ignored = _palette(content.get("palette") or (), content.get("ignore"), len(names))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        form = '{"classes": ["name", ...], "palette": [[red, green, blue], ...], "ignore": 255}'
        raise UserError(
            f"cannot be used ({type(error).__name__}: {reason(error)})",
            path=path,
            fix=f"write {form}; palette and ignore are optional",
        ) from error
    return ClassFile(names, colors, ignored)


def write_class_file(path: Path, dataset: SegmentationDataset) -> None:
    """Write the classes and the palette of a data set, with 255 as the ignored value."""
    content = {"classes": dataset.classes, "palette": dataset.palette, "ignore": IGNORE}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _palette(palette: Any, ignore: Any, classes: int) -> tuple[tuple[Color, ...], tuple[int, ...]]:
    """Return the colors and the value to ignore. ``ignore`` may be a color, which is replaced by its value."""
    colors = tuple(_color(entry) for entry in palette)
    if isinstance(ignore, list):
        if len(colors) < classes:
            raise ValueError("ignore is a color, which requires a palette with a color for each class")
        if (color := _color(ignore)) not in colors:
            colors = (*colors, color)  # the next free value
        ignore = colors.index(color)
    if ignore is not None and type(ignore) is not int:  # isinstance would accept True
        raise TypeError(f"ignore is {ignore!r:.40}, which is neither an integer nor a color")
    if len(colors) > IGNORE + 1:
        raise ValueError(f"{len(colors)} colors, but a mask has at most 256 values")
    return colors, (ignore,) if ignore is not None and 0 <= ignore <= IGNORE else ()


def _color(entry: Any) -> Color:
    red, green, blue = entry
    if not all(type(value) is int and 0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"color {entry!r:.60} is not three integers from 0 to 255")
    return red, green, blue
