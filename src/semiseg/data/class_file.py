"""Class files of a plain folder: which are read, and ``classes.json`` with names, colors and mask values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from semiseg.data.class_names import NAME_FILES, read_class_names
from semiseg.data.dataset import IGNORE, Color, SegmentationDataset
from semiseg.data.files.image_header import reason
from semiseg.data.palette_file import PALETTE_FILES, read_palette
from semiseg.data.splits.list_files import read_text
from semiseg.errors import UserError, did_you_mean

JSON = "classes.json"
CLASS_FILES = (JSON, "classes.txt", *PALETTE_FILES, *NAME_FILES)
"""The names of class files. If there are several, the first decides and the others must agree."""
SMALLEST_VALUE, LARGEST_VALUE = -32768, 65535
INVALID = -1
FORM = '{"classes": ["name", ...], "palette": [[red, green, blue], ...], "ignore": 255, "values": {"0": "name", ...}}'


@dataclass(frozen=True)
class ClassFile:
    """The classes of a plain folder.

    Attributes:
        path: The file they come from.
        names: The class names.
        values: The class index of each mask value, or 255 for ignored values. Other values are errors.
        colors: Colors of color masks, each with its class index, 255 or -1 (no class). A color may be listed twice.
        listed_values: Whether the file itself lists the mask values.
    """

    path: Path
    names: tuple[str, ...]
    values: Mapping[int, int]
    colors: tuple[tuple[Color, int], ...] = ()
    listed_values: bool = False


def find_class_file(root: Path, notes: list[str]) -> ClassFile | None:
    """Read the class file of a folder, or return None if there is none.

    Colors are taken from the first file that has any.

    Args:
        root: The folder.
        notes: Collects notes for the user.

    Raises:
        UserError: A class file has another form, or two of them disagree.
    """
    chosen: ClassFile | None = None
    for path in (root / name for name in CLASS_FILES if (root / name).exists()):
        try:
            found = read_class_file(path)
        except UserError as error:
            if chosen is None:
                raise
            notes.append(f"{path.name} is not used: {error.problem}")
            continue
        if found is None:
            continue
        if chosen is None:
            chosen = found
            continue
        _check_agreement(chosen, found)
        if found.colors and not chosen.colors:
            chosen = replace(chosen, colors=found.colors)
    if chosen and chosen.path.name == "data.yaml":  # names of YOLO often lack the background
        values = ", ".join(f"{value} is {chosen.names[i]}" for value, i in chosen.values.items() if i < IGNORE)
        known = any("background" in name.casefold() for name in chosen.names)
        notes.append(f"{'' if known else 'warning: '}classes come from data.yaml, so in masks {values}")
    return chosen


def _check_agreement(first: ClassFile, second: ClassFile) -> None:
    """Raise UserError unless two files have the same classes, up to case and underscores, with the same mask values."""

    def plain(file: ClassFile) -> list[str]:
        return [name.strip("_ ").casefold() for name in file.names]

    names, others = plain(first), plain(second)
    if second.path.name == "data.yaml" and len(others) == len(names) - 1:  # YOLO's names lack the background
        names = names[1:]
    if names != others:
        differing = [pair for pair in zip(names, others, strict=False) if pair[0] != pair[1]]
        shown = f"{differing[0][0]} and {differing[0][1]}" if differing else f"{len(names)} and {len(others)} classes"
        problem = f"{first.path.name} and {second.path.name} list different classes: {shown}"
    elif (
        not first.listed_values
        and len(first.names) == len(second.names)
        and (value := next((v for v, index in first.values.items() if second.values.get(v, index) != index), None))
        is not None
    ):
        problem = f"{first.path.name} and {second.path.name} give mask value {value} different meanings"
    else:
        return
    raise UserError(problem, path=first.path.parent, fix="correct one of the two, or move it to another folder")


def read_class_file(path: Path) -> ClassFile | None:
    """Read a class file of any of the known names. Return None if it names no classes, as other ``data.yaml`` files.

    Raises:
        UserError: The file has another form, or does not list 1 to 255 different names.
    """
    found = _read(path)
    names = found.names if found else ("",)
    if twice := next((name for index, name in enumerate(names) if name in names[:index]), None):
        problem = f"{len(names)} names, of which {twice!r} is listed twice"
    elif not 1 <= len(names) <= IGNORE:
        problem = f"{len(names)} names"
    else:
        return found
    raise UserError(problem, path=path, fix="write 1 to 255 different class names")


def _read(path: Path) -> ClassFile | None:
    if path.name == JSON:
        return _read_json(path)
    if path.name in PALETTE_FILES:
        palette = read_palette(path)
        indices = {entry: index for index, entry in enumerate(palette.known)}
        values = {value: indices.get(value, IGNORE) for value in range(len(palette.names))} | {IGNORE: IGNORE}
        colors = tuple((color, indices.get(entry, IGNORE)) for entry, color in enumerate(palette.colors))
        return ClassFile(path, tuple(palette.names[entry] for entry in palette.known), values, colors)
    entries = read_class_names(path)
    if entries is None:
        return None
    names = tuple(name for name in entries.values() if name is not None)
    indices = {value: index for index, value in enumerate(v for v, name in entries.items() if name is not None)}
    return ClassFile(path, names, {IGNORE: IGNORE} | {value: indices.get(value, IGNORE) for value in entries})


def _read_json(path: Path) -> ClassFile | None:
    """Read ``classes.json`` of the form ``FORM``. ``classes`` may be left out if ``values`` is given."""
    try:
        content = json.loads(read_text(path))
        if isinstance(content, dict) and content and content.keys() <= {"white", "bands"}:
            return None  # it only says how to read images
        _check_types(content)
        listed = content.get("values")
        given = content["classes"] if listed is None else content.get("classes", _names_of_values(listed))
        names = tuple(str(name) for name in given)
        colors, ignored = _palette(content.get("palette") or (), content.get("ignore"), len(names))
        values = _default_values(len(names)) if listed is None else _listed_values(listed, names)
        for value in ignored if listed is not None else ():
            if values.get(value, IGNORE) != IGNORE:
                problem = f"values makes {value} the class {names[values[value]]}, but ignore is {value}"
                raise UserError(problem, path=path, fix=f'remove ignore, or write "{value}": "ignore" in values')
        for value in ignored:  # takes precedence over a class with this value
            values[value] = IGNORE
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"cannot be used ({type(error).__name__}: {reason(error)})",
            path=path,
            fix=f"write {FORM}; palette, ignore and values are optional",
        ) from error
    if listed is None:  # a color stands for the mask value of its position
        meanings = [values.get(position, INVALID) for position in range(len(colors))]
    else:
        ignored_color = content.get("ignore") if isinstance(content.get("ignore"), list) else None
        meanings = [position if position < len(names) else INVALID for position in range(len(colors))]
        meanings = [IGNORE if [*color] == ignored_color else m for color, m in zip(colors, meanings, strict=True)]
    return ClassFile(path, names, values, tuple(zip(colors, meanings, strict=True)), listed is not None)


def _check_types(content: Any) -> None:
    """Raise TypeError unless the file holds an object whose entries have the types of ``FORM``."""
    if not isinstance(content, dict):
        raise TypeError(f"the file holds a {type(content).__name__} instead of an object in braces")
    for name, kind, words in (
        ("classes", list, "a list of names"),
        ("palette", list, "a list of colors"),
        ("values", dict, "an object"),
    ):
        if content.get(name) is not None and not isinstance(content[name], kind):
            raise TypeError(f"{name} must be {words}")
    if not all(isinstance(name, str | int | float) for name in content.get("classes") or ()):
        raise TypeError("classes must be a list of names")
    if not all(isinstance(color, list) for color in content.get("palette") or ()):
        raise TypeError("palette must be a list of colors, each [red, green, blue]")


def _default_values(classes: int) -> dict[int, int]:
    return {value: value for value in range(min(classes, IGNORE))} | {IGNORE: IGNORE}


def _names_of_values(values: Any) -> list[str]:
    """Return the class names in ``values``, in the order of their smallest value."""
    ordered = sorted(values.items(), key=lambda item: int(item[0]) if item[0].isdecimal() else 0)
    return list(dict.fromkeys(name for _, name in ordered if isinstance(name, str) and name != "ignore"))


def _listed_values(values: Any, names: tuple[str, ...]) -> dict[int, int]:
    """Return the meaning of each listed mask value. ``values`` maps them to a class name, a class index or "ignore"."""
    meanings = {}
    for key, meaning in values.items():
        if not key.removeprefix("-").isdecimal() or not SMALLEST_VALUE <= int(key) <= LARGEST_VALUE:
            raise ValueError(f"{key!r:.40} in values is not an integer from {SMALLEST_VALUE} to {LARGEST_VALUE}")
        if int(key) < 0 and meaning != "ignore":
            raise ValueError(f'the negative value {key} can only be "ignore"')
        if type(meaning) is int and 0 <= meaning < len(names):
            meanings[int(key)] = meaning
        elif meaning in names:
            meanings[int(key)] = names.index(meaning)
        elif meaning == "ignore":
            meanings[int(key)] = IGNORE
        else:
            raise ValueError(f"{meaning!r:.40} in values is not a class: {did_you_mean(str(meaning), names)}")
    if not meanings:
        raise ValueError("values lists no value")
    return meanings


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
    return colors, (ignore,) if ignore is not None and 0 <= ignore <= LARGEST_VALUE else ()


def _color(entry: Any) -> Color:
    red, green, blue = entry
    if not all(type(value) is int and 0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"color {entry!r:.60} is not three integers from 0 to 255")
    return red, green, blue
