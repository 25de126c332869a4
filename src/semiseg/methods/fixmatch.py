"""FixMatch for segmentation: Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and
Confidence", NeurIPS 2020, in the form in which UniMatch (Yang et al., CVPR 2023) builds on it.

The student is its own teacher: what it says of the weak view, if it says so firmly, it must say of the strong one::

    z_l, z_w = f([w(x_l); w(x_u)]);   yhat, c = argmax, max of softmax z_w               no gradient through z_w
    x_m, yhat_m, c_m = CutMix of s(x_u), yhat, c
    L_u = 1/|valid| sum_j 1[c_m,j >= tau] CE(f(x_m)_j, yhat_m,j)
    L   = (CE(z_l, y_l) + lambda L_u) / 2
"""

from dataclasses import dataclass

import torch

from semiseg.methods.method import Batch, Method, Progress, StepOutput, as_float, check_range
from semiseg.ops.losses import weighted_cross_entropy
from semiseg.ops.pseudo_labels import ThresholdMode, confidence_weights, pseudo_label, soft_label
from semiseg.ops.strong_view import strong_view


@dataclass(frozen=True)
class FixMatchOptions:
    """Options of FixMatch; each default with its source."""

    threshold: float = 0.95
    """Confidence from which a pseudo-label is trusted (UniMatch on VOC: 0.95; on Cityscapes: 0)."""
    threshold_mode: ThresholdMode = "pixel"
    """What the threshold gates: pixel (FixMatch), image, batch or none."""
    label_temperature: float = 0.0
    """Pseudo-labels: 0, the decision (FixMatch); 1, probabilities; between, probabilities sharpened (ours)."""
    unsupervised_weight: float = 1.0
    """lambda (UniMatch's FixMatch: 1)."""
    color_strength: float = 0.5
    """Strength of color jitter in the strong view (UniMatch: 0.5)."""
    burn_in: float = 0.0
    """Share of the run on labels only (ours; 0: as published)."""
    ramp_up: float = 0.0
    """Share of the run over which lambda rises linearly after the burn-in (ours; 0: as published)."""

    def __post_init__(self) -> None:
        check_range(self, 1, "threshold", "label_temperature", "color_strength", "burn_in", "ramp_up")
        check_range(self, float("inf"), "unsupervised_weight")


class FixMatch(Method):
    """One network that labels for itself; see the module's docstring for the equations.

    Departures from UniMatch's version: the image that is pasted in is another one of the batch (there: another crop of
    the same image), and its label comes from the same forward pass.
    """

    Options = FixMatchOptions

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step."""
        o, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch, weight=0.5)
        x_l, x_w = as_float(batch.labeled_images), as_float(batch.unlabeled_images)
        z_l, z_w = self.student(torch.cat([x_l, x_w])).split([len(x_l), len(x_w)])
        _, c = pseudo_label(z_w)
        q = soft_label(z_w, o.label_temperature)
        x_m, q_m, c_m, valid_m = strong_view(x_w, q, c, batch.unlabeled_valid, o.color_strength)
        w_m, trusted_fraction = confidence_weights(c_m, valid_m, o.threshold, o.threshold_mode)

        loss_sup = self.supervised_loss(z_l, batch.masks, self.class_weights)
        loss_unsup = weighted_cross_entropy(self.student(x_m), q_m, w_m, valid_m)
        loss = (loss_sup + ramp * o.unsupervised_weight * loss_unsup) / 2
        scalars = {"loss/supervised": loss_sup.detach(), "loss/unsupervised": loss_unsup.detach()}
        return StepOutput(loss, scalars | {"trusted_fraction": trusted_fraction})
