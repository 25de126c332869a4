"""From a teacher's logits to labels, confidences, and the weight each pixel gets in the loss."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from semiseg.ops.global_batch import global_sum

ThresholdMode = Literal["pixel", "image", "batch", "none"]


@contextmanager
def labeling() -> Iterator[None]:
    """Inside the block, a network that also learns in this step labels: no gradients, and no casts kept for later.

    Autocast keeps the casts of weights to lower precision until it ends. A cast made under ``torch.no_grad()`` knows
    no gradient; older versions of torch kept it nevertheless and used it again in the passes that are to learn, whose
    weights then got no gradient, without a word (pytorch#112583, fixed at the end of 2025). So nothing is kept inside
    the block. Of no concern to a teacher, which never learns. Also a decorator: ``@labeling()``.
    """
    kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_autocast_cache_enabled(kept)


@torch.no_grad()
def pseudo_label(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the teacher's decision ``yhat = argmax p`` and its confidence ``c = max p``, ``p = softmax(logits)``.

    Args:
        logits: ``(N, C, H, W)``.

    Returns:
        labels int64 ``(N, H, W)`` and confidence float ``(N, H, W)`` in [1/C, 1].
    """
    confidence, labels = logits.float().softmax(dim=1).max(dim=1)
    return labels, confidence


@torch.no_grad()
def soft_label(logits: Tensor, temperature: float) -> Tensor:
    """Return what a student is to learn from ``logits``: the decision, or how sure it is of each class.

    With temperature 0 that is ``argmax p``, as most methods have it; else ``softmax(logits / T)``, which is ``p`` with
    T = 1 and ``p`` sharpened, ``p_k^(1/T) / sum``, below (MixMatch, Berthelot et al. 2019, eq. 7; PseudoSeg: 0.5). A
    decision turns a pole seen with a probability of 0.4 into none; a probability leaves it what it was.

    Args:
        logits: ``(N, C, H, W)``.
        temperature: T, in [0, 1].

    Returns:
        int64 ``(N, H, W)`` where T is 0, else float ``(N, C, H, W)``, of sum 1 over C.
    """
    if temperature == 0:
        return logits.max(dim=1).indices  # what argmax gives, several times as fast on a CPU
    logits = logits.float()
    return ((logits - logits.amax(dim=1, keepdim=True)) / temperature).softmax(dim=1)  # however small T is


@torch.no_grad()
def certainty(logits: Tensor, valid: Tensor) -> Tensor:
    """Return how sure ``p = softmax(logits)`` is of each image: the mean of ``max p (1 - H(p) / log C)`` over it.

    AugSeg (Zhao et al. 2023, eq. 5), by which hard images receive labels; ``H`` is the entropy.

    Args:
        logits: ``(N, C, H, W)``. With one class there is nothing to be unsure of.
        valid: bool ``(N, H, W)``; padding does not count.

    Returns:
        float ``(N,)`` in [0, 1]; 0 for an image of padding alone.
    """
    log_p = logits.float().log_softmax(dim=1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(dim=1) / math.log(max(logits.shape[1], 2))
    sure = p.amax(dim=1) * (1 - entropy) * valid
    return (sure.sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)).clamp(0, 1)


@torch.no_grad()
def confidence_weights(
    confidence: Tensor, valid: Tensor, threshold: float, mode: ThresholdMode = "pixel"
) -> tuple[Tensor, Tensor]:
    """Return each pixel's weight in the unsupervised loss, and the share of trusted pixels.

    ========  =======================================================  =====================================
    mode      weight of pixel j of image i                             source
    ========  =======================================================  =====================================
    pixel     1 where ``c_ij >= threshold``, else 0                    FixMatch; Dual Teacher's specification
    image     share of image i's pixels with ``c >= threshold``        Dual Teacher's release, CutMix shifts
    batch     the same share over the whole batch                      ClassMix; DT's release, ClassMix shifts
    none      1                                                        CPS
    ========  =======================================================  =====================================

    Args:
        confidence: float ``(N, H, W)`` in [0, 1], already mixed with the labels it belongs to.
        valid: bool ``(N, H, W)``; padding is neither trusted nor counted.
        threshold: in [0, 1].
        mode: see above.

    Returns:
        weights float ``(N, H, W)`` in [0, 1], and a scalar: trusted pixels / valid pixels.
    """
    trusted = (confidence >= threshold) & valid
    trusted_fraction = global_sum(trusted.sum()) / global_sum(valid.sum()).clamp(min=1)
    if mode == "pixel":
        weights = trusted.float()
    elif mode == "image":
        per_image = trusted.sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)
        weights = per_image[:, None, None].expand_as(confidence)
    elif mode == "batch":
        weights = trusted_fraction.expand_as(confidence)
    elif mode == "none":
        weights = torch.ones_like(confidence)
    else:
        raise ValueError(f"unknown threshold mode {mode!r}: choose pixel, image, batch or none")
    return weights, trusted_fraction
