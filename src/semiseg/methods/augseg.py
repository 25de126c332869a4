"""AugSeg: Zhao, Yang, Long, Pi, Zhou, Wang, "Augmentation Matters: A Simple-yet-Effective Approach to Semi-Supervised
Semantic Segmentation", CVPR 2023.

A single EMA teacher; what is new is in the views. Colors change by a random number of random operations, and images
of which the teacher is unsure receive a piece of a labeled image, with its labels, before they are mixed::

    yhat, c = argmax, max of softmax f(w(x_u); theta_t);   rho_i = mean over pixels of c (1 - H(p) / log K)
    m_i = A(x_u)_i, with probability 1 - rho_i under a small box of a labeled image (label y, confidence 1)
    x_i = A(x_u)_i under a box of m_pi(i)                                                CutMix, with labels likewise
    L   = CE(f(w(x_l)), y_l) + lambda 1/|valid| sum_j 1[c_j >= tau] CE(f(x)_j, yhat_j)
    theta_t <- alpha theta_t + (1 - alpha) theta_s                                       statistics of BatchNorm too
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

from semiseg.methods.method import Batch, Method, Progress, StepOutput, as_float, check_range
from semiseg.ops.ema import ema_decay, ema_update
from semiseg.ops.injection import Views, inject_labels
from semiseg.ops.intensity import random_intensity
from semiseg.ops.losses import weighted_cross_entropy
from semiseg.ops.mixing import cutmix_region, partners, paste
from semiseg.ops.pseudo_labels import ThresholdMode, certainty, confidence_weights, pseudo_label, soft_label


@dataclass(frozen=True)
class AugSegOptions:
    """Options of AugSeg; each default with its source."""

    threshold: float = 0.95
    """Confidence tau from which a pseudo-label is trusted (release, VOC: 0.95; Cityscapes: none)."""
    threshold_mode: ThresholdMode = "pixel"
    """What the threshold gates: pixel (release), image, batch or none."""
    label_temperature: float = 0.0
    """Pseudo-labels: 0, the decision (release); 1, probabilities; between, probabilities sharpened (ours)."""
    unsupervised_weight: float = 1.0
    """lambda (release: 1; Cityscapes with ResNet-50: 2)."""
    intensity_changes: int = 3
    """Most operations an image goes through (release: 3); 0: none."""
    label_injection: bool = True
    """Paste pieces of labeled images into images of which the teacher is unsure (release)."""
    ema_decay: float = 0.999
    """alpha, reached by the warm-up min(1 - 1/(i + 1), alpha) after a first epoch of copies (release, VOC: 0.999)."""
    burn_in: float = 0.0
    """Share of the run on labels only (ours; 0: as published)."""
    ramp_up: float = 0.0
    """Share of the run over which lambda rises linearly after the burn-in (ours; 0: as published)."""

    def __post_init__(self) -> None:
        check_range(self, 1, "threshold", "label_temperature", "ema_decay", "burn_in", "ramp_up")
        check_range(self, float("inf"), "unsupervised_weight", "intensity_changes")


class AugSeg(Method):
    """One teacher, a pool of colors, labels for hard images; see the module's docstring for the equations.

    Departures from the release: boxes are drawn per image and lie inside it; nobody is mixed with itself; padding is
    left out of the loss.
    """

    Options = AugSegOptions

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: AugSegOptions) -> None:
        super().__init__(build, classes, options)
        self.teacher = deepcopy(self.student).requires_grad_(False)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step."""
        o, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch)
        x_l, x_w, valid = as_float(batch.labeled_images), as_float(batch.unlabeled_images), batch.unlabeled_valid
        z_t = self.ask(self.teacher.eval(), x_w)
        _, c = pseudo_label(z_t)
        q = soft_label(z_t, o.label_temperature)
        x_s = random_intensity(x_w, o.intensity_changes) if o.intensity_changes else x_w

        views: Views = (x_s, q, c, valid)
        sources = views
        if o.label_injection:
            rho = certainty(z_t, valid)
            sources = inject_labels(views, x_l, batch.masks, batch.labeled_valid, rho, self.classes)
        region, partner = cutmix_region(valid), partners(len(x_w))
        x_m, q_m, c_m, valid_m = (paste(region, s[partner], t) for s, t in zip(sources, views, strict=True))
        w_m, trusted_fraction = confidence_weights(c_m, valid_m, o.threshold, o.threshold_mode)

        z_l, z_m = self.student(torch.cat([x_l, x_m])).split([len(x_l), len(x_m)])
        loss_sup = self.supervised_loss(z_l, batch.masks, self.class_weights)
        loss_unsup = weighted_cross_entropy(z_m, q_m, w_m, valid_m)
        loss = loss_sup + ramp * o.unsupervised_weight * loss_unsup
        scalars = {"loss/supervised": loss_sup.detach(), "loss/unsupervised": loss_unsup.detach()}
        return StepOutput(loss, scalars | {"trusted_fraction": trusted_fraction})

    def after_step(self, progress: Progress) -> None:
        """Let the teacher follow the student: a copy through the first epoch, an average from then on (release).

        In short runs the copies end after an eighth of the run.
        """
        copies = min(progress.steps_per_epoch, progress.total_steps // 8)
        decay = 0.0 if progress.step < copies else ema_decay(progress.step, self.options.ema_decay)
        ema_update(self.teacher, self.student, decay, "ema")

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """The student and its teacher: ``student``, ``teacher1``."""
        return {"student": self.student, "teacher1": self.teacher}
