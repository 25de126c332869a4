"""Write labeled lists, or derive a data set with cheaper annotation from full masks, to measure its cost."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from semiseg.data import open_dataset
from semiseg.data.class_file import write_class_file
from semiseg.data.dataset import IGNORE, SegmentationDataset
from semiseg.data.files.atomic_folder import new_folder, require_free
from semiseg.data.files.image_files import write_image_file
from semiseg.data.files.mask_files import write_mask_file
from semiseg.data.splits import derive_annotation as derive
from semiseg.data.splits.dataset_split import read_dataset_lists, sample_labeled, write_list
from semiseg.data.splits.list_files import read_list
from semiseg.data.tag_file import Tags, write_tags
from semiseg.errors import UserError, did_you_mean, os_error

TagKind = Literal["all", "some", "single"]
Derivation = Callable[[derive.Mask, str], derive.Mask]


def make_split(
    data: str | Path,
    out: str | Path | None = None,
    *,
    scribbles: float | None = None,
    boxes: bool = False,
    classes: str | None = None,
    single_positive: bool = False,
    tags: TagKind | None = None,
    labeled: str | None = None,
    seed: int = 0,
) -> Path:
    """Write labeled lists, or a new data set with partially annotated training masks. Return the folder.

    Args:
        data: A data set with full masks.
        out: A new folder for the data set. For lists alone, the folder for them (default ``DATA/splits/1_16/seed0``).
        scribbles: Share of each region to cover with a curve, in (0, 1].
        boxes: Keep a rectangle inside each region.
        classes: Keep these classes, ``car,tree``.
        single_positive: Keep one class per image, balanced over the images, first over those that ``labeled`` names.
        tags: Write ``tags.csv`` with all tags, some of them, or a single positive tag per image.
        labeled: Write lists for this share of labeled images, ``1/16``; without other options, also for a number.
        seed: The random seed.

    Raises:
        UserError: The input is invalid, or an existing file would be overwritten.
    """
    dataset = open_dataset(data)
    if (scribbles, classes, tags) == (None, None, None) and not boxes and not single_positive:
        return _write_lists(dataset, labeled, seed, out)
    if out is None:
        raise UserError("missing", option="out", fix="give a new folder for the derived annotation")
    if labeled is not None and not _is_share(labeled):
        raise UserError(f"{labeled} is not a share, which a data set requires", option="labeled", fix="give e.g. 1/16")
    change = _derivation(dataset, scribbles, boxes, classes, single_positive, labeled, seed)
    return _write_derived(dataset, Path(out), change, tags, labeled, seed)


def _derivation(
    dataset: SegmentationDataset,
    scribbles: float | None,
    boxes: bool,
    classes: str | None,
    single_positive: bool,
    labeled: str | None,
    seed: int,
) -> Derivation | None:
    """Return the requested change of masks, or None."""
    if sum((scribbles is not None, boxes, classes is not None, single_positive)) > 1:
        problem = "--scribbles, --boxes, --classes and --single-positive exclude each other"
        raise UserError(problem, fix="give one of them")
    if scribbles is not None:
        if not 0 < scribbles <= 1:
            fix = "give the share of each region to cover, in (0, 1]"
            raise UserError(f"{scribbles} is out of range", option="scribbles", fix=fix)
        return lambda mask, id: derive.scribbles(mask, scribbles, seed, id)
    if boxes:
        return lambda mask, id: derive.boxes(mask)
    if classes is not None:
        kept = tuple(_class_index(dataset, name.strip()) for name in classes.split(","))
        return lambda mask, id: derive.some_classes(mask, kept)
    if single_positive:
        train = filter(dataset.has_mask, read_dataset_lists(dataset)[0])
        shown = {id: derive.classes_in(dataset.read_mask(id).numpy()) for id in train}
        first = sample_labeled(dataset, labeled, seed)[0] if labeled is not None else ()
        assigned = derive.assign_classes(shown, set(first), seed)
        return lambda mask, id: derive.some_classes(mask, (assigned[id],) if id in assigned else ())
    return None


def _class_index(dataset: SegmentationDataset, name: str) -> int:
    if name not in dataset.classes:
        problem = f"unknown class {name!r} of {dataset.name}: {did_you_mean(name, dataset.classes)}"
        raise UserError(problem, option="classes")
    return dataset.classes.index(name)


def _is_share(labeled: str) -> bool:
    return re.fullmatch(r"\d+/\d+", labeled) is not None


def _list_folder(root: Path, labeled: str, seed: int) -> Path:
    return root / "splits" / labeled.replace("/", "_") / f"seed{seed}"


def _write_lists(dataset: SegmentationDataset, labeled: str | None, seed: int, out: str | Path | None) -> Path:
    if labeled is None:
        fix = "give --labeled, --scribbles, --boxes, --classes, --single-positive or --tags"
        raise UserError("nothing to do", fix=fix)
    if out is None and (dataset.root is None or not _is_share(labeled)):
        problem = f"missing for --labeled {labeled} of {dataset.name}"
        raise UserError(problem, option="out", fix="give a folder for the two lists")
    folder = Path(out) if out is not None else _list_folder(dataset.root or Path(), labeled, seed)
    paths = [folder / f"{name}.txt" for name in ("labeled", "unlabeled")]
    if existing := next((path for path in paths if path.exists()), None):
        raise UserError("already exists", path=existing, fix="choose another --seed or --out, or remove it")
    lists = sample_labeled(dataset, labeled, seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, ids in zip(paths, lists, strict=True):
            write_list(path, ids)
    except OSError as error:
        raise os_error(error, "cannot be written", folder, "choose another --out") from None
    print(f"{len(lists[0])} labeled, {len(lists[1])} unlabeled images", file=sys.stderr)
    return folder


def _write_derived(
    dataset: SegmentationDataset,
    out: Path,
    change: Derivation | None,
    tags: TagKind | None,
    labeled: str | None,
    seed: int,
) -> Path:
    """Write a data set as a plain folder, with changed training masks, and return the folder."""
    require_free(out)
    train, val, test = read_dataset_lists(dataset)
    lists = {"train": train, "val": val, "test": test}
    with new_folder(out, "images", "masks", "splits") as draft:
        for id in dataset.ids:
            link_image(dataset, id, draft / "images")
        notes = _write_masks(dataset, {*val, *test}, draft, change, tags, seed)
        write_class_file(draft / "classes.json", dataset)
        for name, ids in lists.items():
            if ids:
                write_list(draft / "splits" / f"{name}.txt", ids)
        _copy_labeled_lists(dataset, draft, labeled, seed)
    if not val:
        notes.append(f"warning: {dataset.name} has no val list, so validation will use partial masks")
    print("\n".join(notes), file=sys.stderr)
    return out


def link_image(dataset: SegmentationDataset, id: str, folder: Path) -> Path:
    """Link an image into a folder, copy it if links are not possible, or write it if it is generated."""
    source = dataset.image_path(id)
    if source is None:
        target = folder / f"{id}.png"
        write_image_file(target, dataset.read_image(id))
        return target
    target = folder / f"{id}{source.suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source.absolute())
    except OSError:
        shutil.copy(source, target)
    return target


def _write_masks(
    dataset: SegmentationDataset,
    held_out: set[str],
    root: Path,
    change: Derivation | None,
    kind: TagKind | None,
    seed: int,
) -> list[str]:
    """Write the masks, those of training images changed, and their tags. Return notes for the user."""
    known, tags = np.zeros(3, dtype=np.int64), dict[str, Tags]()  # pixels: known before, known after, all
    for id in filter(dataset.has_mask, dataset.ids):
        mask = dataset.read_mask(id)
        if id not in held_out:
            full = mask.numpy()
            kept = change(full, id) if change else full
            known += [(full != IGNORE).sum(), (kept != IGNORE).sum(), full.size]
            if kind is not None:
                tags[id] = _tags(kind, full, len(dataset.classes), seed, id)
            mask = torch.from_numpy(kept)
        write_mask_file(root / "masks" / f"{id}.png", mask, dataset.palette)
    before, after = known[:2] / max(1, known[2])
    notes = [f"{after:.2%} of the pixels of annotated training images are known (before: {before:.2%})"]
    if kind is None:  # keep the tags of the data
        tags = {id: known_tags for id in dataset.ids if (known_tags := dataset.tags(id)) is not None}
    if tags:
        write_tags(root / "tags.csv", dataset.classes, tags)
        present, absent, unknown = (int((np.array(list(tags.values())) == value).sum()) for value in (1, 0, -1))
        notes.append(f"tags of {len(tags)} images: {present} present, {absent} absent, {unknown} unknown")
    return notes


def _tags(kind: TagKind, mask: derive.Mask, classes: int, seed: int, id: str) -> Tags:
    if kind == "all":
        return derive.all_tags(mask, classes)
    return (derive.some_tags if kind == "some" else derive.single_tag)(mask, classes, seed, id)


def _copy_labeled_lists(dataset: SegmentationDataset, root: Path, labeled: str | None, seed: int) -> None:
    """Copy the labeled lists of the data, and sample those for ``labeled`` unless they exist."""
    found: dict[Path, tuple[Sequence[str], Sequence[str]]] = {}
    if dataset.root is not None:
        for path in sorted((dataset.root / "splits").rglob("labeled.txt")):
            if (unlabeled := path.with_name("unlabeled.txt")).is_file():
                folder = root / path.parent.relative_to(dataset.root)
                found[folder] = read_list(path, dataset), read_list(unlabeled, dataset)
    if labeled is not None and not dataset.published_lists(labeled, seed):
        found[_list_folder(root, labeled, seed)] = sample_labeled(dataset, labeled, seed)
    for folder, lists in found.items():
        folder.mkdir(parents=True, exist_ok=True)
        for name, ids in zip(("labeled", "unlabeled"), lists, strict=True):
            write_list(folder / f"{name}.txt", ids)
