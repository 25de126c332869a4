"""Mean Teacher: Tarvainen & Valpola, NeurIPS 2017 (https://arxiv.org/abs/1703.01780), as used for segmentation: French,
Laine, Aila, Mackiewicz, Finlayson, BMVC 2020 (https://arxiv.org/abs/1906.01916), and ClassMix.

One EMA teacher labels the weak views; the student learns from strong views of the same images. It is the baseline of
Dual Teacher, with a single teacher that always follows its student::

    yhat, c = argmax, max of softmax f(w(x_u); theta_t)
    x_m, yhat_m, c_m = mix of s(x_u), yhat, c by one region
    L = CE(f(w(x_l); theta_s), y_l) + lambda_u 1/B_u sum_i 1/(HW) sum_j 1[c_m >= tau] CE(f(x_m; theta_s), yhat_m)
    theta_t <- alpha theta_t + (1 - alpha) theta_s

The code leaves padding out of the mean and divides by the number of valid pixels.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch

from semiseg.methods.method import Batch, Progress, StepOutput, as_float
from semiseg.methods.teachers import SingleTeacherMethod, TeacherOptions
from semiseg.ops.ema import BufferMode
from semiseg.ops.losses import weighted_cross_entropy, weighted_squared_error
from semiseg.ops.mixing import REGIONS, partners
from semiseg.ops.photometric import photometric
from semiseg.option_ranges import FRACTION, NOT_NEGATIVE


@dataclass(frozen=True)
class MeanTeacherOptions(TeacherOptions):
    """Options of Mean Teacher; each default with its source."""

    mixing: str = "cutmix"
    """Mixing of strong views: cutmix (French et al. 2020) or classmix (Olsson et al. 2021)."""
    threshold: Annotated[float, FRACTION] = 0.95
    """Smallest confidence of a trusted pseudo-label (as in Dual Teacher; French et al.: 0.97; ClassMix: 0.968)."""
    unsupervised_loss: Literal["ce", "mse"] = "ce"
    """ce: cross-entropy with the pseudo-label (ClassMix); mse: squared error of the probabilities (French et al.)."""
    unsupervised_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """lambda_u, weight of the unsupervised loss (ClassMix, French et al.: 1)."""
    ema_decay: Annotated[float, FRACTION] = 0.99
    """alpha, decay of the moving average after the warm-up min(1 - 1/(i + 1), alpha) (ClassMix: 0.99)."""
    ema_buffers: BufferMode = "ema"
    """BatchNorm statistics of the teacher. ema: averaged like the weights (French et al., AugSeg); copy: those of the
    student; own: from the teacher's own forward passes (ClassMix)."""
    teacher_mode: Literal["eval", "train"] = "eval"
    """Mode of the teacher when it labels. eval: as in AugSeg; train: with batch statistics and dropout (ClassMix)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixing not in REGIONS:
            raise ValueError(f"--mixing: unknown mixing {self.mixing!r}. Choose from {', '.join(REGIONS)}")
        if self.unsupervised_loss == "mse" and self.label_temperature == 0:
            raise ValueError("--unsupervised-loss: mse compares probabilities. Set --label-temperature above 0, e.g. 1")


class MeanTeacher(SingleTeacherMethod):
    """One teacher, the exponential moving average of its student; see the module's docstring for the equations."""

    Options = MeanTeacherOptions
    summary = "one teacher, the moving average of the student"
    papers: ClassVar = {
        "Tarvainen & Valpola 2017": "https://arxiv.org/abs/1703.01780",
        "French et al. 2020": "https://arxiv.org/abs/1906.01916",
    }

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step."""
        options, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch)
        labeled = as_float(batch.labeled_images)
        weak = self.label_views(batch, self.teacher)

        region = REGIONS[options.mixing](weak.classes)
        strong = weak.with_images(photometric(weak.images, options.color_strength))
        mixed = strong.mix(region, strong.select(partners(len(weak.images))))

        logits, mixed_logits = self.student(torch.cat([labeled, mixed.images])).split([len(labeled), len(weak.images)])
        supervised = self.supervised_loss(logits, batch.masks, self.class_weights)
        weights, trusted_fraction = mixed.weights(options.threshold, options.threshold_mode)
        compare = weighted_cross_entropy if options.unsupervised_loss == "ce" else weighted_squared_error
        unsupervised = compare(mixed_logits, mixed.targets, weights, mixed.valid)
        extra = self.extra_annotation(batch, self.teacher, labeled, logits, mixed_logits, region)
        loss = supervised + extra.tags + ramp * (options.unsupervised_weight * unsupervised + extra.filled)
        terms = {"supervised": supervised, "unsupervised": unsupervised} | extra.scalars
        return StepOutput.from_terms(loss, trusted_fraction, **terms)
