"""Files of class names: ``classes.txt``, LabelMe's lists, Roboflow's ``_classes.csv`` and YOLO's ``data.yaml``."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from semiseg.data.files.image_header import reason
from semiseg.data.splits.list_files import read_lines, read_text
from semiseg.errors import UserError, require_regular_file

NAME_FILES = ("class_names.txt", "labels.txt", "_classes.csv", "data.yaml")
IGNORED = "__ignore__"
"""LabelMe's name for pixels that are not annotated. As the first line, it has no value of its own."""
NUMBERED = re.compile(r"(\d+)\s*[\s:;,=.)\t-]\s*(\S.*)")
NUMBERED_AT_END = re.compile(r"(.*[^\s:;,=])[\s:;,=]+(\d+)")
WITH_COLOR = re.compile(r"^\d+[ ,;\t]+\d+[ ,;\t]+\d+[ ,;\t]|[ ,;\t]\d+[ ,;\t]+\d+[ ,;\t]+\d+$")
Entries = dict[int, str | None]


def read_class_names(path: Path) -> Entries | None:
    """Return the class name of each mask value, None for ignored values, or None if the file is about something else.

    Raises:
        UserError: The file cannot be read, or the meaning of its numbers is unclear.
    """
    if path.name == "data.yaml":
        return _read_yaml(path)
    _refuse_utf16(path)
    if path.name == "_classes.csv":
        return _read_csv(path)
    names = list(read_lines(path))
    if len(names) == 1 and re.search(r"\S[,;]\s*\S", names[0]):
        raise UserError(f"{names[0]!r:.80} is one line", path=path, fix="write one name per line")
    if marked := [name for name in names if name.startswith("#")]:
        problem = f"the line {marked[0]!r:.80} may be a comment or a class"
        fix = "remove it if it is a comment, or write the names into classes.json if it is a class"
        raise UserError(problem, path=path, fix=fix)
    if names and names[0] == IGNORED:
        names = names[1:]
    names = _without_numbers(path, names)
    return {value: None if name == IGNORED else name for value, name in enumerate(names)}


def _refuse_utf16(path: Path) -> None:
    """Raise UserError for UTF-16 text. Other errors are left to the reader of the file."""
    try:
        with require_regular_file(path).open("rb") as file:  # opening a pipe would block
            head = file.read(64)
    except OSError:
        return
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head:
        raise UserError("the text is UTF-16, which Windows calls Unicode", path=path, fix="save it as UTF-8")


def _without_numbers(path: Path, names: list[str]) -> list[str]:
    """Return names without the numbers of their lines, 0, 1, .... Raises UserError if they are other numbers."""
    if names and all(WITH_COLOR.search(name) for name in names):
        raise UserError("the lines hold names and colors", path=path, fix="rename it to palette.txt")
    pairs = [(int(match[1]), match[2]) for name in names if (match := NUMBERED.fullmatch(name))]
    if not names or len(pairs) < len(names):
        pairs = [(int(match[2]), match[1]) for name in names if (match := NUMBERED_AT_END.fullmatch(name))]
        in_order = sorted(number for number, _ in pairs) == [number for number, _ in pairs]
        if not names or len(pairs) < len(names) or in_order or len({name for _, name in pairs}) < len(pairs):
            return names
    numbers = [number for number, _ in pairs]
    if numbers == list(range(len(names))):
        return [name for _, name in pairs]
    problem = (
        f"the lines are numbered {', '.join(map(str, numbers[:3]))}, ...; the numbers may or may not be mask values"
    )
    content = json.dumps({"values": {str(number): name for number, name in pairs}}, ensure_ascii=False)
    fix = f"if they are, write classes.json with {content}; otherwise write only the names, that of value 0 first"
    raise UserError(problem, path=path, fix=fix)


def _read_csv(path: Path) -> Entries:
    """Read lines such as ``1, square`` below the heading ``Pixel Value, Class``."""
    entries: Entries = {}
    for number, line in enumerate(read_lines(path)):
        match = re.fullmatch(r"(\d{1,3})\s*[,;]\s*(.+)", line)
        if match and int(match[1]) <= 255:
            entries[int(match[1])] = match[2].strip("\"' ")
        elif number:
            raise UserError(f"{line!r:.80} is not a value and a name", path=path, fix="write lines such as: 1, tree")
    return dict(sorted(entries.items()))


def _read_yaml(path: Path) -> Entries | None:
    """Read ``names`` of YOLO's ``data.yaml``: a list, or a mapping from numbers."""
    import yaml

    try:
        content: Any = yaml.safe_load(read_text(path))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        problem = f"cannot be read ({type(error).__name__}: {reason(error)})"
        raise UserError(problem, path=path, fix="correct it, or write classes.txt") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        return None
    if not all(type(value) is int and 0 <= value <= 255 for value in names):
        raise UserError("names has keys that are not mask values", path=path, fix="number the classes from 0")
    return {value: str(name) for value, name in sorted(names.items())}


def similar_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that another name equals up to case and spaces."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups["".join(name.split()).casefold()].append(name)
    return tuple(name for group in groups.values() if len(group) > 1 for name in group)


def similar_names_note(names: Iterable[str]) -> str:
    """Return the note on names from ``similar_names``."""
    return f"class names that differ only by case or spaces: {', '.join(map(repr, names))}"
