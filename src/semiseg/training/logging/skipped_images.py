"""Unlabeled images that could not be read: report each once, and record it in metrics.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from semiseg.errors import printable
from semiseg.training.logging.console import Console
from semiseg.training.logging.metrics_log import MetricsLog, read_metrics

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class SkippedImages:
    """Reports images that the data loaders of all ranks could not read.

    Lines of metrics.jsonl record reported images. On resume they are truncated to the checkpoint like all lines, so a
    resumed run reports the same images as an uninterrupted one.

    Args:
        found: Reason by image id; the loader adds entries.
        fabric: The run's Fabric.
        log: Gets a line per image with ``skipped`` (the id) and ``reason``.
        console: Prints a warning per image.
        metrics: Path of metrics.jsonl.
    """

    def __init__(self, found: dict[str, str], fabric: Fabric, log: MetricsLog, console: Console, metrics: Path) -> None:
        self.found, self.fabric, self.log, self.console = found, fabric, log, console
        self.reported = {line["skipped"] for line in read_metrics(metrics) if "skipped" in line}

    def report(self, done: int, epoch: int) -> None:
        """Report images found since the last call, after ``done`` steps; all ranks must call it."""
        new = {id: reason for id, reason in sorted(self._gather().items()) if id not in self.reported}
        for id, reason in new.items():
            self.log.write(done, epoch, {"skipped": id, "reason": reason})
            self.console.note(f"warning: {printable(reason).rstrip('.')}. Using another unlabeled image instead.")
        self.reported |= new.keys()
        self.found.clear()

    def _gather(self) -> dict[str, str]:
        if self.fabric.world_size == 1:
            return self.found
        per_rank: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(per_rank, self.found)
        return {id: reason for found in per_rank for id, reason in found.items()}
