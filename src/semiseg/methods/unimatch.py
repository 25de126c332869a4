"""UniMatch: Yang, Qi, Feng, Zhang, Shi, "Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic
Segmentation", CVPR 2023.

FixMatch with two strong views, which agree through what the weak one says, and a stream of perturbed features::

    z_l, z_w = f([w(x_l); w(x_u)]);   yhat, c = argmax, max of softmax z_w               no gradient through z_w
    z_fp     = decoder(dropout of channels(encoder(w(x_u))))
    L_k  = 1/|valid| sum_j 1[c_k,j >= tau] CE(f(x_k)_j, yhat_k,j)                        x_1, x_2: two CutMix views
    L_fp = 1/|valid| sum_j 1[c_j >= tau] CE(z_fp,j, yhat_j)
    L    = (CE(z_l, y_l) + lambda (L_1 + L_2) / 2 + mu L_fp) / 2                         lambda = mu = 1/2
"""

from dataclasses import dataclass

import torch

from semiseg.methods.method import Batch, Method, Progress, StepOutput, as_float, check_range
from semiseg.ops.features import channel_dropout, decode, encode
from semiseg.ops.losses import weighted_cross_entropy
from semiseg.ops.pseudo_labels import ThresholdMode, confidence_weights, pseudo_label, soft_label
from semiseg.ops.strong_view import strong_view


@dataclass(frozen=True)
class UniMatchOptions:
    """Options of UniMatch; each default with its source."""

    threshold: float = 0.95
    """Confidence from which a pseudo-label is trusted (release, VOC: 0.95; Cityscapes: 0)."""
    threshold_mode: ThresholdMode = "pixel"
    """What the threshold gates: pixel (release), image, batch or none."""
    label_temperature: float = 0.0
    """Pseudo-labels: 0, the decision (release); 1, probabilities; between, probabilities sharpened (ours)."""
    unsupervised_weight: float = 0.5
    """lambda, of the mean of the two strong views (release: 0.25 for each)."""
    feature_weight: float = 0.5
    """mu, of the view with perturbed features (release: 0.5); 0 leaves it out."""
    feature_dropout: float = 0.5
    """Share of the channels that are dropped in that view (release: 0.5)."""
    color_strength: float = 0.5
    """Strength of color jitter in the strong views (release: 0.5)."""
    burn_in: float = 0.0
    """Share of the run on labels only (ours; 0: as published)."""
    ramp_up: float = 0.0
    """Share of the run over which lambda and mu rise linearly after the burn-in (ours; 0: as published)."""

    def __post_init__(self) -> None:
        check_range(self, 1, "threshold", "label_temperature", "color_strength", "burn_in", "ramp_up")
        check_range(self, float("inf"), "unsupervised_weight", "feature_weight")
        if not 0 <= self.feature_dropout < 1:
            raise ValueError(f"feature-dropout is {self.feature_dropout}: it must be in [0, 1)")


class UniMatch(Method):
    """One network, two strong views and one of perturbed features; see the module's docstring for the equations.

    Departures from the release: the image that is pasted in is another one of the batch (there: another crop of the
    same image), and its label comes from the same forward pass.
    """

    Options = UniMatchOptions

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step."""
        o, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch, weight=0.5)
        x_l, x_w, valid = as_float(batch.labeled_images), as_float(batch.unlabeled_images), batch.unlabeled_valid
        features = encode(self.student, torch.cat([x_l, x_w]))
        perturbed = channel_dropout([f[len(x_l) :] for f in features], o.feature_dropout)
        together = [torch.cat(pair) for pair in zip(features, perturbed, strict=True)]
        z_l, z_w, z_fp = decode(self.student, together, x_w.shape[-2:]).split([len(x_l), len(x_w), len(x_w)])

        _, c = pseudo_label(z_w)
        q = soft_label(z_w, o.label_temperature)
        views = [strong_view(x_w, q, c, valid, o.color_strength) for _ in range(2)]
        x_s, q_s, c_s, valid_s = (torch.cat(parts) for parts in zip(*views, strict=True))
        w_s, _ = confidence_weights(c_s, valid_s, o.threshold, o.threshold_mode)
        w, trusted_fraction = confidence_weights(c, valid, o.threshold, o.threshold_mode)

        loss_sup = self.supervised_loss(z_l, batch.masks, self.class_weights)
        loss_strong = weighted_cross_entropy(self.student(x_s), q_s, w_s, valid_s)  # over both views: their mean
        loss_fp = weighted_cross_entropy(z_fp, q, w, valid)
        loss = (loss_sup + ramp * (o.unsupervised_weight * loss_strong + o.feature_weight * loss_fp)) / 2
        scalars = {"supervised": loss_sup, "unsupervised": loss_strong, "consistency": loss_fp}
        scalars = {f"loss/{name}": value.detach() for name, value in scalars.items()}
        return StepOutput(loss, scalars | {"trusted_fraction": trusted_fraction})
