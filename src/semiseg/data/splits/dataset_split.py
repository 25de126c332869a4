"""Create, check, read and write the lists of labeled, unlabeled, validation and test images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.files.string_array import StringArray, as_string_array
from semiseg.data.folder_dataset import FolderDataset
from semiseg.data.splits.choose_labeled import SAMPLED, choose_labeled, without
from semiseg.data.splits.hold_out import hold_out
from semiseg.data.splits.list_files import (
    ListReader,
    listable,
    read_lines,
    read_list,
    write_list,
)
from semiseg.data.stream.shards import Shards, names_shards, open_shards, parse_index
from semiseg.data.unlabeled_folder import PREFIX, add_photographs, is_photograph_folder
from semiseg.errors import UserError

LISTS = ("labeled", "unlabeled", "val", "test")
SHARDS = "shards.json"
UNLABELED = "splits/unlabeled.txt"
MORE_LABELS = "annotate a second one or write splits/val.txt"


@dataclass(frozen=True)
class Split:
    """Four disjoint lists of ids, and notes on how they were created.

    If ``shards`` is given, it replaces the unlabeled list, which is then empty.
    """

    labeled: tuple[str, ...]
    unlabeled: Sequence[str]
    val: tuple[str, ...]
    test: tuple[str, ...]
    notes: tuple[str, ...] = ()
    shards: Shards | None = None

    @property
    def unlabeled_count(self) -> int:
        """The number of unlabeled images, in the list or in shards."""
        return len(self.unlabeled) if self.shards is None else len(self.shards)


def resolve_split(
    dataset: SegmentationDataset,
    labeled: str | None,
    seed: int,
    unlabeled: str | None = None,
    existing_only: bool = False,
) -> Split:
    """Choose the labeled, unlabeled, validation and test images.

    The training images are the train list, or all images that are in no other list. Training images that are not
    labeled are unlabeled, with or without a mask, and so are the images of an own folder that no list names and that
    have no mask. A list of unlabeled images replaces both. Without a val list, about a fifth of the images with a mask
    is held out (see ``hold_out``): of the training images, or of the images in a list file of labeled images.

    Args:
        dataset: The data. Only its lists are read.
        labeled: One of

            - None: all training images with a mask,
            - a share of the training images, ``"1/16"``, or a number of images, ``"23"``: the lists that come with the
              data, or else a random sample,
            - a list file; the list of unlabeled images published next to it is used too,
            - ``"split_0.pkl:N"``: the first N of a permutation of the sorted training images.
        seed: The random seed.
        unlabeled: A list file of the unlabeled images, shards, or a folder of photographs, whose ids in the split are
            those of ``add_photographs``.
        existing_only: Leave out listed images that do not exist, with a note, instead of raising UserError.

    Raises:
        UserError: A list or file contradicts the data or another list, or there are too few masks.
    """
    reader = ListReader(dataset, existing_only)
    val, test = read_lists(reader)
    photographs = add_photographs(dataset, unlabeled)[1] if unlabeled and is_photograph_folder(unlabeled) else None
    shards = open_shards(unlabeled) if unlabeled and photographs is None and names_shards(unlabeled) else None
    files = labeled is not None and not SAMPLED.fullmatch(labeled)
    if val is None and not files:
        val = _hold_out(dataset, tuple(filter(dataset.has_mask, reader.train)), reader.notes, "images with a mask")
        reader.train = without(reader.train, val)
    elsewhere = shards is not None or photographs is not None
    unlabeled_list = Path(unlabeled) if unlabeled and not elsewhere else None
    chosen, rest = choose_labeled(reader, labeled, seed, unlabeled_list)
    if val is None:
        val = _hold_out(dataset, chosen, reader.notes, "labeled images")
    if not reader.has_val:
        chosen, rest = tuple(without(chosen, val)), without(rest, val)
    if not chosen:
        raise UserError("all labeled images are held out for validation", path=dataset.name, fix=MORE_LABELS)
    if shards is not None:
        reader.notes.append(f"unlabeled: {shards.describe()}, in place of {len(rest)} images of {dataset.name}")
        rest = ()
    if photographs is not None:
        instead = f", in place of {len(rest)} images of {dataset.name}" if rest else ""
        reader.notes.append(f"unlabeled: {len(photographs)} photographs of {unlabeled}{instead}")
        rest = photographs
    unmasked = [id for id in val if not dataset.has_mask(id)]
    if unmasked:
        problem = f"{unmasked[0]!r} in the val list has no mask"
        raise UserError(problem, path=dataset.name, fix="add it or remove the line")
    if any(not dataset.has_mask(id) for id in test):
        masked = tuple(id for id in test if dataset.has_mask(id))
        reader.notes.append(f"{len(test) - len(masked)} of {len(test)} test images have no mask and are left out")
        test = masked
    split = Split(chosen, as_string_array(rest), val, test, tuple(reader.notes), shards)
    _check_names(dataset, split)
    return split


def read_lists(reader: ListReader) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Set the training images of the reader. Return the val list, or None if there is none, and the test list.

    Raises:
        UserError: A list that comes with the data is empty.
    """
    lists = {name: reader.named(name) for name in ("train", "val", "test")}
    path = reader.dataset.root / UNLABELED if isinstance(reader.dataset, FolderDataset) else None
    listed = reader.file(path, may_be_empty=True) if path is not None and path.is_file() else None
    others = chain(lists["val"] or (), lists["test"] or (), listed or ())
    reader.train = lists["train"] or without(reader.dataset.ids, others)
    if listed is not None:
        if not lists["train"]:
            reader.train = StringArray(filter(reader.dataset.has_mask, reader.train))
        reader.unlabeled = without(listed, reader.train)
    elif lists["train"] and isinstance(reader.dataset, FolderDataset):
        unlisted = without(reader.dataset.ids, chain(lists["train"], others))
        reader.unlabeled = StringArray(id for id in unlisted if not reader.dataset.has_mask(id))
        if masked := len(unlisted) - len(reader.unlabeled):
            fix = "Add them to splits/train.txt to train on them"
            reader.notes.append(f"not used: {masked} images with a mask that no list names. {fix}")
    reader.has_unlabeled, reader.has_val = listed is not None, lists["val"] is not None
    return lists["val"], lists["test"] or ()


def read_dataset_lists(dataset: SegmentationDataset) -> tuple[Sequence[str], tuple[str, ...], tuple[str, ...]]:
    """Return the train, val and test images before any is held out. Val and test may be empty."""
    reader = ListReader(dataset, existing_only=False)
    val, test = read_lists(reader)
    return reader.train, val or (), test


def sample_labeled(dataset: SegmentationDataset, labeled: str, seed: int) -> tuple[tuple[str, ...], Sequence[str]]:
    """Return the labeled and unlabeled images like ``resolve_split``, without those held out for validation."""
    reader = ListReader(dataset, existing_only=False)
    if read_lists(reader)[0] is None:
        masked = tuple(filter(dataset.has_mask, reader.train))
        reader.train = without(reader.train, hold_out(masked) if len(masked) > 1 else ())
    return choose_labeled(reader, labeled, seed, None)


def _hold_out(dataset: SegmentationDataset, masked: tuple[str, ...], notes: list[str], noun: str) -> tuple[str, ...]:
    """Return the images to validate on."""
    if len(masked) == 1:
        problem = "one labeled image cannot serve for training and validation"
        raise UserError(problem, path=dataset.name, fix=MORE_LABELS)
    chosen = hold_out(masked) if masked else set()
    if masked:
        verb = "is" if len(chosen) == 1 else "are"
        notes.append(
            f"no val list: {len(chosen)} of {len(masked)} {noun} {verb} held out for validation, by their names"
        )
    return tuple(id for id in masked if id in chosen)


def _check_names(dataset: SegmentationDataset, split: Split) -> None:
    """Raise UserError if an id is in two lists, or a list file cannot hold it."""
    lists = sorted((split.labeled, split.unlabeled, split.val, split.test), key=len)
    shorter = set(chain(*lists[:-1]))  # the longest list may have a million ids
    if (
        len(shorter) == sum(map(len, lists[:-1]))
        and shorter.isdisjoint(lists[-1])
        and all(map(listable, chain(*lists)))
    ):
        return
    first_list: dict[str, str] = {}
    for name in LISTS:
        for id in getattr(split, name):
            other = first_list.setdefault(id, name)
            if other != name:
                problem = f"{id!r} is in the {other} and the {name} list"
                raise UserError(problem, path=dataset.name, fix="keep it in one of them")
            if not listable(id):
                raise UserError(
                    "the name cannot be listed: it has several lines, space at its ends, or bytes that are not UTF-8",
                    path=id if id.startswith(PREFIX) else dataset.image_path(id) or id,
                    fix="rename the image and its mask",
                )


def write_split(split: Split, directory: str | Path) -> None:
    """Write ``labeled.txt``, ``unlabeled.txt``, ``val.txt`` and ``test.txt``, one id per line, without the notes.

    If the split has shards, ``shards.json`` holds their index, and ``unlabeled.txt`` a comment that refers to it.
    """
    Path(directory).mkdir(parents=True, exist_ok=True)
    for name in LISTS:
        write_list(Path(directory) / f"{name}.txt", getattr(split, name))
    if split.shards is not None:
        (Path(directory) / SHARDS).write_text(json.dumps(split.shards.to_json(), indent=1) + "\n", encoding="utf-8")
        write_list(Path(directory) / "unlabeled.txt", [f"# {split.shards.describe()}: see {SHARDS}"])


def read_split(directory: str | Path, dataset: SegmentationDataset | None = None, with_unlabeled: bool = True) -> Split:
    """Read the files of ``write_split``. Raises UserError if a list is missing or names an image not in the data."""
    index = Path(directory) / SHARDS
    shards = parse_index(str(index), index.read_bytes()) if index.is_file() else None
    names = [name for name in LISTS if name != "unlabeled" or (with_unlabeled and shards is None)]
    paths = {name: Path(directory) / f"{name}.txt" for name in names}
    lists: dict[str, Sequence[str]] = {name: read_lines(path) for name, path in paths.items()}
    if dataset is not None and not _all_known_once(tuple(chain(*lists.values())), dataset):
        lists = {name: read_list(path, dataset) for name, path in paths.items()}
    labeled, val, test = (tuple(lists[name]) for name in ("labeled", "val", "test"))
    return Split(labeled, as_string_array(lists.get("unlabeled", ())), val, test, shards=shards)


def _all_known_once(ids: tuple[str, ...], dataset: SegmentationDataset) -> bool:
    """Return whether every id is an image of the data and is listed once."""
    different = set(ids)
    return len(different) == len(ids) and not different.difference(dataset.ids)
