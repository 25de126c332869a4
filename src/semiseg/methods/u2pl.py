"""U2PL: Wang, Wang, Shen, Fei, Li, Jin, Wu, Zhao, Le, "Semi-Supervised Semantic Segmentation Using Unreliable
Pseudo-Labels", CVPR 2022 (https://arxiv.org/abs/2203.03884).

The student learns the teacher's labels where the teacher is reliable, that is where the entropy of its prediction is
low. Unreliable pixels are useful too: the teacher is sure which classes they do not show, so they are negative examples
of these classes in a contrast between features::

    alpha = alpha_0 (1 - t/T)                                                         from 20 % to 0 % of the pixels
    yhat  = argmax f(w(x_u); theta_t);   x_m, yhat_m = CutMix of x_u, yhat
    H_m   = entropy of softmax f(x_m; theta_t);   K: pixels of H_m up to its percentile 100 - alpha
    L_u   = |V| / |K| 1/|K| sum_(j in K) CE(f(x_m; theta_s)_j, yhat_m,j)                    V: pixels without padding
    L_c   = mean over classes c and anchors i of -log e^(z_i z_c / tau) / (e^(z_i z_c / tau) + sum_n e^(z_i z_n / tau))
    L     = CE(f(w(x_l); theta_s), y) + lambda_u L_u + lambda_c L_c

``z`` are projected features of the decoder, compared by their cosine. Anchors z_i: the student's, where the teacher's
probability of the label c is above 0.3. Positive z_c: mean of the teacher's features of class c. Both are labeled, or
have an entropy up to percentile alpha. Negatives z_n: from a memory of each class with the teacher's features of pixels
that are unlikely to show c. They are labeled otherwise, though c is among the most probable classes; or unlabeled with
an entropy from percentile 100 - alpha, and c is not among these.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiseg.methods.method import Batch, Progress, StepOutput, UnlabeledOptions, as_float
from semiseg.methods.teachers import SingleTeacherMethod, make_teacher
from semiseg.ops.ema import ema_decay, ema_update
from semiseg.ops.features import decode, encode, to_nearest_cells, watch_head
from semiseg.ops.global_batch import concatenate, global_mean_denominator, global_sum, to_device, uniform
from semiseg.ops.losses import IGNORE, info_nce, per_pixel_cross_entropy
from semiseg.ops.memory_bank import MemoryBank, class_means, negative_classes, repeat_members, sample_members
from semiseg.ops.mixing import half_box_region, partners, paste
from semiseg.ops.pseudo_labels import entropy, percentile, pseudo_label
from semiseg.option_ranges import AT_LEAST_ONE, FRACTION, NOT_NEGATIVE, POSITIVE, Range


@dataclass(frozen=True)
class U2PLOptions(UnlabeledOptions):
    """Options of U2PL; each default with its source."""

    drop_percent: Annotated[float, Range(0, 100)] = 20.0
    """alpha_0, percentage of unreliable pixels at the first step, which falls to 0 (authors' code: 20)."""
    contrast_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """lambda_c, weight of the contrast (authors' code: 1). 0 leaves it out."""
    contrast_temperature: Annotated[float, POSITIVE] = 0.5
    """tau, temperature of the contrast (authors' code: 0.5)."""
    anchors: Annotated[int, AT_LEAST_ONE] = 256
    """Anchors of each class and process (authors' code: 256)."""
    anchor_threshold: Annotated[float, FRACTION] = 0.3
    """Smallest probability of an anchor's class (authors' code: 0.3)."""
    negatives: Annotated[int, AT_LEAST_ONE] = 50
    """Negatives of each anchor (authors' code: 50)."""
    low_rank: Annotated[int, AT_LEAST_ONE] = 3
    """r_l, number of classes that a pixel probably shows (authors' code: 3; 1 for two classes)."""
    high_rank: Annotated[int, AT_LEAST_ONE] = 20
    """r_h, rank from which classes are too improbable to be useful (authors' code: 20)."""
    bank_size: Annotated[int, AT_LEAST_ONE] = 1000
    """Negatives kept for each class, a tenth of them new at each step (our default; authors' code: 30,000,
    background 50,000). A checkpoint grows by 1 MB per class."""
    projection: Annotated[int, AT_LEAST_ONE] = 256
    """Channels of the compared features (authors' code: 256)."""
    ema_decay: Annotated[float, FRACTION] = 0.99
    """Decay a of the teacher after the warm-up min(1 - 1/(i + 1), a), which starts after the burn-in (authors'
    code: 0.99)."""
    burn_in: Annotated[float, FRACTION] = 0.0125
    """Share of the run that trains on labels only. At its end student and teacher are equal (authors' code: 1 of 80
    epochs)."""


class U2PL(SingleTeacherMethod):
    """Student and teacher with memories of unreliable pixels; see the module's docstring.

    Differences from the authors' code, some of which correct it, are listed in docs/methods/u2pl.md.
    """

    Options = U2PLOptions
    summary = "unreliable pixels show which classes they are not"
    papers: ClassVar = {"Wang et al. 2022": "https://arxiv.org/abs/2203.03884"}

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: U2PLOptions) -> None:
        super().__init__(build, classes, options)
        if not isinstance(getattr(self.student, "head", None), nn.Conv2d):
            raise ValueError("the network has no convolution named head, whose input u2pl compares")
        head: Any = self.student.head
        width = head.weight.shape[1]
        self.projector = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, options.projection, 1))
        self.teacher_projector = make_teacher(self.projector)
        self.bank = MemoryBank(classes, options.bank_size, options.projection)
        self.pending: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step."""
        options, ramp, count = self.options, self.ramp(progress), len(batch.labeled_images)
        if ramp == 0:
            return self.supervised_step(batch)
        teacher, unlabeled = self.teacher.eval(), as_float(batch.unlabeled_images)
        targets, _ = pseudo_label(self.teacher_logits(teacher, unlabeled))
        region, partner = half_box_region(batch.unlabeled_valid), to_device(partners(len(unlabeled)), unlabeled)
        mixed, targets, valid = (
            paste(region, tensor[partner], tensor) for tensor in (unlabeled, targets, batch.unlabeled_valid)
        )
        images = torch.cat([as_float(batch.labeled_images), mixed])
        with watch_head(teacher) as of_teacher:
            teacher_logits = self.teacher_logits(teacher, images)
        features = encode(self.student, images)
        with watch_head(self.student) as of_student:
            logits = decode(self.student, features, images.shape[-2:])

        drop = options.drop_percent * (1 - progress.step / progress.total_steps)
        weights, kept = reliable_weights(entropy(teacher_logits[count:]), valid, drop)
        unsupervised = (weights * per_pixel_cross_entropy(logits[count:], targets)).sum()
        supervised = self.supervised_loss(logits[:count], batch.masks, self.class_weights)
        contrast = supervised.new_zeros(())
        if options.contrast_weight > 0:
            labels = torch.cat([batch.masks, targets.masked_fill(~valid, IGNORE)])
            cells = to_nearest_cells(labels, features, of_student[0].shape[-2:], IGNORE)
            contrast = self.contrast(of_student[0], of_teacher[0], of_teacher[1], cells, count, drop)
        loss = supervised + ramp * (options.unsupervised_weight * unsupervised + options.contrast_weight * contrast)
        return StepOutput.from_terms(loss, kept, supervised=supervised, unsupervised=unsupervised, consistency=contrast)

    def contrast(
        self, student: Tensor, teacher: Tensor, teacher_logits: Tensor, labels: Tensor, labeled: int, drop: float
    ) -> Tensor:
        """Return ``L_c``, and keep the negatives of this step for ``after_step``.

        Args:
            student: Input of the student's head, float ``(N, W, h, w)``.
            teacher: Input of the teacher's head.
            teacher_logits: Output of the teacher's head, ``(N, C, h, w)``.
            labels: int64 ``(N, h, w)``, labels and pseudo-labels; 255 is ignored.
            labeled: The number of labeled images, which come first.
            drop: alpha, in percent.
        """
        options, classes = self.options, torch.arange(self.classes, device=labels.device)
        with torch.no_grad():
            vectors = as_cells(self.teacher_projector(teacher.float()))
            known, is_labeled = labels != IGNORE, torch.zeros_like(labels, dtype=torch.bool)
            is_labeled[:labeled] = True
            uncertainty, counted = entropy(teacher_logits), known & ~is_labeled
            reliable = known & (is_labeled | (uncertainty <= percentile(uncertainty, counted, drop)))
            unreliable = known & (is_labeled | (uncertainty >= percentile(uncertainty, counted, 100 - drop)))

            own = labels.masked_fill(~reliable, self.classes).flatten()
            positives = F.normalize(class_means(vectors, own, self.classes), dim=1)
            p = as_cells(teacher_logits).softmax(dim=1)
            likely = F.pad(p, (0, 1)).gather(1, own[:, None])[:, 0] > options.anchor_threshold
            priority = to_device(uniform(len(labels), labels[0].numel()), p).flatten()
            is_anchor = (own == classes[:, None]) & likely
            index, present = repeat_members(*sample_members(is_anchor, priority, options.anchors))
            negative = negative_classes(p, labels.flatten(), is_labeled.flatten(), options.low_rank, options.high_rank)
            new, allowed = sample_members(
                (negative & unreliable.flatten()[:, None]).mT, priority, max(1, options.bank_size // 10)
            )
            self.pending.append((concatenate(vectors[new].transpose(0, 1)), concatenate(allowed.T)))

        anchors = F.normalize(as_cells(self.projector(student)), dim=1)[index]
        similarity, is_negative = self.bank.similarity(anchors, options.negatives)
        to_positive = (anchors * positives[:, None]).sum(dim=2)
        return info_nce(to_positive, similarity, is_negative, present, options.contrast_temperature)

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Let the teacher follow the student, and add the negatives of this step to the memories."""
        updates = progress.step - self.burn_in_steps(progress)
        decay = 0.0 if updates < 0 else ema_decay(updates, self.options.ema_decay)  # equal during the burn-in
        ema_update(self.teacher, self.student, decay, "ema")
        ema_update(self.teacher_projector, self.projector, decay, "ema")
        for vectors, allowed in self.pending:
            self.bank.push(vectors.transpose(0, 1), allowed.T)
        self.pending.clear()


def as_cells(maps: Tensor) -> Tensor:
    """Return maps ``(N, D, h, w)`` as float32 ``(N h w, D)``."""
    return maps.float().movedim(1, 3).flatten(0, 2)


@torch.no_grad()
def reliable_weights(uncertainty: Tensor, valid: Tensor, drop: float) -> tuple[Tensor, Tensor]:
    """Return the weights of pixels in ``L_u``, float ``(N, H, W)``, and the fraction of pixels kept.

    Both depend on the current shard.

    Args:
        uncertainty: Entropies, float ``(N, H, W)``.
        valid: bool ``(N, H, W)``, False on padding.
        drop: Percentage of pixels, those of highest entropy, that are left out.
    """
    kept = valid & (uncertainty <= percentile(uncertainty, valid, 100 - drop))
    fraction = global_sum(kept.sum()) / global_sum(valid.sum()).clamp(min=1)
    return kept / fraction.clamp(min=1e-6) / global_mean_denominator(kept.sum()), fraction
