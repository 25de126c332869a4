"""Supervised training, the baseline: the same network, schedule and steps, on labeled images only."""

from dataclasses import dataclass
from typing import Annotated

from semiseg.methods.method import Batch, Method, Options, Progress, StepOutput
from semiseg.option_ranges import NOT_NEGATIVE


@dataclass(frozen=True)
class SupervisedOptions(Options):
    """Options of supervised training."""

    tag_weight: Annotated[float, NOT_NEGATIVE] = 0.5
    """Weight of the loss of image tags, if the data has them (our default)."""


class Supervised(Method):
    """Minimize ``L = 1/|known| sum CE(f(w(x_l)), y_l)``, ``w`` the weak view (scale, crop, flip).

    If the labeled images have tags, ``lambda_t L_tags(f(w(x_l)))`` is added (`semiseg.ops.tag_loss`).
    """

    Options = SupervisedOptions
    summary = "labeled images only: the baseline"
    uses_unlabeled = False

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the cross-entropy of the labeled images."""
        return self.supervised_step(batch)
