"""Show the progress of a comparison: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from semiseg.tools.comparison.cells import Cell
from semiseg.tools.comparison.evaluate_cell import best_on_val
from semiseg.training.find_method import find_method
from semiseg.training.logging.console import format_duration, format_miou
from semiseg.training.logging.metrics_log import read_metrics

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
ORDER = (RUNNING, FAILED, WAITING, DONE)
STYLES = {WAITING: "dim", RUNNING: "cyan", DONE: "green", FAILED: "red"}
PLAIN_EVERY_S = 30.0


@dataclass(frozen=True)
class CellProgress:
    """Progress of a cell.

    Attributes:
        cell: The cell.
        state: One of ``WAITING, RUNNING, DONE, FAILED``.
        step: Steps done.
        time_s: Seconds that they took.
        miou: Highest mIoU on val so far; None before the first validation.
        reason: Reason of a failure.
    """

    cell: Cell
    state: str
    step: int = 0
    time_s: float = 0.0
    miou: float | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        """The state, or the step of a running cell."""
        if self.state != RUNNING:
            return self.state
        if self.step >= self.cell.total_steps:
            return "evaluating"
        return f"{self.step}/{self.cell.total_steps}"


class Display:
    """Shows the progress of cells on stderr.

    Args:
        cells: The cells.
        jobs: The number of cells that run at a time.
        console: The console; stderr by default.
    """

    def __init__(self, cells: Sequence[Cell], jobs: int, console: Console | None = None) -> None:
        self.cells, self.jobs = cells, jobs
        self.console = console or Console(file=sys.stderr)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        if self.live:
            self.live.start()
        self.cache: dict[Path, tuple[int, CellProgress]] = {}
        self.printed: dict[Path, str] = {}
        self.last_summary: float | None = None

    def show(self, states: Mapping[Path, str], failures: Mapping[Path, str]) -> None:
        """Show states and reasons of failures, both by run directory."""
        progress = [self._read(cell, states[cell.run], failures.get(cell.run, "")) for cell in self.cells]
        if self.live:
            self.live.update(progress_table(progress, self.jobs, self.console.height - 6), refresh=True)
        else:
            self._print_changes(progress)

    def close(self) -> None:
        """End the live table and leave its last state on the terminal."""
        if self.live:
            self.live.stop()

    def _read(self, cell: Cell, state: str, reason: str) -> CellProgress:
        """Read the progress of a cell, or return the cached one if its metrics have not changed."""
        path = cell.run / "metrics.jsonl"
        size = path.stat().st_size if path.is_file() else 0
        cached = self.cache.get(cell.run)
        if cached is None or cached[0] != size or (cached[1].state, cached[1].reason) != (state, reason):
            lines = read_metrics(path)
            miou = best_on_val(lines, find_method(cell.config.method).default_network)
            step, time_s = (lines[-1]["step"], lines[-1]["time_s"]) if lines else (0, 0.0)
            cached = self.cache[cell.run] = (size, CellProgress(cell, state, step, time_s, miou, reason))
        return cached[1]

    def _print_changes(self, progress: Sequence[CellProgress]) -> None:
        """Print a line for each change of state; from time to time also the running cells and a summary."""
        for entry in progress:
            before = DONE if entry.state == DONE else WAITING  # Cells of an earlier call need no line.
            if self.printed.get(entry.cell.run, before) != entry.state:
                texts = {DONE: f"done, best mIoU on val {format_miou(entry.miou)}", FAILED: f"failed: {entry.reason}"}
                self._print(f"{entry.cell.title}: {texts.get(entry.state, entry.state)}")
            self.printed[entry.cell.run] = entry.state
        if self.last_summary is None or time.monotonic() - self.last_summary > PLAIN_EVERY_S:
            self.last_summary = time.monotonic()
            for entry in progress:
                if entry.state == RUNNING:
                    self._print(f"{entry.cell.title}: {entry.text}, best mIoU on val {format_miou(entry.miou)}")
            self._print(summary(progress, self.jobs))

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def seconds_left(progress: Sequence[CellProgress], jobs: int) -> float | None:
    """Estimate the remaining seconds; None before the first step.

    A cell's speed is measured. If it has not started, use the mean of cells with the same method, or else the mean of
    all cells. The estimate assumes that the work is split evenly among the jobs, and is at least the time of the
    longest cell.
    """
    rates: dict[str, list[float]] = {}
    for entry in progress:
        if entry.step:
            rates.setdefault(entry.cell.name, []).append(entry.time_s / entry.step)
    all_rates = [rate for some in rates.values() for rate in some]
    if not all_rates:
        return None
    left = [0.0]
    for entry in progress:
        if entry.state in (WAITING, RUNNING):
            known = [entry.time_s / entry.step] if entry.step else rates.get(entry.cell.name, all_rates)
            left.append((entry.cell.total_steps - entry.step) * sum(known) / len(known))
    return max(max(left), sum(left) / jobs)


def summary(progress: Sequence[CellProgress], jobs: int) -> str:
    """Return one line with the number of cells in each state and the estimated time."""
    counts = Counter(entry.state for entry in progress)
    text = ", ".join(f"{counts[state]} {state}" for state in (DONE, RUNNING, WAITING, FAILED) if counts[state])
    left = seconds_left(progress, jobs) if counts[RUNNING] + counts[WAITING] else None
    return f"{len(progress)} cells: {text}{f'; about {format_duration(left)} left' if left else ''}"


def progress_table(progress: Sequence[CellProgress], jobs: int, rows: int) -> Table:
    """Return the live table with at most ``rows`` cells, running and failed ones first, and a summary below."""
    table = Table(box=None, pad_edge=False, caption=Text(summary(progress, jobs)), caption_justify="left")
    for head in ("cell", "state", "mIoU, val", "left", ""):
        table.add_column(head, justify="right" if head in ("mIoU, val", "left") else "left", no_wrap=True)
    for entry in sorted(progress, key=lambda entry: ORDER.index(entry.state))[: max(1, rows)]:
        left = seconds_left([entry], 1) if entry.state == RUNNING else None
        time_left = format_duration(left) if left else ""
        state = Text(entry.text, STYLES[entry.state])
        table.add_row(Text(entry.cell.title), state, format_miou(entry.miou), time_left, Text(entry.reason))
    return table
