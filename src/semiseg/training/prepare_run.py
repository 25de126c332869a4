"""What is checked before a run's first step, and how its directory comes about."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiseg.config import TrainConfig
from semiseg.data import open_dataset
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.mask_validation import check_masks, count_pixels
from semiseg.data.splits.annotation_kind import check_annotation
from semiseg.data.splits.dataset_split import Split, resolve_split
from semiseg.data.stream.unlabeled_pool import disk_space_note
from semiseg.errors import UserError
from semiseg.methods import Method
from semiseg.training.decode_plan import make_reader
from semiseg.training.disk_space import checkpoint_bytes, require_room
from semiseg.training.find_method import find_method
from semiseg.training.logging.trackers import require_trackers
from semiseg.training.run_directory import RunDirectory


def check_before_trying(path: Path, config: TrainConfig, options: Any, device: Any) -> None:
    """See that ``--batch-size auto`` can be found out, for a run that can be made.

    Raises:
        UserError: there is no GPU, or anything else that the user should correct first.
    """
    from semiseg.training.auto_batch_size import require_gpu
    from semiseg.training.distributed.external_launcher import launch_id

    require_gpu(device)
    if launch_id() is None:  # else it may be a run that goes on
        RunDirectory.refuse_existing(path)
    check_network(config, options, open_data(config)[0])


def open_data(config: TrainConfig) -> tuple[SegmentationDataset, Split]:
    """Return the data and the lists of images of a run.

    Raises:
        UserError: there are none, or none that the method needs.
    """
    if not config.data:
        raise UserError("--data is missing: give a directory with images/ and masks/, or shapes")
    dataset = open_dataset(config.data)
    split = resolve_split(dataset, config.labeled, config.seed, config.unlabeled, config.existing_only)
    check_unlabeled(config, split)
    return dataset, split


def look_through(config: TrainConfig) -> tuple[SegmentationDataset, Split, NDArray[np.int64]]:
    """Return data and lists as ``open_data`` does, every labeled, val and test image read, with its mask.

    Also the pixels of each value in the masks of the labeled images, ``(images, 256)``.

    Raises:
        UserError: as ``open_data``, or an image or mask cannot be used; the message names the file.
    """
    dataset, split = open_data(config)
    check_masks(dataset, (*split.val, *split.test))
    return dataset, split, count_pixels(dataset, split.labeled)


def prepare(path: Path, config: TrainConfig, options: Any, note: str = "") -> RunDirectory:
    """Check everything a run needs before its first step, print what is noteworthy, and make its directory.

    ``note``: what is to be told beside. A run that this torchrun has begun before is there already.

    Raises:
        UserError: anything the user should correct first.
    """
    if (run := RunDirectory(path)).is_of_this_launch(config, options):
        print(f"{path}: torchrun has started the run again: it goes on", file=sys.stderr)
        return run
    RunDirectory.refuse_existing(path)
    dataset, split, pixels = look_through(config)
    require_trackers(config)
    notes = [
        *([note] if note else []),
        *split.notes,
        *check_annotation(dataset, split.labeled, pixels, config.annotation),
    ]
    if split.shards is not None and (room := disk_space_note(split.shards, config.batch // config.nodes)):
        notes.append(room)
    notes += noteworthy(config, options, dataset, split, pixels.sum(axis=0).tolist())
    notes += make_reader(config, dataset, split)[1]
    needed = checkpoint_bytes(check_network(config, options, dataset), config)
    notes.append(require_room(path, needed))
    run = RunDirectory.create(path, config, options, dataset, split)
    head = (
        f"{config.method} on {config.data}: {len(split.labeled)} labeled, {split.unlabeled_count} unlabeled, "
        f"{len(split.val)} val, {len(split.test)} test images, {len(dataset.classes)} classes"
    )
    run.log.write_text("\n".join([head, *notes]) + "\n", encoding="utf-8")
    for line in (head, *notes):
        print(line, file=sys.stderr)
    return run


def noteworthy(
    config: TrainConfig, options: Any, dataset: SegmentationDataset, split: Split, pixels: list[int]
) -> list[str]:
    """Say in a line each how data and configuration do not go together, where that is no reason to refuse.

    ``pixels`` counts those of each mask value over the labeled images.
    """
    notes, tagged = [], dataset.any_tags(split.labeled, split.unlabeled)
    fills = hasattr(options, "fill_weight") or not find_method(config.method).uses_unlabeled
    if config.annotation != "full" and not fills:
        notes.append(f"{config.method} has no teacher that fills in what nobody annotated: those pixels are left out")
    if tagged and not hasattr(options, "tag_weight"):
        notes.append(f"warning: {config.method} makes no use of image tags")
    if missing := [name for value, name in enumerate(dataset.classes) if not pixels[value]]:
        notes.append(f"warning: no labeled pixel of {', '.join(missing)}: the model cannot learn what no label shows")
    if config.freeze_encoder and config.weights == "none":
        notes.append("warning: the frozen encoder's weights are random: --weights says where others come from")
    if len(split.labeled) < config.batch:
        notes.append(
            f"warning: {len(split.labeled)} labeled images for batches of {config.batch_size}: images repeat in a batch"
        )
    return notes


def check_unlabeled(config: TrainConfig, split: Split) -> None:
    """Raise UserError where the method needs unlabeled images and the split has none."""
    if find_method(config.method).uses_unlabeled and not split.unlabeled_count:
        raise UserError(
            f"{config.data}: no unlabeled images left for {config.method}: "
            "add images without masks, use fewer labels by --labeled, or take --method supervised"
        )


def check_network(config: TrainConfig, options: Any, dataset: SegmentationDataset) -> Method:
    """Build the method once and return it.

    Raises:
        UserError: there is no such network, or the method cannot use it.
    """
    from semiseg.training.build import make_method

    try:
        return make_method(config, options, dataset)
    except ValueError as error:
        raise UserError(f"{config.method} over {config.encoder}: {error}") from None
