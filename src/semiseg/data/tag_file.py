"""Image tags in ``tags.csv``: known present and absent classes per image."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from semiseg.data.splits.id_lookup import IdLookup
from semiseg.data.splits.list_files import read_text
from semiseg.errors import UserError, did_you_mean

PRESENT, ABSENT, UNKNOWN, INVALID = 1, 0, -1, -2
VALUES = {"1": PRESENT, "0": ABSENT, "": UNKNOWN, "?": UNKNOWN}
Tags = tuple[int, ...]
"""One value per class: 1 present, 0 absent, -1 unknown."""


def read_tags(path: Path, classes: tuple[str, ...], ids: Iterable[str]) -> dict[str, Tags]:
    """Read the tags of each image, in one of two forms.

    A header ``image,car,tree`` starts a table with one column per class. Cells are 1 (present), 0 (absent), or empty
    or ? (unknown). A class without a column is unknown. A header ``image,tags`` starts a list of present classes, as in
    ``a.jpg,car;tree``. All other classes are unknown. An image without a line is unknown throughout. Image names may
    have a folder and a suffix.

    Args:
        path: The file.
        classes: The class names.
        ids: The images.

    Raises:
        UserError: The file or a line in it cannot be used.
    """
    try:
        rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
        lines = [(rows.line_num, [cell.strip() for cell in row]) for row in rows if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problem = f"cannot be read ({type(error).__name__})"
        raise UserError(problem, path=path, fix="save it as comma-separated values in UTF-8") from None
    if not lines:
        fix = "write a first line with image and the class names, or remove the file"
        raise UserError("the file is empty", path=path, fix=fix)
    (_, header), *body = lines
    as_list = header == ["image", "tags"] and "tags" not in classes
    if not as_list:
        _check_header(path, header, classes)
    lookup, tags = IdLookup(ids), dict[str, Tags]()
    for number, row in body:
        fail = partial(_line_error, path, number)
        if len(row) != len(header):
            raise fail(f"{len(row)} cells, the first line has {len(header)}", "write one cell per column")
        try:
            id = lookup.find(row[0])
        except UserError as error:
            raise fail(error.problem, error.fix) from None
        if id is None:
            raise fail(f"{row[0]!r} is not an image of the data", "add the image or remove the line")
        if id in tags:
            raise fail(f"{row[0]!r} is listed twice", "remove one of the lines")
        if as_list:
            named = dict.fromkeys((name.strip() for name in row[1].split(";") if name.strip()), PRESENT)
        else:
            named = dict(zip(header[1:], (VALUES.get(cell, INVALID) for cell in row[1:]), strict=True))
        for column, (name, value) in enumerate(named.items(), 1):
            if name not in classes:
                raise fail(f"unknown class {name!r}: {did_you_mean(name, classes)}", "correct the name")
            if value == INVALID:
                raise fail(f"{name} is {row[column]!r}", "write 1 (present), 0 (absent), or nothing (unknown)")
        tags[id] = tuple(named.get(name, UNKNOWN) for name in classes)
        if set(tags[id]) == {ABSENT}:
            raise fail("every class is 0 (absent), but each pixel belongs to a class", "correct the line")
    return tags


def write_tags(path: Path, classes: tuple[str, ...], tags: Mapping[str, Tags]) -> None:
    """Write tags as a table with one column per class. Unknown tags are empty cells."""
    cell = {PRESENT: "1", ABSENT: "0", UNKNOWN: ""}
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", *classes])
        rows.writerows([id, *(cell[value] for value in values)] for id, values in tags.items())


def _check_header(path: Path, header: list[str], classes: tuple[str, ...]) -> None:
    if header[0] != "image" or len(header) < 2:
        problem = f"starts with {header[0]!r} and has {len(header)} cells"
        raise _line_error(path, 1, problem, "write image and then class names, or image,tags")
    for name in header[1:]:
        if name not in classes:
            raise _line_error(path, 1, f"unknown class {name!r}: {did_you_mean(name, classes)}", "correct the name")
        if header[1:].count(name) > 1:
            raise _line_error(path, 1, f"{name!r} is listed twice", "remove one of the columns")


def _line_error(path: Path, number: int, problem: str, fix: str | None = None) -> UserError:
    return UserError(f"line {number}: {problem}", path=path, fix=fix)
