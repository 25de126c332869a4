"""Find indexed masks whose palettes show that their indices number the classes differently."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from semiseg.data.dataset import Color, MaskRecord, default_palette

PALETTE_FIX = "write palette.txt with a name and a color (name r g b) per class, so that masks are read by color"
ORDER_FIX = (
    "write all masks with one order of classes (semiseg import --classes FOLDER), or save these masks with the colors "
    "of the class file if their indices are right"
)
BLACK = (0, 0, 0)


@dataclass(frozen=True)
class PaletteConflict:
    """How indexed masks of a folder contradict each other.

    Attributes:
        text: The index or color in question, and what it means in both masks.
        fix: How to correct it.
        ids: The two masks; empty if all masks contradict the name of class 0.
        certain: Whether the masks are refused. Colors that tools give by default may be for display only.
    """

    text: str
    fix: str
    ids: tuple[str, ...] = ()
    certain: bool = True


def palette_conflict(
    records: Mapping[str, MaskRecord], name: str, listed: Mapping[int, Set[Color]]
) -> PaletteConflict | None:
    """Return how the palettes of indexed masks contradict each other or the classes, or None.

    Args:
        records: The record of each mask.
        name: The name of class 0.
        listed: The colors that the class file lists for the class of each mask value; empty if it lists none. Masks
            that show listed colors only are read correctly, by color or by index.
    """
    named = {color for colors in listed.values() for color in colors}
    own = {id: record for id, record in records.items() if listed and named.issuperset(record.colors.values())}
    others = {id: record for id, record in records.items() if id not in own and not _for_display(record)}
    if found := _contradiction(others):
        return PaletteConflict(found[2], ORDER_FIX if listed else PALETTE_FIX, found[:2])
    if not listed:
        text = _black_is_not_background(records, name)
        return PaletteConflict(text, PALETTE_FIX) if text else None
    return _two_groups(own, others, listed)


def _two_groups(
    own: Mapping[str, MaskRecord], others: Mapping[str, MaskRecord], listed: Mapping[int, Set[Color]]
) -> PaletteConflict | None:
    """Compare masks in the colors of the class file, or without colors, with masks in others.

    Without such masks, the colors are for display only.
    """
    shown = {pair for record in others.values() for pair in record.colors.items()} | {(0, BLACK)}
    first = next((id for id, record in own.items() if record.colors.items() - shown), None)
    plain = first is None
    if plain:
        first = next((id for id, record in own.items() if record.plain), None)
    if first is None:
        return None
    default = default_palette(256)
    for id, record in others.items():
        for index, color in record.colors.items():
            if listed.get(index) and color not in listed[index]:
                has = "no palette, and the class file lists" if plain else "the colors of the class file,"
                text = (
                    f"one has {has} {min(listed[index])} for index {index}, and the other displays index {index} as "
                    f"{color}"
                )
                certain = not plain and any(shade != default[position] for position, shade in record.colors.items())
                return PaletteConflict(text, ORDER_FIX, (first, id), certain)
    return None


def _for_display(record: MaskRecord) -> bool:
    """Return whether a palette has one color for several used indices, or shows each as its gray level."""
    colors = record.colors
    gray = len(colors) > 1 and all(color == (index,) * 3 for index, color in colors.items())
    return gray or len(set(colors.values())) < len(colors)


def _contradiction(records: Mapping[str, MaskRecord]) -> tuple[str, str, str] | None:
    """Return the ids of two masks whose palettes disagree, and how; None if colors and indices go together."""
    colors: dict[int, tuple[Color, str]] = {}
    indices: dict[Color, tuple[int, str]] = {}
    for id, record in records.items():
        for index, color in record.colors.items():
            position, first = indices.setdefault(color, (index, id))
            if position != index:
                return first, id, f"the color {color} has the index {position} in one and {index} in the other"
            other, first = colors.setdefault(index, (color, id))
            if other != color:
                return first, id, f"index {index} is displayed as {other} in one and as {color} in the other"
    return None


def _black_is_not_background(records: Mapping[str, MaskRecord], name: str) -> str:
    """Return how palettes contradict that value 0, called ``name``, is the background, or an empty string."""
    colors = {index: color for record in records.values() for index, color in record.colors.items()}
    black = next((index for index, color in colors.items() if index and color == BLACK), None)
    if black is None or "background" not in name.casefold() or colors.get(0, BLACK) == BLACK:
        return ""
    return f"index 0 ({name}) is displayed as {colors[0]} and index {black} as black"
