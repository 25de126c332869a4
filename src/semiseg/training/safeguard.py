"""``--safeguard``: reduce the weight of unlabeled images when the networks get worse on val."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semiseg.config import TrainConfig
from semiseg.data.splits.dataset_split import Split
from semiseg.methods import Method
from semiseg.training.prepare_run import steps_between_validations

FACTORS = (1.0, 0.25, 0.0)
"""Weights of the unlabeled terms: as they are, after the first decline, and after a second one in a row."""
ERROR_OF_ONE = 10.0
"""mIoU by which a network may seem worse by chance on one val image: about two standard errors of a difference."""
LEAST_MARGIN = 2.0
"""mIoU by which validations of one run differ on any number of images."""


@dataclass
class Safeguard:
    """Watches the mIoU on val of the default network and of the network that labels the unlabeled images.

    Everything follows from the sequence of validations, so a resumed run equals an uninterrupted one.

    Attributes:
        margin: A decline of either network by more than this many points of mIoU counts.
        factor: Weight of the unlabeled terms, one of `FACTORS`. 0 is final.
        best: Highest mIoU of both networks so far, including the burn-in.
    """

    margin: float
    factor: float = 1.0
    best: tuple[float, float] = (-1.0, -1.0)

    @classmethod
    def for_images(cls, val_images: int) -> Safeguard:
        """Return a safeguard whose margin is the error of a comparison on so many val images."""
        return cls(margin=max(LEAST_MARGIN, ERROR_OF_ONE / math.sqrt(max(1, val_images))))

    def update(self, default: float, labeler: float, in_burn_in: bool = False) -> str:
        """Adjust the factor after a validation; return a line for the log if it changed, otherwise an empty one.

        The factor does not change in the burn-in, where the unlabeled images have no weight yet.

        Args:
            default: mIoU of the default network in percent.
            labeler: mIoU of the network that labels; both may be the same.
            in_burn_in: Whether the burn-in has not ended before this validation.
        """
        before = self.factor
        decline = max(self.best[0] - default, self.best[1] - labeler)
        self.best = max(self.best[0], default), max(self.best[1], labeler)
        if in_burn_in:
            return ""
        if before and decline > self.margin:
            self.factor = FACTORS[FACTORS.index(before) + 1]
        elif before and decline < 0:
            self.factor = FACTORS[0]
        if self.factor == before:
            return ""
        if self.factor > before:
            return "mIoU on val has recovered: the unlabeled images count fully again"
        weight = f"count {self.factor:.0%}" if self.factor else "are left out from here on"
        return f"mIoU on val is {decline:.1f} points below its best: the unlabeled images {weight}"

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"factor": self.factor, "best": list(self.best)}


def make_safeguard(config: TrainConfig, method: Method, val_images: int, saved: Mapping[str, Any]) -> Safeguard | None:
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
    if saved:
        safeguard.factor, safeguard.best = saved["factor"], tuple(saved["best"])
    return safeguard


def burn_in_steps(method: Method, total_steps: int) -> int:
    """Return the number of steps of the burn-in, 0 for methods without one."""
    return round(getattr(method.options, "burn_in", 0.0) * total_steps)


def first_validation(config: TrainConfig, method: Method, total_steps: int, split: Split) -> int:
    """Return the number of steps before the first validation."""
    first = min(steps_between_validations(config, total_steps, split), total_steps)
    burn_in = burn_in_steps(method, total_steps) if config.safeguard and method.uses_unlabeled else 0
    return min(first, burn_in or first)
