"""The order in which images are worth annotating, from what a model thinks of them. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from semiseg.seeding import derive_seed
from semiseg.tools.suggestion.uncertainty import Array, Measures


@dataclass(frozen=True)
class Choice:
    """The images chosen, best first.

    Attributes:
        indices: which of the measured images.
        scores: of each, what it was chosen for, higher is better; comparable within one call only.
        distances: of each, the cosine distance in [0, 2] to the nearest image that is annotated or chosen before it.
    """

    indices: list[int]
    scores: list[float]
    distances: list[float]


def choose(measures: Measures, annotated: Array, n: int, by: str, seed: int) -> Choice:
    """Choose ``n`` images, or all there are.

    Args:
        measures: of the N images to choose from.
        annotated: ``(L, D)``, features of the images that are annotated already; L may be 0.
        n: how many.
        by: a key of ``RANKINGS``.
        seed: of ``random``.
    """
    score, diverse = RANKINGS[by](measures, seed), by in DIVERSE
    distance = nearest(measures.features, annotated)
    indices, scores, distances = [], [], []
    left = np.ones(len(score), dtype=bool)
    for _ in range(min(n, len(score))):
        value = np.where(left, score * distance if diverse else score, -np.inf)
        best = int(value.argmax())
        left[best] = False
        indices.append(best)
        scores.append(float(value[best]))
        distances.append(float(distance[best]))
        distance = np.minimum(distance, nearest(measures.features, measures.features[best : best + 1]))
    return Choice(indices, scores, distances)


def nearest(features: Array, others: Array) -> Array:
    """Return the cosine distance, ``(N,)`` in [0, 2], of each of the features ``(N, D)`` to the nearest of ``others``.

    All are of length 1. Without others, everything is as far as can be.
    """
    if not len(others):
        return np.full(len(features), 2, dtype=np.float32)
    distance: Array = (1 - (features @ others.T).max(axis=1)).clip(0, 2)
    return distance


def percentile(values: Array) -> Array:
    """Return the share of the values that each one is not below, in (0, 1]: a scale on which measures can be added."""
    ranks = np.searchsorted(np.sort(values), values, side="right").astype(np.float32)
    return ranks / np.float32(max(1, len(values)))


Ranking = Callable[[Measures, int], Array]
"""Measures and seed to a score ``(N,)``."""


def _combined(m: Measures, seed: int) -> Array:
    both: Array = (percentile(m.uncertainty) + percentile(m.disagreement)) / np.float32(2)
    return both


def _uncertainty(m: Measures, seed: int) -> Array:
    return m.uncertainty


def _disagreement(m: Measures, seed: int) -> Array:
    return m.disagreement


def _diversity(m: Measures, seed: int) -> Array:
    return np.ones(len(m.ids), dtype=np.float32)


def _random(m: Measures, seed: int) -> Array:
    draws = np.random.default_rng(derive_seed(seed, "suggest")).random(len(m.ids), dtype=np.float32)
    return draws


RANKINGS: dict[str, Ranking] = {
    "combined": _combined,
    "uncertainty": _uncertainty,
    "disagreement": _disagreement,
    "diversity": _diversity,
    "random": _random,
}
"""What an image is suggested for."""
DIVERSE = ("combined", "diversity")
"""Those whose scores are multiplied by the distance to what is annotated or chosen already. ``diversity`` alone is the
greedy k-center of Sener & Savarese 2018."""
