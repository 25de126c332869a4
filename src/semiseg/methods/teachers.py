"""Base classes of methods whose teachers are exponential moving averages (EMA) of the student."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from torch import Tensor, nn

from semiseg.methods.method import Batch, Method, Progress, PseudoLabelOptions, fill_term, tag_term
from semiseg.ops.ema import BufferMode, ema_decay, ema_update
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
        o = self.options
        filled = fill_term(batch, logits, lambda: self.label(teacher, labeled, batch.labeled_tags), o)
        tags = tag_term(batch, logits, mixed_logits, region)
        return ExtraAnnotation(o.tag_weight * tags, o.fill_weight * filled, {"filled": filled, "tags": tags})


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
