"""metrics.jsonl: one JSON object per line, flushed after every line, truncated to the checkpoint on resume."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from semiseg.errors import UserError
from semiseg.training.checkpoint import write_atomically
from semiseg.training.disk_space import add_file_name
from semiseg.training.logging.trackers import Tracker

LOSS_TERMS = ("supervised", "unsupervised", "consistency", "auxiliary", "filled", "tags")
"""The terms that a method may log as ``loss/TERM``. Terms that it does not use are logged as 0."""


class MetricsLog:
    """Appends lines to metrics.jsonl and passes them to trackers.

    Args:
        path: metrics.jsonl.
        resume_at: Step of the checkpoint; later lines, and a line truncated by a crash, are dropped.
        enabled: False on all ranks but 0.
        trackers: Opened trackers.
    """

    def __init__(self, path: Path, resume_at: int, enabled: bool = True, trackers: Sequence[Tracker] = ()) -> None:
        self.path, self.enabled, self.trackers = path, enabled, trackers
        if not enabled:
            return
        kept = lines_until(path, resume_at) if resume_at else []
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self.elapsed = max((line["time_s"] for line in kept), default=0.0)
        self.started = time.perf_counter()
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def time_s(self) -> float:
        """Return the seconds of training so far, including those before a resume."""
        return self.elapsed + time.perf_counter() - self.started

    def write(self, step: int, epoch: int, values: dict[str, Any]) -> None:
        """Append one line with ``step``, ``epoch``, ``time_s`` and ``values``. NaN and infinity become null."""
        if not self.enabled:
            return
        line = {"step": step, "epoch": epoch, "time_s": round(self.time_s(), 3)} | values
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        with add_file_name(self.path):
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        for tracker in self.trackers:
            tracker.write(step, line)

    def show(self, step: int, pictures: Sequence[Path]) -> None:
        """Pass sample pictures to the trackers."""
        for tracker in self.trackers:
            tracker.show(step, pictures)

    def sync(self) -> None:
        """Flush the lines to disk; call this before saving a checkpoint of their step."""
        if self.enabled:
            with add_file_name(self.path):
                os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file and the trackers."""
        if self.enabled:
            with suppress(OSError):  # write has already raised the error
                self.file.close()
        for tracker in self.trackers:
            tracker.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the valid lines of a metrics file; a missing file has none."""
    return [line for line in _lines(path).values() if line]


def lines_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Return the lines up to a step.

    Raises:
        UserError: A line before the last of them is damaged. They were synced before the checkpoint, so a crash cannot
            cause this, and resuming would lose them.
    """
    lines = _lines(path)
    kept = [number for number, line in lines.items() if line and line["step"] <= step]
    end = max(kept or lines, default=0)  # later lines are dropped anyway; the last may be truncated by a crash
    if damaged := [number for number, line in lines.items() if not line and number < end]:
        raise UserError(f"line {damaged[0]} is damaged", path=path, fix="correct or remove the line, then resume")
    return [lines[number] for number in kept]


def _lines(path: Path) -> dict[int, dict[str, Any]]:
    """Read the lines of a file that are not blank, by number; damaged lines become empty dicts."""
    lines: dict[int, dict[str, Any]] = {}
    for number, text in enumerate(path.read_bytes().split(b"\n") if path.is_file() else [], 1):
        if text.strip():
            line: Any = None
            with suppress(ValueError, RecursionError):  # not JSON, or not UTF-8
                line = json.loads(text)
            valid = isinstance(line, dict) and isinstance(line.get("step"), int)
            lines[number] = line if valid and isinstance(line.get("time_s"), int | float) else {}
    return lines
