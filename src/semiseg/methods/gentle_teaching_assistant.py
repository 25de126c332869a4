"""Gentle Teaching Assistant: Jin, Wang, Lin, "Semi-Supervised Semantic Segmentation via Gentle Teaching Assistant",
NeurIPS 2022 (GTA-Seg, https://arxiv.org/abs/2301.07340).

Wrong pseudo-labels hurt the classifier most, so a third network, the assistant ``theta_a``, learns from them. The
student learns from labels only. It receives the assistant's features, but not its classifier::

    yhat = argmax f(w(x_u); theta_t);   x_m, yhat_m = CutMix of x_u, yhat
    c_m  = max of softmax f(x_m; theta_t);   K: all pixels but the 20 % of lowest c_m
    L_a  = sum_{j in K} omega_j CE(f(x_m; theta_a)_j, yhat_m,j)
           omega_j = (1 + c_m,j) / sum_k (1 + c_m,k [k in K])                            confident pixels weigh more
    L_s  = CE(f(w(x_l); theta_s), y_l)
    theta_s <- a theta_s + (1 - a) theta_a   without the classifier                      after the optimizer's step
    theta_t <- alpha theta_t + (1 - alpha) theta_s
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from semiseg.methods.method import Batch, Progress, StepOutput, UnlabeledOptions, as_float
from semiseg.methods.teachers import SingleTeacherMethod
from semiseg.ops.ema import ema_decay, ema_update
from semiseg.ops.global_batch import global_mean_denominator, global_sum, to_device
from semiseg.ops.losses import per_pixel_cross_entropy
from semiseg.ops.mixing import half_box_region, partners, paste
from semiseg.ops.pseudo_labels import percentile, pseudo_label, soft_label
from semiseg.option_ranges import FRACTION, NOT_NEGATIVE, Range

CLASSIFIER = "head."
"""Prefix of the parameters of the last layer, which the assistant does not pass to the student."""


@dataclass(frozen=True)
class GentleTeachingAssistantOptions(UnlabeledOptions):
    """Options of the Gentle Teaching Assistant; each default with its source."""

    drop_percent: Annotated[float, Range(0, 100)] = 20.0
    """Percentage of pixels, those of lowest confidence, that are left out of L_a (authors' code: 20)."""
    label_temperature: Annotated[float, FRACTION] = 0.0
    """Temperature of pseudo-labels. 0: the predicted class (authors' code); 1: class probabilities; between: sharpened
    probabilities (our extension)."""
    unsupervised_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of L_a (authors' code: 1)."""
    representation_decay: Annotated[float, FRACTION] = 0.999
    """a, decay of the student's features after the warm-up min(1 - 1/(i + 1), a), which starts after the burn-in
    (authors' code: 0.999)."""
    ema_decay: Annotated[float, FRACTION] = 0.999
    """alpha, decay of the teacher, with the same warm-up (authors' code: 0.999)."""
    share_classifier: bool = False
    """Share the classifier between assistant and student, as in the authors' code but not in the paper."""
    burn_in: Annotated[float, FRACTION] = 0.0125
    """Share of the run that trains on labels only. At its end all three networks are equal (authors' code: 1 of 80
    epochs)."""


class GentleTeachingAssistant(SingleTeacherMethod):
    """Teacher, assistant and student; see the module's docstring for the equations.

    Differences from the authors' code:

    - The classifiers are separate, as in the paper. There they share storage, so pseudo-labels change the student's.
    - The assistant's learning rate decays like that of the student.
    - One optimizer steps both networks before the features are transferred. There they are transferred in between.
    - The teacher is always in eval mode.
    - Padding is left out of the loss.
    """

    Options = GentleTeachingAssistantOptions
    summary = "an assistant learns from pseudo-labels and passes its features on"
    papers: ClassVar = {"Jin et al. 2022": "https://arxiv.org/abs/2301.07340"}

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: GentleTeachingAssistantOptions) -> None:
        super().__init__(build, classes, options)
        if not any(name.startswith(CLASSIFIER) for name, _ in self.student.named_parameters()):
            raise ValueError("the network has no layer named head, which the assistant needs as its own classifier")
        self.assistant = deepcopy(self.student)
        if options.share_classifier:
            self.assistant.head = self.student.head

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the sum of the student's and the assistant's losses, which share no parameter."""
        options, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch)
        labeled, unlabeled = as_float(batch.labeled_images), as_float(batch.unlabeled_images)
        teacher = self.teacher.eval()
        targets = soft_label(self.teacher_logits(teacher, unlabeled), options.label_temperature)
        region, partner = half_box_region(batch.unlabeled_valid), to_device(partners(len(unlabeled)), unlabeled)
        mixed, mixed_targets, valid = (
            paste(region, tensor[partner], tensor) for tensor in (unlabeled, targets, batch.unlabeled_valid)
        )
        _, confidence = pseudo_label(self.teacher_logits(teacher, mixed))
        weights, trusted_fraction = self.gentle_weights(confidence, valid)

        images = torch.cat([labeled, mixed])  # both networks see all images, for BatchNorm's statistics
        assistant_logits, student_logits = self.assistant(images)[len(labeled) :], self.student(images)[: len(labeled)]
        unsupervised = (weights * per_pixel_cross_entropy(assistant_logits, mixed_targets)).sum()
        supervised = self.supervised_loss(student_logits, batch.masks, self.class_weights)
        loss = supervised + ramp * options.unsupervised_weight * unsupervised
        return StepOutput.from_terms(loss, trusted_fraction, supervised=supervised, unsupervised=unsupervised)

    def gentle_weights(self, confidence: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights omega, float ``(N, H, W)``, and the fraction of pixels kept.

        Both depend on the current shard.

        Args:
            confidence: float ``(N, H, W)`` in [0, 1].
            valid: bool ``(N, H, W)``, False on padding.
        """
        kept = valid & (confidence >= percentile(confidence, valid, self.options.drop_percent))
        total = global_mean_denominator(((1 + confidence * kept) * valid).sum())
        return (1 + confidence) * kept / total, global_sum(kept.sum()) / global_sum(valid.sum()).clamp(min=1)

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Transfer the assistant's features to the student, then let the teacher follow the student."""
        options = self.options
        updates = progress.step - self.burn_in_steps(progress)
        if updates < 0:  # keep all three equal until there are pseudo-labels
            ema_update(self.teacher, self.student, 0.0, "ema")
            ema_update(self.assistant, self.student, 0.0, "ema")
            return
        decay = ema_decay(updates, options.representation_decay)
        for (name, own), other in zip(self.student.named_parameters(), self.assistant.parameters(), strict=True):
            if not name.startswith(CLASSIFIER):
                own.lerp_(other, 1 - decay)
        ema_update(self.teacher, self.student, ema_decay(updates, options.ema_decay), "ema")

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """``student``, its teacher ``teacher1``, and the ``assistant``."""
        return super().predictors | {"assistant": self.assistant}
