"""Dual Teacher with parts of other methods: do they add up?

    semiseg train --method examples/dual_teacher_plus.py:DualTeacherPlus --data DIR ...

Teachers, shifts and sub-models are Dual Teacher's (``semiseg/methods/dual_teacher.py``). The strong view is there
twice, mixed once by each of the pool, and the two see complementary halves of the encoder's channels (UniMatch V2, Yang
et al. 2024). On request, colors change as in AugSeg, and pieces of labeled images go into those that the teacher is
unsure of (Zhao et al., CVPR 2023). What came of it is in docs/results.md. It is also how to make a method out of others
without touching semiseg: a class in a file of one's own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from semiseg.methods.dual_teacher import DualTeacher, DualTeacherOptions
from semiseg.methods.method import Batch, Progress, StepOutput, as_float, check_range
from semiseg.ops.features import complementary_dropout, decode, encode
from semiseg.ops.injection import Views, inject_labels
from semiseg.ops.intensity import random_intensity
from semiseg.ops.losses import weighted_cross_entropy
from semiseg.ops.mixing import REGIONS, partners, paste
from semiseg.ops.photometric import photometric
from semiseg.ops.pseudo_labels import certainty, confidence_weights, pseudo_label, soft_label


@dataclass(frozen=True)
class DualTeacherPlusOptions(DualTeacherOptions):
    """Dual Teacher's options (without part here: filling, tags, ``consistency_on``), and those of the parts."""

    views: int = 2
    """Strong views of each image; 2: of complementary channels (UniMatch V2); 1: Dual Teacher's."""
    whole_pairs: float = 0.5
    """Probability that a pair of views keeps all its channels (UniMatch V2)."""
    intensity_changes: int = 0
    """Most operations an image goes through (AugSeg: 3); 0: Dual Teacher's color jitter."""
    label_injection: bool = False
    """Paste pieces of labeled images into images of which the teacher is unsure (AugSeg)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, "whole_pairs")
        check_range(self, float("inf"), "intensity_changes")
        for name in ("fill_weight", "tag_weight", "consistency_on"):
            if getattr(self, name) != getattr(DualTeacherOptions, name):
                raise ValueError(f"{name} has no part in DualTeacherPlus: leave it out")
        if self.views not in (1, 2):
            raise ValueError(f"views must be 1 or 2, not {self.views}")


class DualTeacherPlus(DualTeacher):
    """Two temporary teachers in shifts; two strong views of complementary channels."""

    Options = DualTeacherPlusOptions

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step; the teacher on duty labels."""
        o, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch)
        x_l, x_w, valid = as_float(batch.labeled_images), as_float(batch.unlabeled_images), batch.unlabeled_valid
        z_t = self.label(x_w, batch.unlabeled_tags, progress)
        q, (yhat, c) = soft_label(z_t, o.label_temperature), pseudo_label(z_t)
        rho = certainty(z_t, valid)
        views = [self.strong_view(k, (x_w, q, c, valid), yhat, rho, batch, progress) for k in range(o.views)]
        x_m, q_m, c_m, valid_m = (torch.cat(parts) for parts in zip(*views, strict=True))
        w_m, trusted_fraction = confidence_weights(c_m, valid_m, o.threshold, o.threshold_mode)

        if o.views == 1:
            z_l, z_m, z_c = self.student_and_sub_models(x_l, x_m, x_w)
        else:
            z_l, _, z_c = self.student_and_sub_models(x_l, x_m[:0], x_w)
            features = complementary_dropout(encode(self.student, x_m), o.whole_pairs)
            z_m = decode(self.student, features, x_m.shape[-2:])
        loss_sup = self.supervised_loss(z_l, batch.masks, self.class_weights)
        loss_unsup = weighted_cross_entropy(z_m, q_m, w_m, valid_m)
        loss_cons = self.consistency_loss(z_c, q, c, valid)
        loss = loss_sup + ramp * (o.unsupervised_weight * loss_unsup + o.consistency_weight * loss_cons)
        scalars = {"supervised": loss_sup, "unsupervised": loss_unsup, "consistency": loss_cons}
        scalars = {f"loss/{name}": value.detach() for name, value in scalars.items()}
        return StepOutput(loss, scalars | {"trusted_fraction": trusted_fraction})

    def strong_view(
        self, number: int, weak: Views, yhat: Tensor, rho: Tensor, batch: Batch, progress: Progress
    ) -> Views:
        """Return the strong views ``number`` of weak ones, each mixed with another one's.

        Args:
            number: 0 mixes as the shift says, 1 as the next in the pool.
            weak: images, labels, confidence and validity of the N unlabeled images.
            yhat: int64 ``(N, H, W)``, the teacher's decisions.
            rho: float ``(N,)``, its certainty.
            batch: labeled images to take pieces from.
            progress: the shift.
        """
        o = self.options
        x_w, q, c, valid = weak
        region = REGIONS[o.pool[(self.shift(progress) + number) % len(o.pool)]](yhat)
        partner = partners(len(x_w))
        x_s = random_intensity(x_w, o.intensity_changes) if o.intensity_changes else photometric(x_w, o.color_strength)
        above: Views = (x_s, q, c, valid)
        below = above
        if o.label_injection:
            x_l = as_float(batch.labeled_images)
            below = inject_labels(above, x_l, batch.masks, batch.labeled_valid, rho, self.classes)
        x_m, q_m, c_m, valid_m = (paste(region, s, t[partner]) for s, t in zip(above, below, strict=True))
        return x_m, q_m, c_m, valid_m
