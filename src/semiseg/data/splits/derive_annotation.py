"""Cheaper annotation, derived from full masks: what a person would have left unannotated becomes 255.

Pure functions of masks, a seed and an image's id; what is kept is as it was, so that nothing is ever wrong.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from semiseg.data.dataset import IGNORE
from semiseg.data.tag_file import ABSENT, PRESENT, UNKNOWN, Tags
from semiseg.seeding import derive_seed

Mask = NDArray[np.uint8]
Region = NDArray[np.bool_]

MIN_REGION_SHARE = 1e-4
"""Regions below this share of the image are passed over, as a person would, but for the largest of each class."""
TURN_STD = 0.2
"""Standard deviation of a scribble's turn from pixel to pixel, in radians: about a right angle in sixty pixels."""


def scribbles(mask: Mask, share: float, seed: int, id: str) -> Mask:
    """Keep one thin curve in each region, until it covers ``share`` of the region's pixels.

    It wanders through the inside of the region, turns away from the border and may cross itself; it is one pixel wide
    for each 320 of the image's longer side. Where it gets stuck it covers less.

    Args:
        mask: uint8 ``(H, W)``, class or 255.
        share: in (0, 1].
        seed: decides the curves, together with ``id``.
        id: the image's.
    """
    draw = random.Random(derive_seed("scribbles", seed, id))
    width = max(1, round(max(mask.shape) / 320))
    kept = np.full_like(mask, IGNORE)
    for part, region in _regions(mask):
        kept[part][_scribble(region, share, width, draw)] = mask[part][region][0]
    return kept


def boxes(mask: Mask) -> Mask:
    """Keep one rectangle in each region: the largest square inside it, grown until each side meets the border.

    All pixels of it are of the region's class. A bounding box, drawn around an object, is another thing: it says of no
    pixel inside what it is.
    """
    kept = np.full_like(mask, IGNORE)
    for part, region in _regions(mask):
        kept[part][_box(region)] = mask[part][region][0]
    return kept


def some_classes(mask: Mask, classes: tuple[int, ...]) -> Mask:
    """Keep the pixels of some classes."""
    return np.where(np.isin(mask, classes), mask, np.uint8(IGNORE))


def assign_classes(shown: Mapping[str, Sequence[int]], first: Collection[str], seed: int) -> dict[str, int]:
    """Choose the one class that a single-positive mask keeps, for each image: the one fewest images have got so far.

    So does a person who wants every class annotated somewhere; draws for each image alone leave classes out where
    images are few. The order in which images choose is drawn.

    Args:
        shown: the classes that each image shows; an image that shows none gets none.
        first: the images that choose before the others, so that every class they show is among theirs if it can be.
        seed: decides order and ties.
    """
    draw = random.Random(derive_seed("single positive", seed))
    order = [id for id in sorted(shown) if shown[id]]
    draw.shuffle(order)
    dealt: dict[str, int] = {}
    for id in sorted(order, key=lambda id: id not in first):
        counts = Counter(dealt.values())
        least = min(counts[value] for value in shown[id])
        dealt[id] = draw.choice([value for value in shown[id] if counts[value] == least])
    return dealt


def all_tags(mask: Mask, classes: int) -> Tags:
    """Tag every class: present if a pixel shows it, else absent."""
    shown = classes_in(mask)
    return tuple(PRESENT if value in shown else ABSENT for value in range(classes))


def some_tags(mask: Mask, classes: int, seed: int, id: str) -> Tags:
    """Tag each class with probability 1/2, and one that is present in any case."""
    draw = random.Random(derive_seed("some tags", seed, id))
    every, sure = all_tags(mask, classes), single_tag(mask, classes, seed, id)
    return tuple(
        tag if one == PRESENT or draw.random() < 0.5 else UNKNOWN for tag, one in zip(every, sure, strict=True)
    )


def single_tag(mask: Mask, classes: int, seed: int, id: str) -> Tags:
    """Tag one class that is present; nothing is known of the others."""
    shown = classes_in(mask)
    chosen = random.Random(derive_seed("single tag", seed, id)).choice(shown) if shown else None
    return tuple(PRESENT if value == chosen else UNKNOWN for value in range(classes))


def classes_in(mask: Mask) -> list[int]:
    """Return the classes that a mask shows, in order."""
    return [int(value) for value in np.unique(mask) if value != IGNORE]


def _regions(mask: Mask) -> Iterator[tuple[tuple[slice, slice], Region]]:
    """Yield the box around each connected region of a class, and the region within that box."""
    labels = connected_regions(mask)
    areas = np.bincount(labels.ravel())
    first = np.unique(labels, return_index=True)[1]
    classes = mask.ravel()[first]
    largest = {int(value): int(np.where(classes == value, areas, -1).argmax()) for value in np.unique(classes)}
    order = np.argsort(labels, axis=None, kind="stable")  # the pixels of each region lie together
    for number, pixels in enumerate(np.split(order, np.cumsum(areas)[:-1])):
        value = int(classes[number])
        if value == IGNORE or (areas[number] < MIN_REGION_SHARE * mask.size and largest[value] != number):
            continue
        y, x = np.divmod(pixels, mask.shape[1])
        part = slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1)
        yield part, labels[part] == number


def connected_regions(mask: Mask) -> NDArray[np.int64]:
    """Number the connected regions of equal value from 0, by the four neighbors: int64 ``(H, W)``.

    Runs of equal pixels in a row are joined with those they touch in the row below.
    """
    starts = np.ones(mask.shape, dtype=np.bool_)
    starts[:, 1:] = mask[:, 1:] != mask[:, :-1]
    runs = starts.ravel().cumsum().reshape(mask.shape) - 1
    touching = mask[1:] == mask[:-1]
    pairs = np.unique(np.stack([runs[:-1][touching], runs[1:][touching]]), axis=1)
    parent = list(range(int(runs[-1, -1]) + 1))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    for above, below in pairs.T.tolist():
        one, other = sorted((root(above), root(below)))
        parent[other] = one
    roots = np.array([root(run) for run in range(len(parent))])
    return np.unique(roots, return_inverse=True)[1].reshape(-1)[runs]


def _eroded(region: Region) -> Region:
    """Take away the pixels that one of their eight neighbors, or the box's border, leaves outside."""
    padded = np.pad(region, 1)
    rows = padded[:-2] & padded[1:-1] & padded[2:]
    eroded: Region = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]
    return eroded


def _inside(region: Region, times: int) -> Region:
    """Erode a region, at most so often and never to nothing."""
    for _ in range(times):
        smaller = _eroded(region)
        if not smaller.any():
            break
        region = smaller
    return region


def _scribble(region: Region, share: float, width: int, draw: random.Random) -> Region:
    inside, curve = _inside(region, width + 1), np.zeros_like(region)
    wanted = max(1, round(share * region.sum()))
    rows, columns = np.nonzero(inside)
    start = draw.randrange(len(rows))
    y, x = float(rows[start]), float(columns[start])
    heading = draw.uniform(0, math.tau)
    covered = 0
    for _ in range(4 * wanted):
        top, left = max(0, round(y) - (width - 1) // 2), max(0, round(x) - (width - 1) // 2)
        spot = slice(top, top + width), slice(left, left + width)
        covered += int((region[spot] & ~curve[spot]).sum())
        curve[spot] |= region[spot]
        if covered >= wanted:
            break
        heading = _turned(inside, y, x, heading + draw.gauss(0, TURN_STD), draw.choice((-1, 1)))
        if math.isnan(heading):
            break
        y, x = y + math.sin(heading), x + math.cos(heading)
    return curve


def _turned(inside: Region, y: float, x: float, heading: float, side: int) -> float:
    """Return the heading nearest to the wanted one that stays inside, trying one side first; NaN where none does."""
    for step in range(33):
        turned = heading + side * (-1) ** step * ((step + 1) // 2) * math.pi / 16
        row, column = round(y + math.sin(turned)), round(x + math.cos(turned))
        if 0 <= row < inside.shape[0] and 0 <= column < inside.shape[1] and inside[row, column]:
            return turned
    return math.nan


def _box(region: Region) -> Region:
    core, radius = region, 0
    while (smaller := _eroded(core)).any():
        core, radius = smaller, radius + 1
    rows, columns = np.nonzero(core)
    middle = len(rows) // 2
    y, x = int(rows[middle]), int(columns[middle])
    top, bottom, left, right = y - radius, y + radius + 1, x - radius, x + radius + 1
    growing = True
    while growing:  # a pixel on each side in turn, so that no side runs away before the others
        growing = False
        if top > 0 and region[top - 1, left:right].all():
            top, growing = top - 1, True
        if bottom < region.shape[0] and region[bottom, left:right].all():
            bottom, growing = bottom + 1, True
        if left > 0 and region[top:bottom, left - 1].all():
            left, growing = left - 1, True
        if right < region.shape[1] and region[top:bottom, right].all():
            right, growing = right + 1, True
    box = np.zeros_like(region)
    box[top:bottom, left:right] = True
    return box
