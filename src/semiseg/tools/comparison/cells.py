"""The cells of a comparison, method x labels x seed; what there is of it on disk; and whether it can be run."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from semiseg.config import TrainConfig, from_mapping, read_yaml, to_mapping
from semiseg.data import open_dataset
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.splits.dataset_split import Split, read_split, resolve_split
from semiseg.errors import UserError
from semiseg.tools.comparison.entries import ALL, SHARED, Entry
from semiseg.training.checkpoint import write_atomically
from semiseg.training.find_method import find_method
from semiseg.training.prepare_run import check_network, check_unlabeled
from semiseg.training.trainer import DEFAULT_STEPS

FILE = "compare.yaml"
LOCK = ".lock"  # held by the process that works in the directory
HEAD = "# What the runs in this folder have in common, and which were asked for. Written by semiseg compare.\n"


@dataclass(frozen=True)
class Block:
    """Cells asked for together: every method with every share of labels and every seed."""

    methods: tuple[str, ...]
    labeled: tuple[str, ...]
    seeds: tuple[int, ...]

    def triples(self) -> list[tuple[str, str, int]]:
        """Return (method, labeled, seed) of every cell, a seed after the other, so that there is soon a whole one."""
        return [(method, labeled, seed) for seed in self.seeds for labeled in self.labeled for method in self.methods]


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        name: of its entry.
        labeled: its share of labels as it was asked for.
        labeled_images: how many images that is.
        config: its whole configuration, ``steps`` included.
        options: its method's options.
        run: its run directory; log, configuration and result lie beside or in it.
        split: the list it is judged on, test or val.
    """

    name: str
    labeled: str
    labeled_images: int
    config: TrainConfig
    options: Any
    run: Path
    split: str

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.config.seed

    @property
    def total_steps(self) -> int:
        """How many steps it takes."""
        return self.config.steps or DEFAULT_STEPS

    @property
    def title(self) -> str:
        """What to call it in messages."""
        return f"{self.name}, {self.labeled}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """What its processes print."""
        return self.run.with_name(f"{self.run.name}.log")

    @property
    def result(self) -> Path:
        """What `semiseg.tools.comparison.evaluate_cell` writes."""
        return self.run / "evaluation.json"

    @property
    def finished(self) -> bool:
        """Whether it has been trained and judged (on another list than ours, where a test list was added since)."""
        try:
            content = json.loads(self.result.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none, or an empty one, as a power cut may leave it
            return False
        return isinstance(content, dict) and content.get("split") == self.split

    def write_config(self) -> Path:
        """Write its configuration beside its run, for ``semiseg train --config``."""
        path = self.run.with_name(f"{self.run.name}.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        values = yaml.safe_dump(to_mapping(self.config, self.options), sort_keys=False, allow_unicode=True)
        write_atomically(path, f"# semiseg train --config {path} --out {self.run}\n{values}".encode())
        return path


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Attributes:
        out: its directory.
        entries: every method that has been asked for, by name.
        blocks: what has been asked for, the last one now.
    """

    out: Path
    entries: Mapping[str, Entry]
    blocks: Sequence[Block]

    @cached_property
    def dataset(self) -> SegmentationDataset:
        """The data."""
        return open_dataset(self.settings["data"])

    @property
    def settings(self) -> dict[str, Any]:
        """What all cells have in common."""
        return next(iter(self.entries.values())).shared()

    @cached_property
    def splits(self) -> dict[tuple[str, int], Split]:
        """The lists of images by labels and seed."""
        keys = dict.fromkeys((labeled, seed) for block in self.blocks for _, labeled, seed in block.triples())
        lists = self.settings["unlabeled"], self.settings["existing_only"]
        return {key: resolve_split(self.dataset, None if key[0] == ALL else key[0], key[1], *lists) for key in keys}

    @cached_property
    def split(self) -> str:
        """The list that all are judged on: test, or val where there is none."""
        return "test" if all(split.test for split in self.splits.values()) else "val"

    @cached_property
    def cells(self) -> dict[tuple[str, str, int], Cell]:
        """Every cell that has been asked for, by (method, labeled, seed)."""
        return {key: self._cell(*key) for block in self.blocks for key in block.triples()}

    @property
    def todo(self) -> list[Cell]:
        """The cells that are asked for now."""
        return [self.cells[key] for key in self.blocks[-1].triples()]

    def _cell(self, name: str, labeled: str, seed: int) -> Cell:
        entry, split = self.entries[name], self.splits[labeled, seed]
        steps = entry.config.steps or DEFAULT_STEPS
        if entry.config.epochs:  # passes over the unlabeled images, for a method that uses none as well: equal steps
            images = split.unlabeled_count or len(split.labeled)
            steps = entry.config.epochs * math.ceil(images / entry.config.batch)
        share = None if labeled == ALL else labeled
        config = replace(entry.config, labeled=share, seed=seed, steps=steps, epochs=None)
        run = self.out / "runs" / folder(labeled) / f"{folder(name)}-seed{seed}"
        return Cell(name, labeled, len(split.labeled), config, entry.options, run, self.split)

    def check(self) -> None:
        """See before anything is trained whether every cell can be.

        Raises:
            UserError: data, labels, methods or network at fault, or two names that would share a folder.
        """
        for kind, names in (("methods", self.entries), ("labeled", dict.fromkeys(key for key, _ in self.splits))):
            first: dict[str, str] = {}
            for name in names:
                if first.setdefault(folder(name), name) != name:
                    raise UserError(f"--{kind}: {first[folder(name)]!r} and {name!r} would share a folder: rename one")
        for cell in self.todo:
            check_unlabeled(cell.config, self.splits[cell.labeled, cell.seed])
        for cell in self.cells.values():
            self._check_lists(cell)
        for name in self.blocks[-1].methods:
            check_network(self.entries[name].config, self.entries[name].options, self.dataset)

    def _check_lists(self, cell: Cell) -> None:
        """Raise UserError where a cell that has been begun has other images than it would get now."""
        if not (cell.run / "splits").is_dir():
            return
        theirs, ours = read_split(cell.run / "splits"), self.splits[cell.labeled, cell.seed]
        shards = [split.shards and split.shards.to_json()["shardlist"] for split in (theirs, ours)]
        if shards[0] != shards[1]:
            raise UserError(
                f"{cell.run}: it learned from other unlabeled shards than there are now: take another --out"
            )
        for name in ("labeled", "unlabeled", "val", "test"):
            before, now = {*getattr(theirs, name)}, {*getattr(ours, name)}
            if before != now and (name != "test" or before):  # a test list may be added later
                raise UserError(
                    f"{cell.run}: its {name} list has {len(before)} images, and by the data as they are now it would "
                    f"have {len(now)}, or others: restore the data's lists and masks, or choose another --out"
                )

    def save(self) -> None:
        """Write what was asked for into the directory."""
        content = {
            "settings": self.settings,
            "methods": {name: entry.own() for name, entry in self.entries.items()},
            "asked": [{key: list(value) for key, value in vars(block).items()} for block in self.blocks],
        }
        text = HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        write_atomically(self.out / FILE, text.encode())


def make_plan(out: Path, entries: Mapping[str, Entry], block: Block) -> Plan:
    """Join what is asked for now with what the directory holds from earlier calls.

    Raises:
        UserError: the directory holds something else, or a comparison with other settings.
    """
    if not out.exists() or (out.is_dir() and {path.name for path in out.iterdir()} <= {LOCK}):
        return Plan(out, entries, (block,))
    if not (out / FILE).is_file():
        raise UserError(f"{out} exists and holds no comparison: choose another --out")
    before = _read(out / FILE)
    ours, theirs = next(iter(entries.values())).shared(), before.settings
    for key in SHARED:
        if ours[key] != theirs[key] and not _same_place(key, ours[key], theirs[key]):
            raise _other(out, key, theirs[key], ours[key])
    entries = {
        name: replace(entry, config=replace(entry.config, data=theirs["data"])) for name, entry in entries.items()
    }
    for name in before.entries.keys() & entries.keys():
        old, new = before.entries[name].own(), entries[name].own()
        for key in old | new:
            if old.get(key) != new.get(key):
                raise _other(out, f"{key} of {name}", old.get(key), new.get(key))
    earlier = [other for other in before.blocks if not {*other.triples()} <= {*block.triples()}]
    return Plan(out, {**before.entries, **entries}, (*earlier, block))


def _same_place(key: str, ours: Any, theirs: Any) -> bool:
    """Whether two values name one directory of data, written in two ways."""
    return key == "data" and Path(ours).is_dir() and Path(ours).resolve() == Path(theirs).resolve()


def _other(out: Path, what: str, theirs: Any, ours: Any) -> UserError:
    return UserError(
        f"{out}: a comparison with {what} {theirs}, not {ours}: choose another --out, or the settings in {out / FILE}"
    )


def _read(path: Path) -> Plan:
    content = read_yaml(path)
    try:
        settings, entries = content["settings"], {}
        for name, own in content["methods"].items():
            kinds = (TrainConfig, find_method(str(own["method"]), named_in=path).Options)
            entries[name] = Entry(name, *from_mapping(kinds, settings | own, str(path)))
        blocks = [Block(*(tuple(block[key]) for key in ("methods", "labeled", "seeds"))) for block in content["asked"]]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not as semiseg compare wrote it: restore it, or choose another --out") from None
    return Plan(path.parent, entries, blocks)


def folder(name: str) -> str:
    """Return a name as part of a path: ``1_16`` for ``1/16``."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_.") or "_"


def check_list(option: str, values: Iterable[Any]) -> None:
    """Raise UserError where a list is empty or names something twice."""
    values = list(values)
    if not values:
        raise UserError(f"--{option} is empty: give one or more, separated by commas")
    for index, value in enumerate(values):
        if value in values[:index]:
            raise UserError(f"--{option}: {value} stands there twice: take one of them out")
