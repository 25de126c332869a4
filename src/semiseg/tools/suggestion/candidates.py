"""Find the images that can be suggested, and those that are already annotated."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import torch

from semiseg.config import TrainConfig
from semiseg.data import open_dataset, saved_format
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.splits.hold_out import SHARE, hash_of
from semiseg.data.splits.list_files import listable
from semiseg.data.stream.shards import names_shards
from semiseg.data.unlabeled_folder import is_photograph_folder
from semiseg.errors import UserError
from semiseg.seeding import generator
from semiseg.training.run_data import open_run_data, same_data
from semiseg.training.run_directory import RunDirectory


@dataclass(frozen=True)
class Candidates:
    """Images to choose from, and annotated images.

    Attributes:
        dataset: Data set of the images to choose from.
        ids: Images to choose from.
        known: Data set of the annotated images.
        annotated: Annotated images.
    """

    dataset: SegmentationDataset
    ids: tuple[str, ...]
    known: SegmentationDataset
    annotated: tuple[str, ...]


def find_candidates(run: RunDirectory, data: str | None) -> Candidates:
    """Find the images without a mask in ``data``; None means the data of the run.

    Raises:
        UserError: There is no such image, or the data are missing.
    """
    config, _ = run.read_config()
    if data is None or same_data(data, config.data):
        found = candidates_in_run(run, open_run_data(config, run.path, unlabeled=True), config)
    else:
        found = candidates_elsewhere(run, data, config)
    ids = tuple(id for id in found.ids if listable(id))
    if len(ids) < len(found.ids):
        note(f"Leaving out {len(found.ids) - len(ids)} images whose names cannot be in a list")
    if not ids:
        fix = "add images, or give others with --data"
        if config.unlabeled and names_shards(config.unlabeled) and not is_photograph_folder(config.unlabeled):
            fix = "unpack a shard (suggest does not read them), and give its folder with --data"
        raise UserError("contains no image without a mask", path=found.dataset.name, fix=fix)
    return replace(found, ids=ids)


def candidates_in_run(run: RunDirectory, dataset: SegmentationDataset, config: TrainConfig) -> Candidates:
    """Choose among the images of the run's data that have no mask, including images added since.

    A run with ``--labeled`` treats the other images as unlabeled although they have masks. They are candidates, too.
    Without a val list, images that would be held out for validation are left out: training would not learn from them.
    """
    split = run.read_split(dataset)
    hidden = set(split.unlabeled) if config.labeled is not None else set()
    in_use = {*split.labeled, *split.val, *split.test}
    ids = tuple(id for id in dataset.ids if id not in in_use and (id in hidden or not dataset.has_mask(id)))
    learned = tuple(id for id in ids if hash_of(id) >= SHARE)
    if dataset.split("val", []) is None and learned and len(learned) < len(ids):
        note(f"Leaving out {len(ids) - len(learned)} images that would be held out for validation (no val list)")
        ids = learned
    added = tuple(id for id in split.unlabeled if id not in hidden and dataset.has_mask(id))
    return Candidates(dataset, ids, dataset, (*split.labeled, *added))


def candidates_elsewhere(run: RunDirectory, data: str, config: TrainConfig) -> Candidates:
    """Choose among the images of another data set that have no mask; it may be the run's data at a new path."""
    dataset = open_dataset(data)
    dataset.pixel_format = saved_format(config)
    ids = tuple(id for id in dataset.ids if not dataset.has_mask(id))
    try:
        own = open_run_data(config, run.path)
        return Candidates(dataset, ids, own, run.read_split(own, unlabeled=False).labeled)
    except UserError:
        pass
    try:
        return candidates_in_run(run, open_run_data(config, run.path, data, unlabeled=True), config)
    except UserError:
        note(f"{config.data}: the data of the run are missing; their images do not count as annotated")
        return Candidates(dataset, ids, dataset, ())


def sample_pool(ids: tuple[str, ...], pool: int, seed: int) -> tuple[str, ...]:
    """Return at most ``pool`` random ids, in their order."""
    if len(ids) <= pool:
        return ids
    note(f"Choosing from {pool} random images of {len(ids)} (--pool)")
    chosen = torch.randperm(len(ids), generator=generator(seed, "pool"))[:pool].sort().values.tolist()
    return tuple(ids[index] for index in chosen)


def note(line: str) -> None:
    """Print a line to stderr; stdout is for results."""
    print(line, file=sys.stderr)
