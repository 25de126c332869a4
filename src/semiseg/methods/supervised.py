"""Supervised-only: the yardstick. The same network, schedule and steps, learning from the labeled images alone."""

from dataclasses import dataclass

from semiseg.methods.method import Batch, Method, Progress, StepOutput, as_float, check_range, tag_term
from semiseg.ops.losses import cross_entropy


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
        z_l = self.student(as_float(batch.labeled_images))
        loss_sup = cross_entropy(z_l, batch.masks, self.class_weights)
        loss_tags = tag_term(batch, z_l)
        loss = loss_sup + self.options.tag_weight * loss_tags
        scalars = {"loss/supervised": loss_sup.detach(), "loss/tags": loss_tags.detach()}
        return StepOutput(loss, scalars)
