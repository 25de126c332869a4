"""Mean, standard deviation and confidence interval over a few seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

CONFIDENCE = 0.95


def summarize(values: Mapping[int, float], with_interval: bool = False) -> dict[str, Any] | None:
    """Return statistics of one value per seed; None if there are no values.

    Args:
        values: Values by seed.
        with_interval: Add the confidence interval of the mean by Student's t.

    Returns:
        ``mean``, ``std`` of the sample (n - 1; None for one seed) and ``each``, the values by seed. With the interval
        also ``low`` and ``high`` (None for one seed) and the number of seeds ``n``.
    """
    if not values:
        return None
    n, mean = len(values), statistics.fmean(values.values())
    std = statistics.stdev(values.values()) if n > 1 else None
    summary: dict[str, Any] = {"mean": mean, "std": std, "each": dict(values)}
    if with_interval:
        summary |= {"low": None, "high": None, "n": n}
        if std is not None:
            from scipy.special import stdtrit  # quantile of Student's t; scipy is slow to import

            half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * std / math.sqrt(n)
            summary |= {"low": mean - half, "high": mean + half}
    return summary


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> dict[int, float]:
    """Return ``values - reference`` for the seeds in both."""
    return {seed: value - reference[seed] for seed, value in values.items() if seed in reference}
