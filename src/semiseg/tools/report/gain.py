"""The gain from unlabeled images: a run against a supervised run that differs in nothing but the method."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from semiseg.errors import UserError
from semiseg.tools.report.baseline import baseline_command, why_not_comparable
from semiseg.tools.report.evidence import SMALL_VAL, verdict
from semiseg.tools.report.run_files import RunFiles, read_run, series

POINT = 1.0  # mIoU; two seeds of the same run differ by as much
QUESTION = "Did the unlabeled images help here?"
LEFT_OUT = "The safeguard left the unlabeled images out at the end"


class Gain(NamedTuple):
    """The difference to a supervised run.

    Attributes:
        points: Difference in mIoU.
        split: test, or val if one of the runs was not evaluated on test.
        images: Number of images in that list.
        supervised: mIoU of the supervised run in percent.
        other: Name of that run.
    """

    points: float
    split: str
    images: int
    supervised: float
    other: str


def learns_from_unlabeled(run: RunFiles) -> bool:
    """Return whether a run has learned from unlabeled images."""
    return run.method != "supervised" and bool(run.list_sizes.get("unlabeled"))


def image_count(run: RunFiles, split: str) -> int:
    """Return the number of images that figures on a list refer to; an unknown list counts as large enough."""
    return len(run.evaluated.get(split, ())) or run.list_sizes.get(split, SMALL_VAL)


def gain_over_supervised(run: RunFiles) -> Gain | None:
    """Return the gain over a comparable supervised run in the same directory; None if there is none."""
    if not run.scores:
        return None
    for other in _supervised_runs(run):
        if not other.scores or why_not_comparable(run, other):
            continue
        ours, theirs, split = run.scores[0].test, other.scores[0].test, "test"
        if ours is None or theirs is None:
            ours, theirs, split = run.scores[0].val, other.scores[0].val, "val"
        if ours is not None and theirs is not None:
            return Gain(ours - theirs, split, image_count(run, split), theirs, other.name)
    return None


def left_out(run: RunFiles) -> bool:
    """Return whether the safeguard had taken all weight from the unlabeled images at the end of a run."""
    return series(run.training, "unlabeled_factor")[1][-1:] == [0.0]


def help_line(run: RunFiles) -> str:
    """Return the first lines of the report of a run that has learned from unlabeled images."""
    if not learns_from_unlabeled(run):
        return ""
    safeguard = f" {LEFT_OUT}." if left_out(run) else ""
    if gain := gain_over_supervised(run):
        text = f"{verdict(gain.points, gain.split, gain.images)}."
        return f"{QUESTION} {text}{safeguard} Supervised training reached {gain.supervised:.1f} % (run {gain.other})."
    return f'{QUESTION} Unknown: {unknown_gain(run)}{safeguard} Train one with "{baseline_command(run)}".'


def unknown_gain(run: RunFiles) -> str:
    """Return why the gain over supervised training is not known."""
    reasons = {other.name: why_not_comparable(run, other) for other in _supervised_runs(run)}
    text = next((f" Run {name} does not compare: {reason}." for name, reason in reasons.items() if reason), "")
    return f"the directory has no comparable supervised run.{text}"


def _supervised_runs(run: RunFiles) -> list[RunFiles]:
    """Return the other supervised runs in the same directory that can be read and were validated."""
    configs = sorted(run.path.resolve().parent.glob("*/config.yaml"))
    return [other for other in map(_supervised_run, configs) if other and other.validations]


def _supervised_run(config: Path) -> RunFiles | None:
    """Read the run of a configuration; None if it is not supervised or cannot be read."""
    try:
        supervised = "method: supervised" in config.read_text("utf-8").splitlines()
        return read_run(config.parent) if supervised else None  # Of many runs, only these are read completely.
    except (OSError, ValueError, UserError):
        return None
