"""The loss of image tags, which state that a class is present in or absent from a whole image.

A tag is 1 for a present class, 0 for an absent and -1 for an unknown one. *Absent* applies to every pixel, and so to
every crop. *Present* means that the class is somewhere in the image. The smaller a crop, the less this says about it.
"""

import math

import torch
from torch import Tensor

from semiseg.ops.global_batch import global_mean_denominator

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
SHARPNESS = 4.0
"""Exponent of the generalized mean of a class's probability over pixels, which is its score for the image. With 1 (the
mean) a small object hardly counts. With infinity (the maximum) only a single pixel gets a gradient."""


@torch.no_grad()
def mask_absent(logits: Tensor, tags: Tensor) -> Tensor:
    """Remove the classes known to be absent from an image from a teacher's probabilities.

    Their logits become the lowest finite number, so their softmax is 0. This also works if other tags are unknown.

    Args:
        logits: ``(N, C, H, W)``.
        tags: int8 ``(N, C)``, 1 present, 0 absent, -1 unknown; ``(0, 0)`` for data without tags.

    Returns:
        Logits ``(N, C, H, W)``; ``logits`` itself without tags.
    """
    if not len(tags):
        return logits
    return logits.masked_fill((tags == ABSENT)[:, :, None, None], torch.finfo(logits.dtype).min)


def tag_loss(logits: Tensor, tags: Tensor, shown: Tensor, area: Tensor) -> Tensor:
    """Return the loss of image tags, ``L_absent + L_present``. It depends on the current shard (`global_batch`).

    Let ``p = softmax(logits)``, ``A_i`` the classes known to be absent from image i, ``V_i`` its visible pixels and
    ``s_i = |V_i| / area_i`` the visible share of the image::

        L_absent  = mean over images with A_i, over j in V_i, of   -log sum_{c not in A_i} p_jc
        L_present = mean over pairs (i, c), c present in i, of     -log(1 - s_i + s_i P_ic)
        P_ic      = (1/|V_i| sum_{j in V_i} p_jc^r)^(1/r)          r = SHARPNESS

    Absence applies to every pixel. ``P_ic`` is the score of the class among the visible pixels. Presence is a mixture:
    with probability ``s_i`` the tag refers to the visible part, which ``P_ic`` must then explain; otherwise it refers
    to the rest and has no effect. A whole image (s = 1) gives ``-log P``. A crop of a fifth of the image costs at most
    0.22, however certain the network is that the class is not in it. Unknown classes have no term: their gradient
    comes only from the softmax with known classes, and is 0 if no class of the image is known.

    Args:
        logits: ``(N, C, H, W)``.
        tags: int8 ``(N, C)``, 1 present, 0 absent, -1 unknown; ``(0, 0)`` for data without tags.
        shown: bool ``(N, H, W)``, True on pixels of the image itself, False on padding and pasted pixels.
        area: Number of pixels of the whole image at this scale, ``(N,)``.

    Returns:
        A scalar; 0, with a gradient of 0, if no tag is known or no pixel visible.
    """
    if not len(tags):
        return logits.new_zeros(())
    log_p = logits.float().log_softmax(dim=1)
    pixels = shown.flatten(1).sum(dim=1)
    visible = (pixels > 0)[:, None]
    absent, present = (tags == ABSENT) & visible, (tags == PRESENT) & visible
    return _absent(log_p, absent, shown, pixels) + _present(log_p, present, shown, pixels, area)


def _absent(log_p: Tensor, absent: Tensor, shown: Tensor, pixels: Tensor) -> Tensor:
    known = absent.any(dim=1) & ~absent.all(dim=1)
    allowed = log_p.masked_fill((absent & known[:, None])[:, :, None, None], -math.inf).logsumexp(dim=1)
    per_image = -torch.where(shown, allowed, 0.0).sum(dim=(1, 2)) / pixels.clamp(min=1)
    return torch.where(known, per_image, 0.0).sum() / global_mean_denominator(known.sum())


def _present(log_p: Tensor, present: Tensor, shown: Tensor, pixels: Tensor, area: Tensor) -> Tensor:
    powers = (SHARPNESS * log_p).masked_fill(~shown[:, None], torch.finfo(log_p.dtype).min)
    log_score = (powers.flatten(2).logsumexp(dim=2) - pixels.clamp(min=1).log()[:, None]) / SHARPNESS
    share = (pixels / area.clamp(min=1)).clamp(0, 1)[:, None]
    # log(1 - s + s P) from logarithms, since P may underflow.
    log_likelihood = torch.logaddexp((1 - share).log().expand_as(log_score), share.log() + log_score)
    return -torch.where(present, log_likelihood, 0.0).sum() / global_mean_denominator(present.sum())
