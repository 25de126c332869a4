"""Change what a resumed run may change: its number of steps, and where its data are."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from semiseg.config import TrainConfig, read_train_config
from semiseg.data.file_dataset import FileDataset
from semiseg.data.splits.dataset_split import resolve_split
from semiseg.errors import UserError
from semiseg.training.build import learning_rate, planned_steps, steps_per_epoch
from semiseg.training.run_data import open_run_data
from semiseg.training.run_directory import RunDirectory


class RunChanges(NamedTuple):
    """The options that may be given with ``--resume``; None keeps the value of the run.

    Attributes:
        devices: Number of devices.
        nodes: Number of machines.
        steps: A larger number of steps.
        data: The data at a new path.
        unlabeled: The folder of photographs at a new path.
    """

    devices: int | str | None = None
    nodes: int | None = None
    steps: int | None = None
    data: str | Path | None = None
    unlabeled: str | Path | None = None


def change_run(run: RunDirectory, changes: RunChanges) -> None:
    """Write new steps and paths to config.yaml, log and print them.

    Raises:
        UserError: The data lack images of the run, or the number of steps is smaller than that of the run.
    """
    config, _ = run.read_config()
    values: dict[str, Any] = {}
    for name in ("data", "unlabeled"):
        if (path := getattr(changes, name)) is not None:
            values[name] = str(path) if ":" in str(path) else str(Path(path).absolute())
    config = replace(config, **values)
    if not values and changes.steps is None:
        return
    dataset = open_run_data(config, run.path, unlabeled=True)
    split = run.read_split(dataset)
    lines = [f"--{name}: {value}" for name, value in values.items()]
    if changes.steps is not None:
        total = planned_steps(config, steps_per_epoch(config, split))
        lines += check_steps(run, config, changes.steps, total)
        values |= {"steps": changes.steps, "epochs": None}
    run.change(values)
    with run.log.open("a", encoding="utf-8") as log:
        for line in lines:
            print(line, file=sys.stderr)
            log.write(line + "\n")


def check_steps(run: RunDirectory, config: TrainConfig, steps: int, total: int) -> list[str]:
    """Return a note on the new number of steps.

    Raises:
        UserError: The run has more steps.
    """
    if steps < total:
        fix = f"pass more than {total}, or start a new run from its network with --init {run.path}"
        raise UserError(f"{steps} is less than the {total} steps of {run.path}", option="steps", fix=fix)
    return [] if steps == total else [f"--steps: {steps} instead of {total}"]


def extension_notes(
    run: RunDirectory, config: TrainConfig, state: dict[str, Any], total: int, epoch_steps: int
) -> list[str]:
    """Return a note if the run has more steps than when the checkpoint ``state`` was saved.

    Raises:
        UserError: The run has fewer steps.
    """
    before = planned_steps(read_train_config(state["config"], str(run.last)), epoch_steps)
    if total < before:
        problem = f"has {total} steps, fewer than the {before} of its checkpoint"
        raise UserError(problem, path=run.path / "config.yaml", fix=f"restore steps: {before}")
    if total == before:
        return []
    old, new = (learning_rate(config, state["step"], steps) for steps in (before, total))
    step, rates = state["step"], f"the learning rate is {new:.3g} instead of {old:.3g}"
    return [f"{total} steps instead of {before}: from step {step} on, schedules are those of {total} steps ({rates})"]


def new_labels(run: RunDirectory, config: TrainConfig) -> list[str]:
    """Return a note if images of the data have masks that the lists of the run do not use."""
    if config.labeled is not None or not isinstance(run.dataset, FileDataset):  # other masks are unused on purpose
        return []
    used = {*run.split.labeled, *run.split.val, *run.split.test}
    if used.issuperset(run.dataset.masks):
        return []
    try:
        now = resolve_split(run.dataset, None, config.seed, existing_only=True)
    except UserError:
        return []
    new = len({*now.labeled, *now.val} - used)
    fix = f"To train on them, start a new run with --init {run.path}"
    return [f"The data has changed: {new} images have new masks, but the run keeps its lists. {fix}"] if new else []
