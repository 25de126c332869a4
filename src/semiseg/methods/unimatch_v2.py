"""UniMatch V2: Yang, Zhao, Zhao, "UniMatch V2: Pushing the Limit of Semi-Supervised Semantic Segmentation", 2024.

Two strong views see complementary halves of the encoder's channels, which takes the place of UniMatch's third stream;
an EMA teacher labels::

    yhat, c = argmax, max of softmax f(w(x_u); theta_t)
    d ~ Bernoulli(1/2)^C;   z_1 = decoder(2 d encoder(x_1)),   z_2 = decoder(2 (1 - d) encoder(x_2))
    L_k = 1/|valid| sum_j 1[c_k,j >= tau] CE(z_k,j, yhat_k,j)                            x_1, x_2: two CutMix views
    L   = (CE(f(w(x_l)), y_l) + lambda (L_1 + L_2) / 2) / 2
    theta_t <- alpha theta_t + (1 - alpha) theta_s
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

from semiseg.methods.method import Batch, Method, Progress, StepOutput, as_float, check_range
from semiseg.ops.ema import ema_decay, ema_update
from semiseg.ops.features import complementary_dropout, decode, encode
from semiseg.ops.losses import weighted_cross_entropy
from semiseg.ops.pseudo_labels import ThresholdMode, confidence_weights, pseudo_label, soft_label
from semiseg.ops.strong_view import strong_view


@dataclass(frozen=True)
class UniMatchV2Options:
    """Options of UniMatch V2; each default with its source."""

    threshold: float = 0.95
    """Confidence from which a pseudo-label is trusted (release: 0.95 everywhere)."""
    threshold_mode: ThresholdMode = "pixel"
    """What the threshold gates: pixel (release), image, batch or none."""
    label_temperature: float = 0.0
    """Pseudo-labels: 0, the decision (release); 1, probabilities; between, probabilities sharpened (ours)."""
    unsupervised_weight: float = 1.0
    """lambda (release: 1)."""
    whole_pairs: float = 0.5
    """Probability that a pair of views keeps all its channels (release: half of each batch)."""
    ema_decay: float = 0.996
    """alpha, reached by the warm-up min(1 - 1/(i + 1), alpha) over the whole run (release)."""
    color_strength: float = 0.5
    """Strength of color jitter in the strong views (release: 0.5)."""
    burn_in: float = 0.0
    """Share of the run on labels only (ours; 0: as published)."""
    ramp_up: float = 0.0
    """Share of the run over which lambda rises linearly after the burn-in (ours; 0: as published)."""

    def __post_init__(self) -> None:
        check_range(self, 1, "threshold", "label_temperature", "ema_decay", "color_strength", "burn_in", "ramp_up")
        check_range(self, 1, "whole_pairs")
        check_range(self, float("inf"), "unsupervised_weight")


class UniMatchV2(Method):
    """One EMA teacher, two views of complementary channels; see the module's docstring for the equations.

    Departure from the release: the image that is pasted in is the neighbor in the batch (there: the batch in reverse,
    so that the one in the middle is mixed with itself). The release's networks are DINOv2 with a DPT decoder; any
    network will do.
    """

    Options = UniMatchV2Options

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: UniMatchV2Options) -> None:
        super().__init__(build, classes, options)
        self.teacher = deepcopy(self.student).requires_grad_(False)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step."""
        o, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch, weight=0.5)
        x_w, valid = as_float(batch.unlabeled_images), batch.unlabeled_valid
        z_t = self.ask(self.teacher.eval(), x_w)
        _, c = pseudo_label(z_t)
        q = soft_label(z_t, o.label_temperature)
        views = [strong_view(x_w, q, c, valid, o.color_strength) for _ in range(2)]
        x_s, q_s, c_s, valid_s = (torch.cat(parts) for parts in zip(*views, strict=True))
        w_s, trusted_fraction = confidence_weights(c_s, valid_s, o.threshold, o.threshold_mode)

        features = complementary_dropout(encode(self.student, x_s), o.whole_pairs)
        loss_unsup = weighted_cross_entropy(decode(self.student, features, x_s.shape[-2:]), q_s, w_s, valid_s)
        loss_sup = self.supervised_loss(self.student(as_float(batch.labeled_images)), batch.masks, self.class_weights)
        loss = (loss_sup + ramp * o.unsupervised_weight * loss_unsup) / 2
        scalars = {"loss/supervised": loss_sup.detach(), "loss/unsupervised": loss_unsup.detach()}
        return StepOutput(loss, scalars | {"trusted_fraction": trusted_fraction})

    def after_step(self, progress: Progress) -> None:
        """Let the teacher follow the student, statistics included (release)."""
        ema_update(self.teacher, self.student, ema_decay(progress.step, self.options.ema_decay), "ema")

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """The student and its teacher: ``student``, ``teacher1``."""
        return {"student": self.student, "teacher1": self.teacher}
