"""Recognize mask values that make no sense as classes: gray levels, antialiased edges, compression, object numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiseg.data.dataset import IGNORE
from semiseg.data.files.mask_files import SOURCE, color_codes

THRESHOLD_FIX = f"run `semiseg import {SOURCE} --threshold 128`"
WINDOW = 1536  # side of the part of a mask that is searched for patterns
SPECKS = "it occurs only in specks of few pixels, as lossy compression leaves them"
SPECKS_FIX = "save masks as PNG from the start"
SPECK = 40  # pixels per mask up to which a value is taken for noise if all are at edges
LARGEST = 65535  # often the ignored value of 16 bits
MOST_LEVELS = 16  # levels up to which a fix lists all of them
Pattern = tuple[str, str]
"""A problem and its fix."""


def used_values(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the different values of a mask, ascending, and their numbers of pixels."""
    if values.dtype == np.uint8:
        counts = np.bincount(values.ravel(), minlength=256)
        used = np.flatnonzero(counts)
        return used, counts[used]
    used, counts = np.unique(values, return_counts=True)
    return used, counts


def implausible_classes(
    used: Sequence[NDArray[Any]],
    examples: Sequence[NDArray[Any]],
    fix: Callable[[Sequence[int]], str],
    inferred: bool = False,
) -> Pattern | None:
    """Return why the values of masks are not class numbers, or None if they may be.

    Args:
        used: The used values of each mask.
        examples: The stored integers of a few masks, each ``(H, W)``.
        fix: Returns the fix that names the given values.
        inferred: Whether the values would become classes because there is no class file.
    """

    def fix_ignoring(values: Sequence[int]) -> str:
        return fix(values).replace(f'"{IGNORE}": "class{IGNORE}"', f'"{IGNORE}": "ignore"')

    used = [mask[np.isfinite(mask)] for mask in used]
    values = sorted({int(value) for mask in used for value in mask})
    levels = [value for value in values if value != IGNORE]
    largest, shown = max(levels, default=0), _shown(values)
    examples = [window(mask) for mask in examples if mask.dtype.kind in "biu"]
    if any(edge_values(mask) for mask in examples):
        problem = f"the masks hold {len(values)} values ({shown}), most of them only at edges: they are antialiased"
        return problem, f"{THRESHOLD_FIX} if they are 0 and 255 inside, or save masks without antialiasing"
    if largest <= IGNORE and _near_few_levels(values):
        problem = f"the masks hold values near a few gray levels ({shown}), as lossy compression leaves them"
        return problem, f"{THRESHOLD_FIX} if they were 0 and 255, or save masks as PNG from the start"
    if _are_gray_levels(levels):
        problem = f"the masks hold the values {shown}, which look like gray levels instead of class numbers"
        return problem, fix(values) + (f", or {THRESHOLD_FIX} if gray means antialiasing" if largest <= IGNORE else "")
    if largest == LARGEST and len(levels) > 2 and levels[-2] < IGNORE:
        return f"the masks hold {LARGEST} beside class numbers ({shown})", fix(values)
    if largest > IGNORE and _are_city_ids(levels):
        problem = (
            f"the masks hold values up to {largest}, which look like object numbers of Cityscapes (1000 * class + n)"
        )
        return problem, "save the class of each pixel, as labelIds do, instead of the number of the object"
    if are_object_numbers(used, examples, inferred):
        problem = f"the masks number single objects (1 to {largest}), so a class has another value in each mask"
        named = f". If they are classes, {fix_ignoring(values)}" if inferred and largest <= MOST_LEVELS else ""
        return problem, f"save the class of each pixel instead of the number of its object{named}"
    if inferred and largest + 1 - len(levels) > 1:
        problem = f"the masks hold only {len(levels)} of the values 0 to {largest} ({shown}) and there is no class file"
        return problem, f"{fix_ignoring(values)}; if they number objects, save the class of each pixel instead"
    if inferred and (specks := speckled_values(examples)):
        return f"value {specks[0]}: {SPECKS}", f"{SPECKS_FIX}. If it is a class, {fix_ignoring(values)}"
    return None


def speckled_values(examples: Sequence[NDArray[Any]]) -> list[int]:
    """Return the values of a few pixels, none of them inside a region, ascending, if there are others."""
    from scipy import ndimage  # slow to import

    pixels, inner = Counter[int](), Counter[int]()
    for mask in examples:
        flat = ndimage.minimum_filter(mask, 3) == ndimage.maximum_filter(mask, 3)
        for counter, part in ((pixels, mask), (inner, mask[flat])):
            values, counts = used_values(part)
            counter.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    found = sorted(value for value, count in pixels.items() if not inner[value] and count <= SPECK * len(examples))
    return found if len(found) < len(pixels) else []


def window(mask: NDArray[Any]) -> NDArray[Any]:
    """Return the center of a mask, which limits the time that its patterns take."""
    top, left = (max(0, (side - WINDOW) // 2) for side in mask.shape)
    return mask[top : top + WINDOW, left : left + WINDOW]


def values_fix(values: Sequence[int], names: Sequence[str], json_file: bool) -> str:
    """Return the line of ``classes.json`` that names mask values.

    Args:
        values: The values, ascending. Negative ones are ignored, and 65535 beside class numbers.
        names: The names of the class file. If there are fewer than values, they are replaced.
        json_file: Whether the class file is ``classes.json``.
    """
    others = [value for value in values if 0 <= value < LARGEST]
    beside_classes = len(others) > 1 and others[-1] < IGNORE
    unknown = {value: "ignore" for value in values if value < 0 or (value == LARGEST and beside_classes)}
    listed = [value for value in values if value not in unknown][:MOST_LEVELS]
    chosen = list(names[: len(listed)])
    if len(names) == 1 and len(listed) == 2 and listed[0] == 0:
        chosen, json_file = ["background", *names], False  # its list of classes lacks the background
    elif len(names) < len(listed):
        chosen = ["background", "foreground"] if len(listed) == 2 else [f"class{value}" for value in listed]
        chosen[0] = "background" if listed[0] == 0 else chosen[0]
    named = unknown | dict(zip(listed, chosen, strict=True))
    content = json.dumps({str(value): name for value, name in named.items()}, ensure_ascii=False)
    content = content[:-1] + (", ...}" if len(values) > len(named) else "}")
    if json_file:
        return f'add "values": {content} to classes.json, with the names you mean'
    classes = f'"classes": {json.dumps(list(names), ensure_ascii=False)}, ' if len(names) > len(listed) else ""
    return f'write classes.json with {{{classes}"values": {content}}}, with the names you mean'


def _shown(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) if len(values) <= 8 else f"{', '.join(map(str, values[:4]))}, ..., {values[-1]}"


def _are_gray_levels(levels: Sequence[int]) -> bool:
    """Return whether values are far apart: three or more by at least 8, fewer by 16, or equally spaced ones by 4."""
    if not levels or (levels[-1] > IGNORE and not all(level % 257 == 0 or level % 256 == 0 for level in levels)):
        return False  # gray levels of 16 bits are multiples of one of the two
    gaps = [after - before for before, after in pairwise(levels)]
    if len(levels) <= 2:
        return levels[-1] >= 16 and all(gap >= 8 for gap in gaps)
    return min(gaps) >= 8 or (len(levels) >= 4 and min(gaps) >= 4 and len(set(gaps)) == 1)


def _near_few_levels(values: Sequence[int]) -> bool:
    """Return whether values form narrow groups far apart, as 0 to 5 and 250 to 255."""
    groups = [[values[0]]] if values else []
    for before, after in pairwise(values):
        if after - before >= 32:
            groups.append([])
        groups[-1].append(after)
    if groups and groups[-1] == [IGNORE]:
        groups.pop()
    return len(groups) >= 2 and sum(map(len, groups)) >= 4 and all(group[-1] - group[0] <= 24 for group in groups)


def _are_city_ids(levels: Sequence[int]) -> bool:
    return all(value < IGNORE or 1 <= value // 1000 < IGNORE for value in levels)


def edge_values(mask: NDArray[Any]) -> list[int]:
    """Return the values of an antialiased mask that occur only at edges, or none if the mask is not antialiased.

    Such a pixel lies strictly between the smallest and the largest of its 3 x 3 neighbors. In a mask of classes, most
    values have pixels inside a region.
    """
    from scipy import ndimage  # slow to import

    used, counts = used_values(mask)
    if len(used) < 4 or used[-1] - used[0] < 32 or used.dtype.kind not in "iu" or used[0] < 0 or used[-1] > 65535:
        return []
    between = (ndimage.minimum_filter(mask, 3) < mask) & (mask < ndimage.maximum_filter(mask, 3))
    at_edges = np.bincount(mask[between].astype(np.int64), minlength=int(used[-1]) + 1)[used]
    edge = at_edges >= 0.9 * counts
    inside = used[~edge]
    blends = [int(value) for value in used[edge] if len(inside) and inside[0] < value < inside[-1]]
    antialiased = len(blends) >= max(2, len(used) / 2) and blends[-1] - blends[0] >= 0.3 * (inside[-1] - inside[0])
    return blends if antialiased else []


def are_object_numbers(used: Sequence[NDArray[Any]], examples: Sequence[NDArray[Any]], inferred: bool = False) -> bool:
    """Return whether masks number their objects, each number being one connected region.

    The numbers are 1 to n with n differing, or most of them occur in one mask only. Without class file (``inferred``),
    fewer objects suffice.
    """
    from scipy import ndimage  # slow to import

    regions = [
        ndimage.label(mask == number, np.ones((3, 3)))[1]
        for mask in (examples if may_be_object_numbers(used, inferred) else ())
        for number in used_values(mask)[0].tolist()[:20]
        if number and number != IGNORE
    ]
    return len(regions) > 0 and regions.count(1) >= 0.95 * len(regions)


def may_be_object_numbers(used: Sequence[NDArray[Any]], inferred: bool = False) -> bool:
    """Return whether the used values of masks may number objects, as in ``are_object_numbers``."""
    numbers = [[int(value) for value in mask if value and value != IGNORE] for mask in used]
    counts = [len(found) for found in numbers]
    times = Counter(value for found in numbers for value in found)
    unique = sum(count == 1 for count in times.values()) >= 0.7 * len(times) and len(times) >= 8 and len(numbers) > 1
    fewest, fewest_in_all = (3, 6) if inferred else (4, 8)
    if unique:
        return True
    if any(found != list(range(1, len(found) + 1)) for found in numbers):
        return False
    enough = max(counts, default=0) >= fewest and sum(counts) >= fewest_in_all
    return max(counts, default=0) > IGNORE or (len(set(counts)) >= 2 and enough)


def blended_share(values: NDArray[np.uint8], known: NDArray[np.bool_], colors: NDArray[Any]) -> float:
    """Return the share of pixels with unknown colors if these are blends of known ones at edges, otherwise 0.

    Args:
        values: RGB, ``(H, W, 3)``.
        known: ``(H, W)``, whether the color of a pixel is known.
        colors: ``(n, 3)``, the known colors.
    """
    from scipy import ndimage  # slow to import

    codes, share = color_codes(values), float((~known).mean())
    uniform = ndimage.minimum_filter(codes, 3) == ndimage.maximum_filter(codes, 3)
    if not 0 < share <= 0.4 or (uniform & ~known).sum() > 0.1 * (~known).sum() or len(colors) < 2:
        return 0.0
    unknown = np.unique(values[~known], axis=0)[:: max(1, len(np.unique(values[~known], axis=0)) // 500)].astype(float)
    used = colors[np.isin(color_codes(colors), codes)].astype(float)[:24]
    distances = [_distance(unknown, start, end) for start, end in combinations(used, 2)]
    near = np.min(distances, axis=0) <= 12 if distances else np.zeros(len(unknown), dtype=bool)
    return share if near.mean() >= 0.6 else 0.0


def _distance(points: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of each point ``(n, 3)`` from the line between two colors."""
    line = end - start
    along = ((points - start) @ line / max(1.0, float(line @ line))).clip(0, 1)
    distances: NDArray[np.float64] = np.linalg.norm(points - start - along[:, None] * line, axis=1)
    return distances
