"""Decide whether a difference in mIoU is more than chance, from the number of images and of runs."""

from __future__ import annotations

from semiseg.training.safeguard import Safeguard

SMALL_VAL = 20  # images; on fewer, differences of a few points are chance


def margin(images: int) -> float:
    """Return the difference in mIoU that so many images may show by chance: the margin of ``--safeguard``."""
    return Safeguard.for_images(max(1, images)).margin


def few_images(split: str, images: int) -> str:
    """Return that a list has only so many images; empty if it has enough."""
    return f"{split} has only {images} image{'s' * (images != 1)}" if images < SMALL_VAL else ""


def doubt(points: float, split: str, images: int, seeds: int = 1, certain: bool = True) -> str:
    """Return why a difference does not count; empty if it does.

    Args:
        points: Difference in mIoU.
        split: The list that it was measured on.
        images: Number of images in that list.
        seeds: Number of runs on each side.
        certain: Whether the confidence interval over several seeds excludes 0.
    """
    if few := few_images(split, images):
        return few
    if certain and abs(points) > margin(images):
        return ""
    if seeds == 1:
        return "one run each does not show a difference of this size"
    return f"{seeds} runs each on {images} {split} images do not show a difference of this size"


def verdict(
    points: float, split: str, images: int, seeds: int = 1, low: float | None = None, high: float | None = None
) -> str:
    """Return the answer to whether a difference is a gain, e.g. ``Probably: +8.1 mIoU on val (one run each)``.

    Args:
        points: Difference in mIoU.
        split: The list that it was measured on.
        images: Number of images in that list.
        seeds: Number of runs on each side.
        low: Lower end of the confidence interval over several seeds.
        high: Its upper end.
    """
    interval = low is not None and high is not None
    figures = f"{points:+.1f} mIoU on {split}" + (f" ({low:+.1f} to {high:+.1f}, {seeds} seeds)" if interval else "")
    certain = low is None or high is None or low > 0 or high < 0
    if reason := doubt(points, split, images, seeds, certain):
        return f"Cannot be told: {figures}, but {reason}"
    if not interval:
        return f"Probably{' not' * (points < 0)}: {figures} (one run each)"
    return f"{'Yes' if points > 0 else 'No'}: {figures}"
