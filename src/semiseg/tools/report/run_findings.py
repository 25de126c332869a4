"""What a run's figures say in words, and what to try next: the report's first minute.

Each rule is a function from a run to findings. The thresholds are ours, chosen so that a sound run stays silent.
"""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from typing import NamedTuple

from semiseg.errors import UserError
from semiseg.tools.report.confusion_table import counted
from semiseg.tools.report.run_files import RunFiles, read_run, series

POINT = 1.0  # of mIoU; below it, two runs of another seed differ as much
BARELY_TRUSTED = 0.05  # share of pixels: what is left teaches next to nothing
OVERTRUSTED = 10.0  # points of pixels that are trusted beyond those that are right
ALIKE = 1.0  # percent of pixels on which a teacher disagrees; while the learning rate is high, sound ones reach 2 to 5
FEW_VAL = 20  # images
WAITING = 0.25  # share of a step
OWN_SETTINGS = {"method", "workers", "accelerator", "devices", "nodes", "precision", "tensorboard", "tracker", "keep"}
OWN_SETTINGS |= {"strict"}  # decides whether a run ends early, and nothing else


class Finding(NamedTuple):
    """One sentence on a run; ``watch``: something may be wrong; ``remedy``: what to try, or nothing."""

    watch: bool
    text: str
    remedy: str = ""


def findings(run: RunFiles) -> list[Finding]:
    """Return what there is to say, warnings first."""
    rules = (_gain, _course, _classes, _trust, _coupling, _overfit, _lists, _skipped, _networks, _loader)
    found = [finding for rule in rules for finding in rule(run)] if run.scores else []
    return sorted(found, key=lambda finding: not finding.watch)


def _gain(run: RunFiles) -> list[Finding]:
    """The gain over labels alone, from a supervised run that differs in nothing but the method."""
    if run.method == "supervised" or not run.list_sizes.get("unlabeled"):
        return []
    for other in filter(None, map(_supervised, sorted(run.path.resolve().parent.glob("*/config.yaml")))):
        if not _comparable(run, other) or not other.scores or not (_ended(run) and _same_length(run, other)):
            continue
        ours, theirs, place = run.scores[0].test, other.scores[0].test, "test"
        if ours is None or theirs is None:
            ours, theirs, place = run.scores[0].val, other.scores[0].val, "val"
        if ours is not None and theirs is not None:
            gain, base = ours - theirs, f"the supervised run beside it, {other.name} ({theirs:.1f} %)"
            remedy = "Look at the pseudo-labels below; try a longer burn-in, another threshold or other weights."
            text = f"{gain:+.1f} points of mIoU on {place} over {base}: what unlabeled images brought."
            return [Finding(gain < 0, text, remedy if gain < 0 else "")]
    text = (
        "What unlabeled images brought is not known: no supervised run of the same lists and settings lies beside it."
    )
    return [Finding(False, text, "semiseg compare trains both alike, with several seeds.")]


def _supervised(config: Path) -> RunFiles | None:
    """Return the supervised run of a configuration; None where it is another, or cannot be read."""
    try:
        found = "method: supervised" in config.read_text("utf-8").splitlines()
        return read_run(config.parent) if found else None  # many runs may lie there: only these are read as a whole
    except (OSError, ValueError, UserError):
        return None


def _comparable(run: RunFiles, other: RunFiles) -> bool:
    shared = (run.config.keys() & other.config.keys()) - OWN_SETTINGS
    lists = [(one.path / "splits" / f"{name}.txt") for name in ("labeled", "val") for one in (run, other)]
    if not all(path.is_file() for path in lists) or any(run.config[key] != other.config[key] for key in shared):
        return False
    return lists[0].read_bytes() == lists[1].read_bytes() and lists[2].read_bytes() == lists[3].read_bytes()


def _ended(run: RunFiles) -> bool:
    """Whether the last step was validated, as far as the configuration tells how many there are."""
    steps = run.config.get("steps")
    return steps is None or (bool(run.validations) and run.validations[-1]["step"] >= steps)


def _same_length(run: RunFiles, other: RunFiles) -> bool:
    """Whether both were validated last at the same step: an epoch of labeled images is another than one of all."""
    both = [one.validations[-1]["step"] if one.validations else None for one in (run, other)]
    return both[0] == both[1]


def _course(run: RunFiles) -> list[Finding]:
    """Whether it was still improving, or fell behind its best."""
    steps, values = run.curve(run.default_network or "", "miou")
    if len(values) < 3:
        return []
    best, last = max(values), values[-1]
    if best <= _one_class(run):
        text = f"It has hardly learned: {best:.1f} % mIoU on val is no more than one class alone can give."
        return [Finding(True, text, "Train longer, start from pretrained weights, and look at the labels below.")]
    lately = values[len(values) * 2 // 3 :]
    if best - last >= 2 * POINT:
        text = f"It fell from {best:.1f} % mIoU on val at step {run.best_step} to {last:.1f} % at the end."
        return [Finding(True, text, "The best checkpoint is kept; a smaller --lr or stricter --threshold may hold it.")]
    before = max(values[: len(values) - len(lately)])
    if last >= best - POINT / 2 and max(lately) - before >= POINT:
        text = (
            f"It was still improving: {max(lately) - before:+.1f} points of mIoU on val in the last third of the run."
        )
        return [Finding(False, text, f"Train longer than {steps[-1]} steps.")]
    return [
        Finding(False, f"It had settled: no more than {POINT:.0f} point of mIoU on val since step {_settled(run)}.")
    ]


def _one_class(run: RunFiles) -> float:
    """The mIoU in percent of a network that is perfect in one class and knows no other."""
    return 100 / max(len(run.classes), 2)


def _settled(run: RunFiles) -> int:
    steps, values = run.curve(run.default_network or "", "miou")
    return next(step for step, value in zip(steps, values, strict=True) if value >= max(values) - POINT)


def _classes(run: RunFiles) -> list[Finding]:
    """Classes that are never predicted, and those that val does not show, from the confusion matrix."""
    if (counts_of := counted(run.confusion or {})) is None:
        return []
    classes, counts = counts_of
    truth, predicted = counts.sum(axis=1), counts.sum(axis=0)
    never = [name for name, is_there, said in zip(classes, truth, predicted, strict=True) if is_there and not said]
    absent = [name for name, is_there in zip(classes, truth, strict=True) if not is_there]
    found = []
    if never:
        remedy = "Label images that show it, or weigh rare classes (--class-balance)."
        found.append(Finding(True, f"Never predicted on val: {_named(never)}.", remedy))
    if absent:
        seen = "The val images that were looked at show" if run.config.get("val_limit") else "Val shows"
        found.append(Finding(True, f"{seen} no pixel of {_named(absent)}: nothing is known of it.", "Extend val."))
    return found


def _trust(run: RunFiles) -> list[Finding]:
    """Whether pseudo-labels are trusted at the end, and whether they teach."""
    if "threshold" not in run.config or run.config.get("threshold_mode", "pixel") == "none":
        return []  # every pixel teaches, whatever the share above a threshold is
    shares = series(run.training, "trusted_fraction")[1]
    if not run.list_sizes.get("unlabeled") or not any(series(run.training, "loss/unsupervised")[1]):
        return []
    end = median(shares[-max(1, len(shares) // 10) :]) if shares else 0.0
    right = run.curve(run.default_network or "", "pixel_accuracy")[1]
    if right and 100 * end >= right[-1] + OVERTRUSTED:
        text = (
            f"{100 * end:.0f} % of the pixels were trusted at the end, but only {right[-1]:.0f} % of val's are right: "
        )
        return [Finding(True, text + "it learns its own mistakes.", "Raise --threshold, or --burn-in.")]
    if end >= BARELY_TRUSTED:
        return [Finding(False, f"{100 * end:.0f} % of the pixels were trusted at the end.")]
    text = f"Only {100 * end:.1f} % of the pixels were trusted at the end: unlabeled images taught next to nothing."
    return [Finding(True, text, "Lower --threshold, train longer, or start from pretrained weights.")]


def _coupling(run: RunFiles) -> list[Finding]:
    """Whether the teachers were the student's likeness while the learning rate was still high."""
    steps = [line["step"] for line in run.validations]
    if len(set(steps)) < 4:
        return []
    middle = [line for line in run.validations if 0.4 * steps[-1] <= line["step"] <= 0.8 * steps[-1]]
    apart = [
        line["disagreement"]
        for line in middle
        if isinstance(line.get("disagreement"), int | float) and re.fullmatch(r"teacher\d+", str(line.get("network")))
    ]
    if not apart or median(apart) >= ALIKE or (run.scores[0].highest or 0.0) <= _one_class(run):
        return []  # networks that all say the same class agree, too
    text = f"Teachers and student grew alike: they disagreed on {median(apart):.1f} % of val's pixels in mid-run."
    return [Finding(True, text, "A larger --ema-decay, or two teachers (dual-teacher), keeps them apart.")]


def _overfit(run: RunFiles) -> list[Finding]:
    """Whether the labels were learned by heart: their loss went on falling while val fell."""
    losses = dict(zip(*series(run.training, "loss/supervised"), strict=True))
    steps, values = run.curve(run.default_network or "", "miou")
    if len(values) < 3 or max(values) - values[-1] < POINT or run.best_step is None:
        return []
    at_best = [loss for step, loss in losses.items() if 0.8 * run.best_step <= step <= run.best_step]
    at_end = [loss for step, loss in losses.items() if step >= 0.9 * steps[-1]]
    if not at_best or not at_end or median(at_end) > 0.7 * median(at_best):
        return []
    fall = f"from {median(at_best):.2f} to {median(at_end):.2f}"
    text = f"Since its best step the loss on labels fell {fall} and val with it: it learns its images by heart."
    return [Finding(True, text, "Take more labels, or fewer --steps.")]


def _lists(run: RunFiles) -> list[Finding]:
    """Whether val says enough to go by."""
    val, score, found = run.list_sizes.get("val", FEW_VAL), run.scores[0], []
    if val < FEW_VAL:
        found.append(
            Finding(True, f"Val has {val} images: a few points of mIoU are chance.", "Put more images into val.")
        )
    if score.val is not None and score.test is not None and score.val - score.test >= 5 * POINT:
        text = f"Test lies {score.val - score.test:.1f} points below val, by which the checkpoint was chosen."
        found.append(Finding(True, text, "Report the figure on test; see below which classes are to blame."))
    return found


def _skipped(run: RunFiles) -> list[Finding]:
    """Unlabeled images that could not be read, and for which others stood in."""
    if not run.skipped:
        return []
    names = [str(line["skipped"]) for line in run.skipped]
    shown = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    text = f"{len(names)} of {run.list_sizes.get('unlabeled', 0)} unlabeled images could not be read: {shown}."
    return [Finding(True, text, "Others stood in for them. Mend or remove the files; semiseg check names them all.")]


def _networks(run: RunFiles) -> list[Finding]:
    """Whether another network is clearly better than the one the run is judged by."""
    first, *others = run.scores
    better = [one for one in others if one.val is not None and first.val is not None and one.val - first.val >= POINT]
    if not better or first.val is None:
        return []
    best = max(better, key=lambda one: one.val or 0.0)
    text = f"{best.network} is {(best.val or 0.0) - first.val:.1f} points better on val than the {first.network}."
    return [Finding(False, text, f"Use it: --network {best.network}.")]


def _loader(run: RunFiles) -> list[Finding]:
    """Whether training waited for data."""
    waits = series(run.training, "data_wait_fraction")[1]
    if not waits or median(waits) < WAITING:
        return []
    return [Finding(True, f"{100 * median(waits):.0f} % of the time went by waiting for images.", "Raise --workers.")]


def _named(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} others"
