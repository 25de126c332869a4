"""Select a few images for previews."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
PREVIEW_COUNT = 3


def evenly_spaced(items: Sequence[T], limit: int | None) -> Sequence[T]:
    """Return ``limit`` of the items, evenly spaced, or all of them.

    Example:
        >>> evenly_spaced(["a", "b", "c", "d", "e"], 2)
        ['a', 'c']
    """
    if limit is None or limit >= len(items):
        return items
    return [items[index * len(items) // limit] for index in range(limit)]


def select_distinct(ranked: Sequence[str], ids: Sequence[str], shown: Sequence[str] = ()) -> list[str]:
    """Return the first ``PREVIEW_COUNT`` of the ranked images that lie far apart in ``ids``.

    Neighbors in a list are often similar frames of one video. The selected images are more than a twentieth of the
    list away from each other and from the images in ``shown``.
    """
    index, selected = {id: number for number, id in enumerate(ids)}, list(shown)
    for id in ranked:
        distinct = all(abs(index[id] - index[other]) > len(ids) // 20 for other in selected)
        if len(selected) < len(shown) + PREVIEW_COUNT and distinct:
            selected.append(id)
    return selected[len(shown) :]
