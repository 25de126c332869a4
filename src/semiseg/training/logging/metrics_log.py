"""metrics.jsonl: one JSON object a line, flushed line by line, and cut back to a checkpoint on resume."""

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
from semiseg.training.disk_space import naming
from semiseg.training.logging.trackers import Tracker


class MetricsLog:
    """Appends to ``path``; ``resume_at`` drops every line of a later step, and a line cut short by a crash."""

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
        """Seconds of training so far, over all sittings."""
        return self.elapsed + time.perf_counter() - self.started

    def write(self, step: int, epoch: int, values: dict[str, Any]) -> None:
        """Append one line; ``time_s`` counts training time over all sittings. NaN and infinity become null."""
        if not self.enabled:
            return
        line = {"step": step, "epoch": epoch, "time_s": round(self.time_s(), 3)} | values
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        with naming(self.path):
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        for tracker in self.trackers:
            tracker.write(step, line)

    def show(self, step: int, pictures: Sequence[Path]) -> None:
        """Hand sample pictures on to the trackers."""
        for tracker in self.trackers:
            tracker.show(step, pictures)

    def sync(self) -> None:
        """Have the lines on the disk before a checkpoint says that they are there."""
        if self.enabled:
            with naming(self.path):
                os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file and the trackers."""
        if self.enabled:
            with suppress(OSError):  # what could not be written has been told by write
                self.file.close()
        for tracker in self.trackers:
            tracker.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a metrics file; a missing file is empty, a line cut short is left out."""
    return [line for line in _lines(path).values() if line]


def lines_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Return the lines up to a step.

    Raises:
        UserError: one before the last of them is damaged. All were on the disk before the checkpoint was, so no crash
            does that, and a run that goes on would lose what it said.
    """
    lines = _lines(path)
    kept = [number for number, line in lines.items() if line and line["step"] <= step]
    end = max(kept or lines, default=0)  # what comes after is cut, and the last line of all may be cut short
    if damaged := [number for number, line in lines.items() if not line and number < end]:
        raise UserError(f"{path}: line {damaged[0]} is damaged: correct it, or take it out, then resume")
    return [lines[number] for number in kept]


def _lines(path: Path) -> dict[int, dict[str, Any]]:
    """Read the lines of a file that are not blank, by number; empty is one that no run has written, or not whole."""
    lines: dict[int, dict[str, Any]] = {}
    for number, text in enumerate(path.read_bytes().split(b"\n") if path.is_file() else [], 1):
        if text.strip():
            line: Any = None
            with suppress(ValueError, RecursionError):  # no JSON, no UTF-8
                line = json.loads(text)
            sound = isinstance(line, dict) and isinstance(line.get("step"), int)
            lines[number] = line if sound and isinstance(line.get("time_s"), int | float) else {}
    return lines
