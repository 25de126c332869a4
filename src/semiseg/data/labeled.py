"""Which of the training images are labeled: all masks, a share, a number, a published or a drawn list."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path

import torch

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.lists import ListReader, read_permutation, unlabeled_beside
from semiseg.errors import UserError
from semiseg.seeding import generator


def choose_labeled(
    reader: ListReader, labeled: str | None, seed: int, unlabeled: Path | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the labeled and the unlabeled ids.

    Args:
        reader: with the training images.
        labeled: as ``splits.resolve_split`` takes it.
        seed: of what is drawn.
        unlabeled: a list of the unlabeled images in a file; the rest of the training images where it is None.

    Raises:
        UserError: a list contradicts the data, or there are too few masks.
    """
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
        if unlabeled is None and (unlabeled := unlabeled_beside(Path(labeled))):
            reader.notes.append(f"unlabeled: the list {unlabeled} that lies beside {labeled}")
    else:
        raise UserError(
            f"--labeled {labeled}: no such file; give a share (1/16), a number (23), a list in a file or split_0.pkl:N"
        )
    _check_labeled(dataset, chosen, None if unlabeled else train, f"--labeled {labeled}")
    if unlabeled:
        return chosen, reader.file(unlabeled, may_be_empty=True)  # a method that needs some says so
    taken = set(chosen)
    return chosen, tuple(id for id in train if id not in taken)


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
    dataset: SegmentationDataset, ids: tuple[str, ...], train: tuple[str, ...] | None, source: str
) -> None:
    """Raise UserError where one of the labeled images has no mask, or is no training image, if these are given."""
    if not ids:
        raise UserError(f"{source}: the list is empty; name at least one image")
    known = set(ids if train is None else train)
    for id in ids:
        if id not in known:
            raise UserError(
                f"{source}: {id!r} is not among the training images; take it out, or add it to splits/train.txt"
            )
        if not dataset.has_mask(id):
            raise UserError(f"{source}: {id!r} has no mask; add it or take the image out")
