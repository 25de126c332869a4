"""The images that may be suggested, and those that are annotated already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from semiseg.config import TrainConfig
from semiseg.data import open_dataset
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.splits.list_files import listable
from semiseg.data.stream.shards import names_shards
from semiseg.errors import UserError
from semiseg.seeding import generator
from semiseg.tools.suggestion.uncertainty import tell
from semiseg.training.run_directory import RunDirectory


@dataclass(frozen=True)
class Candidates:
    """Images to choose from, and images to be unlike.

    Attributes:
        dataset: where the images to choose from are.
        ids: which they are.
        known: where the annotated images are.
        annotated: which they are.
    """

    dataset: SegmentationDataset
    ids: tuple[str, ...]
    known: SegmentationDataset
    annotated: tuple[str, ...]


def find_candidates(run: RunDirectory, data: str | None) -> Candidates:
    """Find the images without a mask in ``data``, the run's own data where it is None.

    Raises:
        UserError: there is none, or the data are not there.
    """
    config, _ = run.read_config()
    if data is None or same_place(data, config.data):
        found = among_own(run, open_dataset(config.data), config)
    else:
        found = among_others(run, open_dataset(data), config)
    ids = tuple(id for id in found.ids if listable(id))
    if len(ids) < len(found.ids):
        tell(f"{len(found.ids) - len(ids)} images are left out: no list can hold their names")
    if not ids:
        if config.unlabeled and names_shards(config.unlabeled):
            remedy = "the run's shards are not looked into: unpack one, and give the folder by --data"
            raise UserError(f"{found.dataset.name}: no image without a mask; {remedy}")
        raise UserError(f"{found.dataset.name}: no image without a mask: add images, or give others by --data")
    return Candidates(found.dataset, ids, found.known, found.annotated)


def among_own(run: RunDirectory, dataset: SegmentationDataset, config: TrainConfig) -> Candidates:
    """Choose among the images of the run's own data that have no mask, whether they are in its lists or came later.

    A run that was told how many labels to use (``--labeled``) takes the others for unlabeled although they have masks,
    and so is it here.
    """
    split = run.read_split(dataset)
    pretended = set(split.unlabeled) if config.labeled is not None else set()
    held_back = {*split.labeled, *split.val, *split.test}
    ids = tuple(id for id in dataset.ids if id not in held_back and (id in pretended or not dataset.has_mask(id)))
    since = tuple(id for id in split.unlabeled if id not in pretended and dataset.has_mask(id))
    return Candidates(dataset, ids, dataset, (*split.labeled, *since))


def among_others(run: RunDirectory, dataset: SegmentationDataset, config: TrainConfig) -> Candidates:
    """Choose among the images of other data that have no mask; where the run's own have moved there, among those."""
    ids = tuple(id for id in dataset.ids if not dataset.has_mask(id))
    try:
        own = open_dataset(config.data)
        return Candidates(dataset, ids, own, run.read_split(own).labeled)
    except UserError:
        pass
    try:
        return among_own(run, dataset, config)
    except UserError:
        tell(f"{config.data}: what the run learned from is not there any more, and does not count as known")
        return Candidates(dataset, ids, dataset, ())


def same_place(one: str, other: str) -> bool:
    """Tell whether two ``--data`` mean the same."""
    return one == other or (Path(one).is_dir() and Path(one).resolve() == Path(other).resolve())


def drawn(ids: tuple[str, ...], pool: int, seed: int) -> tuple[str, ...]:
    """Return at most ``pool`` of the images, drawn at random, in their order."""
    if len(ids) <= pool:
        return ids
    tell(f"{len(ids)} images to choose from: {pool} of them, drawn at random, are looked at (--pool)")
    chosen = torch.randperm(len(ids), generator=generator(seed, "pool"))[:pool].sort().values.tolist()
    return tuple(ids[index] for index in chosen)
