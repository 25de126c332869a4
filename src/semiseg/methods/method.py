"""What a method is: a student, its frozen companions, and one training step written as in the paper."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from semiseg.ops.losses import SupervisedLoss, cross_entropy


@dataclass
class Batch:
    """What one process sees in one step.

    Attributes:
        labeled_images: uint8 ``(B, 3, S, S)``, RGB, weakly augmented (scale, crop, flip).
        masks: int64 ``(B, S, S)``, class index or 255 where nothing is known (padding included).
        labeled_valid: bool ``(B, S, S)``, False on padding; where it is True, 255 means that nobody knows.
        unlabeled_images: uint8 ``(B_u, 3, S, S)``, RGB, weakly augmented; ``B_u`` is 0 for methods without them.
        unlabeled_valid: bool ``(B_u, S, S)``, False on padding. There are no masks here: nothing may look at them.
    """

    labeled_images: Tensor
    masks: Tensor
    labeled_valid: Tensor
    unlabeled_images: Tensor
    unlabeled_valid: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Return the batch on ``device``."""
        return Batch(**{name: tensor.to(device, non_blocking=non_blocking) for name, tensor in vars(self).items()})

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory (the data loader calls this for a GPU)."""
        return Batch(**{name: tensor.pin_memory() for name, tensor in vars(self).items()})


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
        self.classes = classes
        self.options = options

    @abstractmethod
    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the loss of one batch. Randomness comes from torch's default generators, set anew each step."""

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


def as_float(images: Tensor) -> Tensor:
    """Turn uint8 images into float32 in [0, 1], same shape."""
    return images.float().div_(255)


def check_range(options: Any, high: float, *names: str) -> None:
    """Raise ValueError where one of the named options is not within 0 and ``high``."""
    for name in names:
        value = getattr(options, name)
        if not 0 <= value <= high:
            rule = "0 or more" if high == float("inf") else f"in [0, {high:g}]"
            raise ValueError(f"{name.replace('_', '-')} is {value}: it must be {rule}")
