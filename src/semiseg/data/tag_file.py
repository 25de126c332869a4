"""Image tags in DIR/tags.csv: which classes an image shows, as far as somebody has said."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from semiseg.data.splits.list_files import find_id, read_text
from semiseg.errors import UserError, did_you_mean

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
VALUES = {"1": PRESENT, "0": ABSENT, "": UNKNOWN, "?": UNKNOWN}
Tags = tuple[int, ...]
"""One value a class: 1 present, 0 absent, -1 unknown."""


def read_tags(path: Path, classes: tuple[str, ...], ids: Iterable[str]) -> dict[str, Tags]:
    """Read tags by image, in one of two forms.

    ``image,car,tree`` heads a table with a column for each class of which something is known, and a cell holds 1
    (present), 0 (absent), or nothing or ? (unknown); a class without a column is unknown. ``image,tags`` heads a list
    of what is present, ``a.jpg,car;tree``: all else is unknown, nothing is absent. An image without a line is unknown
    throughout; a folder before an image's name or a suffix behind it is tolerated.

    Raises:
        UserError: the file or a line of it cannot be used; the message names both.
    """
    try:
        rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
        lines = [(rows.line_num, [cell.strip() for cell in row]) for row in rows if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); it must be a UTF-8 file of commas") from None
    if not lines:
        raise UserError(f"{path}: the file is empty; write image and the class names into its first line, or remove it")
    (_, header), *body = lines
    as_list = header == ["image", "tags"] and "tags" not in classes
    if not as_list:
        _check_header(path, header, classes)
    known, tags = set(ids), dict[str, Tags]()
    for number, row in body:
        where = f"{path}, line {number}"
        if len(row) != len(header):
            raise UserError(f"{where}: {len(row)} cells, the first line has {len(header)}; write a cell for each")
        id = find_id(row[0], known)
        if id is None:
            raise UserError(f"{where}: {row[0]!r} is no image of the data; add the image or take the line out")
        if id in tags:
            raise UserError(f"{where}: {row[0]!r} has a line already; take one of them out")
        named = _listed(where, row[1], classes) if as_list else _cells(where, header[1:], row[1:])
        tags[id] = tuple(named.get(name, UNKNOWN) for name in classes)
        if set(tags[id]) == {ABSENT}:
            raise UserError(f"{where}: every class is 0 (absent), yet each pixel belongs to one; correct the line")
    return tags


def write_tags(path: Path, classes: tuple[str, ...], tags: Mapping[str, Tags]) -> None:
    """Write tags as a table with a column a class; unknown is an empty cell."""
    cell = {PRESENT: "1", ABSENT: "0", UNKNOWN: ""}
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", *classes])
        rows.writerows([id, *(cell[value] for value in values)] for id, values in tags.items())


def _check_header(path: Path, header: list[str], classes: tuple[str, ...]) -> None:
    remedy = "write image and then class names, or image,tags"
    if header[0] != "image" or len(header) < 2:
        raise UserError(f"{path}, line 1: it begins with {header[0]!r} and has {len(header)} cells; {remedy}")
    for name in header[1:]:
        if name not in classes:
            raise UserError(f"{path}, line 1: {name!r} is no class: {did_you_mean(name, classes)}")
        if header[1:].count(name) > 1:
            raise UserError(f"{path}, line 1: {name!r} stands there twice; take one of the columns out")


def _listed(where: str, text: str, classes: tuple[str, ...]) -> dict[str, int]:
    names = [name.strip() for name in text.split(";") if name.strip()]
    for name in names:
        if name not in classes:
            raise UserError(f"{where}: {name!r} is no class: {did_you_mean(name, classes)}")
    return dict.fromkeys(names, PRESENT)


def _cells(where: str, names: list[str], cells: list[str]) -> dict[str, int]:
    for name, cell in zip(names, cells, strict=True):
        if cell not in VALUES:
            raise UserError(f"{where}: {name} is {cell!r}; write 1 (present), 0 (absent), or nothing (unknown)")
    return {name: VALUES[cell] for name, cell in zip(names, cells, strict=True)}
