"""What the battery of test_methods.py expects of each method: one line or a few, where they differ."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Options = dict[str, Any]


@dataclass(frozen=True)
class Expected:
    """What a method has, and the options that bring out one of its terms.

    Attributes:
        networks: names of its predictors, in order.
        labeled: those that the labeled term teaches.
        unlabeled: those that the unlabeled term teaches.
        off: options without any unlabeled term.
        trusting: options with the unlabeled term alone, trusting every pixel.
        choosy: options under which a random network trusts some pixels and others not.
        weights: of loss/supervised, loss/unsupervised and loss/consistency in the loss, where ``weighted`` is given.
        weighted: options for that.
        auxiliary: whether there is a further term, on labels: loss/auxiliary, of weight 1.
        short_run: options for 60 steps from a random start.
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
        # Two networks of random start teach each other their noise where nothing holds them back: CPS has no threshold,
        # and published runs start from ImageNet and last a thousand times longer.
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
        # No threshold either (see dual-student). The grid: 12 cells for 48 pixels, where the release has 33 for 513.
        short_run={"ramp_up": 1.0, "unsupervised_weight": 0.5, "attention_side": 12},
    ),
    "pc2seg": Expected(
        off={"unsupervised_weight": 0.0, "contrast_weight": 0.0}, trusting={}, choosy={}, weights=(1, 0.7, 0.1)
    ),
    "augseg": Expected(
        networks=("student", "teacher1"),
        trusting={"threshold_mode": "none", "label_injection": False},  # what is injected is no pseudo-label
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
        # The student's features become the mean of the assistant's, which has seen pseudo-labels only: published runs
        # begin with a whole epoch on labels, and from ImageNet.
        short_run={"burn_in": 0.5},
    ),
}
