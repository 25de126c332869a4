"""Per-pixel losses that are defined on every batch, also on one without a single known pixel."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from semiseg.ops.global_batch import divisor
from semiseg.ops.pseudo_labels import PseudoLabels, ThresholdMode, confidence_weights, pseudo_label, soft_label

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
    known = divisor((labels != IGNORE).sum())
    if logits.is_cuda and torch.are_deterministic_algorithms_enabled():  # its own sum is in no fixed order there
        return F.cross_entropy(logits, labels, class_weights, ignore_index=IGNORE, reduction="none").sum() / known
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
    return (per_pixel_cross_entropy(logits, labels) * weights * valid).sum() / divisor(valid.sum())


def pseudo_label_loss(
    logits: Tensor, labels: PseudoLabels, threshold: float, mode: ThresholdMode = "pixel"
) -> tuple[Tensor, Tensor]:
    """Return ``1/|valid| sum_j 1[c_j >= tau] CE(p_j, yhat_j)`` and the fraction of trusted pixels.

    Args:
        logits: ``(N, C, H, W)``, the student's for ``labels.images``.
        labels: Pseudo-labels of N views.
        threshold: tau, in [0, 1].
        mode: What the threshold selects; see `confidence_weights`.
    """
    weights, trusted_fraction = confidence_weights(labels.confidence, labels.valid, threshold, mode)
    return weighted_cross_entropy(logits, labels.targets, weights, labels.valid), trusted_fraction


def per_pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ``CE(p_j, yhat_j)`` of each pixel, float ``(N, H, W)``; 0 where a label is 255.

    Args:
        logits: ``(N, C, H, W)``.
        labels: int64 ``(N, H, W)``, class index or 255; or float ``(N, C, H, W)``, a probability each.
    """
    if labels.is_floating_point():
        return F.cross_entropy(logits, labels, reduction="none")
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")


def weighted_squared_error(logits: Tensor, probabilities: Tensor, weights: Tensor, valid: Tensor) -> Tensor:
    """Return ``1/|valid| sum_j w_j sum_k (softmax(z)_jk - q_jk)^2``, a term between 0 and 2.

    The consistency loss of Mean Teacher (Tarvainen & Valpola 2017; French et al. 2020) and of PC2Seg (Zhong et al.
    2021). It is bounded where cross-entropy is not, so that a wrong label costs little, and its gradient vanishes where
    the student is sure. Summed over the classes, not averaged, so that its size does not depend on their number.

    Args:
        logits: ``(N, C, H, W)``.
        probabilities: q, float ``(N, C, H, W)``, of sum 1 over C.
        weights: float ``(N, H, W)`` in [0, 1]; pixels without weight count in the denominator.
        valid: bool ``(N, H, W)``, False on padding.
    """
    per_pixel = (logits.float().softmax(dim=1) - probabilities).square().sum(dim=1)
    return (per_pixel * weights * valid).sum() / divisor(valid.sum())


def filled_cross_entropy(
    logits: Tensor, teacher_logits: Tensor, fill: Tensor, temperature: float, threshold: float, mode: ThresholdMode
) -> Tensor:
    """Return ``1/|F| sum_{j in F} w_j CE(p_j, yhat_j)``: a teacher's labels on the pixels that nobody annotated.

    The labels and their weights are those of the unlabeled images (``soft_label``, ``confidence_weights``), taken over
    ``F`` alone: a threshold by images counts the trusted among the pixels to fill.

    Args:
        logits: the student's, ``(N, C, H, W)``, of labeled images.
        teacher_logits: ``(N, C, H, W)``, of the same views.
        fill: ``F``, bool ``(N, H, W)``.
        temperature: of the labels, in [0, 1]; 0: decisions.
        threshold: in [0, 1].
        mode: what the threshold gates.
    """
    _, confidence = pseudo_label(teacher_logits)
    weights, _ = confidence_weights(confidence, fill, threshold, mode)
    return weighted_cross_entropy(logits, soft_label(teacher_logits, temperature), weights, fill)


def info_nce(positives: Tensor, negatives: Tensor, allowed: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """Return ``1/|anchors| sum_i -log e^(s_i+ / tau) / (e^(s_i+ / tau) + sum_(n allowed) e^(s_in / tau))``.

    InfoNCE (van den Oord et al. 2018, equation 4). An anchor without an allowed negative costs nothing, with a gradient
    of 0, and counts in the denominator.

    Args:
        positives: similarity of each anchor and its positive, float ``(..., M)``.
        negatives: similarity of each anchor and each negative, float ``(..., M, N)``.
        allowed: bool, of that shape: which negatives an anchor is told from.
        anchors: bool ``(..., M)``, which anchors count.
        temperature: tau, positive.
    """
    told_from = (negatives / temperature).masked_fill(~allowed, -torch.inf)
    logits = torch.cat([positives[..., None] / temperature, told_from], dim=-1)
    per_anchor = logits.logsumexp(dim=-1) - logits[..., 0]
    return (per_anchor * anchors).sum() / divisor(anchors.sum())


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
