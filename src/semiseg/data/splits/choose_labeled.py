"""Choose the labeled images: a share, a number, a list file or a permutation."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path

import torch

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.files.string_array import StringArray
from semiseg.data.splits.list_files import (
    ListReader,
    matching_unlabeled_list,
    read_permutation,
)
from semiseg.errors import UserError
from semiseg.seeding import generator

SAMPLED = re.compile(r"\d{1,9}(/\d{1,9})?")
"""Values of ``--labeled`` for which images are sampled: a number or a share."""


def without(ids: Sequence[str], others: Iterable[str]) -> Sequence[str]:
    """Return the ids that are not among the others, in order."""
    left_out = set(others)
    return StringArray(id for id in ids if id not in left_out) if left_out else ids


def choose_labeled(
    reader: ListReader, labeled: str | None, seed: int, unlabeled: Path | None
) -> tuple[tuple[str, ...], Sequence[str]]:
    """Return the labeled and the unlabeled ids."""
    dataset, train = reader.dataset, reader.train
    masked = tuple(id for id in train if dataset.has_mask(id))
    if not masked:
        where = dataset.root / dataset.mask_folder if dataset.root else dataset.name
        example = f", as {dataset.mask_folder}/NAME.png" if dataset.mask_folder else ""
        fix = f"annotate a few{example}"
        raise UserError(f"none of {len(train)} training images has a mask", path=where, fix=fix)
    if labeled is None:
        chosen = masked
    elif match := re.fullmatch(r"(.+\.pkl)(?::(\d{1,9}))?", labeled):
        chosen = _from_permutation(reader, Path(match[1]), int(match[2] or 0))
    elif SAMPLED.fullmatch(labeled):
        if published := dataset.published_lists(labeled, seed):
            reader.notes.append(f"labeled {labeled}: using the lists that come with {dataset.name} for seed {seed}")
            chosen, unlabeled = reader.file(published[0]), unlabeled or published[1]
        else:
            count = _share(labeled, len(train)) if "/" in labeled else int(labeled)
            chosen = _sample(masked, count, seed)
            reader.notes.append(f"labeled {labeled}: {count} of {len(masked)} masks sampled with seed {seed}")
    elif os.path.isfile(labeled):  # False for invalid names, on which Path raises
        chosen = reader.file(Path(labeled))
        if unlabeled is None and (unlabeled := matching_unlabeled_list(Path(labeled))):
            reader.notes.append(f"unlabeled: using the list {unlabeled} next to {labeled}")
    else:
        fix = "give a share (1/16), a number (23), a list file or split_0.pkl:N"
        raise UserError(f"{labeled}: no such file", option="labeled", fix=fix)
    _check_labeled(dataset, chosen, None if unlabeled else train, labeled)
    if unlabeled:
        return chosen, reader.file(unlabeled, may_be_empty=True)  # methods that need unlabeled images check for them
    added = without(reader.unlabeled, chosen)
    reader.note_unlabeled(added)
    return chosen, StringArray(chain(without(train, chosen), added))


def _from_permutation(reader: ListReader, path: Path, count: int) -> tuple[str, ...]:
    """Return the first ``count`` of the permuted, sorted training images (CutMix-Seg and ClassMix)."""
    order, whole = read_permutation(path), sorted({*reader.train, *reader.train_missing})
    if len(order) != len(whole):
        raise UserError(
            f"it permutes {len(order)} images, but the train list has {len(whole)}",
            path=path,
            fix="use the file made for this data, or complete the train list",
        )
    if not 0 < count < len(order):
        problem = f"{path} does not say how many of its {len(order)} images are labeled"
        raise UserError(problem, option="labeled", fix=f"append a number, as in {path}:100")
    chosen, here = [whole[index] for index in order[:count]], set(reader.train)
    return reader.present(
        f"{path}:{count}", tuple(id for id in chosen if id in here), [id for id in chosen if id not in here]
    )


def _share(labeled: str, count: int) -> int:
    numerator, denominator = map(int, labeled.split("/"))
    if not 0 < numerator <= denominator:
        problem = f"{labeled} is not a share of the images"
        raise UserError(problem, option="labeled", fix="give a share above 0 and at most 1, such as 1/16")
    return max(1, round(Fraction(numerator, denominator) * count))


def _sample(masked: tuple[str, ...], count: int, seed: int) -> tuple[str, ...]:
    if not 0 < count <= len(masked):
        problem = f"{count} labeled images requested, but {len(masked)} training images have a mask"
        raise UserError(problem, option="labeled", fix=f"choose 1 to {len(masked)}")
    order = torch.randperm(len(masked), generator=generator(seed, "draw labeled")).tolist()
    return tuple(sorted(masked[index] for index in order[:count]))


def _check_labeled(
    dataset: SegmentationDataset, ids: tuple[str, ...], train: Sequence[str] | None, labeled: str | None
) -> None:
    """Raise UserError if a labeled image has no mask or, if ``train`` is given, is not a training image."""
    path = labeled if labeled and os.path.isfile(labeled) else None
    if not ids:
        raise UserError("the list is empty", path=path, option="labeled", fix="list at least one image")
    unexpected = set() if train is None else set(ids).difference(train)
    for id in ids:
        if id in unexpected:
            problem, fix = f"{id!r} is not among the training images", "remove it, or add it to splits/train.txt"
            raise UserError(problem, path=path, option="labeled", fix=fix)
        if not dataset.has_mask(id):
            raise UserError(f"{id!r} has no mask", path=path, option="labeled", fix="add it or remove the image")
