"""Warn of masks whose values are class numbers but probably mean something else: interpolation, object numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semiseg.data.dataset import IGNORE, MaskRecord
from semiseg.data.masks.mask_patterns import are_object_numbers, may_be_object_numbers, window

THIN = 3  # pixels across, up to which a class between two others is taken for interpolation
# Masks of CamVid, CCP and VOC 2012 have shares of at most 0.04; resized with interpolation by 0.5 to 3, at least 0.64.
SUSPECT_SHARE, SUSPECT_STEPS = 0.4, 24
EXAMPLES = 8  # masks that are read again to count the regions of each value


class Doubt(NamedTuple):
    """A suspicion about some masks.

    Attributes:
        kind: A stable identifier for scripts.
        problem: What the masks look like.
        fix: What to do if the suspicion is right.
        ids: The masks.
    """

    kind: str
    problem: str
    fix: str
    ids: tuple[str, ...]


def count_steps(values: NDArray[Any]) -> tuple[int, int]:
    """Count how a mask changes between values that differ by two or more, along its rows and columns.

    Interpolation puts the values between two classes at their common edge: 1 between 0 and 2.

    Args:
        values: The stored integers, ``(H, W)``. 255 interrupts a change.

    Returns:
        The changes through at most ``THIN`` pixels of a value between the two, and all others.
    """
    thin = others = 0
    values = window(values)
    for part in (values, np.ascontiguousarray(values.T)):
        starts = np.ones(part.shape, dtype=bool)  # of the runs of equal values
        np.not_equal(part[:, 1:], part[:, :-1], out=starts[:, 1:])
        positions = np.flatnonzero(starts)
        runs = part.ravel()[positions].astype(np.int64)
        lengths, known = np.diff(positions, append=part.size), runs != IGNORE
        joined = known[:-1] & known[1:] & (positions[1:] % part.shape[1] > 0)  # in one row
        change = np.where(joined, np.diff(runs), 0)
        through = change[:-1] * change[1:] > 0
        short = through & (lengths[1:-1] <= THIN)
        blended = np.pad(short, 1)
        jumps = (np.abs(change) >= 2) & ~blended[:-1] & ~blended[1:]
        thin += int(short.sum())
        others += int((through & ~short).sum() + jumps.sum())
    return thin, others


def doubtful_masks(
    records: Mapping[str, MaskRecord], pixels: NDArray[np.int64], read: Callable[[str], NDArray[Any]], by_value: bool
) -> list[Doubt]:
    """Return the suspicions about masks whose values are all class numbers.

    Args:
        records: The record of each mask.
        pixels: ``(masks, 256)``, the pixels of each class, in the order of ``records``.
        read: Returns the classes ``(H, W)`` of a mask.
        by_value: Whether mask values are class numbers, and not colors or listed values.
    """
    steps = {id: record.steps for id, record in records.items()}
    resized = [
        id for id, (thin, others) in steps.items() if thin >= SUSPECT_STEPS and thin >= SUSPECT_SHARE * (thin + others)
    ]
    doubts = []
    if resized:
        thin, others = (sum(steps[id][part] for id in resized) for part in (0, 1))
        problem = (
            f"interpolation probably changed {len(resized)} of {len(records)} masks: at {thin / (thin + others):.0%} "
            f"of the edges between distant classes, a line of at most {THIN} pixels has a class number between the two"
        )
        fix = "resize masks with nearest-neighbor interpolation, from the original masks"
        doubts.append(Doubt("resized", problem, fix, tuple(resized)))
    if by_value and (numbered := _numbered(list(records), pixels, read)):
        problem = (
            f"the values of {len(numbered)} of {len(records)} masks are probably numbers of objects: each is one region"
        )
        fix = "save the class of each pixel instead of the number of its object"
        doubts.append(Doubt("objects", problem, fix, numbered))
    return doubts


def _numbered(ids: Sequence[str], pixels: NDArray[np.int64], read: Callable[[str], NDArray[Any]]) -> tuple[str, ...]:
    """Return the masks with objects if they are numbered, else an empty tuple."""
    used = [np.flatnonzero(row) for row in pixels]
    shown = {id: values for id, values in zip(ids, used, strict=True) if ((values > 0) & (values < IGNORE)).any()}
    if not may_be_object_numbers(used):
        return ()
    most = sorted(shown, key=lambda id: -len(shown[id]))[:EXAMPLES]
    return tuple(shown) if are_object_numbers(used, [window(read(id)) for id in most]) else ()
