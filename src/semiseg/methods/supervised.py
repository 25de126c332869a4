"""Supervised-only: the yardstick. The same network, schedule and steps, learning from the labeled images alone."""

from dataclasses import dataclass

from semiseg.methods.method import Batch, Method, Progress, StepOutput, check_range


@dataclass(frozen=True)
class SupervisedOptions:
    """The only option of supervised training."""

    tag_weight: float = 0.5
    """Weight of what image tags say, where the data has them (ours)."""

    def __post_init__(self) -> None:
        check_range(self, float("inf"), "tag_weight")


class Supervised(Method):
    """Minimize ``L = 1/|known| sum CE(f(w(x_l)), y_l)``, ``w`` the weak view (scale, crop, flip).

    Where the labeled images have tags, ``lambda_tags L_tags(f(w(x_l)))`` is added (``ops.tags``).
    """

    Options = SupervisedOptions
    uses_unlabeled = False

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the cross-entropy of the labeled images."""
        return self.supervised_step(batch)
