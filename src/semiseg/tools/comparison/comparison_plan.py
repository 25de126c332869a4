"""The plan of a comparison: its cells, the checks before training, and compare.yaml."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from semiseg.config import TrainConfig, from_mapping, read_yaml
from semiseg.data import open_dataset
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.splits.dataset_split import Split, read_split, resolve_split
from semiseg.errors import UserError
from semiseg.tools.comparison.cell_plan import FILE as PLAN
from semiseg.tools.comparison.cell_plan import CellPlan
from semiseg.tools.comparison.cells import Block, Cell, folder_name
from semiseg.tools.comparison.method_entries import ALL, SHARED, MethodEntry
from semiseg.training.build import DEFAULT_STEPS
from semiseg.training.checkpoint import write_atomically
from semiseg.training.find_method import find_method
from semiseg.training.prepare_run import check_network, check_unlabeled

FILE = "compare.yaml"
LOCK = ".lock"
HEAD = "# The settings that all runs in this directory share, and the requested cells. Written by semiseg compare.\n"


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Attributes:
        out: Its directory.
        entries: All requested methods by name.
        blocks: All requested cells; the last block is the current request.
        planned: The plan of the settings that are not given, if there is one.
    """

    out: Path
    entries: Mapping[str, MethodEntry]
    blocks: Sequence[Block]
    planned: CellPlan | None = None

    @cached_property
    def dataset(self) -> SegmentationDataset:
        """The data."""
        return open_dataset(self.settings["data"])

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that all cells share."""
        return next(iter(self.entries.values())).shared()

    @cached_property
    def splits(self) -> dict[tuple[str, int], Split]:
        """The lists of images by share of labels and seed."""
        keys = dict.fromkeys((labeled, seed) for block in self.blocks for _, labeled, seed in block.cell_keys())
        lists = self.settings["unlabeled"], self.settings["existing_only"]
        return {key: resolve_split(self.dataset, None if key[0] == ALL else key[0], key[1], *lists) for key in keys}

    @cached_property
    def split(self) -> str:
        """The list on which all cells are evaluated: test, or val if there is no test list."""
        return "test" if all(split.test for split in self.splits.values()) else "val"

    @cached_property
    def cells(self) -> dict[tuple[str, str, int], Cell]:
        """All requested cells by (method, labeled, seed)."""
        return {key: self._cell(*key) for block in self.blocks for key in block.cell_keys()}

    @property
    def current_cells(self) -> list[Cell]:
        """The cells of the current request."""
        return [self.cells[key] for key in self.blocks[-1].cell_keys()]

    def _cell(self, name: str, labeled: str, seed: int) -> Cell:
        entry, split = self.entries[name], self.splits[labeled, seed]
        steps = entry.config.steps or DEFAULT_STEPS
        if entry.config.epochs:  # epochs of the unlabeled images also for methods without them: equal steps for all
            images = len(split.labeled) if entry.config.epoch_of == "labeled" else split.unlabeled_count
            images = images or len(split.labeled)
            steps = entry.config.epochs * math.ceil(images / entry.config.batch)
        share = None if labeled == ALL else labeled
        config = replace(entry.config, labeled=share, seed=seed, steps=steps, epochs=None)
        run = self.out / "runs" / folder_name(labeled) / f"{folder_name(name)}-seed{seed}"
        return Cell(name, labeled, len(split.labeled), config, entry.options, run, self.split)

    def check(self) -> None:
        """Check that every cell can be trained, before training any.

        Raises:
            UserError: Data, labels, methods or network are invalid, or two names would share a directory.
        """
        for option, names in (("methods", self.entries), ("labeled", dict.fromkeys(key for key, _ in self.splits))):
            owners: dict[str, str] = {}
            for name in names:
                if (other := owners.setdefault(folder_name(name), name)) != name:
                    raise UserError(f"{other!r} and {name!r} would share a directory", option=option, fix="rename one")
        for cell in self.current_cells:
            check_unlabeled(cell.config, self.splits[cell.labeled, cell.seed])
        self._check_val_lists()
        for cell in self.cells.values():
            self._check_lists(cell)
        for name in self.blocks[-1].methods:
            check_network(self.entries[name].config, self.entries[name].options, self.dataset)

    def _check_val_lists(self) -> None:
        """Raise UserError if the cells would be compared on different val images."""
        (first, split), *others = self.splits.items()
        for key, other in others if self.split == "val" else ():
            if {*split.val} != {*other.val}:
                common = len({*split.val} & {*other.val})
                raise UserError(
                    f"--labeled {first[0]} with seed {first[1]} and {key[0]} with seed {key[1]} hold out different val "
                    f"images ({len(split.val)} and {len(other.val)}, {common} in common)",
                    path=self.settings["data"],
                    fix="write splits/val.txt",
                )

    def _check_lists(self, cell: Cell) -> None:
        """Raise UserError if a cell that has started has other images than it would get now."""
        if not (cell.run / "splits").is_dir():
            return
        before, now = read_split(cell.run / "splits"), self.splits[cell.labeled, cell.seed]
        shards = [split.shards and split.shards.to_json()["shardlist"] for split in (before, now)]
        if shards[0] != shards[1]:
            raise UserError("was trained with other unlabeled shards", path=cell.run, fix="choose another --out")
        for name in ("labeled", "unlabeled", "val", "test"):
            old, new = {*getattr(before, name)}, {*getattr(now, name)}
            if old != new and (name != "test" or old):  # A test list may be added later.
                raise UserError(
                    f"its {name} list has {len(old)} images, but the data now give {len(new)}, or others",
                    path=cell.run,
                    fix="restore the lists and masks of the data, or choose another --out",
                )

    def save(self) -> None:
        """Write all requests to the directory."""
        content = {
            "settings": self.settings,
            "methods": {name: entry.own() for name, entry in self.entries.items()},
            "asked": [{key: list(value) for key, value in vars(block).items()} for block in self.blocks],
        }
        text = HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        write_atomically(self.out / FILE, text.encode())
        if self.planned is not None:
            write_atomically(self.out / PLAN, (json.dumps(self.planned.content, indent=2) + "\n").encode())


def make_plan(out: Path, entries: Mapping[str, MethodEntry], block: Block, planned: CellPlan | None = None) -> Plan:
    """Merge the current request with those of earlier calls in the same directory.

    Raises:
        UserError: The directory holds something else, or a comparison with other settings.
    """
    if not out.exists() or (out.is_dir() and {path.name for path in out.iterdir()} <= {LOCK}):
        return Plan(out, entries, (block,), planned)
    if not (out / FILE).is_file():
        raise UserError("exists and is not a comparison", path=out, fix="choose another --out")
    before = _read_plan(out / FILE)
    old, new = before.settings, next(iter(entries.values())).shared()
    _check_equal(out, {key: old[key] for key in SHARED if not _same_directory(key, old[key], new[key])}, new, "")
    entries = {name: replace(entry, config=replace(entry.config, data=old["data"])) for name, entry in entries.items()}
    for name in before.entries.keys() & entries.keys():
        _check_equal(out, before.entries[name].own(), entries[name].own(), f" of {name}")
    earlier = [other for other in before.blocks if not {*other.cell_keys()} <= {*block.cell_keys()}]
    return Plan(out, {**before.entries, **entries}, (*earlier, block), planned)


def _same_directory(key: str, old: Any, new: Any) -> bool:
    """Return whether two values of ``data`` are paths of the same directory."""
    return key == "data" and Path(new).is_dir() and Path(new).resolve() == Path(old).resolve()


def _check_equal(out: Path, old: Mapping[str, Any], new: Mapping[str, Any], suffix: str) -> None:
    for key in old:
        if old[key] != new.get(key):
            raise UserError(
                f"contains a comparison with {key}{suffix} {old[key]}, not {new.get(key)}",
                path=out,
                fix=f"choose another --out, or use the settings in {out / FILE}",
            )


def _read_plan(path: Path) -> Plan:
    content = read_yaml(path)
    try:
        settings, entries = content["settings"], {}
        for name, own in content["methods"].items():
            kinds = (TrainConfig, find_method(str(own["method"]), named_in=path).Options)
            entries[name] = MethodEntry(name, *from_mapping(kinds, settings | own, str(path)))
        blocks = [Block(*(tuple(block[key]) for key in ("methods", "labeled", "seeds"))) for block in content["asked"]]
    except (KeyError, TypeError, AttributeError):
        fix = "restore the file, or choose another --out"
        raise UserError("was not written by semiseg compare", path=path, fix=fix) from None
    return Plan(path.parent, entries, blocks)
