"""Mean, standard deviation and confidence interval over a few seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class SeedValues:
    """One value per seed, and their statistics."""

    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.values.values())

    @property
    def std(self) -> float | None:
        """The standard deviation of the sample (n - 1); None for one seed."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % confidence interval of the mean (Student's t over the seeds); None for one seed."""
        if self.std is None:
            return None
        from scipy.special import stdtrit  # quantile of Student's t; scipy is slow to import

        n = len(self.values)
        half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * self.std / math.sqrt(n)
        return self.mean - half, self.mean + half


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> dict[int, float]:
    """Return ``values - reference`` for the seeds in both."""
    return {seed: value - reference[seed] for seed, value in values.items() if seed in reference}
