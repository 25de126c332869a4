"""Dual Teacher: Na, Ha, Chang, Han, Hwang, "Switching Temporary Teachers for Semi-Supervised Semantic Segmentation",
NeurIPS 2023.

One EMA teacher and its student grow alike until neither has anything to tell the other (the coupling problem). Here
two *temporary* teachers take turns, each with its own strong augmentation, and only the one on duty labels and
follows::

    yhat, c = argmax, max of softmax f(w(x_u); theta_t)                      t: the teacher on duty
    x_m, yhat_m, c_m = mix of s(x_u), yhat, c by one region                  CutMix or ClassMix, by shift
    L_sup   = CE(f(w(x_l); theta_s), y_l)
    L_unsup = 1/B_u sum_i 1/(HW) sum_j 1[c_m >= tau] CE(f(x_m; theta_s), yhat_m)
    L_cons  = 1/B   sum_i 1/(HW) sum_j 1[c   >= tau] CE(f(w(x_u); theta~_s), yhat)
    L       = L_sup + lambda_u L_unsup + lambda_c L_cons
    theta_t <- alpha theta_t + (1 - alpha) theta_s                           after the optimizer's step

Where labeled images are annotated in part, or images have tags, with ``F`` the pixels that nobody annotated::

    L += lambda_f 1/|F| sum_{j in F} 1[c_j >= tau] CE(f(w(x_l); theta_s)_j, yhat_j) + lambda_t L_tags

``theta~_s`` is a sub-model of the student made by stochastic depth: many thin students must agree with the complete
teacher, on weak views only.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from semiseg.methods.method import Batch, Method, Progress, StepOutput, as_float, check_range, fill_term, tag_term
from semiseg.ops.ema import BufferMode, ema_decay, ema_update
from semiseg.ops.losses import weighted_cross_entropy
from semiseg.ops.mixing import REGIONS, partners, paste
from semiseg.ops.photometric import photometric
from semiseg.ops.pseudo_labels import ThresholdMode, confidence_weights, pseudo_label, soft_label
from semiseg.ops.stochastic_depth import residual_sites, stochastic_depth
from semiseg.ops.tag_loss import mask_absent


@dataclass(frozen=True)
class DualTeacherOptions:
    """Options of Dual Teacher; each default with its source."""

    teachers: int = 2
    """Temporary teachers that take turns (2: the paper; 1, with --ema-reset never: the ablation's single one)."""
    pool: tuple[str, ...] = ("cutmix", "classmix")
    """Strong mixing of shift k is pool[k % len(pool)] (paper: CutMix with teacher 1, ClassMix with teacher 2)."""
    shift_steps: int = 0
    """Length of a shift in steps; 0: an epoch, but never more than an eighth of the run (the paper: an epoch)."""
    threshold: float = 0.95
    """Confidence tau from which a pseudo-label is trusted (paper)."""
    threshold_mode: ThresholdMode = "pixel"
    """What the threshold gates: pixel (the specification), image or batch (the release's shares as weights), none."""
    label_temperature: float = 0.0
    """Pseudo-labels: 0, the decision (paper); 1, probabilities; between, probabilities sharpened (ours)."""
    unsupervised_weight: float = 1.0
    """lambda_u (release: 1)."""
    consistency_weight: float = 0.2
    """lambda_c (release: 0.2); 0 leaves the sub-models out and saves their forward pass."""
    consistency_on: Literal["unlabeled", "all"] = "unlabeled"
    """Weak views the sub-models must agree on (release: unlabeled)."""
    fill_weight: float = 0.5
    """lambda_f, weight of the teacher's labels on pixels of labeled images that nobody annotated (ours)."""
    tag_weight: float = 0.5
    """lambda_t, weight of what image tags say, where the data has them (ours)."""
    drop_path: float = 0.1
    """Rate of stochastic depth at the deepest residual branch, linear in depth (release, MiT: 0.1)."""
    ema_decay: float = 0.99
    """alpha, reached by the warm-up min(1 - 1/(i + 1), alpha) (release)."""
    ema_reset: Literal["shift", "never"] = "shift"
    """Where i restarts: at each shift, so that a teacher is born anew (release), or never: two slow teachers."""
    ema_buffers: BufferMode = "ema"
    """BatchNorm statistics of a teacher: ema (ours, as AugSeg), copy, own (release: from its own forward passes)."""
    teacher_mode: Literal["eval", "train"] = "eval"
    """How a teacher labels: eval (ours, as AugSeg and UniMatch V2) or train: batch statistics, dropout (release)."""
    color_strength: float = 0.5
    """Strength of color jitter in the strong view (UniMatch: 0.5)."""
    burn_in: float = 0.0
    """Share of the run on labels only, before the first shift (ours; 0: the paper)."""
    ramp_up: float = 0.0
    """Share of the run over which lambda_u and lambda_c rise linearly after the burn-in (ours; 0: the paper)."""

    def __post_init__(self) -> None:
        if self.teachers < 1:
            raise ValueError(f"teachers must be at least 1, not {self.teachers}")
        if unknown := [name for name in self.pool if name not in REGIONS]:
            raise ValueError(f"pool: unknown mixing {unknown[0]!r}: choose from {', '.join(REGIONS)}")
        if not self.pool:
            raise ValueError(f"pool is empty: choose from {', '.join(REGIONS)}")
        check_range(self, 1, "threshold", "label_temperature", "drop_path", "ema_decay", "color_strength")
        check_range(self, 1, "burn_in", "ramp_up")
        check_range(self, float("inf"), "shift_steps", "unsupervised_weight", "consistency_weight")
        check_range(self, float("inf"), "fill_weight", "tag_weight")


class DualTeacher(Method):
    """Two temporary teachers in shifts; see the module's docstring for the equations.

    Departures from the release (each a fault there): confidence is mixed with the labels it belongs to, and gates
    pixels instead of weighting images; sub-models see the weak view; no mask touches the unlabeled terms; the teacher
    runs once a step; colors change per image and before normalization; nobody is mixed with itself.
    """

    Options = DualTeacherOptions

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: DualTeacherOptions) -> None:
        super().__init__(build, classes, options)
        if options.consistency_weight > 0 and not residual_sites(self.student):
            raise ValueError("no residual branches to drop: take another encoder, or --consistency-weight 0")
        self.teachers = nn.ModuleList(deepcopy(self.student) for _ in range(options.teachers)).requires_grad_(False)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step; the teacher on duty labels."""
        o, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch)
        x_l, x_w = as_float(batch.labeled_images), as_float(batch.unlabeled_images)
        x_c, valid_c, tags_c = self.consistency_views(x_w, x_l, batch)
        z_t = self.label(x_c, tags_c, progress)
        q_c = soft_label(z_t, o.label_temperature)  # yhat itself, as in the paper, unless softened
        yhat_c, c_c = pseudo_label(z_t)
        yhat, c, q, valid = (t[: len(x_w)] for t in (yhat_c, c_c, q_c, valid_c))

        region = REGIONS[o.pool[self.shift(progress) % len(o.pool)]](yhat)
        partner = partners(len(x_w))
        x_s = photometric(x_w, o.color_strength)
        x_m, q_m, c_m, valid_m = (paste(region, t, t[partner]) for t in (x_s, q, c, valid))
        w_m, trusted_fraction = confidence_weights(c_m, valid_m, o.threshold, o.threshold_mode)

        z_l, z_m, z_c = self.student_and_sub_models(x_l, x_m, x_c)
        loss_sup = self.supervised_loss(z_l, batch.masks, self.class_weights)
        loss_unsup = weighted_cross_entropy(z_m, q_m, w_m, valid_m)
        loss_cons = self.consistency_loss(z_c, q_c, c_c, valid_c)
        loss_fill = fill_term(batch, z_l, lambda: self.label(x_l, batch.labeled_tags, progress), o)
        loss_tags = tag_term(batch, z_l, z_m, region)
        on_trust = o.unsupervised_weight * loss_unsup + o.consistency_weight * loss_cons + o.fill_weight * loss_fill
        loss = loss_sup + o.tag_weight * loss_tags + ramp * on_trust
        scalars = {"supervised": loss_sup, "unsupervised": loss_unsup, "consistency": loss_cons}
        scalars |= {"filled": loss_fill, "tags": loss_tags}
        scalars = {f"loss/{name}": value.detach() for name, value in scalars.items()}
        return StepOutput(loss, scalars | {"trusted_fraction": trusted_fraction})

    def after_step(self, progress: Progress) -> None:
        """Let the teacher on duty follow the student; the others stay as they are, bit for bit."""
        o, burn_in = self.options, self.burn_in_steps(progress)
        if progress.step < burn_in:  # nobody is on duty yet: all start their first shift from what the labels taught
            for teacher in self.teachers:
                ema_update(teacher, self.student, ema_decay(progress.step, o.ema_decay), o.ema_buffers)
            return
        shift, since = divmod(progress.step - burn_in, self.shift_length(progress))
        if o.ema_reset == "never":  # count this teacher's own updates, over all its shifts
            since += burn_in + (shift // o.teachers) * self.shift_length(progress)
        ema_update(self.on_duty(progress), self.student, ema_decay(since, o.ema_decay), o.ema_buffers)

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """The student and every teacher: ``student``, ``teacher1``, ``teacher2``, ..."""
        return {"student": self.student} | {f"teacher{i + 1}": t for i, t in enumerate(self.teachers)}

    def labeler(self, progress: Progress) -> str:
        """The name of the teacher on duty; in the burn-in, of the one that will be the first."""
        return f"teacher{max(self.shift(progress), 0) % len(self.teachers) + 1}"

    def burn_in_steps(self, progress: Progress) -> int:
        """Steps on labels only, before the first shift."""
        return round(self.options.burn_in * progress.total_steps)

    def shift_length(self, progress: Progress) -> int:
        """Steps of a shift: an epoch, but at most an eighth of the run, so that every teacher serves."""
        return self.options.shift_steps or max(1, min(progress.steps_per_epoch, progress.total_steps // 8))

    def shift(self, progress: Progress) -> int:
        """The number of the shift, from 0."""
        return (progress.step - self.burn_in_steps(progress)) // self.shift_length(progress)

    def on_duty(self, progress: Progress) -> nn.Module:
        """The teacher that labels in this shift and follows the student."""
        return self.teachers[self.shift(progress) % len(self.teachers)]

    def label(self, images: Tensor, tags: Tensor, progress: Progress) -> Tensor:
        """Logits ``(N, C, H, W)`` of the teacher on duty for weak views, classes known to be absent masked out."""
        teacher = self.on_duty(progress).train(self.options.teacher_mode == "train")
        return mask_absent(self.ask(teacher, images), tags)

    def consistency_views(self, x_w: Tensor, x_l: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The weak views the teacher labels (unlabeled first), which of their pixels are no padding, their tags."""
        if self.options.consistency_weight == 0 or self.options.consistency_on == "unlabeled":
            return x_w, batch.unlabeled_valid, batch.unlabeled_tags
        valid = torch.cat([batch.unlabeled_valid, batch.labeled_valid])
        return torch.cat([x_w, x_l]), valid, torch.cat([batch.unlabeled_tags, batch.labeled_tags])

    def consistency_loss(self, z_c: Tensor | None, q_c: Tensor, c_c: Tensor, valid_c: Tensor) -> Tensor:
        """How far the sub-models' logits ``z_c`` are from what the teacher says of the same views; 0 without them."""
        if z_c is None:
            return c_c.new_zeros(())
        w_c, _ = confidence_weights(c_c, valid_c, self.options.threshold, self.options.threshold_mode)
        return weighted_cross_entropy(z_c, q_c, w_c, valid_c)

    def student_and_sub_models(self, x_l: Tensor, x_m: Tensor, x_c: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits of the student on ``x_l`` and ``x_m`` and of its sub-models on ``x_c``, in one forward pass.

        Each sample of ``x_c`` goes through a sub-model of its own: stochastic depth is drawn per sample, and its rate
        is 0 for the others. None for the sub-models where the consistency term is off.
        """
        if self.options.consistency_weight == 0:
            return *self.student(torch.cat([x_l, x_m])).split([len(x_l), len(x_m)]), None
        sizes = [len(x_l), len(x_m), len(x_c)]
        rate = torch.tensor([0.0, 0.0, self.options.drop_path]).repeat_interleave(torch.tensor(sizes))
        with stochastic_depth(self.student, rate):
            return self.student(torch.cat([x_l, x_m, x_c])).split(sizes)
