"""What a method is: a student, its frozen companions, and one training step written as in the paper."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from semiseg.batch import Batch
from semiseg.ops.losses import SupervisedLoss, cross_entropy, filled_cross_entropy
from semiseg.ops.schedules import ramp_up
from semiseg.ops.tag_loss import tag_loss


@dataclass
class Progress:
    """Where a run stands: ``step`` of ``total_steps`` (from 0), with ``steps_per_epoch`` steps a pass.

    Not frozen: it goes through Fabric's conversion of a step's inputs to lower precision, which refuses frozen ones.
    """

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> int:
        """Passes over the unlabeled list completed so far."""
        return self.step // self.steps_per_epoch


@dataclass
class StepOutput:
    """The loss to minimize, a scalar tensor, and detached scalars to log (named as in metrics.jsonl)."""

    loss: Tensor
    scalars: dict[str, Tensor] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """A training method: owns ``student`` and its companions, nothing else.

    The trainer optimizes every parameter that requires a gradient, calls ``training_step``, takes the optimizer's
    step, and calls ``after_step``. It also sets what holds for the labels of every method: ``supervised_loss``, called
    with logits, masks and ``class_weights``, and these weights, float ``(C,)``, by which the loss weighs the class of
    each pixel (1 each, or balanced); pseudo-labels are not weighted, since where a class is rare the teacher errs most.
    And ``teacher_dtype``, in which frozen companions compute when they are asked (`ask`).
    All that a method remembers is in its ``state_dict`` or follows from ``Progress``, so that a resumed run equals an
    uninterrupted one.
    """

    Options: ClassVar[type]
    uses_unlabeled: ClassVar[bool] = True
    default_network: ClassVar[str] = "student"

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: Any) -> None:
        """Build the student; ``build`` returns a new network, logits ``(N, classes, H, W)``, at every call."""
        super().__init__()
        self.student = build()
        self.class_weights: Tensor
        self.register_buffer("class_weights", torch.ones(classes))
        self.supervised_loss: SupervisedLoss = cross_entropy
        self.teacher_dtype: torch.dtype | None = None
        self.classes = classes
        self.options = options

    @abstractmethod
    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the loss of one batch.

        Draws for samples and means over pixels are those of `semiseg.ops.global_batch`, so that N processes learn what
        one learns; torch's default generators are set anew each step too, in each process to another state.
        """

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Run ``training_step`` (the name under which a distributed wrapper calls it)."""
        return self.training_step(batch, progress)

    def after_step(self, progress: Progress) -> None:
        """Update the companions, after the optimizer's step. ``progress.step`` is the step just taken."""
        return

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """The networks one may evaluate, by name."""
        return {"student": self.student}

    def labeler(self, progress: Progress) -> str | None:
        """The name in ``predictors`` of the network that labels unlabeled images at this step (a run draws it).

        None for a method without unlabeled images. By default that is the first of the teachers or, without any, the
        default network; a method whose teachers take turns says whose turn it is.
        """
        if not self.uses_unlabeled:
            return None
        return next((name for name in self.predictors if name.startswith("teacher")), self.default_network)

    def ramp(self, progress: Progress) -> float:
        """Weight in [0, 1] of all unlabeled terms: 0 in the burn-in on labels, then rising linearly, then 1.

        The options ``burn_in`` and ``ramp_up`` are shares of the run (ours, for short runs; published methods have
        neither).
        """
        start, length = (round(share * progress.total_steps) for share in (self.options.burn_in, self.options.ramp_up))
        return ramp_up(progress.step, start, length)

    @torch.no_grad()
    def ask(self, teacher: nn.Module, images: Tensor) -> Tensor:
        """Return a frozen companion's logits ``(N, C, H, W)`` of ``images``, in the mode that it is in.

        Under autocast to ``teacher_dtype`` where that is set, else at the precision of the step. The weights stay
        float32 either way: bfloat16 has 8 bits, and an average of decay 0.99 that is rounded to these stands still.
        """
        dtype = self.teacher_dtype
        with nullcontext() if dtype is None else torch.autocast(images.device.type, dtype=dtype):
            logits: Tensor = teacher(images)
        return logits

    def supervised_step(self, batch: Batch, weight: float = 1.0) -> StepOutput:
        """Return what labels say, ``CE(f(w(x_l)), y_l)`` and, where the method has an option for them, tags.

        That is all there is to a step of the burn-in, and to one of supervised training. ``weight`` is that of the
        labeled loss in the method's own steps, so that the burn-in's end changes nothing for it.
        """
        z_l = self.student(as_float(batch.labeled_images))
        loss = self.supervised_loss(z_l, batch.masks, self.class_weights)
        scalars = {"loss/supervised": loss.detach()}
        if hasattr(self.options, "tag_weight"):
            loss_tags = tag_term(batch, z_l)
            loss, scalars["loss/tags"] = loss + self.options.tag_weight * loss_tags, loss_tags.detach()
        return StepOutput(weight * loss, scalars)


def as_float(images: Tensor) -> Tensor:
    """Turn uint8 images into float32 in [0, 1], same shape."""
    return images.float().div_(255)


def check_range(options: Any, high: float, *names: str) -> None:
    """Raise ValueError where one of the named options is not within 0 and ``high``."""
    for name in names:
        value = getattr(options, name)
        if not 0 <= value <= high or value == float("inf"):
            rule = "0 or more" if high == float("inf") else f"in [0, {high:g}]"
            raise ValueError(f"{name.replace('_', '-')} is {value}: it must be {rule}")


def fill_term(batch: Batch, z_l: Tensor, label: Callable[[], Tensor], options: Any) -> Tensor:
    """Return the loss by which a teacher fills in what nobody annotated of labeled images (``filled_cross_entropy``).

    Args:
        batch: its ``fill`` says which pixels.
        z_l: the student's logits ``(B, C, S, S)`` of the labeled images.
        label: gives the teacher's for the same views; asked only where there is something to fill.
        options: with ``fill_weight``, ``label_temperature``, ``threshold`` and ``threshold_mode``.
    """
    o = options
    if not len(batch.fill) or o.fill_weight == 0:
        return z_l.new_zeros(())
    return filled_cross_entropy(z_l, label(), batch.fill, o.label_temperature, o.threshold, o.threshold_mode)


def tag_term(batch: Batch, z_l: Tensor, z_m: Tensor | None = None, region: Tensor | None = None) -> Tensor:
    """Return what the tags say (``tag_loss``) of labeled images and, by mixed ones, of unlabeled images.

    Args:
        batch: its tags, and how much of each image a view shows.
        z_l: the student's logits ``(B, C, S, S)`` of the labeled images.
        z_m: those of the mixed images ``(B_u, C, S, S)``; None in a step without any.
        region: bool ``(B_u, S, S)``, True where mixed image i shows unlabeled image i and not its partner.
    """
    loss = tag_loss(z_l, batch.labeled_tags, batch.labeled_valid, batch.labeled_area)
    if z_m is None or region is None:
        return loss
    return loss + tag_loss(z_m, batch.unlabeled_tags, region & batch.unlabeled_valid, batch.unlabeled_area)
