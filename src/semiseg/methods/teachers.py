"""EMA teachers: how they start, label and follow the student, and the options they share."""

from collections.abc import Callable
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
    """lambda_f, weight of the teacher's labels on unannotated pixels of labeled images (ours)."""
    tag_weight: Annotated[float, NOT_NEGATIVE] = 0.5
    """lambda_t, weight of the loss of image tags, if the data has them (ours)."""
    ema_decay: Annotated[float, FRACTION] = 0.99
    """alpha, reached by the warm-up min(1 - 1/(i + 1), alpha) (release)."""
    ema_buffers: BufferMode = "ema"
    """BatchNorm statistics of a teacher: ema (ours, as AugSeg), copy, own (release: from its own forward passes)."""
    teacher_mode: Literal["eval", "train"] = "eval"
    """Mode of a labeling teacher: eval (ours, as AugSeg, UniMatch V2) or train: batch statistics, dropout (release)."""
    color_strength: Annotated[float, FRACTION] = 0.5
    """Strength of color jitter in the strong view (UniMatch: 0.5)."""


class WeakAnnotation(NamedTuple):
    """Weighted losses of labels that are not full masks, each 0 if the batch has none.

    Attributes:
        tags: ``lambda_t L_tags``, from image tags.
        filled: ``lambda_f L_fill``, from the teacher's labels on unannotated pixels.
        scalars: Both losses without their weights, by name.
    """

    tags: Tensor
    filled: Tensor
    scalars: dict[str, Tensor]


def make_teacher(student: nn.Module) -> nn.Module:
    """Return a frozen copy of the student."""
    return deepcopy(student).requires_grad_(False)


class TeacherMethod(Method):
    """A method whose teachers follow the student by an exponential moving average (EMA)."""

    def label(self, teacher: nn.Module, images: Tensor, tags: Tensor) -> Tensor:
        """Return a teacher's logits ``(N, C, H, W)`` for weak views, classes known to be absent masked out."""
        teacher.train(self.options.teacher_mode == "train")
        return mask_absent(self.teacher_logits(teacher, images), tags)

    def weak_annotation(
        self, batch: Batch, teacher: nn.Module, labeled: Tensor, logits: Tensor, mixed_logits: Tensor, region: Tensor
    ) -> WeakAnnotation:
        """Return the losses of partially annotated masks and image tags; all are 0 for full masks without tags.

        Args:
            batch: Its ``fill`` and tags.
            teacher: Labels the unannotated pixels.
            labeled: float ``(B, 3, S, S)``, the labeled images.
            logits: The student's, ``(B, C, S, S)``, for the labeled images.
            mixed_logits: The student's, ``(B_u, C, S, S)``, for the mixed images.
            region: bool ``(B_u, S, S)``, True where mixed image i shows unlabeled image i.
        """
        o = self.options
        filled = fill_term(batch, logits, lambda: self.label(teacher, labeled, batch.labeled_tags), o)
        tags = tag_term(batch, logits, mixed_logits, region)
        return WeakAnnotation(o.tag_weight * tags, o.fill_weight * filled, {"filled": filled, "tags": tags})


class SingleTeacherMethod(TeacherMethod):
    """A student and one teacher, which follows it after every step."""

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: Any) -> None:
        super().__init__(build, classes, options)
        self.teacher = make_teacher(self.student)

    def after_step(self, progress: Progress) -> None:
        """Update the teacher, including its BatchNorm statistics unless ``ema_buffers`` says otherwise."""
        buffers: Any = getattr(self.options, "ema_buffers", "ema")
        ema_update(self.teacher, self.student, ema_decay(progress.step, self.options.ema_decay), buffers)

    @property
    def predictors(self) -> dict[str, nn.Module]:
        """Student and teacher: ``student``, ``teacher1``."""
        return {"student": self.student, "teacher1": self.teacher}
