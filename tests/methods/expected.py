"""Expectations of test_methods.py for each method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Options = dict[str, Any]


@dataclass(frozen=True)
class Expected:
    """Networks of a method, and options that isolate one of its losses.

    Attributes:
        networks: Names of its predictors, in order.
        labeled: Those trained by the supervised loss.
        unlabeled: Those trained by the unsupervised loss.
        off: Options without unsupervised losses.
        trusting: Options with the unsupervised loss only, on every pixel.
        choosy: Options under which a random network trusts some pixels only.
        weights: Of loss/supervised, loss/unsupervised and loss/consistency with the options ``weighted``.
        weighted: See ``weights``.
        auxiliary: Whether there is a loss/auxiliary on labels, of weight 1.
        short_run: Options for 60 steps from random weights.
    """

    networks: tuple[str, ...] = ("student",)
    labeled: tuple[str, ...] = ("student",)
    unlabeled: tuple[str, ...] = ("student",)
    off: Options = field(default_factory=lambda: {"unsupervised_weight": 0.0})
    trusting: Options = field(default_factory=lambda: {"threshold_mode": "none"})
    choosy: Options = field(default_factory=lambda: {"threshold": 0.37})
    weights: tuple[float, float, float] = (1, 0.7, 0)
    weighted: Options = field(default_factory=lambda: {"unsupervised_weight": 0.7})
    auxiliary: bool = False
    short_run: Options = field(default_factory=dict)


EXPECTED: dict[str, Expected] = {
    "supervised": Expected(off={}, trusting={}, choosy={}, weights=(1, 0, 0), weighted={}),
    "mean-teacher": Expected(("student", "teacher1")),
    "dual-student": Expected(
        networks=("student", "student2"),
        labeled=("student", "student2"),
        unlabeled=("student", "student2"),
        trusting={},
        choosy={},
        # CPS has no threshold, so two random networks learn each other's noise. Published runs start from ImageNet and
        # are a thousand times longer.
        short_run={"ramp_up": 1.0, "unsupervised_weight": 0.5},
    ),
    "dual-teacher": Expected(
        networks=("student", "teacher1", "teacher2"),
        off={"unsupervised_weight": 0.0, "consistency_weight": 0.0},
        trusting={"threshold_mode": "none", "consistency_weight": 0.0},
        weights=(1, 0.7, 0.2),
    ),
    "pseudoseg": Expected(
        trusting={},
        auxiliary=True,
        # No threshold either (see dual-student). The grid has 12 cells for 48 pixels; the authors' code has 33 for 513.
        short_run={"ramp_up": 1.0, "unsupervised_weight": 0.5, "attention_side": 12},
    ),
    "pc2seg": Expected(
        off={"unsupervised_weight": 0.0, "contrast_weight": 0.0}, trusting={}, choosy={}, weights=(1, 0.7, 0.1)
    ),
    "augseg": Expected(
        networks=("student", "teacher1"),
        trusting={"threshold_mode": "none", "label_injection": False},  # injected labels are not pseudo-labels
    ),
    "fixmatch": Expected(weights=(0.5, 0.35, 0)),
    "unimatch": Expected(
        off={"unsupervised_weight": 0.0, "feature_weight": 0.0},
        trusting={"threshold_mode": "none", "feature_weight": 0.0},
        weights=(0.5, 0.35, 0.25),
    ),
    "unimatch-v2": Expected(networks=("student", "teacher1"), weights=(0.5, 0.35, 0)),
    "gentle-teaching-assistant": Expected(
        networks=("student", "teacher1", "assistant"),
        unlabeled=("assistant",),
        trusting={"drop_percent": 0.0},
        choosy={},
        # The student's features become the mean of the assistant's, which sees pseudo-labels only. Published runs start
        # from ImageNet, with an epoch on labels.
        short_run={"burn_in": 0.5},
    ),
    "u2pl": Expected(
        networks=("student", "teacher1"),
        off={"unsupervised_weight": 0.0, "contrast_weight": 0.0},
        trusting={"drop_percent": 0.0, "contrast_weight": 0.0},
        choosy={},
        weights=(1, 0.7, 1),
        short_run={"burn_in": 0.3, "bank_size": 100, "anchors": 32},
    ),
}
