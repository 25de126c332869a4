"""``--safeguard``: reduce the weight of unlabeled images when the network that labels them gets worse on val."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from semiseg.config import TrainConfig
from semiseg.data.splits.dataset_split import Split
from semiseg.methods import Method
from semiseg.training.prepare_run import steps_between_validations

FACTORS = (1.0, 0.25, 0.0)
"""Weights of the unlabeled terms: as they are, after the first decline, and after a second one in a row."""
ERROR_OF_ONE = 10.0
"""mIoU by which a network may seem worse by chance on one val image: about two standard errors of a difference."""


@dataclass
class Safeguard:
    """Watches the mIoU on val of the network that labels the unlabeled images.

    Everything follows from the sequence of validations, so a resumed run equals an uninterrupted one.

    Attributes:
        margin: A decline by more than this many points of mIoU counts.
        factor: Weight of the unlabeled terms, one of `FACTORS`. 0 is final.
        best: Highest mIoU so far, including the burn-in.
    """

    margin: float
    factor: float = 1.0
    best: float = -1.0

    @classmethod
    def for_images(cls, val_images: int) -> Safeguard:
        """Return a safeguard whose margin is the error of a comparison on so many val images, at least a point."""
        return cls(margin=max(1.0, ERROR_OF_ONE / math.sqrt(max(1, val_images))))

    def update(self, miou: float, in_burn_in: bool = False) -> str:
        """Adjust the factor after a validation; return a line for the log if it changed, otherwise an empty one.

        The factor does not change in the burn-in, where the unlabeled images have no weight yet.
        """
        before, decline = self.factor, self.best - miou
        self.best = max(self.best, miou)
        if in_burn_in:
            return ""
        if before and decline > self.margin:
            self.factor = FACTORS[FACTORS.index(before) + 1]
        elif before and decline < 0:
            self.factor = FACTORS[0]
        if self.factor == before:
            return ""
        if self.factor > before:
            return "The network that labels has recovered: the unlabeled images count fully again"
        weight = f"count {self.factor:.0%}" if self.factor else "are left out from here on"
        worse = f"The network that labels is {decline:.1f} points of mIoU worse on val than at its best"
        return f"{worse}: the unlabeled images {weight}"

    def state(self) -> dict[str, float]:
        """Return what a checkpoint keeps."""
        return {"factor": self.factor, "best": self.best}


def make_safeguard(
    config: TrainConfig, method: Method, val_images: int, saved: Mapping[str, float]
) -> Safeguard | None:
    """Return the safeguard of a run, in the state of its checkpoint, or None if the run has none.

    Args:
        config: The run's configuration.
        method: The method.
        val_images: Length of the val list.
        saved: The result of `Safeguard.state`; empty for a new run.
    """
    if not config.safeguard or not method.uses_unlabeled:
        return None
    safeguard = Safeguard.for_images(min(val_images, config.val_limit or val_images))
    safeguard.factor, safeguard.best = saved.get("factor", 1.0), saved.get("best", -1.0)
    return safeguard


def burn_in_steps(method: Method, total_steps: int) -> int:
    """Return the number of steps of the burn-in, 0 for methods without one."""
    return round(getattr(method.options, "burn_in", 0.0) * total_steps)


def first_validation(config: TrainConfig, method: Method, total_steps: int, split: Split) -> int:
    """Return the number of steps before the first validation."""
    first = min(steps_between_validations(config, total_steps, split), total_steps)
    burn_in = burn_in_steps(method, total_steps) if config.safeguard and method.uses_unlabeled else 0
    return min(first, burn_in or first)
