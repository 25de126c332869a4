"""Per-pixel losses that are defined on every batch, also on one without a single known pixel."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255
SupervisedLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""What learns from labels: logits, labels and class weights, as ``cross_entropy`` takes them, to a scalar."""


def cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy over the labeled pixels: ``1/|known| sum_j omega_{y_j} CE(p_j, y_j)``.

    Args:
        logits: ``(N, C, H, W)``.
        labels: int64 ``(N, H, W)``, class index or 255 where nothing is known.
        class_weights: omega, float ``(C,)``, of mean 1 over the labeled pixels; absent: 1.

    Returns:
        A scalar; 0, with a gradient of 0, where no pixel is known.
    """
    known = (labels != IGNORE).sum().clamp(min=1)
    return F.cross_entropy(logits, labels, class_weights, ignore_index=IGNORE, reduction="sum") / known


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    *,
    threshold: float = 0.7,
    min_kept: int = 100_000,
) -> Tensor:
    """Return the mean cross-entropy over the hard labeled pixels (online hard example mining, as in CPS).

    Hard is a pixel whose class is given a probability of at most ``threshold``, or of at most that of the
    ``min_kept``-th hardest pixel of the batch, if this is more; where fewer pixels are labeled, all are kept. Each
    process chooses from its own part of the batch, as in the releases.

    Args:
        logits: ``(N, C, H, W)``.
        labels: int64 ``(N, H, W)``, class index or 255 where nothing is known.
        class_weights: float ``(C,)``; absent: 1.
        threshold: in [0, 1]; 1 keeps every pixel.
        min_kept: at least 1.

    Returns:
        A scalar; 0, with a gradient of 0, where no pixel is known.
    """
    with torch.no_grad():
        known = labels != IGNORE
        true_class = labels.masked_fill(~known, 0)[:, None]
        probability = logits.float().softmax(1).gather(1, true_class)[:, 0].masked_fill_(~known, 2)  # after all others
        if min_kept < probability.numel():
            # The limit is 2, or one of the unknown pixels, where too few are known: then all are kept.
            limit = probability.flatten().kthvalue(min_kept).values.clamp(min=threshold)
            labels = labels.masked_fill(probability > limit, IGNORE)
    return cross_entropy(logits, labels, class_weights)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, valid: Tensor) -> Tensor:
    """Return ``1/|valid| sum_j w_j CE(p_j, yhat_j)``: pixels without weight count in the denominator.

    This is the unsupervised term of Dual Teacher, ``1/B_u sum_i 1/(HW) sum_j CE(p_ij, yhat_ij)``, with the confidence
    as weight and padding left out. Dividing by all pixels, not by the trusted ones, makes the term grow as the teacher
    becomes sure (FixMatch, UniMatch: the same).

    Args:
        logits: ``(N, C, H, W)``.
        labels: int64 ``(N, H, W)``, class index or 255 (weight 0); or float ``(N, C, H, W)``, a probability each.
        weights: float ``(N, H, W)`` in [0, 1].
        valid: bool ``(N, H, W)``, False on padding.
    """
    if labels.is_floating_point():
        per_pixel = F.cross_entropy(logits, labels, reduction="none")
    else:
        per_pixel = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    return (per_pixel * weights * valid).sum() / valid.sum().clamp(min=1)


def balancing_weights(pixels: Tensor, power: float) -> Tensor:
    """Return class weights ``omega_c = f_c^-power / sum_k f_k^(1 - power)``: rare classes count more.

    ``f_c`` is the class's share of the labeled pixels; the mean of omega over those pixels is 1, so that the size of
    the loss stays what it was. Power 0 weights nothing, 0.5 by the inverse root, 1 makes all classes count alike.

    Args:
        pixels: ``(C,)``, labeled pixels of each class. A class without any gets the largest weight of the others.
        power: in [0, 1].
    """
    present = pixels > 0
    shares = pixels.double() / pixels.sum().clamp(min=1)
    raw = torch.where(present, shares.clamp(min=1e-12) ** -power, 0.0)
    raw = torch.where(present, raw, raw.max().clamp(min=1e-12))
    return (raw / (shares * raw).sum().clamp(min=1e-12)).float()
