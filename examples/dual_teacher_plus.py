"""Dual Teacher with AugSeg's views: do the parts of two methods add up?

    semiseg train --method examples/dual_teacher_plus.py:DualTeacherPlus --data DIR ...

All is Dual Teacher's (``semiseg/methods/dual_teacher.py``) but the strong view: a random number of random intensity
changes in place of color jitter, and pieces of labeled images pasted into those that the teacher is unsure of (Zhao et
al., CVPR 2023). What came of it is in docs/results.md. It is also how to make a method out of others without touching
semiseg: a class in a file of one's own.
"""

from dataclasses import dataclass

from semiseg.methods.dual_teacher import DualTeacher, DualTeacherOptions
from semiseg.methods.method import Batch, Progress, StepOutput, as_float, check_range
from semiseg.ops.injection import Views, inject_labels
from semiseg.ops.intensity import random_intensity
from semiseg.ops.losses import weighted_cross_entropy
from semiseg.ops.mixing import REGIONS, partners, paste
from semiseg.ops.photometric import photometric
from semiseg.ops.pseudo_labels import certainty, confidence_weights, pseudo_label, soft_label


@dataclass(frozen=True)
class DualTeacherPlusOptions(DualTeacherOptions):
    """Dual Teacher's options (without part here: filling, tags, ``consistency_on``), and two of AugSeg's."""

    intensity_changes: int = 3
    """Most operations an image goes through (AugSeg: 3); 0: Dual Teacher's color jitter."""
    label_injection: bool = True
    """Paste pieces of labeled images into images of which the teacher is unsure (AugSeg)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, float("inf"), "intensity_changes")


class DualTeacherPlus(DualTeacher):
    """Two temporary teachers in shifts; AugSeg's strong views."""

    Options = DualTeacherPlusOptions

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step; the teacher on duty labels."""
        o, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch)
        x_l, x_w, valid = as_float(batch.labeled_images), as_float(batch.unlabeled_images), batch.unlabeled_valid
        z_t = self.label(x_w, batch.unlabeled_tags, progress)
        q, (yhat, c) = soft_label(z_t, o.label_temperature), pseudo_label(z_t)

        region = REGIONS[o.pool[self.shift(progress) % len(o.pool)]](yhat)
        partner = partners(len(x_w))
        x_s = random_intensity(x_w, k) if (k := o.intensity_changes) else photometric(x_w, o.color_strength)
        sources: Views = (x_s, q, c, valid)
        targets = sources
        if o.label_injection:
            rho = certainty(z_t, valid)
            targets = inject_labels(sources, x_l, batch.masks, batch.labeled_valid, rho, self.classes)
        x_m, q_m, c_m, valid_m = (paste(region, s, t[partner]) for s, t in zip(sources, targets, strict=True))
        w_m, trusted_fraction = confidence_weights(c_m, valid_m, o.threshold, o.threshold_mode)

        z_l, z_m, z_c = self.student_and_sub_models(x_l, x_m, x_w)
        loss_sup = self.supervised_loss(z_l, batch.masks, self.class_weights)
        loss_unsup = weighted_cross_entropy(z_m, q_m, w_m, valid_m)
        loss_cons = loss_sup.new_zeros(())
        if z_c is not None:
            w_c, _ = confidence_weights(c, valid, o.threshold, o.threshold_mode)
            loss_cons = weighted_cross_entropy(z_c, q, w_c, valid)
        loss = loss_sup + ramp * (o.unsupervised_weight * loss_unsup + o.consistency_weight * loss_cons)
        scalars = {"supervised": loss_sup, "unsupervised": loss_unsup, "consistency": loss_cons}
        scalars = {f"loss/{name}": value.detach() for name, value in scalars.items()}
        return StepOutput(loss, scalars | {"trusted_fraction": trusted_fraction})
