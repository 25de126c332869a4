"""Progress of a run on stderr: a bar with remaining time on a terminal, plain lines elsewhere. Also writes log.txt."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from semiseg.training.disk_space import add_file_name

PLAIN_EVERY_S = 10.0
LONG_S = 1200.0  # runs longer than this print a hint on shortening them


class Console:
    """Writes progress to stderr and log.txt; stdout is reserved for results.

    Args:
        log: log.txt.
        enabled: False on all ranks but 0.
        trusted: Whether to show the share of trusted pseudo-labels.
    """

    def __init__(self, log: Path, enabled: bool = True, trusted: bool = True) -> None:
        self.enabled, self.trusted = enabled, trusted
        if not enabled:
            return
        self.log = log
        self.file = open(log, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self.rich = RichConsole(file=sys.stderr)
        self.progress: Progress | None = None
        self.started = time.perf_counter()
        self.first_step: int | None = None
        self.last_plain = 0.0
        self.step_ends: list[float] = []  # of the first three steps

    def note(self, text: str) -> None:
        """Print one line."""
        if self.enabled:
            with add_file_name(self.log):
                self.file.write(text + "\n")
                self.file.flush()
            self.rich.print(text, markup=False, highlight=False, soft_wrap=True)

    def estimate(self, done: int, total: int) -> None:
        """Print the remaining time of a long run once, after its third step; the first log line may take minutes."""
        if not self.enabled or len(self.step_ends) == 3:
            return
        self.step_ends.append(time.perf_counter())
        if len(self.step_ends) < 3:
            return
        seconds = (self.step_ends[2] - self.step_ends[0]) / 2
        left = seconds * (total - done)
        if left >= LONG_S:
            left_text = format_duration(left)
            self.note(f"{seconds:.1f} s per step, about {left_text} left. For a shorter run, give a smaller --time.")

    def step(self, done: int, total: int, values: dict[str, Any], best: float) -> None:
        """Show loss, share of trusted pseudo-labels, speed, best mIoU so far and remaining time."""
        if not self.enabled:
            return
        text = f"loss {values['loss']:.3f}"
        text += f"  trusted {values['trusted_fraction']:.0%}" if self.trusted else ""
        text += f"  {values['images_per_s']:.1f} images/s"
        text += f"  best mIoU {best:.1f}" if best >= 0 else ""
        if self.rich.is_terminal:
            if self.progress is None:
                columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
                self.progress = Progress(*columns, console=self.rich)
                self.progress.start()
                self.task = self.progress.add_task(text, total=total)
            self.progress.update(self.task, completed=done, description=text)
            return
        now = time.perf_counter()
        if self.first_step is None:
            self.first_step, self.started = done, now
        if done == total or now - self.last_plain > PLAIN_EVERY_S:
            rate = (now - self.started) / max(1, done - self.first_step)
            left = f"  {format_duration(rate * (total - done))} left" if done > self.first_step else ""
            self.note(f"step {done}/{total}  {text}{left}")
            self.last_plain = now

    def validation(self, done: int, lines: list[dict[str, Any]], improved: bool) -> None:
        """Show the mIoU of every network."""
        figures = "  ".join(f"{line['network']} {format_miou(line['miou'])}" for line in lines)
        self.note(f"step {done}  val mIoU: {figures}{'  (best so far, saved)' if improved else ''}")

    def close(self) -> None:
        """Remove the progress bar and close log.txt."""
        if self.enabled:
            if self.progress is not None:
                self.progress.stop()
            with suppress(OSError):  # note has already raised the error
                self.file.close()


def format_miou(miou: float | None) -> str:
    """Format an mIoU in percent; a dash if it is undefined."""
    return "-" if miou is None else f"{miou:.1f}"


def format_duration(seconds: float) -> str:
    """Format seconds as ``1 h 05 min``, ``3 min`` or ``20 s``."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
