"""The unlabeled images that could not be read: each is told once, and kept in metrics.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from semiseg.errors import printable
from semiseg.training.logging.console import Console
from semiseg.training.logging.metrics_log import MetricsLog, read_metrics


class Skipped:
    """Tells what the loaders of all processes could not read.

    Lines of metrics.jsonl remember it: they are cut back to the checkpoint on resume, like all of them, so that a
    resumed run tells what an uninterrupted one tells.

    Args:
        found: by id, why an image could not be read; the loader fills it.
        fabric: of the run.
        log: where each gets a line, ``skipped`` (the id) and ``reason``.
        console: where each is told.
        metrics: the log's file.
    """

    def __init__(self, found: dict[str, str], fabric: Fabric, log: MetricsLog, console: Console, metrics: Path) -> None:
        self.found, self.fabric, self.log, self.console = found, fabric, log, console
        self.told = {line["skipped"] for line in read_metrics(metrics) if "skipped" in line}

    def tell(self, done: int, epoch: int) -> None:
        """Tell what is new after ``done`` steps; all processes call it together."""
        fresh = {id: why for id, why in sorted(self._gathered().items()) if id not in self.told}
        for id, why in fresh.items():
            self.log.write(done, epoch, {"skipped": id, "reason": why})
            self.console.note(f"warning: {printable(why)}; another unlabeled image stands in for it")
        self.told |= fresh.keys()
        self.found.clear()

    def _gathered(self) -> dict[str, str]:
        if self.fabric.world_size == 1:
            return self.found
        parts: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(parts, self.found)
        return {id: why for part in parts for id, why in part.items()}
