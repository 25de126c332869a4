"""Rank images by their value for annotation. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from semiseg.seeding import derive_seed
from semiseg.tools.suggestion.uncertainty import Array, Measurements


@dataclass(frozen=True)
class Choice:
    """The chosen images, best first.

    Attributes:
        indices: Their indices among the measured images.
        scores: Their scores; higher is better; only comparable within one call.
        distances: Their cosine distances in [0, 2] to the nearest image that is annotated or chosen before.
    """

    indices: list[int]
    scores: list[float]
    distances: list[float]


def choose(measurements: Measurements, annotated: Array, n: int, by: str, seed: int) -> Choice:
    """Choose ``n`` images, or all if there are fewer.

    Args:
        measurements: Measurements of the N images to choose from.
        annotated: ``(L, D)``, features of the annotated images; L may be 0.
        n: Number of images.
        by: A key of ``RANKINGS``.
        seed: Seed of ``random``.
    """
    score, diverse = RANKINGS[by](measurements, seed), by in DIVERSE
    distance = nearest(measurements.features, annotated)
    indices, scores, distances = [], [], []
    free = np.ones(len(score), dtype=bool)
    for _ in range(min(n, len(score))):
        value = np.where(free, score * distance if diverse else score, -np.inf)
        best = int(value.argmax())
        free[best] = False
        indices.append(best)
        scores.append(float(value[best]))
        distances.append(float(distance[best]))
        distance = np.minimum(distance, nearest(measurements.features, measurements.features[best : best + 1]))
    return Choice(indices, scores, distances)


def nearest(features: Array, others: Array) -> Array:
    """Return the cosine distance, ``(N,)`` in [0, 2], of features ``(N, D)`` to the nearest of ``others``.

    All features are normalized. Without others, the distance is 2.
    """
    if not len(others):
        return np.full(len(features), 2, dtype=np.float32)
    distance: Array = (1 - (features @ others.T).max(axis=1)).clip(0, 2)
    return distance


def percentile(values: Array) -> Array:
    """Return for each value the share of values that are not larger, in (0, 1], so that measurements can be added."""
    ranks = np.searchsorted(np.sort(values), values, side="right").astype(np.float32)
    return ranks / np.float32(max(1, len(values)))


Ranking = Callable[[Measurements, int], Array]
"""Maps measurements and a seed to scores ``(N,)``."""


RANKINGS: dict[str, Ranking] = {
    "combined": lambda m, _: (percentile(m.uncertainty) + percentile(m.disagreement)) / np.float32(2),
    "uncertainty": lambda m, _: m.uncertainty,
    "disagreement": lambda m, _: m.disagreement,
    "diversity": lambda m, _: np.ones(len(m.ids), dtype=np.float32),
    "random": lambda m, seed: np.random.default_rng(derive_seed(seed, "suggest")).random(len(m.ids), dtype=np.float32),
}
"""Rankings by name."""
DIVERSE = ("combined", "diversity")
"""Rankings that multiply the score by the distance to the nearest annotated or chosen image. ``diversity`` is the
greedy k-center of Sener & Savarese 2018."""
