"""What a person sees while a run goes on: a progress bar with ETA on a terminal, plain lines elsewhere, and log.txt."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from semiseg.training.disk_space import naming

PLAIN_EVERY_S = 10.0
LONG_S = 1200.0  # from which one is told how to have it shorter


class Console:
    """Shows progress on stderr (stdout belongs to results) and keeps the plain lines in log.txt."""

    def __init__(self, log: Path, enabled: bool = True) -> None:
        self.enabled = enabled
        if not enabled:
            return
        self.log = log
        self.file = open(log, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self.rich = RichConsole(file=sys.stderr)
        self.progress: Progress | None = None
        self.started = time.perf_counter()
        self.first_step: int | None = None
        self.last_plain = 0.0
        self.ends: list[float] = []  # of the first steps

    def note(self, text: str) -> None:
        """Print one line."""
        if self.enabled:
            with naming(self.log):
                self.file.write(text + "\n")
                self.file.flush()
            self.rich.print(text, markup=False, highlight=False, soft_wrap=True)

    def pace(self, done: int, total: int) -> None:
        """Say how long it will take, once, after the third step: the first line with figures may be minutes away."""
        if not self.enabled or len(self.ends) == 3:
            return
        self.ends.append(time.perf_counter())
        if len(self.ends) < 3:
            return
        seconds = (self.ends[2] - self.ends[0]) / 2
        left = seconds * (total - done)
        if left >= LONG_S:
            self.note(
                f"{seconds:.1f} s a step, about {duration(left)} to go; less with --preset small and fewer --steps, a "
                "smaller --crop-size, or --image-scale 0.5"
            )

    def step(self, done: int, total: int, values: dict[str, Any], best: float) -> None:
        """Show a training line: loss, trusted share, speed, best mIoU so far, time left."""
        if not self.enabled:
            return
        text = f"loss {values['loss']:.3f}  trusted {values['trusted_fraction']:.0%}"
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
            left = f"  {duration(rate * (total - done))} left" if done > self.first_step else ""
            self.note(f"step {done}/{total}  {text}{left}")
            self.last_plain = now

    def validation(self, done: int, lines: list[dict[str, Any]], improved: bool) -> None:
        """Show a validation: mIoU of every network."""
        figures = "  ".join(f"{line['network']} {show(line['miou'])}" for line in lines)
        self.note(f"step {done}  val mIoU: {figures}{'  (best so far, saved)' if improved else ''}")

    def close(self) -> None:
        """Leave the terminal as it was, and close log.txt."""
        if self.enabled:
            if self.progress is not None:
                self.progress.stop()
            with suppress(OSError):  # what could not be written has been told by note
                self.file.close()


def show(miou: float | None) -> str:
    """An mIoU in percent as text; a dash where it is undefined."""
    return "-" if miou is None else f"{miou:.1f}"


def duration(seconds: float) -> str:
    """Seconds as ``1 h 05 min``, ``3 min`` or ``20 s``."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
