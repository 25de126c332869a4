"""UniMatch V2: Yang, Zhao, Zhao, "UniMatch V2: Pushing the Limit of Semi-Supervised Semantic Segmentation", 2024
(https://arxiv.org/abs/2410.10777).

Two strong views see complementary halves of the encoder's channels, the same in all levels of ``dpt``. This replaces
UniMatch's stream of perturbed features. The labels come from an EMA teacher::

    yhat, c = argmax, max of softmax f(w(x_u); theta_t)
    d ~ Bernoulli(1/2)^C;   z_1 = decoder(2 d encoder(x_1)),   z_2 = decoder(2 (1 - d) encoder(x_2))
    L_k = 1/|valid| sum_j 1[c_k,j >= tau] CE(z_k,j, yhat_k,j)                            x_1, x_2: two CutMix views
    L   = (CE(f(w(x_l)), y_l) + lambda (L_1 + L_2) / 2) / 2
    theta_t <- alpha theta_t + (1 - alpha) theta_s
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from semiseg.methods.method import Batch, Progress, PseudoLabelOptions, StepOutput, as_float
from semiseg.methods.teachers import SingleTeacherMethod
from semiseg.ops.features import complementary_dropout, decode, encode
from semiseg.ops.losses import pseudo_label_loss
from semiseg.ops.pseudo_labels import PseudoLabels
from semiseg.ops.strong_view import strong_view
from semiseg.option_ranges import FRACTION


@dataclass(frozen=True)
class UniMatchV2Options(PseudoLabelOptions):
    """Options of UniMatch V2; each default with its source."""

    threshold: Annotated[float, FRACTION] = 0.95
    """Smallest confidence of a trusted pseudo-label (authors' code: 0.95 on every data set)."""
    whole_pairs: Annotated[float, FRACTION] = 0.5
    """Probability that a pair of views keeps all its channels (authors' code: half of each batch)."""
    ema_decay: Annotated[float, FRACTION] = 0.996
    """alpha, decay of the moving average after the warm-up min(1 - 1/(i + 1), alpha) (authors' code: 0.996)."""
    color_strength: Annotated[float, FRACTION] = 0.5
    """Strength of color jitter in the strong views (authors' code: 0.5)."""
    redraw_boxes: bool = False
    """Sample a CutMix box again until it fits (authors' code). Otherwise a box that is too long is cut."""


class UniMatchV2(SingleTeacherMethod):
    """One EMA teacher, two views of complementary channels; see the module's docstring for the equations.

    Difference from the authors' code: the pasted image is the neighbor in the batch. There the batch is reversed, so
    the middle image is mixed with itself. The authors use DINOv2 with a DPT decoder; here any network works.
    """

    Options = UniMatchV2Options
    summary = "an EMA teacher, two views of complementary channels"
    papers: ClassVar = {"Yang et al. 2024": "https://arxiv.org/abs/2410.10777"}

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step."""
        options, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch, weight=0.5)
        unlabeled = as_float(batch.unlabeled_images)
        teacher_logits = self.teacher_logits(self.teacher.eval(), unlabeled)
        weak = PseudoLabels.from_logits(unlabeled, teacher_logits, batch.unlabeled_valid, options.label_temperature)
        mixed = PseudoLabels.cat([strong_view(weak, options.color_strength, options.redraw_boxes) for _ in range(2)])

        shared = getattr(self.student, "one_channel_mask", False)
        features = complementary_dropout(encode(self.student, mixed.images), options.whole_pairs, shared)
        mixed_logits = decode(self.student, features, unlabeled.shape[-2:])
        threshold, mode = options.threshold, options.threshold_mode
        unsupervised, trusted_fraction = pseudo_label_loss(mixed_logits, mixed, threshold, mode)
        logits = self.student(as_float(batch.labeled_images))
        supervised = self.supervised_loss(logits, batch.masks, self.class_weights)
        loss = (supervised + ramp * options.unsupervised_weight * unsupervised) / 2
        return StepOutput.from_terms(loss, trusted_fraction, supervised=supervised, unsupervised=unsupervised)
