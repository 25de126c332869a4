"""``--safeguard``: reduce the weight of unlabeled images when the networks get worse on val."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from semiseg.config import TrainConfig
from semiseg.data.splits.dataset_split import Split
from semiseg.methods import Method
from semiseg.training.prepare_run import steps_between_validations

FACTORS = (1.0, 0.25, 0.0)
"""Weights of the unlabeled terms: as they are, after the first decline, and after a second one in a row."""
LEAST_IMAGES = 10
"""Val images below which the difference of two validations says too little to act on it."""
ERROR_OF_ONE = 10.0
"""mIoU by which a network may seem worse by chance on one val image: about two standard errors of a difference."""
LEAST_MARGIN = 2.0
"""mIoU by which validations of one run differ on any number of images."""


@dataclass
class Safeguard:
    """Watches the mIoU on val of the default network and of the network that labels the unlabeled images.

    The mIoU is the mean over the classes in the val masks (`ConfusionMatrix.miou_of_shown`): the classes that a network
    happens to predict would change the mean. Everything follows from the sequence of validations, so a resumed run
    equals an uninterrupted one.

    Attributes:
        margin: A decline of one of them by more than this many points of mIoU below its own best counts.
        factor: Weight of the unlabeled terms, one of `FACTORS`. 0 is final, unless the run is extended.
        best: Highest mIoU of each network so far, including the burn-in, and its step.
    """

    margin: float
    factor: float = 1.0
    best: dict[str, tuple[float, int]] = field(default_factory=dict)

    @classmethod
    def for_images(cls, val_images: int) -> Safeguard:
        """Return a safeguard whose margin is the error of a comparison on so many val images."""
        return cls(margin=max(LEAST_MARGIN, ERROR_OF_ONE / math.sqrt(val_images)))

    def update(self, step: int, miou: Mapping[str, float], judged: Sequence[str], in_burn_in: bool = False) -> str:
        """Adjust the factor after a validation; return a line for the log if it changed, otherwise an empty one.

        The factor does not change in the burn-in, where the unlabeled images have no weight yet.

        Args:
            step: Number of steps before this validation.
            miou: mIoU in percent of every network, over the classes in the val masks.
            judged: The default network and the network that labels; both may be the same.
            in_burn_in: Whether the burn-in has not ended before this validation.
        """
        before, best = self.factor, {name: self.best.get(name, (-1.0, 0)) for name in miou}
        worst = max(judged, key=lambda name: best[name][0] - miou[name])
        decline = best[worst][0] - miou[worst]
        self.best = {name: max(best[name], (miou[name], step), key=lambda value: value[0]) for name in miou}
        if in_burn_in:
            return ""
        if before and decline > self.margin:
            self.factor = FACTORS[FACTORS.index(before) + 1]
        elif before and decline < 0:
            self.factor = FACTORS[0]
        if self.factor == before:
            return ""
        if self.factor > before:
            return "mIoU on val has recovered: unlabeled images count fully from here"
        weight = f"count {100 * self.factor:.0f} %" if self.factor else "are left out"
        below = f"{decline:.1f} points worse on val than at its best ({best[worst][0]:.1f} at step {best[worst][1]})"
        return f"{worst} is {below}: unlabeled images {weight} from here"

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"factor": self.factor, "best": {name: list(value) for name, value in self.best.items()}}


def judged_images(config: TrainConfig, split: Split) -> int:
    """Return the number of images of a validation."""
    return min(len(split.val), config.val_limit or len(split.val))


def is_requested(config: TrainConfig, method: Method) -> bool:
    """Return whether the option is on and the method has unlabeled images to weigh."""
    return config.safeguard and method.uses_unlabeled


def start_safeguard(
    config: TrainConfig, method: Method, split: Split, state: Mapping[str, Any] | None, extended: bool
) -> tuple[Safeguard | None, str]:
    """Return the safeguard of a run, in the state of its checkpoint, or None; and a line for the log, or an empty one.

    Args:
        config: The run's configuration.
        method: The method.
        split: The run's lists of images.
        state: The checkpoint of a resumed run; None for a new run.
        extended: Whether the run has more steps than when the checkpoint was saved. Images that were left out then
            count again.
    """
    images = judged_images(config, split)
    if not is_requested(config, method):
        return None, ""
    if images < LEAST_IMAGES:
        note = f"--safeguard needs at least {LEAST_IMAGES} val images; this run has {images}"
        return None, "" if state else note
    safeguard = Safeguard.for_images(images)
    saved = (state or {}).get("safeguard")
    if not saved:
        return safeguard, ""
    safeguard.factor = saved["factor"]
    safeguard.best = {name: (miou, step) for name, (miou, step) in saved["best"].items()}
    if safeguard.factor:
        return safeguard, ""
    if not extended:
        return safeguard, "unlabeled images stay left out (safeguard); more --steps bring them back"
    safeguard.factor = FACTORS[0]
    return safeguard, "unlabeled images, left out so far (safeguard), count fully again in the longer run"


def burn_in_steps(method: Method, total_steps: int) -> int:
    """Return the number of steps of the burn-in, 0 for methods without one."""
    return round(getattr(method.options, "burn_in", 0.0) * total_steps)


def first_validation(config: TrainConfig, method: Method, total_steps: int, split: Split) -> int:
    """Return the number of steps before the first validation."""
    first = min(steps_between_validations(config, total_steps, split), total_steps)
    judges = is_requested(config, method) and judged_images(config, split) >= LEAST_IMAGES
    burn_in = burn_in_steps(method, total_steps) if judges else 0
    return min(first, burn_in or first)
