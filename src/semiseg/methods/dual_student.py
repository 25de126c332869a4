"""Dual Student: Chen, Yuan, Zeng, Wang, "Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision", CVPR
2021 (CPS, https://arxiv.org/abs/2106.01226).

Two networks of the same architecture have equal encoders and different random heads. Each labels the images for the
other, without a threshold or a moving average. With CutMix::

    yhat_k = argmax f_k(w(x_u)), mixed by one box                       k = 1, 2, no gradient
    L = CE(f_1(x_l), y) + CE(f_2(x_l), y) + lambda (CE(f_1(x_m), yhat_2) + CE(f_2(x_m), yhat_1))

Without CutMix, each network learns the other's labels of the same weak views, including those of labeled images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from semiseg.methods.method import Batch, Method, Progress, StepOutput, UnlabeledOptions, as_float
from semiseg.ops.global_batch import to_device
from semiseg.ops.losses import weighted_cross_entropy
from semiseg.ops.mixing import cutmix_region, partners, paste
from semiseg.ops.pseudo_labels import labeling, soft_label
from semiseg.option_ranges import FRACTION, NOT_NEGATIVE


@dataclass(frozen=True)
class DualStudentOptions(UnlabeledOptions):
    """Options of cross pseudo supervision; each default with its source."""

    cutmix: bool = True
    """Mix the unlabeled images by CutMix (the stronger of the two published variants)."""
    unsupervised_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """lambda, weight of the unsupervised loss (CPS on VOC: 1 with CutMix, 1.5 without; Cityscapes: 5 and 6)."""
    label_temperature: Annotated[float, FRACTION] = 0.0
    """Temperature of pseudo-labels. 0: the predicted class (CPS); 1: class probabilities; between: sharpened
    probabilities (our extension)."""


class DualStudent(Method):
    """Two students that teach each other; see the module's docstring for the equations.

    Differences from the authors' code: CutMix partners are other images of the batch (there: other crops of the same
    images); each image has one box instead of three; padding is left out of the loss.
    """

    Options = DualStudentOptions
    summary = "two students label for each other"
    papers: ClassVar = {"Chen et al. 2021": "https://arxiv.org/abs/2106.01226"}

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: DualStudentOptions) -> None:
        super().__init__(build, classes, options)
        self.student2 = build()

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of both students together: one backward pass, one optimizer."""
        options, ramp, students = self.options, self.ramp(progress), (self.student, self.student2)
        labeled, unlabeled = as_float(batch.labeled_images), as_float(batch.unlabeled_images)
        if ramp == 0:
            loss = self.supervised_losses(self.student(labeled), self.student2(labeled), batch.masks)
            return StepOutput(loss, {"loss/supervised": loss.detach()})

        if options.cutmix:
            (targets1, targets2), images, valid = self.mixed_labels(unlabeled, batch.unlabeled_valid)
            logits1, logits2 = (student(torch.cat([labeled, images])) for student in students)
        else:
            valid = torch.cat([batch.labeled_valid, batch.unlabeled_valid])
            logits1, logits2 = (student(torch.cat([labeled, unlabeled])) for student in students)
            targets1, targets2 = (soft_label(logits, options.label_temperature) for logits in (logits1, logits2))

        ones = torch.ones_like(valid, dtype=torch.float32)
        mixed1, mixed2 = logits1[-len(targets1) :], logits2[-len(targets2) :]
        supervised = self.supervised_losses(logits1[: len(labeled)], logits2[: len(labeled)], batch.masks)
        unsupervised1 = weighted_cross_entropy(mixed1, targets2, ones, valid)
        unsupervised = unsupervised1 + weighted_cross_entropy(mixed2, targets1, ones, valid)
        loss = supervised + ramp * options.unsupervised_weight * unsupervised
        return StepOutput.from_terms(loss, supervised=supervised, unsupervised=unsupervised)

    def supervised_losses(self, logits1: Tensor, logits2: Tensor, masks: Tensor) -> Tensor:
        """Return the sum of both students' supervised losses."""
        loss1 = self.supervised_loss(logits1, masks, self.class_weights)
        return loss1 + self.supervised_loss(logits2, masks, self.class_weights)

    @labeling()
    def mixed_labels(self, unlabeled: Tensor, valid: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return both students' labels, the images and their validity, all mixed by the same box per image."""
        students, temperature = (self.student, self.student2), self.options.label_temperature
        targets = [soft_label(student(unlabeled), temperature) for student in students]
        region, partner = cutmix_region(valid), to_device(partners(len(unlabeled)), valid)
        mixed = [paste(region, tensor, tensor[partner]) for tensor in (*targets, unlabeled, valid)]
        return mixed[:2], mixed[2], mixed[3]

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """Both students: ``student`` and ``student2``."""
        return {"student": self.student, "student2": self.student2}
