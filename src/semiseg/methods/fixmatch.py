"""FixMatch for segmentation: Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and
Confidence", NeurIPS 2020 (https://arxiv.org/abs/2001.07685), in the form that UniMatch (Yang et al., CVPR 2023)
extends.

The student is its own teacher. Its confident predictions on the weak view are the labels of the strong view::

    z_l, z_w = f([w(x_l); w(x_u)]);   yhat, c = argmax, max of softmax z_w               no gradient through z_w
    x_m, yhat_m, c_m = CutMix of s(x_u), yhat, c
    L_u = 1/|valid| sum_j 1[c_m,j >= tau] CE(f(x_m)_j, yhat_m,j)
    L   = (CE(z_l, y_l) + lambda L_u) / 2
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from semiseg.methods.method import Batch, Method, Progress, PseudoLabelOptions, StepOutput, as_float
from semiseg.ops.losses import pseudo_label_loss
from semiseg.ops.pseudo_labels import PseudoLabels
from semiseg.ops.strong_view import strong_view
from semiseg.option_ranges import FRACTION, NOT_NEGATIVE


@dataclass(frozen=True)
class FixMatchOptions(PseudoLabelOptions):
    """Options of FixMatch; each default with its source."""

    threshold: Annotated[float, FRACTION] = 0.95
    """Smallest confidence of a trusted pseudo-label (UniMatch on VOC: 0.95; on Cityscapes: 0)."""
    unsupervised_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """lambda, weight of the unsupervised loss (UniMatch's FixMatch: 1)."""
    color_strength: Annotated[float, FRACTION] = 0.5
    """Strength of color jitter in the strong view (UniMatch: 0.5)."""
    redraw_boxes: bool = False
    """Sample a CutMix box again until it fits (UniMatch). Otherwise a box that is too long is cut."""


class FixMatch(Method):
    """One network that labels for itself; see the module's docstring for the equations.

    Differences from UniMatch's version: the pasted image is another image of the batch (there: another crop of the same
    image), and its label comes from the same forward pass.
    """

    Options = FixMatchOptions
    summary = "the student labels for itself"
    papers: ClassVar = {"Sohn et al. 2020": "https://arxiv.org/abs/2001.07685"}

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step."""
        options, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch, weight=0.5)
        labeled, unlabeled = as_float(batch.labeled_images), as_float(batch.unlabeled_images)
        logits, weak_logits = self.student(torch.cat([labeled, unlabeled])).split([len(labeled), len(unlabeled)])
        weak = PseudoLabels.from_logits(unlabeled, weak_logits, batch.unlabeled_valid, options.label_temperature)
        mixed = strong_view(weak, options.color_strength, options.redraw_boxes)

        supervised = self.supervised_loss(logits, batch.masks, self.class_weights)
        mixed_logits = self.student(mixed.images)
        threshold, mode = options.threshold, options.threshold_mode
        unsupervised, trusted_fraction = pseudo_label_loss(mixed_logits, mixed, threshold, mode)
        loss = (supervised + ramp * options.unsupervised_weight * unsupervised) / 2
        return StepOutput.from_terms(loss, trusted_fraction, supervised=supervised, unsupervised=unsupervised)
