"""Dual Teacher: Na, Ha, Chang, Han, Hwang, "Switching Temporary Teachers for Semi-Supervised Semantic Segmentation",
NeurIPS 2023 (https://arxiv.org/abs/2310.18640).

One EMA teacher and its student become equal, until the teacher's labels teach nothing (the coupling problem). Here two
*temporary* teachers take turns, each with its own strong augmentation. Only the active teacher t labels, and only it
follows the student s::

    yhat, c = argmax, max of softmax f(w(x_u); theta_t)
    x_m, yhat_m, c_m = mix of s(x_u), yhat, c by one region                  CutMix or ClassMix, by shift
    L_sup   = CE(f(w(x_l); theta_s), y_l)
    L_unsup = 1/B_u sum_i 1/(HW) sum_j 1[c_m >= tau] CE(f(x_m; theta_s), yhat_m)
    L_cons  = 1/B   sum_i 1/(HW) sum_j 1[c   >= tau] CE(f(w(x_u); theta~_s), yhat)
    L       = L_sup + lambda_u L_unsup + lambda_c L_cons
    theta_t <- alpha theta_t + (1 - alpha) theta_s                           after the optimizer's step

``theta~_s`` is a sub-model of the student, made by stochastic depth. Many shallow students must agree with the complete
teacher, on weak views only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from semiseg.methods.method import Batch, Progress, StepOutput, as_float
from semiseg.methods.teachers import TeacherMethod, TeacherOptions, make_teacher
from semiseg.ops.ema import ema_decay, ema_update
from semiseg.ops.losses import pseudo_label_loss
from semiseg.ops.mixing import REGIONS, partners
from semiseg.ops.photometric import photometric
from semiseg.ops.pseudo_labels import PseudoLabels, ThresholdMode
from semiseg.ops.stochastic_depth import forward_with_sub_models, residual_sites
from semiseg.option_ranges import AT_LEAST_ONE, FRACTION, NOT_NEGATIVE


@dataclass(frozen=True)
class DualTeacherOptions(TeacherOptions):
    """Options of Dual Teacher; each default with its source."""

    teachers: Annotated[int, AT_LEAST_ONE] = 2
    """Temporary teachers that take turns (2: the paper; 1, with --ema-reset never: the ablation's single one)."""
    pool: tuple[str, ...] = ("cutmix", "classmix")
    """Strong mixing of shift k is pool[k % len(pool)] (paper: CutMix with teacher 1, ClassMix with teacher 2)."""
    shift_steps: Annotated[int, NOT_NEGATIVE] = 0
    """Length of a shift in steps; 0: an epoch, but never more than an eighth of the run (the paper: an epoch)."""
    threshold_mode: ThresholdMode = "pixel"
    """Weights: pixel, the threshold selects pixels (paper); image, batch: their trusted share (release); none: 1."""
    consistency_weight: Annotated[float, NOT_NEGATIVE] = 0.2
    """lambda_c (release: 0.2); 0 leaves the sub-models out and saves their forward pass."""
    consistency_on: Literal["unlabeled", "all"] = "unlabeled"
    """Weak views the sub-models must agree on (release: unlabeled)."""
    drop_path: Annotated[float, FRACTION] = 0.1
    """Rate of stochastic depth at the deepest residual branch, linear in depth (release, MiT: 0.1)."""
    ema_reset: Literal["shift", "never"] = "shift"
    """Restart of i: shift, each teacher starts again as a copy of the student (release); never, two slow teachers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [name for name in self.pool or ("",) if name not in REGIONS]:
            raise ValueError(f"--pool: unknown mixing {unknown[0]!r}. Choose from {', '.join(REGIONS)}")


class DualTeacher(TeacherMethod):
    """Two temporary teachers in shifts; see the module's docstring for the equations.

    Departures from the release, each a fault there: confidence is mixed with the labels it belongs to and selects
    pixels instead of weighting images; sub-models see the weak view; no mask affects the unlabeled terms; the teacher
    runs once a step; colors change per image and before normalization; an image is never its own mixing partner.
    """

    Options = DualTeacherOptions
    summary = "two temporary teachers in shifts"
    papers: ClassVar = {"Na et al. 2023": "https://arxiv.org/abs/2310.18640"}

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: DualTeacherOptions) -> None:
        super().__init__(build, classes, options)
        if options.consistency_weight > 0 and not residual_sites(self.student):
            raise ValueError(
                "the encoder has no residual branches to drop. Choose another or set --consistency-weight 0"
            )
        self.teachers = nn.ModuleList(make_teacher(self.student) for _ in range(options.teachers))

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step, with the labels of the active teacher."""
        o, ramp, teacher = self.options, self.ramp(progress), self.active_teacher(progress)
        if ramp == 0:
            return self.supervised_step(batch)
        labeled = as_float(batch.labeled_images)
        views = self.label_views(batch, labeled, teacher)
        weak = views.take(slice(len(batch.unlabeled_images)))
        region = REGIONS[o.pool[self.shift(progress) % len(o.pool)]](weak.classes)
        strong = weak.with_images(photometric(weak.images, o.color_strength))
        mixed = strong.mix(region, strong.take(partners(len(strong.images))))

        sub_views = views.take(slice(None if o.consistency_weight > 0 else 0))
        images = (labeled, mixed.images, sub_views.images)
        logits, mixed_logits, sub_logits = forward_with_sub_models(self.student, images, (0, 0, o.drop_path))
        supervised = self.supervised_loss(logits, batch.masks, self.class_weights)
        unsupervised, trusted_fraction = pseudo_label_loss(mixed_logits, mixed, o.threshold, o.threshold_mode)
        consistency, _ = pseudo_label_loss(sub_logits, sub_views, o.threshold, o.threshold_mode)
        other = self.weak_annotation(batch, teacher, labeled, logits, mixed_logits, region)
        unlabeled_terms = o.unsupervised_weight * unsupervised + o.consistency_weight * consistency + other.filled
        loss = supervised + other.tags + ramp * unlabeled_terms
        terms = {"supervised": supervised, "unsupervised": unsupervised, "consistency": consistency} | other.scalars
        return StepOutput.of(loss, trusted_fraction, **terms)

    def label_views(self, batch: Batch, labeled: Tensor, teacher: nn.Module) -> PseudoLabels:
        """Label the weak views: all unlabeled images, then the labeled ones if sub-models see them too."""
        images, valid, tags = as_float(batch.unlabeled_images), batch.unlabeled_valid, batch.unlabeled_tags
        if self.options.consistency_weight > 0 and self.options.consistency_on == "all":
            images, valid = torch.cat([images, labeled]), torch.cat([valid, batch.labeled_valid])
            tags = torch.cat([tags, batch.labeled_tags])
        logits = self.label(teacher, images, tags)
        return PseudoLabels.from_logits(images, logits, valid, self.options.label_temperature)

    def after_step(self, progress: Progress) -> None:
        """Let the active teacher follow the student; the others do not change. In the burn-in, all follow."""
        o, burn_in = self.options, self.burn_in_steps(progress)
        if progress.step < burn_in:
            for teacher in self.teachers:
                ema_update(teacher, self.student, ema_decay(progress.step, o.ema_decay), o.ema_buffers)
            return
        shift, updates = divmod(progress.step - burn_in, self.shift_length(progress))
        if o.ema_reset == "never":  # count this teacher's own updates over all its shifts
            updates += burn_in + (shift // o.teachers) * self.shift_length(progress)
        ema_update(self.active_teacher(progress), self.student, ema_decay(updates, o.ema_decay), o.ema_buffers)

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """The student and every teacher: ``student``, ``teacher1``, ``teacher2``, ..."""
        return {"student": self.student} | {f"teacher{i + 1}": t for i, t in enumerate(self.teachers)}

    def labeler(self, progress: Progress) -> str:
        """Return the name of the active teacher; in the burn-in, of the first one."""
        return f"teacher{max(self.shift(progress), 0) % len(self.teachers) + 1}"

    def active_teacher(self, progress: Progress) -> nn.Module:
        """Return the teacher that labels in this shift and follows the student."""
        return self.teachers[self.shift(progress) % len(self.teachers)]

    def shift(self, progress: Progress) -> int:
        """Return the number of the shift, from 0."""
        return (progress.step - self.burn_in_steps(progress)) // self.shift_length(progress)

    def shift_length(self, progress: Progress) -> int:
        """Return the steps of a shift: an epoch, but at most an eighth of the run, so that every teacher is active."""
        return self.options.shift_steps or max(1, min(progress.steps_per_epoch, progress.total_steps // 8))

    def burn_in_steps(self, progress: Progress) -> int:
        """Return the number of steps on labels only, before the first shift."""
        return round(self.options.burn_in * progress.total_steps)
