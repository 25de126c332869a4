"""Prepare a run: validate its input, create its directory, or load what it resumes from."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiseg.config import TrainConfig
from semiseg.data import open_dataset
from semiseg.data.class_names import similar_names, similar_names_note
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.files.mask_matching import unread_files_note
from semiseg.data.folder_dataset import FolderDataset
from semiseg.data.image_notes import image_notes
from semiseg.data.mask_validation import count_pixels
from semiseg.data.splits.annotation_kind import check_annotation
from semiseg.data.splits.dataset_split import Split, resolve_split
from semiseg.data.stream.main_module import require_guard
from semiseg.data.stream.unlabeled_pool import disk_space_note
from semiseg.data.unlabeled_folder import add_photographs, is_photograph_folder
from semiseg.data.unread_files import unread_files
from semiseg.errors import UserError, short_repr
from semiseg.methods import Method
from semiseg.training.build import make_method, steps_per_epoch
from semiseg.training.checkpoint import START_OVER, load_checkpoint
from semiseg.training.decode_plan import make_reader
from semiseg.training.disk_space import checkpoint_bytes, require_disk_space
from semiseg.training.distributed.external_launcher import launch_id
from semiseg.training.find_method import find_method
from semiseg.training.initial_network import encoder_source, initial_notes, pixel_options, read_initial_network
from semiseg.training.logging.metrics_log import read_metrics
from semiseg.training.logging.trackers import require_trackers
from semiseg.training.run_directory import RunDirectory


def create_run(
    path: Path, config: TrainConfig, options: Any, note: str = "", plan: Mapping[str, Any] | None = None
) -> RunDirectory:
    """Validate the input of a new run, print notes and warnings, and create the run directory.

    If torchrun restarts the processes of a run that this launch created, return the existing directory.

    Args:
        path: The run directory.
        config: The run's configuration.
        options: The method's options.
        note: Additional lines to print and to write to log.txt.
        plan: The content of plan.json.

    Raises:
        UserError: The input is invalid.
    """
    if (run := RunDirectory(path)).belongs_to_this_launch(config, options):
        print(f"{path}: restarted by torchrun. Resuming the run.", file=sys.stderr)
        return run
    RunDirectory.refuse_existing(path)
    dataset, split, pixels = open_validated_data(config)
    if config.workers:
        require_guard(type(dataset))
    require_trackers(config)
    unread = unread_files_note(dataset.root) if isinstance(dataset, FolderDataset) else ""
    notes = [text for text in (note, dataset.read_as, unread) if text]
    if isinstance(dataset, FolderDataset):
        notes += [f"warning: {problem}. {fix[0].upper()}{fix[1:]}" for problem, fix, _ in unread_files(dataset)]
    notes += split.notes
    notes += [*dataset.pixel_notes, *image_notes(dataset, split.labeled)]
    config = replace(config, bands=dataset.pixel_format.bands, white=dataset.pixel_format.white)
    notes += check_annotation(dataset, split.labeled, pixels, config.annotation)
    if split.shards is not None and (disk_note := disk_space_note(split.shards, config.batch // config.nodes)):
        notes.append(disk_note)
    notes += configuration_warnings(config, options, dataset, split, pixels.sum(axis=0).tolist())
    notes += make_reader(config, dataset, split)[1]
    method = check_network(config, options, dataset)
    if config.init:
        notes += initial_notes(read_initial_network(Path(config.init)), tuple(dataset.classes), split, config)
    else:
        notes += encoder_source(config)
    notes.append(require_disk_space(path, checkpoint_bytes(method, config)))
    run = RunDirectory.create(path, config, options, dataset, split, plan)
    head = (
        f"{config.method} on {config.data}: {len(split.labeled)} labeled, {split.unlabeled_count} unlabeled, "
        f"{len(split.val)} val, {len(split.test)} test images, {len(dataset.classes)} classes"
    )
    run.log.write_text("\n".join([head, *notes]) + "\n", encoding="utf-8")
    for line in (head, *notes):
        print(line, file=sys.stderr)
    return run


# Validation of the input.


def check_auto_batch_size(path: Path, config: TrainConfig, options: Any, device: Any) -> None:
    """Validate the input of a run with ``--batch-size auto`` before trial steps are taken.

    Raises:
        UserError: There is no GPU, or other input is invalid.
    """
    from semiseg.training.auto_batch_size import require_gpu

    require_gpu(device)
    if launch_id() is None:  # under torchrun, the directory may belong to a restarted run
        RunDirectory.refuse_existing(path)
    check_network(config, options, open_data(config)[0])


def open_data(config: TrainConfig) -> tuple[SegmentationDataset, Split]:
    """Open the data set and its split.

    Raises:
        UserError: There is no data set, or it has no images that the method needs.
    """
    if not config.data:
        raise UserError("missing", option="data", fix="give a directory with images/ and masks/, or shapes")
    dataset = open_dataset(config.data)
    split = resolve_split(dataset, config.labeled, config.seed, config.unlabeled, config.existing_only)
    check_unlabeled(config, split)
    if is_photograph_folder(config.unlabeled):
        dataset = add_photographs(dataset, config.unlabeled or "")[0]
    dataset.choose_pixel_format(*pixel_options(config, dataset.root))
    return dataset, split


def open_validated_data(config: TrainConfig) -> tuple[SegmentationDataset, Split, NDArray[np.int64]]:
    """Open the data set and its split, and read every labeled, val and test image with its mask.

    Returns:
        The data set, the split, and the pixels of each mask value in every labeled image, ``(images, 256)``.

    Raises:
        UserError: As ``open_data``, or an image or mask cannot be used; the message names the file.
    """
    dataset, split = open_data(config)
    notes = [*split.notes, *dataset.notes]
    pixels = count_pixels(dataset, (*split.val, *split.test, *split.labeled), notes)
    return dataset, replace(split, notes=tuple(notes)), pixels[len(split.val) + len(split.test) :]


def check_unlabeled(config: TrainConfig, split: Split) -> None:
    """Raise UserError if the method, or an epoch, needs unlabeled images and the split has none."""
    if config.epoch_of == "unlabeled" and not split.unlabeled_count:
        raise UserError("there are no unlabeled images", option="epoch-of", fix="pass labeled")
    if find_method(config.method).uses_unlabeled and not split.unlabeled_count:
        raise UserError(
            f"no unlabeled images left for {config.method}",
            path=config.data,
            fix="add images without masks, lower --labeled, or use --method supervised",
        )


def check_network(config: TrainConfig, options: Any, dataset: SegmentationDataset) -> Method:
    """Build the method and return it.

    Raises:
        UserError: The network does not exist, or the method cannot use it.
    """
    try:
        return make_method(config, options, dataset)
    except ValueError as error:
        raise UserError(f"{config.method} over {config.encoder}: {error}") from None


def configuration_warnings(
    config: TrainConfig, options: Any, dataset: SegmentationDataset, split: Split, pixels: list[int]
) -> list[str]:
    """Return notes and warnings about data and configuration that do not fit together well.

    ``pixels`` counts the pixels of each mask value over all labeled images.
    """
    notes, has_tags = [], dataset.any_tags(split.labeled, split.unlabeled)
    can_fill = hasattr(options, "fill_weight") or not find_method(config.method).uses_unlabeled
    if config.annotation != "full" and not can_fill:
        notes.append(f"{config.method} has no teacher that fills in unannotated pixels; they are ignored")
    if has_tags and not hasattr(options, "tag_weight"):
        notes.append(f"warning: {config.method} does not use image tags")
    if similar := similar_names(dataset.classes):
        notes.append(f"warning: {similar_names_note(similar)}")
    if missing := [name for value, name in enumerate(dataset.classes) if not pixels[value]]:
        notes.append(f"warning: no labeled pixel of {', '.join(missing)}: the model cannot learn what no label shows")
    if config.freeze_encoder and config.weights == "none":
        notes.append("warning: the frozen encoder has random weights. Choose other weights with --weights.")
    if len(split.labeled) < config.batch:
        count = f"{len(split.labeled)} labeled image{'s' * (len(split.labeled) != 1)}"
        notes.append(f"warning: {count} for batches of {config.batch_size}: images repeat in a batch")
    if len(split.val) == 1:
        notes.append("warning: 1 val image: differences of mIoU are chance. List more in splits/val.txt.")
    return notes


# Resuming.


def steps_between_validations(config: TrainConfig, total_steps: int, split: Split) -> int:
    """Return the number of steps between two validations, each of which saves a checkpoint."""
    every = config.val_every
    if every == "epoch":
        return steps_per_epoch(config, split)
    return max(1, total_steps // 10) if every in ("auto", "never") else int(every)


def load_resume_state(run: RunDirectory, dataset: SegmentationDataset, split: Split) -> dict[str, Any] | None:
    """Load the last checkpoint of a run, or return None if there is none.

    Raises:
        UserError: The checkpoint cannot be read, the data set has other classes or colors than before, a list is empty,
            or a mask is missing.
    """
    for name, ids in (("labeled", split.labeled), ("val", split.val)):
        if not ids:
            path = run.path / "splits" / f"{name}.txt"
            raise UserError("the list is empty", path=path, fix="restore the file")
    for id in chain(split.labeled, split.val, split.test):
        if not dataset.has_mask(id):
            raise UserError(f"{id!r} is in the lists of the run but has no mask", path=dataset.name, fix="restore it")
    if run.last.is_symlink() and not run.last.exists():
        raise UserError("is a broken link", path=run.last, fix=f"restore its target, or {START_OVER}")
    if not run.last.exists():
        return None
    state = load_checkpoint(run.last)
    check_classes(run, dataset, state)
    return state


def check_classes(run: RunDirectory, dataset: SegmentationDataset, state: dict[str, Any]) -> None:
    """Raise UserError if names or colors of the data set's classes differ from those in the checkpoint ``state``."""
    colors = [list(color) for color in dataset.palette]
    for what, before, now in (("name", state["classes"], [*dataset.classes]), ("color", state["palette"], colors)):
        for index, (old, new) in enumerate(zip_longest(before, now)):
            if old != new:
                raise UserError(
                    f"the classes differ from those of {run.path}: the {what} of class {index} is {short_repr(new)} "
                    f"and was {short_repr(old)}",
                    path=dataset.name,
                    fix="restore the classes, or start a new run with another --out",
                )


def check_first_start(run: RunDirectory, first_saved: int) -> bool:
    """Check that a run without last.pt never had one; return whether it took steps before.

    A run writes metrics, then best.pt, then last.pt. A crash during the first validation therefore leaves metrics and
    best.pt of that step without last.pt. Anything beyond that step shows that last.pt existed and is lost.

    Args:
        run: The run directory.
        first_saved: The step after which the run saves its first checkpoint.

    Raises:
        UserError: The run had a checkpoint, and starting again would overwrite its results.
    """
    reached = max((line["step"] for line in read_metrics(run.metrics)), default=0)
    best = load_checkpoint(run.best)["step"] if run.best.exists() else 0
    kept = next(run.last.parent.glob("step-*.pt"), None)
    finished = (run.path / "report.html").is_file() and reached == best == first_saved
    if kept or finished or reached > first_saved or best > min(first_saved, reached):
        raise UserError(
            f"is missing, but the run has reached step {max(reached, best)}",
            path=run.last,
            fix=f"restore it, or {START_OVER}",
        )
    return reached > 0
