"""Exponential moving average (EMA) of the student, which is the teacher."""

from typing import Literal

import torch
from torch import nn

BufferMode = Literal["ema", "copy", "own"]


def ema_decay(updates: int, decay: float) -> float:
    """Return ``min(1 - 1/(i + 1), decay)`` for update ``i``, from 0.

    The first update copies the student. Until the bound is reached, the teacher is the mean of all students so far
    (Tarvainen & Valpola 2017; the code of ClassMix and Dual Teacher).
    """
    return min(1 - 1 / (updates + 1), decay)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float, buffers: BufferMode = "ema") -> None:
    """Set ``theta_t <- decay * theta_t + (1 - decay) * theta_s`` in place.

    Args:
        teacher: The network to update.
        student: A network of the same structure.
        decay: In [0, 1]; 0 copies the student bit for bit.
        buffers: Update of BatchNorm's running statistics. ``"ema"`` averages them like the parameters (AugSeg, French
            et al. 2020), ``"copy"`` copies the student's, and ``"own"`` leaves them to the teacher's own forward passes
            (Dual Teacher's code, with the teacher in train mode; in eval mode they never change).
    """
    pairs = list(zip(teacher.parameters(), student.parameters(), strict=True))
    if buffers != "own":
        for own, other in zip(teacher.buffers(), student.buffers(), strict=True):
            if buffers == "ema" and own.is_floating_point():
                pairs.append((own, other))  # type: ignore[arg-type]
            else:
                own.copy_(other)
    targets = [own.data for own, _ in pairs]
    sources = [other.data for _, other in pairs]
    if decay == 0:
        torch._foreach_copy_(targets, sources)
    else:
        torch._foreach_lerp_(targets, sources, 1 - decay)
