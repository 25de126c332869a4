"""Gentle Teaching Assistant: Jin, Wang, Lin, "Semi-Supervised Semantic Segmentation via Gentle Teaching Assistant",
NeurIPS 2022 (GTA-Seg).

What is wrong in pseudo-labels does most harm in the classifier. So a third network, the assistant ``theta_a``, learns
from them; the student learns from labels alone, and receives the assistant's features but not its classifier::

    yhat = argmax f(w(x_u); theta_t);   x_m, yhat_m = CutMix of x_u, yhat
    c_m  = max of softmax f(x_m; theta_t);   K: the pixels but the 20 % of smallest c_m
    L_a  = sum_{j in K} omega_j CE(f(x_m; theta_a)_j, yhat_m,j)
           omega_j = (1 + c_m,j) / sum_k (1 + c_m,k [k in K])                            gentle: sure pixels count more
    L_s  = CE(f(w(x_l); theta_s), y_l)
    theta_s <- a theta_s + (1 - a) theta_a   but for the classifier                      after the optimizer's step
    theta_t <- alpha theta_t + (1 - alpha) theta_s
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semiseg.methods.method import Batch, Method, Progress, StepOutput, as_float, check_range
from semiseg.ops.ema import ema_decay, ema_update
from semiseg.ops.global_batch import divisor, global_sum
from semiseg.ops.losses import per_pixel_cross_entropy
from semiseg.ops.mixing import half_box_region, partners, paste
from semiseg.ops.pseudo_labels import pseudo_label, soft_label

CLASSIFIER = "head."
"""How the names of a network's last layer begin, the one that the assistant keeps to itself."""


@dataclass(frozen=True)
class GentleTeachingAssistantOptions:
    """Options of the Gentle Teaching Assistant; each default with its source."""

    drop_percent: float = 20.0
    """Share of pixels, in percent, of least confidence that teach nothing (release: 20)."""
    label_temperature: float = 0.0
    """Pseudo-labels: 0, the decision (release); 1, probabilities; between, probabilities sharpened (ours)."""
    unsupervised_weight: float = 1.0
    """Factor of L_a (release: 1)."""
    representation_decay: float = 0.999
    """a, reached by the warm-up min(1 - 1/(i + 1), a), i counted from the end of the burn-in (release: 0.999)."""
    ema_decay: float = 0.999
    """alpha of the teacher, with the same warm-up (release: 0.999)."""
    share_classifier: bool = False
    """Let assistant and student share the classifier, as in the release by mistake; the paper separates them."""
    burn_in: float = 0.0125
    """Share of the run on labels only, at whose end all three are equal (release: 1 of 80 epochs)."""
    ramp_up: float = 0.0
    """Share of the run over which L_a rises linearly after the burn-in (ours; 0: as published)."""

    def __post_init__(self) -> None:
        check_range(self, 1, "label_temperature", "representation_decay", "ema_decay", "burn_in", "ramp_up")
        check_range(self, 100, "drop_percent")
        check_range(self, float("inf"), "unsupervised_weight")


class GentleTeachingAssistant(Method):
    """Teacher, assistant and student; see the module's docstring for the equations.

    Departures from the release: the classifiers are separate, as in the paper (there they share storage, so that
    pseudo-labels keep changing the student's); the assistant's learning rate decays like every other; one optimizer
    steps assistant and student together, before the features are handed over (there: between); the teacher is always
    in eval mode; padding teaches nothing.
    """

    Options = GentleTeachingAssistantOptions

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: GentleTeachingAssistantOptions) -> None:
        super().__init__(build, classes, options)
        if not any(name.startswith(CLASSIFIER) for name, _ in self.student.named_parameters()):
            raise ValueError("the network has no layer named head, the classifier that the assistant keeps")
        self.teacher = deepcopy(self.student).requires_grad_(False)
        self.assistant = deepcopy(self.student)
        if options.share_classifier:
            self.assistant.head = self.student.head

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the losses of student and assistant together; no parameter is in both."""
        o, ramp = self.options, self.ramp(progress)
        if ramp == 0:
            return self.supervised_step(batch)
        x_l, x_w, valid = as_float(batch.labeled_images), as_float(batch.unlabeled_images), batch.unlabeled_valid
        q = soft_label(self.ask(self.teacher.eval(), x_w), o.label_temperature)
        region, partner = half_box_region(valid), partners(len(x_w))
        x_m, q_m, valid_m = (paste(region, t[partner], t) for t in (x_w, q, valid))
        _, c_m = pseudo_label(self.ask(self.teacher.eval(), x_m))
        omega, trusted_fraction = self.gentle_weights(c_m, valid_m)

        x = torch.cat([x_l, x_m])  # both see both: BatchNorm's statistics are of all images
        z_a, z_s = self.assistant(x)[len(x_l) :], self.student(x)[: len(x_l)]
        loss_a = (omega * per_pixel_cross_entropy(z_a, q_m)).sum()
        loss_s = self.supervised_loss(z_s, batch.masks, self.class_weights)
        scalars = {"loss/supervised": loss_s.detach(), "loss/unsupervised": loss_a.detach()}
        loss = loss_s + ramp * o.unsupervised_weight * loss_a
        return StepOutput(loss, scalars | {"trusted_fraction": trusted_fraction})

    def gentle_weights(self, confidence: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return omega, float ``(N, H, W)``, and the share of pixels kept.

        Args:
            confidence: float ``(N, H, W)`` in [0, 1].
            valid: bool ``(N, H, W)``.
        """
        kept = valid
        if valid.any():
            kept = valid & (confidence >= confidence[valid].quantile(self.options.drop_percent / 100))
        total = divisor(((1 + confidence * kept) * valid).sum())
        return (1 + confidence) * kept / total, global_sum(kept.sum()) / global_sum(valid.sum()).clamp(min=1)

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Hand the assistant's features over to the student, and let the teacher follow the student."""
        o = self.options
        since = progress.step - round(o.burn_in * progress.total_steps)
        if since < 0:  # nobody has pseudo-labels yet: all three are one
            ema_update(self.teacher, self.student, 0.0, "ema")
            ema_update(self.assistant, self.student, 0.0, "ema")
            return
        decay = ema_decay(since, o.representation_decay)
        for (name, ours), theirs in zip(self.student.named_parameters(), self.assistant.parameters(), strict=True):
            if not name.startswith(CLASSIFIER):
                ours.lerp_(theirs, 1 - decay)
        ema_update(self.teacher, self.student, ema_decay(since, o.ema_decay), "ema")

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """``student``, its teacher ``teacher1``, and the ``assistant``."""
        return {"student": self.student, "teacher1": self.teacher, "assistant": self.assistant}
