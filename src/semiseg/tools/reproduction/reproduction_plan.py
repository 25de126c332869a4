"""The runs of a published table, and which of them this machine can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from semiseg.config import TrainConfig, read_yaml, to_mapping
from semiseg.data import open_dataset
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.splits.dataset_split import Split, resolve_split
from semiseg.errors import UserError
from semiseg.tools.comparison.cells import Cell, folder_name
from semiseg.tools.comparison.published_figures import Published
from semiseg.tools.reproduction.published_tables import Entry, PublishedTable
from semiseg.training.build import planned_steps, steps_per_epoch
from semiseg.training.checkpoint import MAY_CHANGE
from semiseg.training.prepare_run import check_unlabeled

DONE, READY, NO_DATA, TOO_LONG = "done", "ready", "no data", "too long"


@dataclass
class PlannedRun:
    """One run of a table.

    Attributes:
        entry: Its configuration.
        cell: The run, as in a comparison.
        expected: The published figure, or None.
        state: ``done``, ``ready``, ``no data`` or ``too long``.
        reason: Why it cannot run.
        step_s: Seconds of a step on this machine; None if not measured, or if it does not fit into memory.
    """

    entry: Entry
    cell: Cell
    expected: Published | None
    state: str = READY
    reason: str = ""
    step_s: float | None = None

    @property
    def hours(self) -> float | None:
        """Estimated hours of its steps on one device of this machine."""
        return None if self.step_s is None else self.step_s * self.cell.total_steps / 3600


@dataclass(frozen=True)
class Selection:
    """Parts of a table; None: everything.

    Attributes:
        methods: Methods, or names of configurations.
        labeled: Partitions, as in ``--labeled``.
        encoders: Encoders, such as resnet50.
        seeds: Seeds.
    """

    methods: Sequence[str] | None = None
    labeled: Sequence[str] | None = None
    encoders: Sequence[str] | None = None
    seeds: Sequence[int] = (0,)

    def entries(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the selected configurations.

        Raises:
            UserError: A name selects none.
        """
        known = {"methods": [{entry.name, entry.method} for entry in entries]}
        known["encoders"] = [{entry.encoder, entry.encoder.removesuffix("s")} for entry in entries]
        chosen = [True] * len(entries)
        for option, names in known.items():
            wanted = getattr(self, option)
            if wanted is None:
                continue
            if unknown := set(wanted) - set().union(*names):
                fix = f"choose from {', '.join(sorted(set().union(*names)))}"
                raise UserError(f"{min(unknown)!r} is not in this table", option=option, fix=fix)
            chosen = [before and bool(own & set(wanted)) for before, own in zip(chosen, names, strict=True)]
        return [entry for entry, one in zip(entries, chosen, strict=True) if one]

    def partitions(self, table: PublishedTable) -> list[str]:
        """Return the selected partitions.

        Raises:
            UserError: A partition is not in the table.
        """
        for labeled in self.labeled or ():
            if labeled not in table.partitions:
                fix = f"choose from {', '.join(table.partitions)}"
                raise UserError(f"{labeled!r} is not in this table", option="labeled", fix=fix)
        return list(self.labeled or table.partitions)


@dataclass
class Lists:
    """The lists of images of each partition and seed, from the data or, without data, by their published numbers."""

    table: PublishedTable
    data: str
    existing_only: bool
    known: dict[tuple[str, int], Split | UserError] = field(default_factory=dict)
    dataset: SegmentationDataset | None = None

    def __post_init__(self) -> None:
        if self.data:
            self.dataset = open_dataset(self.data)
            if len(self.dataset.classes) != self.table.classes:
                problem = f"has {len(self.dataset.classes)} classes, not the {self.table.classes} of {self.table.title}"
                raise UserError(problem, path=self.data, fix="pass the data set of the table")

    def get(self, labeled: str, seed: int) -> Split | UserError:
        """Return the lists, or the error that they raise."""
        key = labeled, seed
        if key not in self.known:
            try:
                self.known[key] = self._read(labeled, seed)
            except UserError as error:
                self.known[key] = error
        return self.known[key]

    def _read(self, labeled: str, seed: int) -> Split:
        if self.dataset is None:
            count = self.table.partitions[labeled]
            return Split(("",) * count, ("",) * (self.table.images - count), (), ())
        split = resolve_split(self.dataset, labeled, seed, None, self.existing_only)
        if not split.labeled:
            raise UserError(f"no labeled image of {labeled} exists", path=self.data, fix="add the images")
        return split


def plan_runs(
    table: PublishedTable,
    entries: Sequence[Entry],
    selection: Selection,
    lists: Lists,
    out: Path,
    scaled: Mapping[str, Any],
) -> list[PlannedRun]:
    """Return the selected runs of a table: configurations vary slowest, so that whole rows finish early.

    Args:
        table: The table.
        entries: Its configurations.
        selection: The parts to plan.
        lists: The lists of images.
        out: The directory of the runs.
        scaled: Options that replace those of the files and of partitions.
    """
    published = Lists(table, "", False)  # counts replace lists that cannot be read
    runs = []
    for entry in selection.entries(entries):
        for labeled in selection.partitions(table):
            for seed in selection.seeds:
                split = lists.get(labeled, seed)
                counted = published.get(labeled, seed) if isinstance(split, UserError) else split
                assert isinstance(counted, Split)
                cell = _cell(table, entry, labeled, seed, counted, lists, out, scaled)
                run = PlannedRun(entry, cell, entry.expected(table, labeled))
                run.state, run.reason = _state(cell, split, lists)
                runs.append(run)
    return runs


def _cell(
    table: PublishedTable,
    entry: Entry,
    labeled: str,
    seed: int,
    split: Split,
    lists: Lists,
    out: Path,
    scaled: Mapping[str, Any],
) -> Cell:
    changes = {key: value for key, value in entry.changes(table, labeled).items() if key != "epochs" or not scaled}
    own = {option.name for option in fields(TrainConfig)}
    config = replace(entry.config, **{key: value for key, value in changes.items() if key in own})
    options = replace(entry.options, **{key: value for key, value in changes.items() if key not in own})
    config = replace(config, labeled=labeled, seed=seed, existing_only=lists.existing_only)
    config = replace(config, data=lists.data or config.data)
    config = replace(config, steps=planned_steps(config, steps_per_epoch(config, split)), epochs=None)
    path = out / "runs" / folder_name(labeled) / f"{entry.name}-seed{seed}"
    return Cell(entry.name, labeled, len(split.labeled), config, options, path, "test" if split.test else "val")


def _state(cell: Cell, split: Split | UserError, lists: Lists) -> tuple[str, str]:
    """Return the state of a run, and why it cannot run."""
    if isinstance(split, UserError):
        return NO_DATA, str(split)
    if cell.finished:
        return DONE, ""
    try:
        check_unlabeled(cell.config, split)
    except UserError as error:
        return NO_DATA, str(error)
    return READY, ""


def check_settings(runs: Sequence[PlannedRun]) -> None:
    """Raise UserError if a run that exists was started with other settings."""
    for run in runs:
        file = run.cell.run / "config.yaml"
        if not file.is_file():
            continue
        before, now = read_yaml(file), to_mapping(run.cell.config, run.cell.options)
        for key in now.keys() & before.keys() - {*MAY_CHANGE, "bands", "white", "network_version"}:
            if before[key] != now[key]:
                problem = f"was started with {key} {before[key]}, not {now[key]}"
                raise UserError(problem, path=run.cell.run, fix="choose another --out, or use the same options")
