"""Which images are labeled, unlabeled, for validation and for the test: make, read, write and check the lists."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import torch

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.files.string_array import StringArray, as_string_array
from semiseg.data.splits.list_files import (
    ListReader,
    listable,
    matching_unlabeled_list,
    read_lines,
    read_list,
    read_permutation,
    write_list,
)
from semiseg.data.stream.shards import Shards, names_shards, open_shards, parse_index
from semiseg.errors import UserError
from semiseg.seeding import generator

LISTS = ("labeled", "unlabeled", "val", "test")
SHARDS = "shards.json"


@dataclass(frozen=True)
class Split:
    """Four lists of ids without an id in common, and what a person should know about how they came about.

    Where ``shards`` are given, they take the place of the unlabeled list, which is empty.
    """

    labeled: tuple[str, ...]
    unlabeled: Sequence[str]
    val: tuple[str, ...]
    test: tuple[str, ...]
    notes: tuple[str, ...] = ()
    shards: Shards | None = None

    @property
    def unlabeled_count(self) -> int:
        """How many unlabeled images there are, in the list or in shards."""
        return len(self.unlabeled) if self.shards is None else len(self.shards)


def resolve_split(
    dataset: SegmentationDataset,
    labeled: str | None,
    seed: int,
    unlabeled: str | None = None,
    existing_only: bool = False,
) -> Split:
    """Decide which images are labeled, and which of the rest serve for what.

    The training images are the train list, or all that are in neither the val nor the test list. All of them that are
    not labeled are unlabeled, whether they have a mask or not, unless a list says otherwise. Without a val list, a
    fifth of the labeled images (at least one) is held out.

    Args:
        dataset: the data; no file of it but lists is opened.
        labeled: None for all training images that have a mask; a share of the training images, ``"1/16"``, or a number
            of images, ``"23"``, by the lists that come with the data or else drawn; a list in a file, with the list of
            unlabeled images that was published beside it, if there is one; or ``"split_0.pkl:N"``, the first N of a
            permutation of the sorted training images.
        seed: of whatever is drawn.
        unlabeled: a list of the unlabeled images in a file, or shards, in place of the above.
        existing_only: leave images that are not there out of the lists, with a note; otherwise they are an error.

    Raises:
        UserError: a list or file contradicts the data or another list, or there are too few masks.
    """
    reader = ListReader(dataset, existing_only)
    val, test = read_lists(reader)
    shards = open_shards(unlabeled) if unlabeled and names_shards(unlabeled) else None
    chosen, rest = _choose_labeled(reader, labeled, seed, Path(unlabeled) if unlabeled and not shards else None)
    if shards is not None:
        reader.notes.append(f"unlabeled: {shards.describe()}, in place of {len(rest)} images of {dataset.name}")
        rest = ()
    if val is None:
        chosen, val = _hold_out(dataset, chosen, seed, reader.notes)
    unmasked = [id for id in val if not dataset.has_mask(id)]
    if unmasked:
        raise UserError(f"{dataset.name}: {unmasked[0]!r} in the val list has no mask; add it or take the line out")
    if any(not dataset.has_mask(id) for id in test):
        masked = tuple(id for id in test if dataset.has_mask(id))
        reader.notes.append(f"{len(test) - len(masked)} of {len(test)} test images have no mask and are left out")
        test = masked
    split = Split(chosen, as_string_array(rest), val, test, tuple(reader.notes), shards)
    _check_names(dataset, split)
    return split


def read_lists(reader: ListReader) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Fill in the reader's training images; return val, None where there is no such list, and test images.

    Raises:
        UserError: a list that comes with the data is empty.
    """
    lists = {name: reader.named(name) for name in ("train", "val", "test")}
    held_back = {*(lists["val"] or ()), *(lists["test"] or ())}
    reader.train = lists["train"] or reader.dataset.ids
    if held_back and not lists["train"]:
        reader.train = StringArray(id for id in reader.dataset.ids if id not in held_back)
    return lists["val"], lists["test"] or ()


def read_dataset_lists(dataset: SegmentationDataset) -> tuple[Sequence[str], tuple[str, ...], tuple[str, ...]]:
    """Return training, val and test images before any is labeled or held out; the last two may be empty."""
    reader = ListReader(dataset, existing_only=False)
    val, test = read_lists(reader)
    return reader.train, val or (), test


def sample_labeled(dataset: SegmentationDataset, labeled: str, seed: int) -> tuple[tuple[str, ...], Sequence[str]]:
    """Return the (labeled, unlabeled) lists that ``resolve_split`` begins with, before it holds any image out."""
    reader = ListReader(dataset, existing_only=False)
    read_lists(reader)
    return _choose_labeled(reader, labeled, seed, None)


def _choose_labeled(
    reader: ListReader, labeled: str | None, seed: int, unlabeled: Path | None
) -> tuple[tuple[str, ...], Sequence[str]]:
    """Return the labeled and the unlabeled ids."""
    dataset, train = reader.dataset, reader.train
    masked = tuple(id for id in train if dataset.has_mask(id))
    if not masked:
        where = dataset.root / dataset.mask_folder if dataset.root else dataset.name
        remedy = (
            f"annotate a few, as {dataset.mask_folder}/NAME.png" if dataset.mask_folder else "annotate a few of them"
        )
        raise UserError(f"{where}: none of {len(train)} training images has a mask; {remedy}")
    if labeled is None:
        chosen = masked
    elif match := re.fullmatch(r"(.+\.pkl)(?::(\d{1,9}))?", labeled):
        chosen = _from_permutation(reader, Path(match[1]), int(match[2] or 0))
    elif re.fullmatch(r"\d{1,9}(/\d{1,9})?", labeled):
        if published := dataset.published_lists(labeled, seed):
            reader.notes.append(f"labeled {labeled}: the lists that come with {dataset.name} for seed {seed}")
            chosen, unlabeled = reader.file(published[0]), unlabeled or published[1]
        else:
            count = _share(labeled, len(train)) if "/" in labeled else int(labeled)
            chosen = _draw(masked, count, labeled, seed)
            reader.notes.append(f"labeled {labeled}: {count} of {len(masked)} masks drawn by seed {seed}")
    elif os.path.isfile(labeled):  # False for what is no possible name, where Path raises
        chosen = reader.file(Path(labeled))
        if unlabeled is None and (unlabeled := matching_unlabeled_list(Path(labeled))):
            reader.notes.append(f"unlabeled: the list {unlabeled} that lies beside {labeled}")
    else:
        raise UserError(
            f"--labeled {labeled}: no such file; give a share (1/16), a number (23), a list in a file or split_0.pkl:N"
        )
    _check_labeled(dataset, chosen, None if unlabeled else train, f"--labeled {labeled}")
    if unlabeled:
        return chosen, reader.file(unlabeled, may_be_empty=True)  # a method that needs some says so
    taken = set(chosen)
    return chosen, StringArray(id for id in train if id not in taken)


def _from_permutation(reader: ListReader, path: Path, count: int) -> tuple[str, ...]:
    """Return the labeled images by CutMix-Seg's and ClassMix's files: the first of the permuted, sorted train list."""
    order, whole = read_permutation(path), sorted({*reader.train, *reader.train_missing})
    if len(order) != len(whole):
        mismatch = f"it permutes {len(order)} images, and the train list has {len(whole)}"
        raise UserError(f"{path}: {mismatch}; take the file made for these data, or complete the train list")
    if not 0 < count < len(order):
        raise UserError(f"--labeled {path}: say how many of the {len(order)} images are labeled, e.g. {path}:100")
    chosen, here = [whole[index] for index in order[:count]], set(reader.train)
    return reader.present(
        f"{path}:{count}", tuple(id for id in chosen if id in here), [id for id in chosen if id not in here]
    )


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


def _check_labeled(
    dataset: SegmentationDataset, ids: tuple[str, ...], train: Sequence[str] | None, source: str
) -> None:
    """Raise UserError where one of the labeled images has no mask, or is no training image, if these are given."""
    if not ids:
        raise UserError(f"{source}: the list is empty; name at least one image")
    strange = set() if train is None else set(ids).difference(train)
    for id in ids:
        if id in strange:
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


def _check_names(dataset: SegmentationDataset, split: Split) -> None:
    """Raise UserError where an id is in two lists, or a run could not keep it in any."""
    lists = sorted((split.labeled, split.unlabeled, split.val, split.test), key=len)
    few = set(chain(*lists[:-1]))  # those of all lists but the longest, which may have a million
    if len(few) == sum(map(len, lists[:-1])) and few.isdisjoint(lists[-1]) and all(map(listable, chain(*lists))):
        return
    owner: dict[str, str] = {}
    for name in LISTS:
        for id in getattr(split, name):
            other = owner.setdefault(id, name)
            if other != name:
                raise UserError(f"{dataset.name}: {id!r} is in the {other} and the {name} list; keep it in one of them")
            if not listable(id):
                why = "it has several lines, space at its ends, or bytes that are no UTF-8"
                path = dataset.image_path(id) or id
                raise UserError(f"{path}: no list can hold this name, {why}; rename the image and its mask")


def write_split(split: Split, directory: str | Path) -> None:
    """Write ``labeled.txt``, ``unlabeled.txt``, ``val.txt`` and ``test.txt``, an id a line; the notes are not kept.

    Of shards, ``shards.json`` says what they hold, and a line in ``unlabeled.txt`` that they take its place.
    """
    Path(directory).mkdir(parents=True, exist_ok=True)
    for name in LISTS:
        write_list(Path(directory) / f"{name}.txt", getattr(split, name))
    if split.shards is not None:
        (Path(directory) / SHARDS).write_text(json.dumps(split.shards.to_json(), indent=1) + "\n", encoding="utf-8")
        write_list(Path(directory) / "unlabeled.txt", [f"# {split.shards.describe()}: see {SHARDS}"])


def read_split(directory: str | Path, dataset: SegmentationDataset | None = None) -> Split:
    """Read what ``write_split`` wrote; raises UserError if a list is missing or names an image not in the data."""
    index = Path(directory) / SHARDS
    shards = parse_index(str(index), index.read_bytes()) if index.is_file() else None
    paths = {name: Path(directory) / f"{name}.txt" for name in LISTS if name != "unlabeled" or shards is None}
    lists: dict[str, Sequence[str]] = {name: read_lines(path) for name, path in paths.items()}
    if dataset is not None and not _each_once(tuple(chain(*lists.values())), dataset):
        lists = {name: read_list(path, dataset) for name, path in paths.items()}
    labeled, val, test = (tuple(lists[name]) for name in ("labeled", "val", "test"))
    return Split(labeled, as_string_array(lists.get("unlabeled", ())), val, test, shards=shards)


def _each_once(ids: tuple[str, ...], dataset: SegmentationDataset) -> bool:
    """Tell whether each of them is an image of the data, and none is there twice."""
    different = set(ids)
    return len(different) == len(ids) and not different.difference(dataset.ids)
