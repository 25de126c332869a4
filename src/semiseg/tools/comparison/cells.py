"""The cells of a comparison: one run for each method, share of labels and seed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from semiseg.config import TrainConfig, to_mapping
from semiseg.training.build import DEFAULT_STEPS
from semiseg.training.checkpoint import write_atomically


@dataclass(frozen=True)
class Block:
    """Cells requested together: every method with every share of labels and every seed."""

    methods: tuple[str, ...]
    labeled: tuple[str, ...]
    seeds: tuple[int, ...]

    def cell_keys(self) -> list[tuple[str, str, int]]:
        """Return (method, labeled, seed) of every cell; seeds vary slowest, so that whole seeds finish early."""
        return [(method, labeled, seed) for seed in self.seeds for labeled in self.labeled for method in self.methods]


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        name: Name of its method entry.
        labeled: Its share of labels, as requested.
        labeled_images: The number of labeled images.
        config: Its complete configuration.
        options: The options of its method.
        run: Its run directory; log and configuration are next to it, the result is inside.
        split: The list on which it is evaluated, test or val.
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
        """Its number of steps."""
        return self.config.steps or DEFAULT_STEPS

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"{self.name}, {self.labeled}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """The output of its processes."""
        return self.run.with_name(f"{self.run.name}.log")

    @property
    def result(self) -> Path:
        """The file that `semiseg.tools.comparison.evaluate_cell` writes."""
        return self.run / "evaluation.json"

    @property
    def finished(self) -> bool:
        """Return whether it is trained, and evaluated on the current list (a test list may have been added since)."""
        try:
            content = json.loads(self.result.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # missing, or empty after a power failure
            return False
        return isinstance(content, dict) and content.get("split") == self.split

    def write_config(self) -> Path:
        """Write its configuration next to its run, for ``semiseg train --config``, and return the path."""
        path = self.run.with_name(f"{self.run.name}.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        values = yaml.safe_dump(to_mapping(self.config, self.options), sort_keys=False, allow_unicode=True)
        write_atomically(path, f"# semiseg train --config {path} --out {self.run}\n{values}".encode())
        return path


def folder_name(name: str) -> str:
    """Return a name that can be part of a path: ``1_16`` for ``1/16``."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_.") or "_"
