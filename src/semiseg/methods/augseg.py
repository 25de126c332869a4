"""AugSeg: Zhao, Yang, Long, Pi, Zhou, Wang, "Augmentation Matters: A Simple-yet-Effective Approach to Semi-Supervised
Semantic Segmentation", CVPR 2023 (https://arxiv.org/abs/2212.04976).

A single EMA teacher with stronger views. A random number of random operations changes the colors. Images that the
teacher is unsure of receive a piece of a labeled image, with its labels, before they are mixed::

    yhat, c = argmax, max of softmax f(w(x_u); theta_t);   rho_i = mean over pixels of c (1 - H(p) / log K)
    m_i = A(x_u)_i, with probability 1 - rho_i under a small box of a labeled image (label y, confidence 1)
    x_i = A(x_u)_i under a box of m_pi(i)                                                CutMix, applied to labels too
    L   = CE(f(w(x_l)), y_l) + lambda 1/|valid| sum_j 1[c_j >= tau] CE(f(x)_j, yhat_j)
    theta_t <- alpha theta_t + (1 - alpha) theta_s                                       BatchNorm statistics too
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from semiseg.methods.method import Batch, Progress, PseudoLabelOptions, StepOutput, as_float
from semiseg.methods.teachers import SingleTeacherMethod
from semiseg.ops.ema import ema_decay, ema_update
from semiseg.ops.injection import inject_labels
from semiseg.ops.intensity import random_intensity
from semiseg.ops.losses import pseudo_label_loss
from semiseg.ops.mixing import cutmix_region, partners
from semiseg.ops.pseudo_labels import PseudoLabels, certainty
from semiseg.option_ranges import FRACTION, NOT_NEGATIVE


@dataclass(frozen=True)
class AugSegOptions(PseudoLabelOptions):
    """Options of AugSeg; each default with its source."""

    threshold: Annotated[float, FRACTION] = 0.95
    """tau, smallest confidence of a trusted pseudo-label (authors' code, VOC: 0.95; Cityscapes: none)."""
    unsupervised_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """lambda, weight of the unsupervised loss (authors' code: 1)."""
    intensity_changes: Annotated[int, NOT_NEGATIVE] = 3
    """Largest number of color operations per image (authors' code: 3). 0: none."""
    label_injection: bool = True
    """Paste pieces of labeled images into images that the teacher is unsure of (authors' code)."""
    extra_weak: bool = False
    """Pass the weak views through the student too, so that BatchNorm's statistics cover them (authors' code, only with
    ResNet-50 and 92 labels on VOC)."""
    ema_decay: Annotated[float, FRACTION] = 0.999
    """alpha, decay of the moving average after the warm-up min(1 - 1/(i + 1), alpha) (authors' code, VOC: 0.999).
    In the first epoch the teacher is a copy of the student."""


class AugSeg(SingleTeacherMethod):
    """One teacher, a pool of colors, labels for hard images; see the module's docstring for the equations.

    Differences from the authors' code: boxes are sampled per image and lie inside it; an image is never its own mixing
    partner; padding is left out of the loss.
    """

    Options = AugSegOptions
    summary = "a pool of color changes, labels pasted into hard images"
    papers: ClassVar = {"Zhao et al. 2023": "https://arxiv.org/abs/2212.04976"}

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step."""
        options, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch)
        labeled, unlabeled = as_float(batch.labeled_images), as_float(batch.unlabeled_images)
        teacher_logits = self.teacher_logits(self.teacher.eval(), unlabeled)
        weak = PseudoLabels.from_logits(unlabeled, teacher_logits, batch.unlabeled_valid, options.label_temperature)

        strong = weak
        if options.intensity_changes:
            strong = weak.with_images(random_intensity(unlabeled, options.intensity_changes))
        sources = strong
        if options.label_injection:
            rho = certainty(teacher_logits, weak.valid)
            sources = inject_labels(strong, labeled, batch.masks, batch.labeled_valid, rho, self.classes)
        region = cutmix_region(weak.valid)
        mixed = sources.select(partners(len(unlabeled))).mix(region, strong)

        images = [labeled, mixed.images, unlabeled if options.extra_weak else unlabeled[:0]]
        logits, mixed_logits, _ = self.student(torch.cat(images)).split([len(part) for part in images])
        supervised = self.supervised_loss(logits, batch.masks, self.class_weights)
        threshold, mode = options.threshold, options.threshold_mode
        unsupervised, trusted_fraction = pseudo_label_loss(mixed_logits, mixed, threshold, mode)
        loss = supervised + ramp * options.unsupervised_weight * unsupervised
        return StepOutput.from_terms(loss, trusted_fraction, supervised=supervised, unsupervised=unsupervised)

    def after_step(self, progress: Progress) -> None:
        """Copy the student in the first epoch, but at most in an eighth of the run; then average."""
        copies = min(progress.steps_per_epoch, progress.total_steps // 8)
        decay = 0.0 if progress.step < copies else ema_decay(progress.step, self.options.ema_decay)
        ema_update(self.teacher, self.student, decay, "ema")
