"""Dual Teacher: Na, Ha, Chang, Han, Hwang, "Switching Temporary Teachers for Semi-Supervised Semantic Segmentation",
NeurIPS 2023 (https://arxiv.org/abs/2310.18640).

A single EMA teacher converges to its student, so its labels stop being informative (the coupling problem). Here two
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
teacher, on weak views only. The code leaves padding out of both means and divides by the number of valid pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import nn

from semiseg.methods.method import Batch, Progress, StepOutput, as_float
from semiseg.methods.teachers import AlternatingTeachersMethod, TeacherOptions
from semiseg.ops.ema import ema_decay, ema_update
from semiseg.ops.losses import pseudo_label_loss
from semiseg.ops.mixing import REGIONS, Region, partners
from semiseg.ops.photometric import COLOR_SETS, ColorSet, change_colors, color_set
from semiseg.ops.stochastic_depth import forward_with_sub_models, residual_sites
from semiseg.option_ranges import AT_LEAST_ONE, FRACTION, NOT_NEGATIVE


@dataclass(frozen=True)
class DualTeacherOptions(TeacherOptions):
    """Options of Dual Teacher; each default with its source."""

    teachers: Annotated[int, AT_LEAST_ONE] = 2
    """Number of teachers. 2 as in the paper; 1 with --ema-reset never reproduces the single-teacher ablation."""
    pool: tuple[str, ...] = ("cutmix", "classmix")
    """Strong views, one per shift in turn (paper: CutMix with teacher 1, ClassMix with teacher 2). An entry names a
    region, or REGION:COLORS with blur or gray, the color sets of authors' code (cutmix:blur classmix:gray). Without
    COLORS, --color-strength applies."""
    shift_steps: Annotated[int, NOT_NEGATIVE] = 0
    """Length of a shift in steps. 0: an epoch (paper), but at most an eighth of the run (our default)."""
    consistency_weight: Annotated[float, NOT_NEGATIVE] = 0.2
    """lambda_c (authors' code: 0.2). 0 leaves out the sub-models and saves their forward pass."""
    consistency_on: Literal["unlabeled", "all"] = "unlabeled"
    """Images whose weak views the sub-models see (authors' code: unlabeled)."""
    drop_path: Annotated[float, FRACTION] = 0.1
    """Rate of stochastic depth at the deepest residual branch, linear in depth (authors' code, MiT: 0.1)."""
    ema_reset: Literal["shift", "never"] = "shift"
    """When to reset the EMA warm-up. shift: at the start of each shift the teacher restarts as a copy of the student
    (authors' code); never: keep averaging."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for entry in self.pool or ("",):
            mixing, colon, colors = entry.partition(":")
            if mixing not in REGIONS:
                raise ValueError(f"--pool: unknown mixing {mixing!r}. Choose from {', '.join(REGIONS)}")
            if colon and colors not in COLOR_SETS:
                raise ValueError(f"--pool: unknown colors {colors!r}. Choose from {', '.join(COLOR_SETS)}")

    def strong_view(self, shift: int) -> tuple[Region, ColorSet | None]:
        """Return the region and the colors of a shift; no colors: the image stays as it is."""
        mixing, _, colors = self.pool[shift % len(self.pool)].partition(":")
        default = color_set(self.color_strength) if self.color_strength else None
        return REGIONS[mixing], COLOR_SETS.get(colors, default)


class DualTeacher(AlternatingTeachersMethod):
    """Two temporary teachers in shifts; see the module's docstring for the equations.

    Differences from the authors' code (each with a test, see docs/methods/dual-teacher.md):

    - Confidence is mixed with the labels it belongs to. It selects pixels instead of weighting images.
    - Sub-models see the weak view, and no mask affects the unlabeled terms.
    - The teacher runs once per step. Colors change per image and before normalization.
    - An image is never its own mixing partner.
    """

    Options = DualTeacherOptions
    summary = "two temporary teachers in shifts"
    papers: ClassVar = {"Na et al. 2023": "https://arxiv.org/abs/2310.18640"}

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: DualTeacherOptions) -> None:
        super().__init__(build, classes, options)
        if options.consistency_weight > 0 and not residual_sites(self.student):
            raise ValueError("the encoder has no residual branches. Choose another or set --consistency-weight 0")

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step, with the labels of the active teacher."""
        options, ramp, teacher = self.options, self.ramp(progress), self.active_teacher(progress)
        if ramp == 0:
            return self.supervised_step(batch)
        labeled, with_sub_models = as_float(batch.labeled_images), options.consistency_weight > 0
        also_labeled = with_sub_models and options.consistency_on == "all"
        views = self.label_views(batch, teacher, labeled if also_labeled else None)
        weak = views.select(slice(len(batch.unlabeled_images)))  # w(x_u), yhat, c
        sub_views = views if with_sub_models else views.select(slice(0))

        make_region, colors = options.strong_view(self.shift(progress))
        region = make_region(weak.classes)
        strong = weak.with_images(change_colors(weak.images, colors))
        mixed = strong.mix(region, strong.select(partners(len(strong.images))))  # x_m, yhat_m, c_m

        logits, mixed_logits, sub_logits = forward_with_sub_models(
            self.student, images=(labeled, mixed.images, sub_views.images), rates=(0, 0, options.drop_path)
        )
        supervised = self.supervised_loss(logits, batch.masks, self.class_weights)
        threshold, mode = options.threshold, options.threshold_mode
        unsupervised, trusted_fraction = pseudo_label_loss(mixed_logits, mixed, threshold, mode)
        consistency, _ = pseudo_label_loss(sub_logits, sub_views, threshold, mode)
        extra = self.extra_annotation(batch, teacher, labeled, logits, mixed_logits, region)
        unlabeled_terms = options.unsupervised_weight * unsupervised + options.consistency_weight * consistency
        loss = supervised + extra.tags + ramp * (unlabeled_terms + extra.filled)
        terms = {"supervised": supervised, "unsupervised": unsupervised, "consistency": consistency} | extra.scalars
        return StepOutput.from_terms(loss, trusted_fraction, **terms)

    def after_step(self, progress: Progress) -> None:
        """Update the active teacher, or all teachers in the burn-in, by the moving average of decay ``alpha_i``.

        ``alpha_i = min(1 - 1/(i + 1), alpha)``, so update 0 copies the student. With ``ema_reset`` shift, ``i`` counts
        the updates since the shift began; with never, all updates of this teacher.
        """
        options, in_burn_in = self.options, progress.step < self.burn_in_steps(progress)
        decay = ema_decay(self.updates(progress, since_shift=options.ema_reset == "shift"), options.ema_decay)
        for teacher in self.teachers if in_burn_in else [self.active_teacher(progress)]:
            ema_update(teacher, self.student, decay, options.ema_buffers)
