"""Supervised-only: the yardstick. The same network, schedule and steps, learning from the labeled images alone."""

from dataclasses import dataclass

from semiseg.methods.method import Batch, Method, Progress, StepOutput, as_float


@dataclass(frozen=True)
class SupervisedOptions:
    """Supervised training has no options of its own."""


class Supervised(Method):
    """Minimize ``L = 1/|known| sum CE(f(w(x_l)), y_l)``, ``w`` the weak view (scale, crop, flip)."""

    Options = SupervisedOptions
    uses_unlabeled = False

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the cross-entropy of the labeled images."""
        loss = self.supervised_loss(self.student(as_float(batch.labeled_images)), batch.masks, self.class_weights)
        return StepOutput(loss, {"loss/supervised": loss.detach()})
