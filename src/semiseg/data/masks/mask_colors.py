"""Convert colors of masks to classes, and decide whether an indexed mask goes by its colors or by its indices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiseg.data.class_file import INVALID, ClassFile
from semiseg.data.dataset import IGNORE, Color
from semiseg.data.files.mask_files import THRESHOLD, StoredMask, color_codes, color_indices
from semiseg.data.masks.mask_patterns import blended_share, used_values
from semiseg.errors import UserError

SHOWN = 6  # colors that an error suggests to name


def classes_of_colors(values: NDArray[np.uint8], file: ClassFile, path: Path) -> NDArray[np.int16]:
    """Convert RGB values ``(H, W, 3)`` to class indices, 255 or -1, int16 ``(H, W)``.

    Raises:
        UserError: A color is not in the class file, or is listed twice there.
    """
    colors = tuple(color for color, _ in file.colors)
    if twice := next((color for color, times in Counter(colors).items() if times > 1), None):
        raise UserError(f"the color {twice} is listed twice", path=file.path, fix="give each class its own color")
    indices = color_indices(values, colors)
    if isinstance(indices, tuple):
        raise _unknown_color(values, indices, colors, file.path, path)
    return np.array([meaning for _, meaning in file.colors], dtype=np.int16)[indices]


def _unknown_color(
    values: NDArray[np.uint8], color: Color, colors: Sequence[Color], class_file: Path, path: Path
) -> UserError:
    """Return the error for a mask with a color that is not in the class file, which may come from antialiasing."""
    known = np.isin(color_codes(values), color_codes(np.array(colors)))
    if share := blended_share(values, known, np.array(colors)):
        return UserError(
            f"{share:.1%} of the pixels have colors between those of {class_file}, such as {color}: the edges are "
            "antialiased or the mask was resized or compressed",
            path=path,
            fix=f"{THRESHOLD}, or save masks without antialiasing",
        )
    return UserError(f"color {color} is not in the palette of {class_file}", path=path, fix="add it there")


def unnamed_colors(values: NDArray[np.uint8], path: Path) -> UserError:
    """Return the error for a color mask of a folder whose class file names no colors."""
    codes, counts = np.unique(color_codes(values), return_counts=True)
    frequent = codes[np.argsort(-counts, kind="stable")][
        counts[np.argsort(-counts, kind="stable")] >= counts.sum() / 200
    ]
    colors = np.stack([frequent >> 16, frequent >> 8 & 255, frequent & 255], -1)
    color = tuple(values[(values != values[..., :1]).any(axis=-1)][0].tolist())
    known = np.isin(color_codes(values), frequent)
    if len(codes) > len(frequent) >= 2 and blended_share(values, known, colors):
        return UserError(
            f"the mask holds {len(codes)} colors, most of them between the {len(frequent)} frequent ones: the edges "
            "are antialiased or the mask was resized or compressed",
            path=path,
            fix="save masks without antialiasing, and name their colors in palette.txt",
        )
    lines = ", ".join(f"NAME {red} {green} {blue}" for red, green, blue in colors[:SHOWN].tolist())
    more = ", ..." if len(codes) > SHOWN else ""
    return UserError(
        f"the mask holds colors, such as {color}",
        path=path,
        fix=f"write palette.txt with a name and a color per line ({lines}{more}), or the colors into the palette of "
        "classes.json, or save integers",
    )


def table_of_colors(mask: StoredMask, by_index: NDArray[np.int16], file: ClassFile, path: Path) -> NDArray[np.int16]:
    """Return the table from indices to classes for an indexed mask, whose palette may order colors in its own way.

    - If every used index that the class file gives a color is displayed in it, the table is ``by_index``.
    - If all displayed colors are in the class file, the mask goes by them.
    - If none is, except for such equal ones, its palette is for display only, and the table is ``by_index``.

    Args:
        mask: The mask, with a palette.
        by_index: The meaning of each mask value: a class index, 255 or -1.
        file: The class file.
        path: The mask.

    Raises:
        UserError: Some colors contradict their index, and others are unknown.
    """
    if mask.palette is None:
        return by_index
    used, meanings = used_values(mask.values)[0].tolist(), _meanings(file)
    displayed = {index: _as_color(mask.palette[index]) for index in used if index < mask.entries}
    found = {index: meanings.get(displayed.get(index, ())) for index in used if index != IGNORE}
    opposed = [index for index, classes in found.items() if classes and int(by_index[index]) not in classes]
    if not opposed:
        return by_index
    unknown = [index for index, classes in found.items() if not classes]
    ambiguous = any(len(classes) > 1 for classes in found.values() if classes)
    if unknown or ambiguous:
        colors, shown = tuple(color for color, _ in file.colors), mask.palette[mask.values]
        known = np.isin(color_codes(shown), color_codes(np.array(colors)))
        if blended_share(shown, known, np.array(colors)):
            raise _unknown_color(shown, _as_color(shown[~known][0]), colors, file.path, path)
        index = opposed[0]
        raise UserError(
            f"index {index} is displayed in the color {displayed[index]}, which {file.path} gives another class"
            + (f", and the color {displayed.get(unknown[0])} of index {unknown[0]} is not there" if unknown else ""),
            path=path,
            fix="list all colors of the masks there, or save masks with the indices of its classes",
        )
    table = np.full(256, INVALID, dtype=np.int16)
    for index in used:  # only 255 may have a color that is not listed
        table[index] = next(iter(meanings.get(displayed.get(index, ()), {IGNORE})))
    return table


def palette_agrees(mask: StoredMask, by_index: NDArray[np.int16], file: ClassFile) -> bool:
    """Return whether the palette of a mask shows no class, used or not, in a listed color of another one."""
    if mask.palette is None:
        return True
    meanings = _meanings(file)
    shown = [meanings.get(_as_color(color)) for color in mask.palette[: min(mask.entries, IGNORE)]]
    return all(by_index[index] in found for index, found in enumerate(shown) if found and by_index[index] != INVALID)


def _meanings(file: ClassFile) -> dict[tuple[int, ...], set[int]]:
    """Return the meanings of each color of a class file: class indices, 255 or -1."""
    meanings: dict[tuple[int, ...], set[int]] = {}
    for color, meaning in file.colors:
        meanings.setdefault(color, set()).add(meaning)
    return meanings


def _as_color(values: NDArray[np.uint8]) -> Color:
    red, green, blue = values.tolist()
    return red, green, blue


def gray_is_color(values: NDArray[np.uint8], by_value: NDArray[np.int16], file: ClassFile) -> bool:
    """Return whether gray values are colors of the class file and not mask values.

    This is the case if each used value is a listed gray, and one of them, 255 included, is not the value of a class.
    """
    grays = {color[0] for color, _ in file.colors if len(set(color)) == 1}
    if len(grays) < 2:
        return False
    used = used_values(values)[0].tolist()
    return grays.issuperset(used) and any(value == IGNORE or by_value[value] == INVALID for value in used)


def gray_values(values: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """Return the integers in a file of three equal channels. Raises UserError if it holds colors."""
    if (values == values[..., :1]).all():
        return values[..., 0].copy()
    raise unnamed_colors(values, path)
