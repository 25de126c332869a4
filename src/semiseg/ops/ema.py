"""The exponential moving average by which a teacher follows its student."""

from typing import Literal

import torch
from torch import nn

BufferMode = Literal["ema", "copy", "own"]


def ema_decay(updates: int, decay: float) -> float:
    """Return ``min(1 - 1/(i + 1), decay)`` for the ``i``-th update, from 0.

    The first update copies the student; until the bound is met the teacher is the plain mean of the students seen.
    (Tarvainen & Valpola 2017; ClassMix; Dual Teacher's release.)
    """
    return min(1 - 1 / (updates + 1), decay)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float, buffers: BufferMode = "ema") -> None:
    """Set ``theta_t <- decay * theta_t + (1 - decay) * theta_s`` in place.

    Args:
        teacher: the network that follows.
        student: a network of the same structure.
        decay: in [0, 1]; 0 copies the student bit for bit.
        buffers: what happens to BatchNorm's running statistics: averaged like the parameters ("ema": AugSeg, French et
            al. 2020), copied ("copy"), or left to the teacher's own forward passes ("own": Dual Teacher's release,
            where the teacher runs in train mode; in eval mode they would never move).
    """
    pairs = list(zip(teacher.parameters(), student.parameters(), strict=True))
    if buffers != "own":
        for ours, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
            if buffers == "ema" and ours.is_floating_point():
                pairs.append((ours, theirs))  # type: ignore[arg-type]
            else:
                ours.copy_(theirs)
    targets = [ours.data for ours, _ in pairs]
    sources = [theirs.data for _, theirs in pairs]
    if decay == 0:
        torch._foreach_copy_(targets, sources)
    else:
        torch._foreach_lerp_(targets, sources, 1 - decay)
