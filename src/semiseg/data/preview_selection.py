"""A few of many images, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
PREVIEW_COUNT = 3


def evenly_spaced(ids: Sequence[T], limit: int | None) -> Sequence[T]:
    """Return ``limit`` of the ids (or files), spread evenly over the list, or all of them.

    Example:
        >>> spread(["a", "b", "c", "d", "e"], 2)
        ['a', 'c']
    """
    if limit is None or limit >= len(ids):
        return ids
    return [ids[index * len(ids) // limit] for index in range(limit)]


def select_distinct(ranked: Sequence[str], ids: Sequence[str], shown: Sequence[str] = ()) -> list[str]:
    """Return the first few of the ranked images that are no near neighbors in the list of one another or of those
    shown already: neighbors are often frames of one video, and alike."""
    place, taken = {id: index for index, id in enumerate(ids)}, list(shown)
    for id in ranked:
        if len(taken) < len(shown) + PREVIEW_COUNT and all(
            abs(place[id] - place[other]) > len(ids) // 20 for other in taken
        ):
            taken.append(id)
    return taken[len(shown) :]
