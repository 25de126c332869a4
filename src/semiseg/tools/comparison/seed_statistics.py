"""Mean, spread and confidence interval of a few seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Values by seed, with their mean; ``std`` is that of the sample (n - 1), None of one value."""

    each: Mapping[int, float]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.each.values())

    @property
    def std(self) -> float | None:
        """The sample's standard deviation."""
        return statistics.stdev(self.each.values()) if len(self.each) > 1 else None

    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % confidence interval of the mean, by Student's t over the seeds; None of one value."""
        if self.std is None:
            return None
        n = len(self.each)
        half = t_quantile(n - 1) * self.std / math.sqrt(n)
        return self.mean - half, self.mean + half


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> dict[int, float]:
    """Return ``values - reference`` for the seeds that both have."""
    return {seed: value - reference[seed] for seed, value in values.items() if seed in reference}


def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Return t with ``P(|T| <= t) = confidence`` for Student's T of ``freedom`` degrees, to 1e-9 of its size.

    Example:
        >>> round(t_quantile(2), 3)
        4.303
    """
    if freedom < 1 or not 0 < confidence < 1:
        raise ValueError(f"freedom {freedom}, confidence {confidence}: at least 1, and between 0 and 1")
    low, high = 0.0, 1.0
    while _t_probability(high, freedom) < confidence:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_probability(middle, freedom) < confidence else (low, middle)
    return high


def _t_probability(t: float, freedom: int) -> float:
    """Return ``P(|T| <= t)``; Abramowitz & Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        # 2/pi (angle + sin (cos + 2/3 cos^3 + 2 4/(3 5) cos^5 + ... up to the power freedom - 2))
        powers = _series(cosine, [(k - 1) / k for k in range(3, freedom - 1, 2)], cosine) if freedom > 1 else 0.0
        return 2 / math.pi * (angle + sine * powers)
    # sin (1 + 1/2 cos^2 + 1 3/(2 4) cos^4 + ... up to the power freedom - 2)
    return sine * _series(1.0, [(k - 1) / k for k in range(2, freedom - 1, 2)], cosine)


def _series(first: float, factors: Sequence[float], cosine: float) -> float:
    """Return ``first + first f1 cos^2 + first f1 f2 cos^4 + ...``."""
    total = term = first
    for factor in factors:
        term *= factor * cosine * cosine
        total += term
    return total
