"""How a comparison stands while it runs: a live table on a terminal, plain lines elsewhere."""

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
from semiseg.training.logging.console import duration, show
from semiseg.training.logging.metrics_log import read_metrics

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
ORDER = (RUNNING, FAILED, WAITING, DONE)
STYLES = {WAITING: "dim", RUNNING: "cyan", DONE: "green", FAILED: "red"}
PLAIN_EVERY_S = 30.0


@dataclass(frozen=True)
class Standing:
    """How a cell stands: steps taken, the seconds they took, best mIoU on val so far (None: not validated yet)."""

    cell: Cell
    state: str
    step: int = 0
    time_s: float = 0.0
    miou: float | None = None
    reason: str = ""

    @property
    def progress(self) -> str:
        """Its state in words."""
        if self.state != RUNNING:
            return self.state
        if self.step >= self.cell.total_steps:
            return "judging"
        return f"{self.step}/{self.cell.total_steps}"


class Display:
    """Shows how the cells stand, on stderr; close it at the end."""

    def __init__(self, cells: Sequence[Cell], jobs: int, console: Console | None = None) -> None:
        self.cells, self.jobs = cells, jobs
        self.console = console or Console(file=sys.stderr)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        if self.live:
            self.live.start()
        self.sizes: dict[Path, tuple[int, Standing]] = {}
        self.told: dict[Path, str] = {}
        self.last_plain: float | None = None

    def show(self, states: Mapping[Path, str], failures: Mapping[Path, str]) -> None:
        """Show the cells' states, by run, and the reasons of those that have failed."""
        standings = [self._standing(cell, states[cell.run], failures.get(cell.run, "")) for cell in self.cells]
        if self.live:
            self.live.update(table(standings, self.jobs, self.console.height - 6), refresh=True)
        else:
            self._plain(standings)

    def close(self) -> None:
        """Leave the terminal as it was, the last table on it."""
        if self.live:
            self.live.stop()

    def _standing(self, cell: Cell, state: str, reason: str) -> Standing:
        """Read how far a cell is, unless its log is as it was."""
        path = cell.run / "metrics.jsonl"
        size = path.stat().st_size if path.is_file() else 0
        known = self.sizes.get(cell.run)
        if known is None or known[0] != size or (known[1].state, known[1].reason) != (state, reason):
            lines = read_metrics(path)
            miou = best_on_val(lines, find_method(cell.config.method).default_network)
            step, time_s = (lines[-1]["step"], lines[-1]["time_s"]) if lines else (0, 0.0)
            known = self.sizes[cell.run] = (size, Standing(cell, state, step, time_s, miou, reason))
        return known[1]

    def _plain(self, standings: Sequence[Standing]) -> None:
        """Print a line where a cell's state has changed, and from time to time how the running ones stand."""
        for one in standings:
            before = DONE if one.state == DONE else WAITING  # what was done before needs no line
            if self.told.get(one.cell.run, before) != one.state:
                told = {DONE: f"done, best mIoU on val {show(one.miou)}", FAILED: f"failed: {one.reason}"}
                self._print(f"{one.cell.title}: {told.get(one.state, one.state)}")
            self.told[one.cell.run] = one.state
        if self.last_plain is None or time.monotonic() - self.last_plain > PLAIN_EVERY_S:
            self.last_plain = time.monotonic()
            for one in standings:
                if one.state == RUNNING:
                    self._print(f"{one.cell.title}: {one.progress}, best mIoU on val {show(one.miou)}")
            self._print(summary(standings, self.jobs))

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def seconds_left(standings: Sequence[Standing], jobs: int) -> float | None:
    """Return about how long it will take; None before the first step.

    A cell goes on as quickly as it has gone, or as others of its name, or as all; the cells share the jobs evenly, and
    none ends before itself.
    """
    rates: dict[str, list[float]] = {}
    for one in standings:
        if one.step:
            rates.setdefault(one.cell.name, []).append(one.time_s / one.step)
    every = [rate for some in rates.values() for rate in some]
    if not every:
        return None
    left = [0.0]
    for one in standings:
        if one.state in (WAITING, RUNNING):
            alike = [one.time_s / one.step] if one.step else rates.get(one.cell.name, every)
            left.append((one.cell.total_steps - one.step) * sum(alike) / len(alike))
    return max(max(left), sum(left) / jobs)


def summary(standings: Sequence[Standing], jobs: int) -> str:
    """Return in one line how many cells are in which state, and about how long it will take."""
    counts = Counter(one.state for one in standings)
    text = ", ".join(f"{counts[state]} {state}" for state in (DONE, RUNNING, WAITING, FAILED) if counts[state])
    left = seconds_left(standings, jobs) if counts[RUNNING] + counts[WAITING] else None
    return f"{len(standings)} cells: {text}{f'; about {duration(left)} left' if left else ''}"


def table(standings: Sequence[Standing], jobs: int, rows: int) -> Table:
    """Return the live table, of at most ``rows`` cells: running and failed ones first; a summary below."""
    result = Table(box=None, pad_edge=False, caption=Text(summary(standings, jobs)), caption_justify="left")
    for head in ("cell", "state", "mIoU, val", "left", ""):
        result.add_column(head, justify="right" if head in ("mIoU, val", "left") else "left", no_wrap=True)
    for one in sorted(standings, key=lambda one: ORDER.index(one.state))[: max(1, rows)]:
        left = seconds_left([one], 1) if one.state == RUNNING else None
        time_left = duration(left) if left else ""
        state = Text(one.progress, STYLES[one.state])
        result.add_row(Text(one.cell.title), state, show(one.miou), time_left, Text(one.reason))
    return result
