"""Mean Teacher: one EMA teacher labels, one student learns (Tarvainen & Valpola, NeurIPS 2017), in the form that works
for segmentation: pseudo-labels on weak views, strong colors and mixing for the student (French et al. 2020; ClassMix).

It is what Dual Teacher is measured against: the single teacher that follows its student all the time::

    yhat, c = argmax, max of softmax f(w(x_u); theta_t)
    x_m, yhat_m, c_m = mix of s(x_u), yhat, c by one region
    L = CE(f(w(x_l); theta_s), y_l) + lambda_u 1/B_u sum_i 1/(HW) sum_j 1[c_m >= tau] CE(f(x_m; theta_s), yhat_m)
    theta_t <- alpha theta_t + (1 - alpha) theta_s

Where labeled images are annotated in part, or images have tags, with ``F`` the pixels that nobody annotated::

    L += lambda_f 1/|F| sum_{j in F} 1[c_j >= tau] CE(f(w(x_l); theta_s)_j, yhat_j) + lambda_t L_tags
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from semiseg.methods.method import Batch, Method, Progress, StepOutput, as_float, check_range, fill_term, tag_term
from semiseg.ops.ema import BufferMode, ema_decay, ema_update
from semiseg.ops.losses import weighted_cross_entropy, weighted_squared_error
from semiseg.ops.mixing import REGIONS, partners, paste
from semiseg.ops.photometric import photometric
from semiseg.ops.pseudo_labels import ThresholdMode, confidence_weights, pseudo_label, soft_label
from semiseg.ops.tag_loss import mask_absent


@dataclass(frozen=True)
class MeanTeacherOptions:
    """Options of the single teacher; each default with its source."""

    mixing: str = "cutmix"
    """Region by which strong views are mixed: cutmix (French et al. 2020) or classmix (Olsson et al. 2021)."""
    threshold: float = 0.95
    """Confidence from which a pseudo-label is trusted (as in Dual Teacher; French et al. 0.97, ClassMix 0.968)."""
    threshold_mode: ThresholdMode = "pixel"
    """What the threshold gates: pixel, image, batch or none."""
    label_temperature: float = 0.0
    """Pseudo-labels: 0, the decision (ClassMix); 1, probabilities; between, probabilities sharpened (ours)."""
    unsupervised_loss: Literal["ce", "mse"] = "ce"
    """ce: cross-entropy with the pseudo-label (ClassMix); mse: squared difference of probabilities (French et al.)."""
    unsupervised_weight: float = 1.0
    """lambda_u (ClassMix, French et al.: 1)."""
    fill_weight: float = 0.5
    """lambda_f, weight of the teacher's labels on pixels of labeled images that nobody annotated (ours)."""
    tag_weight: float = 0.5
    """lambda_t, weight of what image tags say, where the data has them (ours)."""
    ema_decay: float = 0.99
    """alpha, reached by the warm-up min(1 - 1/(i + 1), alpha) over the whole run (ClassMix: 0.99)."""
    ema_buffers: BufferMode = "ema"
    """BatchNorm statistics of the teacher: ema (French et al., AugSeg), copy, or own (ClassMix)."""
    teacher_mode: Literal["eval", "train"] = "eval"
    """How the teacher labels: eval (AugSeg) or train: batch statistics, dropout (ClassMix)."""
    color_strength: float = 0.5
    """Strength of color jitter in the strong view (UniMatch: 0.5)."""
    burn_in: float = 0.0
    """Share of the run on labels only (ours; 0: as published)."""
    ramp_up: float = 0.0
    """Share of the run over which lambda_u rises linearly after the burn-in (ours; 0: as published)."""

    def __post_init__(self) -> None:
        if self.mixing not in REGIONS:
            raise ValueError(f"mixing: unknown {self.mixing!r}: choose from {', '.join(REGIONS)}")
        check_range(self, 1, "threshold", "label_temperature", "ema_decay", "color_strength", "burn_in", "ramp_up")
        check_range(self, float("inf"), "unsupervised_weight", "fill_weight", "tag_weight")
        if self.unsupervised_loss == "mse" and self.label_temperature == 0:
            raise ValueError("unsupervised-loss mse compares probabilities: give a label-temperature above 0, as 1")


class MeanTeacher(Method):
    """One teacher, the exponential moving average of its student; see the module's docstring for the equations."""

    Options = MeanTeacherOptions

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: MeanTeacherOptions) -> None:
        super().__init__(build, classes, options)
        self.teacher = deepcopy(self.student).requires_grad_(False)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step."""
        o, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch)
        x_l, x_w = as_float(batch.labeled_images), as_float(batch.unlabeled_images)
        z_t = self.label(x_w, batch.unlabeled_tags)
        yhat, c = pseudo_label(z_t)
        q = soft_label(z_t, o.label_temperature)  # yhat itself, unless softened
        region, partner = REGIONS[o.mixing](yhat), partners(len(x_w))
        x_s = photometric(x_w, o.color_strength)
        x_m, q_m, c_m, valid_m = (paste(region, t, t[partner]) for t in (x_s, q, c, batch.unlabeled_valid))
        w_m, trusted_fraction = confidence_weights(c_m, valid_m, o.threshold, o.threshold_mode)

        z_l, z_m = self.student(torch.cat([x_l, x_m])).split([len(x_l), len(x_m)])
        loss_sup = self.supervised_loss(z_l, batch.masks, self.class_weights)
        compare = weighted_cross_entropy if o.unsupervised_loss == "ce" else weighted_squared_error
        loss_unsup = compare(z_m, q_m, w_m, valid_m)
        loss_fill = fill_term(batch, z_l, lambda: self.label(x_l, batch.labeled_tags), o)
        loss_tags = tag_term(batch, z_l, z_m, region)
        on_trust = o.unsupervised_weight * loss_unsup + o.fill_weight * loss_fill
        loss = loss_sup + o.tag_weight * loss_tags + ramp * on_trust
        scalars = {"loss/supervised": loss_sup.detach(), "loss/unsupervised": loss_unsup.detach()}
        scalars |= {"loss/filled": loss_fill.detach(), "loss/tags": loss_tags.detach()}
        return StepOutput(loss, scalars | {"trusted_fraction": trusted_fraction})

    def after_step(self, progress: Progress) -> None:
        """Let the teacher follow the student."""
        decay = ema_decay(progress.step, self.options.ema_decay)
        ema_update(self.teacher, self.student, decay, self.options.ema_buffers)

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """The student and its teacher: ``student``, ``teacher1``."""
        return {"student": self.student, "teacher1": self.teacher}

    def label(self, images: Tensor, tags: Tensor) -> Tensor:
        """The teacher's logits ``(N, C, H, W)`` for weak views, classes known to be absent masked out."""
        return mask_absent(self.ask(self.teacher.train(self.options.teacher_mode == "train"), images), tags)
