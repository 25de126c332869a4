"""Per-pixel losses that are defined on every batch, also on one without a single known pixel."""

import torch.nn.functional as F
from torch import Tensor

IGNORE = 255


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over the labeled pixels: ``1/|known| sum_j CE(p_j, y_j)``.

    Args:
        logits: ``(N, C, H, W)``.
        labels: int64 ``(N, H, W)``, class index or 255 where nothing is known.

    Returns:
        A scalar; 0, with a gradient of 0, where no pixel is known.
    """
    known = (labels != IGNORE).sum().clamp(min=1)
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum") / known


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, valid: Tensor) -> Tensor:
    """Return ``1/|valid| sum_j w_j CE(p_j, yhat_j)``: pixels without weight count in the denominator.

    This is the unsupervised term of Dual Teacher, ``1/B_u sum_i 1/(HW) sum_j CE(p_ij, yhat_ij)``, with the confidence
    as weight and padding left out. Dividing by all pixels, not by the trusted ones, makes the term grow as the teacher
    becomes sure (FixMatch, UniMatch: the same).

    Args:
        logits: ``(N, C, H, W)``.
        labels: int64 ``(N, H, W)``, class index or 255 (weight 0).
        weights: float ``(N, H, W)`` in [0, 1].
        valid: bool ``(N, H, W)``, False on padding.
    """
    per_pixel = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    return (per_pixel * weights * valid).sum() / valid.sum().clamp(min=1)
