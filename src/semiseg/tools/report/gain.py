"""The gain from unlabeled images: a run against a supervised run that differs in nothing but the method."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from semiseg.errors import UserError
from semiseg.tools.report.run_files import RunFiles, read_run

POINT = 1.0  # mIoU; two seeds of the same run differ by as much
IGNORED_IN_COMPARISON = {
    *("method", "workers", "accelerator", "devices", "nodes", "precision", "tensorboard", "tracker", "keep", "strict"),
    "safeguard",
}
"""Options that may differ between a run and the supervised run that it is compared with."""
QUESTION = "Did the unlabeled images help here?"


class Gain(NamedTuple):
    """The difference to a supervised run.

    Attributes:
        points: Difference in mIoU.
        split: test, or val if one of the runs was not evaluated on test.
        supervised: mIoU of the supervised run in percent.
        other: Name of that run.
    """

    points: float
    split: str
    supervised: float
    other: str


def learns_from_unlabeled(run: RunFiles) -> bool:
    """Return whether a run has learned from unlabeled images."""
    return run.method != "supervised" and bool(run.list_sizes.get("unlabeled"))


def gain_over_supervised(run: RunFiles) -> Gain | None:
    """Return the gain over a comparable supervised run in the same directory; None if there is none."""
    if not run.scores:
        return None
    for other in filter(None, map(_supervised_run, sorted(run.path.resolve().parent.glob("*/config.yaml")))):
        if not other.scores or not _comparable(run, other):
            continue
        ours, theirs, split = run.scores[0].test, other.scores[0].test, "test"
        if ours is None or theirs is None:
            ours, theirs, split = run.scores[0].val, other.scores[0].val, "val"
        if ours is not None and theirs is not None:
            return Gain(ours - theirs, split, theirs, other.name)
    return None


def answer(points: float) -> str:
    """Return yes, no, or that the difference is too small."""
    return "Not measurably" if abs(points) < POINT else "Yes" if points > 0 else "No"


def help_line(run: RunFiles) -> str:
    """Return the first line of the report of a run that has learned from unlabeled images."""
    if not learns_from_unlabeled(run):
        return ""
    if (gain := gain_over_supervised(run)) is None:
        command = f"semiseg compare --data {run.config.get('data') or 'DIR'} --time 20m"
        return f"{QUESTION} Unknown without a comparable supervised run: {command} trains both."
    figures = f"{gain.points:+.1f} mIoU on {gain.split} against supervised training (run {gain.other})"
    return f"{QUESTION} {answer(gain.points)}: {figures}."


def _supervised_run(config: Path) -> RunFiles | None:
    """Read the run of a configuration; None if it is not supervised or cannot be read."""
    try:
        supervised = "method: supervised" in config.read_text("utf-8").splitlines()
        return read_run(config.parent) if supervised else None  # Of many runs, only these are read completely.
    except (OSError, ValueError, UserError):
        return None


def _comparable(run: RunFiles, other: RunFiles) -> bool:
    """Return whether two runs have the same settings, lists and length, and this one is complete."""
    shared = (run.config.keys() & other.config.keys()) - IGNORED_IN_COMPARISON
    if any(run.config[key] != other.config[key] for key in shared):
        return False
    for name in ("labeled", "val"):
        paths = [each.path / "splits" / f"{name}.txt" for each in (run, other)]
        if not all(path.is_file() for path in paths) or paths[0].read_bytes() != paths[1].read_bytes():
            return False
    last, other_last = (each.validations[-1]["step"] if each.validations else None for each in (run, other))
    steps = run.config.get("steps")
    return last == other_last and (steps is None or (last is not None and last >= steps))
