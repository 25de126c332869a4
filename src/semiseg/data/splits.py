"""Which images are labeled, unlabeled, for validation and for the test: make, read, write and check the lists."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from semiseg.data.dataset import IGNORE, SegmentationDataset, read_sample
from semiseg.errors import UserError
from semiseg.seeding import generator

LISTS = ("labeled", "unlabeled", "val", "test")


@dataclass(frozen=True)
class Split:
    """Four lists of ids without an id in common, and what a person should know about how they came about."""

    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    notes: tuple[str, ...] = ()


def resolve_split(dataset: SegmentationDataset, labeled: str | None, seed: int) -> Split:
    """Decide which images are labeled, and which of the rest serve for what.

    The training images are the train list, or all that are in neither the val nor the test list. All of them that are
    not labeled are unlabeled, whether they have a mask or not. Without a val list, a fifth of the labeled images (at
    least one) is held out.

    Args:
        dataset: the data; no file of it but lists is opened.
        labeled: None for all training images that have a mask; a share of the training images, ``"1/16"``, by the list
            that comes with the data for this seed or else drawn; a number of images, ``"23"``, drawn; or a file with an
            id a line.
        seed: of whatever is drawn.

    Raises:
        UserError: a list or file contradicts the data or another list, or there are too few masks.
    """
    train, val, test = lists_of(dataset)
    notes: list[str] = []
    chosen, unlabeled = _choose_labeled(dataset, train, labeled, seed, notes)
    if not val:
        chosen, val = _hold_out(dataset, chosen, seed, notes)
    unmasked = [id for id in val if not dataset.has_mask(id)]
    if unmasked:
        raise UserError(f"{dataset.name}: {unmasked[0]!r} in the val list has no mask; add it or take the line out")
    if any(not dataset.has_mask(id) for id in test):
        masked = tuple(id for id in test if dataset.has_mask(id))
        notes.append(f"{len(test) - len(masked)} of {len(test)} test images have no mask and are left out")
        test = masked
    split = Split(chosen, unlabeled, val, test, tuple(notes))
    _check_disjoint(dataset, split)
    return split


def lists_of(dataset: SegmentationDataset) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return training, val and test images before any is labeled or held out; the last two may be empty.

    Raises:
        UserError: a list that comes with the data is empty.
    """
    lists = {name: dataset.split(name) for name in ("train", "val", "test")}
    for name, ids in lists.items():
        if ids == ():
            raise UserError(f"{dataset.name}: the {name} list is empty; fill splits/{name}.txt or remove it")
    val, test = lists["val"] or (), lists["test"] or ()
    held_back = {*val, *test}
    return lists["train"] or tuple(id for id in dataset.ids if id not in held_back), val, test


def draw_labeled(dataset: SegmentationDataset, labeled: str, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the (labeled, unlabeled) lists that ``resolve_split`` begins with, before it holds any image out."""
    return _choose_labeled(dataset, lists_of(dataset)[0], labeled, seed, [])


def _choose_labeled(
    dataset: SegmentationDataset, train: tuple[str, ...], labeled: str | None, seed: int, notes: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the labeled and the unlabeled ids of the training images."""
    masked = tuple(id for id in train if dataset.has_mask(id))
    if not masked:
        where = dataset.root / "masks" if dataset.root else dataset.name
        raise UserError(f"{where}: none of {len(train)} training images has a mask; annotate a few, as masks/NAME.png")
    if labeled is None:
        chosen = masked
    elif re.fullmatch(r"\d+/\d+", labeled):
        published = dataset.published_split(labeled, seed)
        if published is not None:
            notes.append(f"labeled {labeled}: the lists that come with {dataset.name} for seed {seed}")
            _check_labeled(dataset, published[0], train, f"the {labeled} list for seed {seed}")
            return published
        chosen = _draw(masked, _share(labeled, len(train)), labeled, seed)
    elif re.fullmatch(r"\d+", labeled):
        chosen = _draw(masked, int(labeled), labeled, seed)
    elif Path(labeled).is_file():
        chosen = read_list(Path(labeled), dataset)
        _check_labeled(dataset, chosen, train, labeled)
    else:
        raise UserError(f"--labeled {labeled}: no such file; give a share (1/16), a number (23) or a file of ids")
    taken = set(chosen)
    return chosen, tuple(id for id in train if id not in taken)


def _share(labeled: str, count: int) -> int:
    numerator, denominator = map(int, labeled.split("/"))
    if not 0 < numerator <= denominator:
        raise UserError(f"--labeled {labeled}: not a share of the images; give one above 0 and at most 1, such as 1/16")
    return max(1, round(Fraction(numerator, denominator) * count))


def _draw(masked: tuple[str, ...], count: int, labeled: str, seed: int) -> tuple[str, ...]:
    if not 0 < count <= len(masked):
        raise UserError(
            f"--labeled {labeled}: {count} labeled images asked for, {len(masked)} training images have a mask; ask "
            f"for 1 to {len(masked)}"
        )
    order = torch.randperm(len(masked), generator=generator(seed, "draw labeled")).tolist()
    return tuple(sorted(masked[index] for index in order[:count]))


def _check_labeled(dataset: SegmentationDataset, ids: tuple[str, ...], train: tuple[str, ...], source: str) -> None:
    if not ids:
        raise UserError(f"{source}: the list is empty; name at least one image")
    known = set(train)
    for id in ids:
        if id not in known:
            raise UserError(
                f"{source}: {id!r} is not among the training images; take it out, or add it to splits/train.txt"
            )
        if not dataset.has_mask(id):
            raise UserError(f"{source}: {id!r} has no mask; add it or take the image out")


def _hold_out(
    dataset: SegmentationDataset, labeled: tuple[str, ...], seed: int, notes: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Take a fifth of the labeled images for validation; the seed decides which."""
    if len(labeled) < 2:
        raise UserError(
            f"{dataset.name}: one labeled image cannot serve for training and validation; annotate a second one or "
            "write splits/val.txt"
        )
    order = torch.randperm(len(labeled), generator=generator(seed, "hold out")).tolist()
    val = {labeled[index] for index in order[: max(1, len(labeled) // 5)]}
    notes.append(f"no val list: {len(val)} of {len(labeled)} labeled images are held out for validation")
    return tuple(id for id in labeled if id not in val), tuple(id for id in labeled if id in val)


def _check_disjoint(dataset: SegmentationDataset, split: Split) -> None:
    owner: dict[str, str] = {}
    for name in LISTS:
        for id in getattr(split, name):
            other = owner.setdefault(id, name)
            if other != name:
                raise UserError(f"{dataset.name}: {id!r} is in the {other} and the {name} list; keep it in one of them")


def read_lines(path: Path) -> tuple[str, ...]:
    """Read the lines of a text file, stripped, blank ones left out; raises UserError if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); it must be a UTF-8 text file") from error
    return tuple(stripped for line in text.splitlines() if (stripped := line.strip()))


def read_list(path: Path, dataset: SegmentationDataset) -> tuple[str, ...]:
    """Read a list of ids, one a line; a folder before an id or a suffix behind it is tolerated.

    Raises:
        UserError: it cannot be read, or a line names an image that is not there or stands there twice.
    """
    known = set(dataset.ids)
    ids: dict[str, None] = {}
    for line in read_lines(path):
        id = find_id(line, known)
        if id is None:
            raise UserError(f"{path}: {line!r} is no image of {dataset.name}; add the image or take the line out")
        if id in ids:
            raise UserError(f"{path}: {line!r} stands there twice; take one of the lines out")
        ids[id] = None
    return tuple(ids)


def find_id(text: str, known: set[str]) -> str | None:
    """Return the id that ``text`` means, with or without a folder before it and a suffix behind it; None for none."""
    name = re.split(r"[/\\]", text)[-1]
    return next((form for form in (text, name, os.path.splitext(name)[0]) if form in known), None)


def write_list(path: Path, ids: Iterable[str]) -> None:
    """Write ids to a file, one a line."""
    path.write_text("".join(f"{id}\n" for id in ids), encoding="utf-8")


def write_split(split: Split, directory: str | Path) -> None:
    """Write ``labeled.txt``, ``unlabeled.txt``, ``val.txt`` and ``test.txt``, an id a line; the notes are not kept."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    for name in LISTS:
        write_list(Path(directory) / f"{name}.txt", getattr(split, name))


def read_split(directory: str | Path, dataset: SegmentationDataset | None = None) -> Split:
    """Read what ``write_split`` wrote; raises UserError if a list is missing or names an image not in the data."""
    paths = [Path(directory) / f"{name}.txt" for name in LISTS]
    return Split(*(read_lines(path) if dataset is None else read_list(path, dataset) for path in paths))


def count_pixels(dataset: SegmentationDataset, ids: Iterable[str]) -> NDArray[np.int64]:
    """Read each image and its mask once and return ``(images, 256)``: the pixels of each value in each mask.

    Raises:
        UserError: an image cannot be read, or its mask is missing, unreadable, of another size or holds values outside
            the classes; the message names the first such file in the order of ``ids``.
    """

    def pixels(id: str) -> NDArray[np.int64]:
        mask = read_sample(dataset, id).mask
        if mask is None:
            raise UserError(f"{dataset.image_path(id) or id}: the image has no mask; add it or take it out of the list")
        return np.bincount(mask.numpy().ravel(), minlength=IGNORE + 1)

    with ThreadPoolExecutor() as pool:
        return np.array(list(pool.map(pixels, ids)), dtype=np.int64).reshape(-1, IGNORE + 1)


def check_masks(dataset: SegmentationDataset, ids: Iterable[str]) -> tuple[int, ...]:
    """Return the number of pixels of each class over all masks; raises UserError as ``count_pixels``."""
    return tuple(count_pixels(dataset, ids).sum(axis=0)[: len(dataset.classes)].tolist())
