"""Dual Teacher combined with parts of UniMatch V2 and AugSeg.

    semiseg train --method examples/dual_teacher_plus.py:DualTeacherPlus --data DIR ...

Teachers, shifts and sub-models are those of Dual Teacher (``semiseg/methods/dual_teacher.py``). There are two strong
views, mixed by different entries of the pool, which see complementary halves of the encoder's channels (UniMatch V2,
Yang et al. 2024). Optionally, colors change as in AugSeg, and pieces of labeled images are pasted into images that the
teacher is unsure of (Zhao et al., CVPR 2023). For results see docs/results.md. The file also shows how to combine
methods without changing semiseg: subclass a method in your own file.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from semiseg.methods.dual_teacher import DualTeacher, DualTeacherOptions
from semiseg.methods.method import Batch, Progress, StepOutput, as_float
from semiseg.ops.features import complementary_dropout, decode, encode
from semiseg.ops.injection import inject_labels
from semiseg.ops.intensity import random_intensity
from semiseg.ops.losses import pseudo_label_loss
from semiseg.ops.mixing import partners
from semiseg.ops.photometric import change_colors
from semiseg.ops.pseudo_labels import PseudoLabels, certainty
from semiseg.ops.stochastic_depth import forward_with_sub_models
from semiseg.option_ranges import FRACTION, NOT_NEGATIVE, Range


@dataclass(frozen=True)
class DualTeacherPlusOptions(DualTeacherOptions):
    """Dual Teacher's options without ``fill_weight``, ``tag_weight`` and ``consistency_on``, and those of the parts."""

    views: Annotated[int, Range(1, 2)] = 2
    """Strong views of each image; 2: with complementary channels (UniMatch V2); 1: as in Dual Teacher."""
    whole_pairs: Annotated[float, FRACTION] = 0.5
    """Probability that a pair of views keeps all its channels (UniMatch V2)."""
    intensity_changes: Annotated[int, NOT_NEGATIVE] = 0
    """Largest number of color operations per image (AugSeg: 3); 0: Dual Teacher's color jitter."""
    label_injection: bool = False
    """Paste pieces of labeled images into images that the teacher is unsure of (AugSeg)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("fill_weight", "tag_weight", "consistency_on"):
            if getattr(self, name) != getattr(DualTeacherOptions, name):
                raise ValueError(f"--{name.replace('_', '-')}: has no effect on DualTeacherPlus. Leave it out")


class DualTeacherPlus(DualTeacher):
    """Two temporary teachers in shifts; two strong views of complementary channels."""

    Options = DualTeacherPlusOptions

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step, with the labels of the active teacher."""
        options, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch)
        labeled, unlabeled = as_float(batch.labeled_images), as_float(batch.unlabeled_images)
        teacher_logits = self.label(self.active_teacher(progress), unlabeled, batch.unlabeled_tags)
        weak = PseudoLabels.from_logits(unlabeled, teacher_logits, batch.unlabeled_valid, options.label_temperature)
        rho = certainty(teacher_logits, weak.valid)
        views = [self.strong_view(number, weak, rho, labeled, batch, progress) for number in range(options.views)]
        mixed = PseudoLabels.cat(views)

        sub_views = weak if options.consistency_weight > 0 else weak.select(slice(0))
        plain = mixed.images if options.views == 1 else mixed.images[:0]
        images, rates = (labeled, plain, sub_views.images), (0, 0, options.drop_path)
        logits, mixed_logits, sub_logits = forward_with_sub_models(self.student, images, rates)
        if options.views == 2:
            features = complementary_dropout(encode(self.student, mixed.images), options.whole_pairs)
            mixed_logits = decode(self.student, features, mixed.images.shape[-2:])
        supervised = self.supervised_loss(logits, batch.masks, self.class_weights)
        threshold, mode = options.threshold, options.threshold_mode
        unsupervised, trusted_fraction = pseudo_label_loss(mixed_logits, mixed, threshold, mode)
        consistency, _ = pseudo_label_loss(sub_logits, sub_views, threshold, mode)
        unlabeled_terms = options.unsupervised_weight * unsupervised + options.consistency_weight * consistency
        loss = supervised + ramp * unlabeled_terms
        terms = {"supervised": supervised, "unsupervised": unsupervised, "consistency": consistency}
        return StepOutput.from_terms(loss, trusted_fraction, **terms)

    def strong_view(
        self, number: int, weak: PseudoLabels, rho: Tensor, labeled: Tensor, batch: Batch, progress: Progress
    ) -> PseudoLabels:
        """Return mixed strong views of the weak ones.

        Args:
            number: 0 mixes as the shift says, 1 as the next entry of the pool.
            weak: N unlabeled images and their pseudo-labels.
            rho: float ``(N,)``, the teacher's certainty.
            labeled: float ``(B, 3, H, W)``, labeled images to take pieces from.
            batch: Their masks.
            progress: Determines the shift.
        """
        options = self.options
        make_region, colors = options.strong_view(self.shift(progress) + number)
        region = make_region(weak.classes)
        if options.intensity_changes:
            strong = weak.with_images(random_intensity(weak.images, options.intensity_changes))
        else:
            strong = weak.with_images(change_colors(weak.images, colors))
        sources = strong
        if options.label_injection:
            sources = inject_labels(strong, labeled, batch.masks, batch.labeled_valid, rho, self.classes)
        return strong.mix(region, sources.select(partners(len(weak.images))))
