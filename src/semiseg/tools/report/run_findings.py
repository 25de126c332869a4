"""Describe a run's results in sentences, with advice: the findings at the top of its report.

Each rule is a function from a run to findings. The thresholds are set so that a healthy run has no warnings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

from semiseg.tools.report.baseline import baseline_command
from semiseg.tools.report.confusion_table import counts_of
from semiseg.tools.report.evidence import doubt, few_images, margin
from semiseg.tools.report.gain import (
    POINT,
    gain_over_supervised,
    image_count,
    learns_from_unlabeled,
    unknown_gain,
)
from semiseg.tools.report.run_files import RunFiles, series

BARELY_TRUSTED = 0.05  # share of pixels; with fewer, unlabeled images have next to no effect
OVERTRUSTED = 10.0  # points by which the trusted share exceeds the pixel accuracy on val
COUPLED = 1.0  # percent of pixels; healthy teachers disagree with the student on 2 to 5 while the learning rate is high
SLOW_LOADING = 0.25  # share of the training time


class RunFinding(NamedTuple):
    """One sentence about a run's results.

    Attributes:
        warning: Whether something may be wrong.
        text: One sentence.
        advice: What to try; may be empty.
    """

    warning: bool
    text: str
    advice: str = ""


def findings(run: RunFiles) -> list[RunFinding]:
    """Return all findings, warnings first."""
    found = [finding for rule in RULES for finding in rule(run)] if run.scores else []
    return sorted(found, key=lambda finding: not finding.warning)


def _gain_over_supervised(run: RunFiles) -> list[RunFinding]:
    """Report the gain over a supervised run in the same directory that differs in nothing but the method."""
    if not learns_from_unlabeled(run):
        return []
    if gain := gain_over_supervised(run):
        text = f"mIoU on {gain.split}: {gain.points:+.1f} points over supervised training "
        text += f"(run {gain.other}, {gain.supervised:.1f} %)"
        if reason := doubt(gain.points, gain.split, gain.images):
            return [RunFinding(False, f"{text}, but {reason}.", "semiseg compare --seeds 0,1,2 trains several seeds.")]
        threshold = "another --threshold or " if uses_threshold(run) else ""
        advice = f"Inspect the pseudo-labels below. Try a longer --burn-in, {threshold}other --weights."
        return [RunFinding(gain.points < 0, f"{text}.", advice if gain.points < 0 else "")]
    text = f"The gain from unlabeled images is unknown: {unknown_gain(run)}"
    return [RunFinding(False, text, f"Train one: {baseline_command(run)}")]


def _safeguard(run: RunFiles) -> list[RunFinding]:
    """Report that the unlabeled images lost weight, and that the burn-in gave the best checkpoint."""
    found = []
    steps, factors = series(run.training, "unlabeled_factor")
    if reduced := [step for step, factor in zip(steps, factors, strict=True) if factor < 1]:
        left = "were left out at the end" if factors[-1] == 0 else f"counted {factors[-1]:.0%} at the end"
        text = f"mIoU on val got worse: the unlabeled images lost weight from step {reduced[0]} on and "
        found.append(RunFinding(True, f"{text}{left}.", "Use images of the same scenes, or --method supervised."))
    burn_in = round(float(run.config.get("burn_in") or 0) * float(run.config.get("steps") or 0))
    if run.best_step is not None and 0 < run.best_step <= burn_in and len(run.validations) > 1:
        text = "The best checkpoint is from the burn-in, before the unlabeled images were used: they did not help."
        found.append(RunFinding(True, text, "Give more --time, or label more images."))
    return found


def _trend(run: RunFiles) -> list[RunFinding]:
    """Check whether mIoU on val was still rising, had settled or had fallen at the end."""
    steps, values = run.curve(run.default_network, "miou")
    if len(values) < 3:
        return []
    best, last = max(values), values[-1]
    if best <= _one_class(run):
        text = f"The network has hardly learned: {best:.1f} % mIoU on val is at most what a single class can give."
        return [RunFinding(True, text, "Train longer, start from pretrained weights, and check the labels.")]
    if best - last > margin(image_count(run, "val")):
        text = f"mIoU on val fell from {best:.1f} % at step {run.best_step} to {last:.1f} % at the end."
        threshold = " or a higher --threshold" if uses_threshold(run) else ""
        return [RunFinding(True, text, f"The best checkpoint is kept. Try a smaller --lr{threshold}.")]
    last_third = len(values) * 2 // 3
    rise = max(values[last_third:]) - max(values[:last_third])
    if last >= best - POINT / 2 and rise >= POINT:
        text = f"mIoU on val was still rising: {rise:+.1f} points in the last third of the run."
        return [RunFinding(False, text, f"Train for more than {steps[-1]} steps.")]
    settled = next(step for step, value in zip(steps, values, strict=True) if value >= best - POINT)
    text = f"mIoU on val has settled: it rose by less than {POINT:.0f} point after step {settled}."
    return [RunFinding(False, text)]


def uses_threshold(run: RunFiles) -> bool:
    """Return whether pseudo-labels count only above a confidence threshold."""
    return "threshold" in run.config and run.config.get("threshold_mode", "pixel") != "none"


def _one_class(run: RunFiles) -> float:
    """Return the mIoU in percent of a network that is perfect in one class and never predicts another."""
    return 100 / max(len(run.classes), 2)


def _classes(run: RunFiles) -> list[RunFinding]:
    """List classes that are never predicted and classes that val does not contain, from the confusion matrix."""
    if (content := counts_of(run.confusion or {})) is None:
        return []
    classes, counts = content
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)
    missed = [name for name, pixels, found in zip(classes, true, predicted, strict=True) if pixels and not found]
    absent = [name for name, pixels in zip(classes, true, strict=True) if not pixels]
    found = []
    if missed:
        advice = "Label images that contain it, or weight rare classes (--class-balance)."
        found.append(RunFinding(True, f"Never predicted on val: {_names(missed)}.", advice))
    if absent:
        images = "The evaluated val images contain" if run.config.get("val_limit") else "Val contains"
        found.append(RunFinding(True, f"{images} no pixel of {_names(absent)}, so its IoU is unknown.", "Extend val."))
    return found


def _trust(run: RunFiles) -> list[RunFinding]:
    """Check whether too few or too many pseudo-labels pass the threshold at the end."""
    if not uses_threshold(run):
        return []  # Every pixel is used, whatever share exceeds a threshold.
    shares = series(run.training, "trusted_fraction")[1]
    if not run.list_sizes.get("unlabeled") or not any(series(run.training, "loss/unsupervised")[1]):
        return []
    share = median(shares[-max(1, len(shares) // 10) :]) if shares else 0.0
    accuracy = run.curve(run.default_network, "pixel_accuracy")[1]
    if accuracy and 100 * share >= accuracy[-1] + OVERTRUSTED:
        text = f"At the end {100 * share:.0f} % of the pseudo-labels were trusted, but only {accuracy[-1]:.0f} % of "
        text += "the predictions on val are correct: the network learns from its own mistakes."
        return [RunFinding(True, text, "Raise --threshold or --burn-in.")]
    if share >= BARELY_TRUSTED:
        return [RunFinding(False, f"At the end {100 * share:.0f} % of the pseudo-labels were trusted.")]
    text = f"At the end only {100 * share:.1f} % of the pseudo-labels were trusted: unlabeled images had little effect."
    return [RunFinding(True, text, "Lower --threshold, train longer, or start from pretrained weights.")]


def _coupling(run: RunFiles) -> list[RunFinding]:
    """Check whether the teachers had become copies of the student while the learning rate was still high."""
    steps = [line["step"] for line in run.validations]
    if len(set(steps)) < 4:
        return []
    middle = [line for line in run.validations if 0.4 * steps[-1] <= line["step"] <= 0.8 * steps[-1]]
    teachers = [line for line in middle if re.fullmatch(r"teacher\d+", str(line.get("network")))]
    values = series(teachers, "disagreement")[1]
    if not values or median(values) >= COUPLED or (run.scores[0].highest or 0.0) <= _one_class(run):
        return []  # Networks that always predict the same class agree, too.
    text = (
        f"Teachers and student became too similar: in mid-run they disagreed on {median(values):.1f} % of val's pixels."
    )
    other = ", or two teachers (dual-teacher)," if run.method != "dual-teacher" else ""
    return [RunFinding(True, text, f"A larger --ema-decay{other} keeps them apart.")]


def _overfitting(run: RunFiles) -> list[RunFinding]:
    """Check whether the loss on labels kept falling while mIoU on val fell."""
    losses = dict(zip(*series(run.training, "loss/supervised"), strict=True))
    steps, values = run.curve(run.default_network, "miou")
    if len(values) < 3 or max(values) - values[-1] <= margin(image_count(run, "val")) or run.best_step is None:
        return []
    at_best = [loss for step, loss in losses.items() if 0.8 * run.best_step <= step <= run.best_step]
    at_end = [loss for step, loss in losses.items() if step >= 0.9 * steps[-1]]
    if not at_best or not at_end or median(at_end) > 0.7 * median(at_best):
        return []
    text = f"The network overfits its labels: after the best step their loss fell from {median(at_best):.2f} to "
    text += f"{median(at_end):.2f}, and mIoU on val fell, too."
    return [RunFinding(True, text, "Add labels or reduce --steps.")]


def _lists(run: RunFiles) -> list[RunFinding]:
    """Check whether val is large enough, and similar enough to test."""
    score, found = run.scores[0], small_lists({"val": image_count(run, "val")})
    if score.val is not None and score.test is not None and score.val - score.test >= 5 * POINT:
        text = f"mIoU is {score.val - score.test:.1f} points lower on test than on val, which selected the checkpoint."
        found.append(RunFinding(True, text, "Report the figure on test. The table of classes shows where it is lost."))
    return found


def small_lists(images: Mapping[str, int]) -> list[RunFinding]:
    """Return a warning for each list with few images.

    Args:
        images: Number of images by list.
    """
    return [
        RunFinding(
            True,
            f"{few.capitalize()}: differences of a few points of mIoU on it are chance.",
            f"Annotate more images, or list more of them in splits/{name}.txt.",
        )
        for name, count in images.items()
        if (few := few_images(name, count))
    ]


def _skipped(run: RunFiles) -> list[RunFinding]:
    """List unlabeled images that could not be read and were replaced by others."""
    if not run.skipped:
        return []
    ids = [str(line["skipped"]) for line in run.skipped]
    shown = f"{', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''}"
    text = f"{len(ids)} of {run.list_sizes.get('unlabeled', 0)} unlabeled images could not be read: {shown}."
    return [RunFinding(True, text, "Others replaced them. Repair or remove the files; semiseg check lists them all.")]


def _networks(run: RunFiles) -> list[RunFinding]:
    """Check whether another network is clearly better than the default one."""
    first, *others = run.scores
    images = image_count(run, "val")
    better = [s for s in others if s.val is not None and first.val is not None and s.val > first.val]
    better = [s for s in better if not doubt((s.val or 0.0) - (first.val or 0.0), "val", images)]
    if not better or first.val is None:
        return []
    best = max(better, key=lambda score: score.val or 0.0)
    text = f"{best.network} is {(best.val or 0.0) - first.val:.1f} points better on val than {first.network}."
    return [RunFinding(False, text, f"Use it with --network {best.network}.")]


def _loading(run: RunFiles) -> list[RunFinding]:
    """Check whether training waited for images."""
    waits = series(run.training, "data_wait_fraction")[1]
    if not waits or median(waits) < SLOW_LOADING:
        return []
    text = f"Training spent {100 * median(waits):.0f} % of its time waiting for images."
    return [RunFinding(True, text, "Raise --workers.")]


def _names(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} others"


RULES = (
    _gain_over_supervised,
    _safeguard,
    _trend,
    _classes,
    _trust,
    _coupling,
    _overfitting,
    _lists,
    _skipped,
    _networks,
    _loading,
)
"""The rules, in the order in which the report shows their findings."""
