"""The interface of a method: a student, its frozen companions, and one training step written as in the paper."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from semiseg.batch import Batch
from semiseg.ops.losses import SupervisedLoss, cross_entropy, filled_cross_entropy
from semiseg.ops.pseudo_labels import ThresholdMode
from semiseg.ops.schedules import ramp_up
from semiseg.ops.tag_loss import tag_loss
from semiseg.option_ranges import FRACTION, NOT_NEGATIVE, out_of_range, range_error

AUXILIARY_WEIGHT = 0.4  # U2PL on Cityscapes, mmsegmentation


@dataclass
class Progress:
    """Position in a run. It is not frozen, because Fabric converts a step's inputs to lower precision in place.

    Attributes:
        step: Current step, from 0.
        total_steps: Steps of the run.
        steps_per_epoch: Steps of an epoch: of a pass over the unlabeled list, unless ``epoch_of`` is ``labeled``.
    """

    step: int
    total_steps: int
    steps_per_epoch: int
    unlabeled_factor: float = 1.0
    """Further weight in [0, 1] of all unsupervised terms (``--safeguard``)."""

    @property
    def epoch(self) -> int:
        """Completed epochs."""
        return self.step // self.steps_per_epoch


@dataclass
class StepOutput:
    """Result of a training step.

    Attributes:
        loss: The scalar to minimize.
        scalars: Detached scalars to log, under their names in metrics.jsonl.
    """

    loss: Tensor
    scalars: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_terms(cls, loss: Tensor, trusted_fraction: Tensor | None = None, **terms: Tensor) -> StepOutput:
        """Return ``loss`` with each of its terms as scalar ``loss/NAME``, and ``trusted_fraction`` (default: 1)."""
        scalars = {f"loss/{name}": term.detach() for name, term in terms.items()}
        fraction = loss.new_ones(()) if trusted_fraction is None else trusted_fraction
        return cls(loss, scalars | {"trusted_fraction": fraction})


@dataclass(frozen=True)
class Options:
    """Base class of a method's options. It checks that each value is in the range its type declares.

    Raises:
        ValueError: An option is out of its range.
    """

    def __post_init__(self) -> None:
        for name, value, rule in out_of_range(self):
            raise ValueError(str(range_error(name, value, rule)))


@dataclass(frozen=True)
class UnlabeledOptions(Options):
    """Options of every method that learns from unlabeled images."""

    unsupervised_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """lambda, weight of the unsupervised loss (authors' code: 1)."""
    burn_in: Annotated[float, FRACTION] = 0.0
    """Share of the run that trains on labels only (our extension; 0: as published)."""
    ramp_up: Annotated[float, FRACTION] = 0.0
    """Share of the run, after the burn-in, in which the unsupervised weights rise linearly (our extension; 0: as
    published)."""


@dataclass(frozen=True)
class PseudoLabelOptions(UnlabeledOptions):
    """Options of methods that trust pseudo-labels by their confidence."""

    threshold: Annotated[float, FRACTION] = 0.95
    """tau, smallest confidence of a trusted pseudo-label (paper)."""
    threshold_mode: ThresholdMode = "pixel"
    """How confidence weights the loss. pixel: 0 or 1 by threshold (paper); image, batch: fraction of trusted pixels of
    the image or batch; none: 1."""
    label_temperature: Annotated[float, FRACTION] = 0.0
    """Temperature of pseudo-labels. 0: the predicted class (paper); 1: class probabilities; between: sharpened
    probabilities (our extension)."""


class Method(nn.Module, ABC):
    """A training method. It owns the student and further networks, such as teachers.

    The trainer optimizes every parameter that requires a gradient. In each step it calls ``training_step``, then the
    optimizer, then ``after_step``. All state must be in the ``state_dict`` or follow from ``Progress``, so that
    a resumed run equals an uninterrupted one.

    Attributes:
        student: The network to train.
        supervised_loss: Loss of labeled images, called with logits, masks and ``class_weights``; set by the trainer.
        class_weights: float ``(C,)``, weight of each class in that loss (1, or balanced). Pseudo-labels are not
            weighted, since the teacher is least reliable on rare classes.
        teacher_dtype: Precision of the teachers' forward passes; set by the trainer. None: the precision of the step.
    """

    Options: ClassVar[type]
    summary: ClassVar[str] = ""
    """The method in one line, without a closing period."""
    papers: ClassVar[dict[str, str]] = {}
    """Authors and year of each paper, with its URL."""
    uses_unlabeled: ClassVar[bool] = True
    default_network: ClassVar[str] = "student"

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: Any) -> None:
        """Build the student.

        Args:
            build: Function that returns a new network, with logits ``(N, classes, H, W)``, at every call.
            classes: Number of classes.
            options: An instance of ``Options``.
        """
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

        Random numbers and means over pixels come from `semiseg.ops.global_batch`, so that training does not depend on
        the number of processes. The trainer also seeds torch's default generators at each step, differently in each
        process.
        """

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return ``training_step``'s result, with the loss of auxiliary heads; DDP wraps ``forward``."""
        output = self.training_step(batch, progress)
        for network in self.children():
            head = getattr(network, "aux_head", None)
            if head is not None and any(parameter.requires_grad for parameter in head.parameters()):
                any_network: Any = network
                logits = any_network.auxiliary_logits(as_float(batch.labeled_images))
                loss = self.supervised_loss(logits, batch.masks, self.class_weights)
                output.loss = output.loss + AUXILIARY_WEIGHT * loss
                output.scalars["loss/auxiliary_head"] = loss.detach()
        return output

    def after_step(self, progress: Progress) -> None:
        """Update teachers and other networks after the optimizer's step, which is ``progress.step``."""
        return

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """Networks that can be evaluated, by name."""
        return {"student": self.student}

    def labeler(self, progress: Progress) -> str | None:
        """Return the name of the predictor that labels unlabeled images at this step, or None if the method uses none.

        By default it is the first teacher, or the default network of a method without teachers. Its predictions are
        shown in the sample pictures.
        """
        if not self.uses_unlabeled:
            return None
        return next((name for name in self.predictors if name.startswith("teacher")), self.default_network)

    def ramp(self, progress: Progress) -> float:
        """Return the weight in [0, 1] of all unsupervised terms: 0 in the burn-in, then rising linearly, then 1.

        The options ``burn_in`` and ``ramp_up`` are shares of the run. They help short runs and are not published.
        """
        length = round(self.options.ramp_up * progress.total_steps)
        return progress.unlabeled_factor * ramp_up(progress.step, self.burn_in_steps(progress), length)

    def burn_in_steps(self, progress: Progress) -> int:
        """Return the number of steps of the burn-in, which trains on labels only."""
        return round(self.options.burn_in * progress.total_steps)

    @torch.no_grad()
    def teacher_logits(self, teacher: nn.Module, images: Tensor) -> Tensor:
        """Return the logits ``(N, C, H, W)`` of a teacher, in its current mode and without gradients.

        The forward pass runs under autocast to ``teacher_dtype`` if that is set, else at the precision of the step. The
        weights stay float32: an average of decay 0.99 would not change in bfloat16, which has 8 bits of precision.
        """
        dtype = self.teacher_dtype
        with nullcontext() if dtype is None else torch.autocast(images.device.type, dtype=dtype):
            logits: Tensor = teacher(images)
        return logits

    def supervised_step(self, batch: Batch, weight: float = 1.0) -> StepOutput:
        """Return the loss of the labels, ``CE(f(w(x_l)), y_l)``, plus that of tags if the options have ``tag_weight``.

        This is the whole step in the burn-in and in supervised training.

        Args:
            batch: The labeled images, masks and tags.
            weight: Weight of the supervised loss in the method's other steps, so that it is the same in the burn-in.
        """
        logits = self.student(as_float(batch.labeled_images))
        loss = self.supervised_loss(logits, batch.masks, self.class_weights)
        scalars = {"loss/supervised": loss.detach()}
        if hasattr(self.options, "tag_weight"):
            loss_tags = tag_term(batch, logits)
            loss, scalars["loss/tags"] = loss + self.options.tag_weight * loss_tags, loss_tags.detach()
        return StepOutput(weight * loss, scalars)


def as_float(images: Tensor) -> Tensor:
    """Convert uint8 images to float32 in [0, 1], same shape."""
    return images.float().div_(255)


def fill_term(batch: Batch, logits: Tensor, label: Callable[[], Tensor], options: Any) -> Tensor:
    """Return the loss of a teacher's labels on unannotated pixels of labeled images (``filled_cross_entropy``).

    Args:
        batch: The batch, whose ``fill`` marks these pixels.
        logits: The student's logits for the labeled images, ``(B, C, S, S)``.
        label: Function that returns the teacher's logits for the same views; called only if there are pixels to fill.
        options: Options with ``fill_weight``, ``label_temperature``, ``threshold`` and ``threshold_mode``.
    """
    if not len(batch.fill) or options.fill_weight == 0:
        return logits.new_zeros(())
    temperature, threshold, mode = options.label_temperature, options.threshold, options.threshold_mode
    return filled_cross_entropy(logits, label(), batch.fill, temperature, threshold, mode)


def tag_term(batch: Batch, logits: Tensor, mixed_logits: Tensor | None = None, region: Tensor | None = None) -> Tensor:
    """Return the loss of image tags (``tag_loss``): of labeled images and, in mixed images, of unlabeled images.

    Args:
        batch: The batch, with its tags and the area of the image that each view was cropped from.
        logits: The student's logits for the labeled images, ``(B, C, S, S)``.
        mixed_logits: The student's logits for the mixed images, ``(B_u, C, S, S)``; None in a step without them.
        region: bool ``(B_u, S, S)``, True where mixed image i shows unlabeled image i and not its partner.
    """
    loss = tag_loss(logits, batch.labeled_tags, batch.labeled_valid, batch.labeled_area)
    if mixed_logits is None or region is None:
        return loss
    shown = region & batch.unlabeled_valid
    return loss + tag_loss(mixed_logits, batch.unlabeled_tags, shown, batch.unlabeled_area)


# Deprecated names of version 0.1.0, kept for users' own methods.


def check_range(options: Any, high: float, *names: str) -> None:
    """Raise ValueError if one of the named options is outside [0, ``high``]. Deprecated: subclass `Options`."""
    for name in names:
        value = getattr(options, name)
        if not 0 <= value <= high or value == float("inf"):
            rule = "0 or more" if high == float("inf") else f"in [0, {high:g}]"
            raise ValueError(f"{name.replace('_', '-')} is {value}: it must be {rule}")


Method.ask = Method.teacher_logits  # type: ignore[attr-defined]
