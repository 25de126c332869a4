"""Derive cheaper annotation from full masks: pixels that an annotator would leave out become 255.

Pure functions of masks, a seed and an image id. The remaining pixels keep their class.
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
"""Smaller regions are skipped, as an annotator would, except the largest one of each class."""
TURN_STD = 0.2
"""Standard deviation of the turn of a scribble per pixel, in radians: about a right angle in sixty pixels."""


def scribbles(mask: Mask, share: float, seed: int, id: str) -> Mask:
    """Keep one thin curve in each region, until it covers ``share`` of the pixels of the region.

    The curve wanders inside the region, turns away from its border and may cross itself. Its width is one pixel per 320
    pixels of the longer image side. A curve that gets stuck covers less.

    Args:
        mask: uint8 ``(H, W)``, class or 255.
        share: In (0, 1].
        seed: The random seed, combined with ``id``.
        id: The image.
    """
    rng = random.Random(derive_seed("scribbles", seed, id))
    width = max(1, round(max(mask.shape) / 320))
    kept = np.full_like(mask, IGNORE)
    for part, region in _regions(mask):
        kept[part][_scribble(region, share, width, rng)] = mask[part][region][0]
    return kept


def boxes(mask: Mask) -> Mask:
    """Keep one rectangle in each region: the largest square inside it, grown until each side meets the border.

    All its pixels belong to the class. (A bounding box around an object does not say which pixels inside it do.)
    """
    kept = np.full_like(mask, IGNORE)
    for part, region in _regions(mask):
        kept[part][_box(region)] = mask[part][region][0]
    return kept


def some_classes(mask: Mask, classes: tuple[int, ...]) -> Mask:
    """Keep the pixels of the given classes."""
    return np.where(np.isin(mask, classes), mask, np.uint8(IGNORE))


def assign_classes(shown: Mapping[str, Sequence[int]], first: Collection[str], seed: int) -> dict[str, int]:
    """Choose the class that the single-positive mask of each image keeps, with classes as balanced as possible.

    Images are processed in random order. Each image keeps its least-used class so far. Independent choices would leave
    classes out when there are few images.

    Args:
        shown: The classes in each image. Images without classes get none.
        first: Images that are processed before the others, so that their classes are balanced among themselves.
        seed: The random seed of the order and of ties.
    """
    rng = random.Random(derive_seed("single positive", seed))
    order = [id for id in sorted(shown) if shown[id]]
    rng.shuffle(order)
    kept: dict[str, int] = {}
    for id in sorted(order, key=lambda id: id not in first):
        counts = Counter(kept.values())
        least = min(counts[value] for value in shown[id])
        kept[id] = rng.choice([value for value in shown[id] if counts[value] == least])
    return kept


def all_tags(mask: Mask, classes: int) -> Tags:
    """Tag every class as present or absent."""
    shown = classes_in(mask)
    return tuple(PRESENT if value in shown else ABSENT for value in range(classes))


def some_tags(mask: Mask, classes: int, seed: int, id: str) -> Tags:
    """Tag each class with probability 1/2, and always one present class."""
    rng = random.Random(derive_seed("some tags", seed, id))
    every, sure = all_tags(mask, classes), single_tag(mask, classes, seed, id)
    return tuple(tag if one == PRESENT or rng.random() < 0.5 else UNKNOWN for tag, one in zip(every, sure, strict=True))


def single_tag(mask: Mask, classes: int, seed: int, id: str) -> Tags:
    """Tag one random class that is present. The others are unknown."""
    shown = classes_in(mask)
    chosen = random.Random(derive_seed("single tag", seed, id)).choice(shown) if shown else None
    return tuple(PRESENT if value == chosen else UNKNOWN for value in range(classes))


def classes_in(mask: Mask) -> list[int]:
    """Return the classes in a mask, sorted."""
    return [int(value) for value in np.unique(mask) if value != IGNORE]


def _regions(mask: Mask) -> Iterator[tuple[tuple[slice, slice], Region]]:
    """Yield the bounding box of each connected region of a class, and the region within the box."""
    labels = connected_regions(mask)
    areas = np.bincount(labels.ravel())
    first = np.unique(labels, return_index=True)[1]
    classes = mask.ravel()[first]
    largest = {int(value): int(np.where(classes == value, areas, -1).argmax()) for value in np.unique(classes)}
    order = np.argsort(labels, axis=None, kind="stable")  # the pixels of each region are adjacent
    for number, pixels in enumerate(np.split(order, np.cumsum(areas)[:-1])):
        value = int(classes[number])
        if value == IGNORE or (areas[number] < MIN_REGION_SHARE * mask.size and largest[value] != number):
            continue
        y, x = np.divmod(pixels, mask.shape[1])
        part = slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1)
        yield part, labels[part] == number


def connected_regions(mask: Mask) -> NDArray[np.int64]:
    """Number the 4-connected regions of equal value from 0, in the order of their first pixels: int64 ``(H, W)``."""
    from scipy import ndimage  # slow to import

    labels = np.zeros(mask.shape, dtype=np.int64)
    count = 0
    for value in np.unique(mask):
        regions, found = ndimage.label(mask == value)
        labels[regions > 0] = regions[regions > 0] + count
        count += found
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].reshape(mask.shape)


def _eroded(region: Region) -> Region:
    """Remove the pixels that touch the outside of the region, or of its box, by one of their eight neighbors."""
    from scipy import ndimage  # slow to import

    eroded: Region = ndimage.binary_erosion(region, np.ones((3, 3)))
    return eroded


def _inside(region: Region, times: int) -> Region:
    """Erode a region up to ``times`` times, but never to nothing."""
    for _ in range(times):
        smaller = _eroded(region)
        if not smaller.any():
            break
        region = smaller
    return region


def _scribble(region: Region, share: float, width: int, rng: random.Random) -> Region:
    inside, curve = _inside(region, width + 1), np.zeros_like(region)
    wanted = max(1, round(share * region.sum()))
    rows, columns = np.nonzero(inside)
    start = rng.randrange(len(rows))
    y, x = float(rows[start]), float(columns[start])
    heading = rng.uniform(0, math.tau)
    covered = 0
    for _ in range(4 * wanted):
        top, left = max(0, round(y) - (width - 1) // 2), max(0, round(x) - (width - 1) // 2)
        spot = slice(top, top + width), slice(left, left + width)
        covered += int((region[spot] & ~curve[spot]).sum())
        curve[spot] |= region[spot]
        if covered >= wanted:
            break
        heading = _turned(inside, y, x, heading + rng.gauss(0, TURN_STD), rng.choice((-1, 1)))
        if math.isnan(heading):
            break
        y, x = y + math.sin(heading), x + math.cos(heading)
    return curve


def _turned(inside: Region, y: float, x: float, heading: float, side: int) -> float:
    """Return the heading nearest to ``heading`` that stays inside, trying ``side`` first, or NaN if there is none."""
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
    while growing:  # one pixel per side in turn, so that all sides grow evenly
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
