"""Per-pixel losses, defined for every batch, even without a labeled pixel.

Means are normalized by pixel counts of the global batch (`global_mean_denominator`), so they depend on the current
shard.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from semiseg.ops.global_batch import global_mean_denominator
from semiseg.ops.pseudo_labels import PseudoLabels, ThresholdMode, confidence_weights, pseudo_label, soft_label

IGNORE = 255
SupervisedLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Loss of labeled images: maps logits, labels and class weights to a scalar, like ``cross_entropy``."""


def cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy over the labeled pixels: ``1/|known| sum_j omega_{y_j} CE(p_j, y_j)``.

    Args:
        logits: ``(N, C, H, W)``.
        labels: int64 ``(N, H, W)``, class index, or 255 for unknown pixels.
        class_weights: omega, float ``(C,)``, of mean 1 over the labeled pixels; None: 1.

    Returns:
        A scalar; 0, with a gradient of 0, if no pixel is labeled.
    """
    known = global_mean_denominator((labels != IGNORE).sum())
    if logits.is_cuda and torch.are_deterministic_algorithms_enabled():  # the built-in sum is not deterministic
        return F.cross_entropy(logits, labels, class_weights, ignore_index=IGNORE, reduction="none").sum() / known
    return F.cross_entropy(logits, labels, class_weights, ignore_index=IGNORE, reduction="sum") / known


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    *,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    min_kept_per_image: int | None = None,
) -> Tensor:
    """Return the mean cross-entropy over the hard labeled pixels (online hard example mining, as in CPS).

    A pixel is hard if the probability of its class is at most ``threshold``, or at most that of the ``min_kept``-th
    hardest pixel of the batch, if this is higher. If fewer pixels are labeled, all are kept. Each shard selects its own
    hard pixels, as in the authors' code of CPS.

    Args:
        logits: ``(N, C, H, W)``.
        labels: int64 ``(N, H, W)``, class index, or 255 for unknown pixels.
        class_weights: float ``(C,)``; None: 1.
        threshold: In [0, 1]; 1 keeps every pixel.
        min_kept: At least 1.
        min_kept_per_image: At least 1; None: ``min_kept``. Otherwise ``min_kept`` is N times this number.

    Returns:
        A scalar; 0, with a gradient of 0, if no pixel is labeled.
    """
    if min_kept_per_image is not None:
        min_kept = len(labels) * min_kept_per_image
    with torch.no_grad():
        known = labels != IGNORE
        true_class = labels.masked_fill(~known, 0)[:, None]
        probability = logits.float().softmax(1).gather(1, true_class)[:, 0].masked_fill_(~known, 2)  # sorts last
        if min_kept < probability.numel():
            # If fewer pixels are labeled, the limit is 2 and all are kept.
            limit = probability.flatten().kthvalue(min_kept).values.clamp(min=threshold)
            labels = labels.masked_fill(probability > limit, IGNORE)
    return cross_entropy(logits, labels, class_weights)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, valid: Tensor) -> Tensor:
    """Return ``1/|valid| sum_j w_j CE(p_j, yhat_j)``: pixels of weight 0 count in the denominator.

    This is the unsupervised term of Dual Teacher, ``1/B_u sum_i 1/(HW) sum_j CE(p_ij, yhat_ij)``, with the confidence
    as weight and without padding. The sum is divided by the number of all valid pixels, not only trusted ones. So the
    term grows as the teacher becomes more confident (as in FixMatch and UniMatch).

    Args:
        logits: ``(N, C, H, W)``.
        labels: int64 ``(N, H, W)``, class index or 255 (weight 0); or float ``(N, C, H, W)``, probabilities.
        weights: float ``(N, H, W)`` in [0, 1].
        valid: bool ``(N, H, W)``, False on padding.
    """
    return (per_pixel_cross_entropy(logits, labels) * weights * valid).sum() / global_mean_denominator(valid.sum())


def pseudo_label_loss(
    logits: Tensor, labels: PseudoLabels, threshold: float, mode: ThresholdMode = "pixel"
) -> tuple[Tensor, Tensor]:
    """Return ``1/|valid| sum_j 1[c_j >= tau] CE(p_j, yhat_j)`` and the fraction of trusted pixels.

    Args:
        logits: The student's logits for ``labels.images``, ``(N, C, H, W)``.
        labels: Pseudo-labels of N views.
        threshold: tau, in [0, 1].
        mode: See `confidence_weights`.
    """
    weights, trusted_fraction = confidence_weights(labels.confidence, labels.valid, threshold, mode)
    return weighted_cross_entropy(logits, labels.targets, weights, labels.valid), trusted_fraction


def per_pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ``CE(p_j, yhat_j)`` of each pixel, float ``(N, H, W)``; 0 where the label is 255.

    Args:
        logits: ``(N, C, H, W)``.
        labels: int64 ``(N, H, W)``, class index or 255; or float ``(N, C, H, W)``, probabilities.
    """
    if labels.is_floating_point():
        return F.cross_entropy(logits, labels, reduction="none")
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")


def weighted_squared_error(logits: Tensor, probabilities: Tensor, weights: Tensor, valid: Tensor) -> Tensor:
    """Return ``1/|valid| sum_j w_j sum_k (softmax(z)_jk - q_jk)^2``, bounded by 2.

    The consistency loss of Mean Teacher (Tarvainen & Valpola 2017; French et al. 2020) and of PC2Seg (Zhong et al.
    2021). Unlike cross-entropy it is bounded, so a wrong label costs little, and its gradient vanishes where the
    student is confident. As a sum over classes, its size is independent of the number of classes.

    Args:
        logits: ``(N, C, H, W)``.
        probabilities: q, float ``(N, C, H, W)``, which sum to 1 over C.
        weights: float ``(N, H, W)`` in [0, 1]; pixels of weight 0 count in the denominator.
        valid: bool ``(N, H, W)``, False on padding.
    """
    per_pixel = (logits.float().softmax(dim=1) - probabilities).square().sum(dim=1)
    return (per_pixel * weights * valid).sum() / global_mean_denominator(valid.sum())


def filled_cross_entropy(
    logits: Tensor, teacher_logits: Tensor, fill: Tensor, temperature: float, threshold: float, mode: ThresholdMode
) -> Tensor:
    """Return ``1/|F| sum_{j in F} w_j CE(p_j, yhat_j)``: a teacher's labels on unannotated pixels of labeled images.

    Labels and weights are computed as for unlabeled images (``soft_label``, ``confidence_weights``), but only
    pixels in ``F`` count for an image's fraction of trusted pixels.

    Args:
        logits: The student's logits for labeled images, ``(N, C, H, W)``.
        teacher_logits: The teacher's logits for the same views, ``(N, C, H, W)``.
        fill: ``F``, bool ``(N, H, W)``.
        temperature: Temperature of the labels, in [0, 1]. 0: the predicted class.
        threshold: In [0, 1].
        mode: See `confidence_weights`.
    """
    _, confidence = pseudo_label(teacher_logits)
    weights, _ = confidence_weights(confidence, fill, threshold, mode)
    return weighted_cross_entropy(logits, soft_label(teacher_logits, temperature), weights, fill)


def info_nce(positives: Tensor, negatives: Tensor, allowed: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """Return ``1/|anchors| sum_i -log e^(s_i+ / tau) / (e^(s_i+ / tau) + sum_(n allowed) e^(s_in / tau))``.

    InfoNCE (van den Oord et al. 2018, equation 4). An anchor without allowed negatives has loss and gradient 0, and
    counts in the denominator.

    Args:
        positives: Similarity of each anchor and its positive, float ``(..., M)``.
        negatives: Similarity of each anchor and each negative, float ``(..., M, N)``.
        allowed: bool ``(..., M, N)``, True for the negatives of each anchor.
        anchors: bool ``(..., M)``, True for the anchors that count.
        temperature: tau, positive.
    """
    scores = (negatives / temperature).masked_fill(~allowed, -torch.inf)
    logits = torch.cat([positives[..., None] / temperature, scores], dim=-1)
    per_anchor = logits.logsumexp(dim=-1) - logits[..., 0]
    return (per_anchor * anchors).sum() / global_mean_denominator(anchors.sum())


def balancing_weights(pixels: Tensor, power: float) -> Tensor:
    """Return class weights ``omega_c = f_c^-power / sum_k f_k^(1 - power)``, which are higher for rare classes.

    ``f_c`` is the class's fraction of the labeled pixels. The mean of omega over these pixels is 1, so the size of the
    loss does not change. Power 0 gives equal weights, 0.5 the inverse square root, 1 equal influence of all classes.

    Args:
        pixels: ``(C,)``, labeled pixels of each class. A class without pixels gets the largest weight of the others.
        power: In [0, 1].
    """
    present = pixels > 0
    shares = pixels.double() / pixels.sum().clamp(min=1)
    raw = torch.where(present, shares.clamp(min=1e-12) ** -power, 0.0)
    raw = torch.where(present, raw, raw.max().clamp(min=1e-12))
    return (raw / (shares * raw).sum().clamp(min=1e-12)).float()
