"""Dual Student: Chen, Yuan, Zeng, Wang, "Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision", CVPR
2021 (CPS).

Two networks of one architecture, equal encoders, heads of different random initialization. Each labels for the other,
without threshold and without a moving average; with CutMix::

    yhat_k = argmax f_k(w(x_u)), mixed by one box                       k = 1, 2, no gradient
    L = CE(f_1(x_l), y) + CE(f_2(x_l), y) + lambda (CE(f_1(x_m), yhat_2) + CE(f_2(x_m), yhat_1))

Without CutMix each network is taught by the other's label of the same weak view, on labeled images too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semiseg.methods.method import Batch, Method, Progress, StepOutput, as_float, check_range
from semiseg.ops.losses import cross_entropy, weighted_cross_entropy
from semiseg.ops.mixing import cutmix_region, partners, paste
from semiseg.ops.pseudo_labels import labeling, soft_label
from semiseg.ops.schedules import ramp_up


@dataclass(frozen=True)
class DualStudentOptions:
    """Options of cross pseudo supervision; each default with its source."""

    cutmix: bool = True
    """Mix the unlabeled images by a box (the stronger of the two published forms)."""
    unsupervised_weight: float = 1.0
    """lambda (CPS on VOC: 1 with CutMix, 1.5 without; Cityscapes: 5 and 6)."""
    label_temperature: float = 0.0
    """Pseudo-labels: 0, the decision (CPS); 1, probabilities; between, probabilities sharpened (ours)."""
    burn_in: float = 0.0
    """Share of the run on labels only (ours; 0: as published)."""
    ramp_up: float = 0.0
    """Share of the run over which lambda rises linearly after the burn-in (ours; 0: as published)."""

    def __post_init__(self) -> None:
        check_range(self, 1, "label_temperature", "burn_in", "ramp_up")
        check_range(self, float("inf"), "unsupervised_weight")


class DualStudent(Method):
    """Two students that teach each other; see the module's docstring for the equations.

    Departures: CutMix partners are other images of the batch (in the release the second loader repeats the first one's
    images), one box an image instead of three, and padding is left out of the loss.
    """

    Options = DualStudentOptions

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: DualStudentOptions) -> None:
        super().__init__(build, classes, options)
        self.student2 = build()

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of both students together: one backward pass, one optimizer."""
        o, omega = self.options, self.class_weights
        burn_in = round(o.burn_in * progress.total_steps)
        x_l, x_w, y_l = as_float(batch.labeled_images), as_float(batch.unlabeled_images), batch.masks
        if progress.step < burn_in:
            loss = cross_entropy(self.student(x_l), y_l, omega) + cross_entropy(self.student2(x_l), y_l, omega)
            return StepOutput(loss, {"loss/supervised": loss.detach()})

        if o.cutmix:
            (yhat_1, yhat_2), x_u, valid = self.cutmix(x_w, batch.unlabeled_valid)
            z_1, z_2 = (student(torch.cat([x_l, x_u])) for student in (self.student, self.student2))
        else:
            x_u, valid = x_w, torch.cat([batch.labeled_valid, batch.unlabeled_valid])
            z_1, z_2 = (student(torch.cat([x_l, x_u])) for student in (self.student, self.student2))
            yhat_1, yhat_2 = soft_label(z_1, o.label_temperature), soft_label(z_2, o.label_temperature)

        u_1, u_2 = z_1[-len(yhat_1) :], z_2[-len(yhat_2) :]
        loss_sup = cross_entropy(z_1[: len(x_l)], y_l, omega) + cross_entropy(z_2[: len(x_l)], y_l, omega)
        ones = torch.ones_like(valid, dtype=torch.float32)
        loss_cps = weighted_cross_entropy(u_1, yhat_2, ones, valid) + weighted_cross_entropy(u_2, yhat_1, ones, valid)
        ramp = ramp_up(progress.step, burn_in, round(o.ramp_up * progress.total_steps))
        loss = loss_sup + ramp * o.unsupervised_weight * loss_cps
        scalars = {"loss/supervised": loss_sup.detach(), "loss/unsupervised": loss_cps.detach()}
        return StepOutput(loss, scalars | {"trusted_fraction": loss.new_ones(())})

    @labeling()
    def cutmix(self, x_w: Tensor, valid: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Both students' labels of the weak views, the views and their validity, all mixed by one box an image."""
        temperature = self.options.label_temperature
        labels = [soft_label(student(x_w), temperature) for student in (self.student, self.student2)]
        region, partner = cutmix_region(valid), partners(len(x_w))
        mixed = [paste(region, t, t[partner]) for t in (*labels, x_w, valid)]
        return mixed[:2], mixed[2], mixed[3]

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """Both students: ``student`` and ``student2``."""
        return {"student": self.student, "student2": self.student2}
