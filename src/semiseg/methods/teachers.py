"""Base classes of methods whose teachers are exponential moving averages (EMA) of the student."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from semiseg.methods.method import Batch, Method, Progress, PseudoLabelOptions, as_float, fill_term, tag_term
from semiseg.ops.ema import BufferMode, ema_decay, ema_update
from semiseg.ops.pseudo_labels import PseudoLabels
from semiseg.ops.tag_loss import mask_absent
from semiseg.option_ranges import FRACTION, NOT_NEGATIVE


@dataclass(frozen=True)
class TeacherOptions(PseudoLabelOptions):
    """Options of methods whose teachers also label partially annotated images and images with tags."""

    fill_weight: Annotated[float, NOT_NEGATIVE] = 0.5
    """lambda_f, weight of the teacher's labels on unannotated pixels of labeled images (our default)."""
    tag_weight: Annotated[float, NOT_NEGATIVE] = 0.5
    """lambda_t, weight of the loss of image tags, if the data has them (our default)."""
    ema_decay: Annotated[float, FRACTION] = 0.99
    """alpha, decay of the moving average after the warm-up min(1 - 1/(i + 1), alpha) (authors' code)."""
    ema_buffers: BufferMode = "ema"
    """BatchNorm statistics of a teacher. ema: averaged like the weights (our default, as in AugSeg); copy: those of the
    student; own: from the teacher's own forward passes (authors' code)."""
    teacher_mode: Literal["eval", "train"] = "eval"
    """Mode of the teacher when it labels. eval: our default, as in AugSeg and UniMatch V2; train: with batch statistics
    and dropout (authors' code)."""
    color_strength: Annotated[float, FRACTION] = 0.5
    """Strength of color jitter in the strong view (UniMatch: 0.5)."""


class ExtraAnnotation(NamedTuple):
    """Losses for partial masks and image tags; 0 if the batch has none.

    Attributes:
        tags: Weighted loss of image tags, ``lambda_t L_tags``.
        filled: Weighted loss of the teacher's labels on unannotated pixels, ``lambda_f L_fill``.
        scalars: Both losses without their weights, by name.
    """

    tags: Tensor
    filled: Tensor
    scalars: dict[str, Tensor]


def make_teacher(student: nn.Module) -> nn.Module:
    """Return a frozen copy of the student."""
    return deepcopy(student).requires_grad_(False)


class TeacherMethod(Method):
    """A method whose teachers, networks like the student, follow it by an exponential moving average (EMA)."""

    teachers: Iterable[nn.Module]

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """The student and every teacher: ``student``, ``teacher1``, ``teacher2``, ..."""
        return {"student": self.student} | {f"teacher{i + 1}": teacher for i, teacher in enumerate(self.teachers)}

    def label(self, teacher: nn.Module, images: Tensor, tags: Tensor) -> Tensor:
        """Return a teacher's logits ``(N, C, H, W)`` for weak views, without classes known to be absent."""
        teacher.train(self.options.teacher_mode == "train")
        return mask_absent(self.teacher_logits(teacher, images), tags)

    def label_views(self, batch: Batch, teacher: nn.Module, labeled: Tensor | None = None) -> PseudoLabels:
        """Return the teacher's labels for the weak views of the unlabeled images, then of the labeled ones, if given.

        Args:
            batch: Supplies the unlabeled images, the valid pixels and the tags.
            teacher: The teacher, which runs once for all images.
            labeled: Labeled images to label too, float ``(B, 3, S, S)``.
        """
        images, valid, tags = as_float(batch.unlabeled_images), batch.unlabeled_valid, batch.unlabeled_tags
        if labeled is not None:
            images, valid = torch.cat([images, labeled]), torch.cat([valid, batch.labeled_valid])
            tags = torch.cat([tags, batch.labeled_tags])
        logits = self.label(teacher, images, tags)
        return PseudoLabels.from_logits(images, logits, valid, self.options.label_temperature)

    def extra_annotation(
        self, batch: Batch, teacher: nn.Module, labeled: Tensor, logits: Tensor, mixed_logits: Tensor, region: Tensor
    ) -> ExtraAnnotation:
        """Return the losses for partial masks and image tags.

        Args:
            batch: Supplies ``fill`` and tags.
            teacher: The teacher that labels the unannotated pixels.
            labeled: Labeled images, float ``(B, 3, S, S)``.
            logits: The student's logits for the labeled images, ``(B, C, S, S)``.
            mixed_logits: The student's logits for the mixed images, ``(B_u, C, S, S)``.
            region: bool ``(B_u, S, S)``, True where mixed image i shows unlabeled image i.
        """
        options = self.options
        filled = fill_term(batch, logits, lambda: self.label(teacher, labeled, batch.labeled_tags), options)
        tags = tag_term(batch, logits, mixed_logits, region)
        scalars = {"filled": filled, "tags": tags}
        return ExtraAnnotation(options.tag_weight * tags, options.fill_weight * filled, scalars)


class SingleTeacherMethod(TeacherMethod):
    """A method with one teacher, ``teacher``, which follows the student after every step."""

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: Any) -> None:
        super().__init__(build, classes, options)
        self.teacher = make_teacher(self.student)

    @property
    def teachers(self) -> tuple[nn.Module]:  # type: ignore[override]
        """The one teacher."""
        return (self.teacher,)

    def after_step(self, progress: Progress) -> None:
        """Update the teacher's weights, and its BatchNorm statistics as ``ema_buffers`` says (default: ema)."""
        buffers: Any = getattr(self.options, "ema_buffers", "ema")
        ema_update(self.teacher, self.student, ema_decay(progress.step, self.options.ema_decay), buffers)


class AlternatingTeachersMethod(TeacherMethod):
    """A method whose teachers take turns in shifts of ``shift_steps`` steps, which begin after the burn-in.

    Its options are those of `TeacherMethod`, ``teachers`` (how many) and ``shift_steps`` (0: an epoch).
    """

    teachers: nn.ModuleList

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: Any) -> None:
        super().__init__(build, classes, options)
        self.teachers = nn.ModuleList(make_teacher(self.student) for _ in range(options.teachers))

    def active_teacher(self, progress: Progress) -> nn.Module:
        """Return the teacher of this shift: the one that labels and follows the student. In the burn-in, the first."""
        return self.teachers[self.shift(progress) % len(self.teachers)]

    def labeler(self, progress: Progress) -> str:
        """Return the name of the active teacher."""
        return f"teacher{self.shift(progress) % len(self.teachers) + 1}"

    def shift(self, progress: Progress) -> int:
        """Return the number of the shift, from 0; in the burn-in, 0."""
        return max(0, progress.step - self.burn_in_steps(progress)) // self.shift_length(progress)

    def shift_length(self, progress: Progress) -> int:
        """Return the steps of a shift: an epoch, but at most an eighth of the run, so that every teacher is active."""
        return self.options.shift_steps or max(1, min(progress.steps_per_epoch, progress.total_steps // 8))

    def updates(self, progress: Progress, since_shift: bool) -> int:
        """Return how often the active teacher was updated before this step: in this shift, or in the whole run.

        The burn-in, in which every teacher follows the student after each step, counts as a shift of its own.
        """
        burn_in, length = self.burn_in_steps(progress), self.shift_length(progress)
        if progress.step < burn_in:
            return progress.step
        shift, updates = divmod(progress.step - burn_in, length)
        return updates if since_shift else updates + burn_in + shift // len(self.teachers) * length
