"""UniMatch: Yang, Qi, Feng, Zhang, Shi, "Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic
Segmentation", CVPR 2023 (https://arxiv.org/abs/2208.09910).

FixMatch with two strong views, which learn the same labels from the weak view, and a stream of perturbed features::

    z_l, z_w = f([w(x_l); w(x_u)]);   yhat, c = argmax, max of softmax z_w               no gradient through z_w
    z_fp     = decoder(dropout of channels(encoder(w(x_u))))
    L_k  = 1/|valid| sum_j 1[c_k,j >= tau] CE(f(x_k)_j, yhat_k,j)                        x_1, x_2: two CutMix views
    L_fp = 1/|valid| sum_j 1[c_j >= tau] CE(z_fp,j, yhat_j)
    L    = (CE(z_l, y_l) + lambda (L_1 + L_2) / 2 + mu L_fp) / 2                         lambda = mu = 1/2
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from semiseg.methods.method import Batch, Method, Progress, PseudoLabelOptions, StepOutput, as_float
from semiseg.ops.features import channel_dropout, decode, encode
from semiseg.ops.losses import pseudo_label_loss
from semiseg.ops.pseudo_labels import PseudoLabels
from semiseg.ops.strong_view import strong_view
from semiseg.option_ranges import FRACTION, NOT_NEGATIVE, Range


@dataclass(frozen=True)
class UniMatchOptions(PseudoLabelOptions):
    """Options of UniMatch; each default with its source."""

    threshold: Annotated[float, FRACTION] = 0.95
    """Smallest confidence of a trusted pseudo-label (authors' code, VOC: 0.95; Cityscapes: 0)."""
    unsupervised_weight: Annotated[float, NOT_NEGATIVE] = 0.5
    """lambda, weight of the mean loss of the two strong views (authors' code: 0.25 for each)."""
    feature_weight: Annotated[float, NOT_NEGATIVE] = 0.5
    """mu, weight of the view with perturbed features (authors' code: 0.5). 0 leaves it out."""
    feature_dropout: Annotated[float, Range(0, 1, high_open=True)] = 0.5
    """Fraction of the channels dropped in the view with perturbed features (authors' code: 0.5)."""
    color_strength: Annotated[float, FRACTION] = 0.5
    """Strength of color jitter in the strong views (authors' code: 0.5)."""
    redraw_boxes: bool = False
    """Sample a CutMix box again until it fits (authors' code). Otherwise a box that is too long is cut."""


class UniMatch(Method):
    """One network, two strong views and one of perturbed features; see the module's docstring for the equations.

    Differences from the authors' code: the pasted image is another image of the batch (there: another crop of the same
    image), and its label comes from the same forward pass.
    """

    Options = UniMatchOptions
    summary = "two strong views and one of perturbed features"
    papers: ClassVar = {"Yang et al. 2023": "https://arxiv.org/abs/2208.09910"}

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step."""
        options, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch, weight=0.5)
        labeled, unlabeled = as_float(batch.labeled_images), as_float(batch.unlabeled_images)
        features = encode(self.student, torch.cat([labeled, unlabeled]))
        perturbed = channel_dropout([f[len(labeled) :] for f in features], options.feature_dropout)
        together = [torch.cat(pair) for pair in zip(features, perturbed, strict=True)]
        sizes = [len(labeled), len(unlabeled), len(unlabeled)]
        logits, weak_logits, perturbed_logits = decode(self.student, together, unlabeled.shape[-2:]).split(sizes)

        weak = PseudoLabels.from_logits(unlabeled, weak_logits, batch.unlabeled_valid, options.label_temperature)
        mixed = PseudoLabels.cat([strong_view(weak, options.color_strength, options.redraw_boxes) for _ in range(2)])

        supervised = self.supervised_loss(logits, batch.masks, self.class_weights)
        threshold, mode = options.threshold, options.threshold_mode
        # One mean over both views equals the mean of their losses.
        unsupervised, _ = pseudo_label_loss(self.student(mixed.images), mixed, threshold, mode)
        consistency, trusted_fraction = pseudo_label_loss(perturbed_logits, weak, threshold, mode)
        unlabeled_terms = options.unsupervised_weight * unsupervised + options.feature_weight * consistency
        loss = (supervised + ramp * unlabeled_terms) / 2
        terms = {"supervised": supervised, "unsupervised": unsupervised, "consistency": consistency}
        return StepOutput.from_terms(loss, trusted_fraction, **terms)
