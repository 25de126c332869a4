"""Image tags: what is known of a whole image (a class is there, is not there), said about pixels and crops of it.

A tag is 1 where the class is present in the image, 0 where it is absent and -1 where nobody knows. The two kinds of
knowledge are not alike. *Absent* holds for every pixel, and so for every crop. *Present* says that the class is
somewhere in the image; of a crop it says the less, the less of the image the crop shows. Unknown says nothing.
"""

import math

import torch
from torch import Tensor

from semiseg.ops.global_batch import divisor

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
SHARPNESS = 4.0
"""Exponent of the generalized mean that turns a class's pixels into its score for the image: 1 is the mean, under which
a small object counts for nothing; infinity the maximum, by which one pixel decides and only one learns."""


@torch.no_grad()
def mask_absent(logits: Tensor, tags: Tensor) -> Tensor:
    """Take the classes known to be absent from an image out of a teacher's probabilities.

    Their logits become the lowest number there is: softmax gives them 0 and the other classes share what they had.
    Any known absence does so, in an incomplete list of tags as in a complete one: what is known does not depend on
    what else is.

    Args:
        logits: ``(N, C, H, W)``.
        tags: int8 ``(N, C)``, see above; ``(0, 0)`` where the data has none.

    Returns:
        The logits themselves where there are no tags, else ``(N, C, H, W)``.
    """
    if not len(tags):
        return logits
    return logits.masked_fill((tags == ABSENT)[:, :, None, None], torch.finfo(logits.dtype).min)


def tag_loss(logits: Tensor, tags: Tensor, shown: Tensor, area: Tensor) -> Tensor:
    """Return what the tags of the images say of their pixels: ``L_absent + L_present``.

    Let ``p = softmax(logits)``, ``A_i`` the classes known to be absent from image i, ``V_i`` the pixels shown of it and
    ``s_i = |V_i| / area_i`` the share of it that they are::

        L_absent  = mean over images with A_i, over j in V_i, of   -log sum_{c not in A_i} p_jc
        L_present = mean over pairs (i, c), c present in i, of     -log(1 - s_i + s_i P_ic)
        P_ic      = (1/|V_i| sum_{j in V_i} p_jc^r)^(1/r)          r = SHARPNESS

    Absence is stated at every pixel. ``P_ic`` is the score that the class is among the pixels shown. Presence is a
    mixture: with probability ``s_i`` the tag speaks of the part shown, and then ``P_ic`` has to explain it; otherwise
    it speaks of the rest, and asks nothing. A whole image (s = 1) gives ``-log P``; a crop of a fifth can cost at most
    0.22, however sure it is that the class is not in it. Unknown classes are in no term: their gradient is what the
    softmax couples to known ones, and 0 where no class of the image is known.

    Args:
        logits: ``(N, C, H, W)``.
        tags: int8 ``(N, C)``, 1 present, 0 absent, -1 unknown; ``(0, 0)`` where the data has none.
        shown: bool ``(N, H, W)``, the pixels that show the image: no padding, nothing pasted from another.
        area: ``(N,)``, pixels that the whole image has at this scale.

    Returns:
        A scalar; 0, with a gradient of 0, where nothing is known or shown.
    """
    if not len(tags):
        return logits.new_zeros(())
    log_p = logits.float().log_softmax(dim=1)
    pixels = shown.flatten(1).sum(dim=1)
    seen = (pixels > 0)[:, None]
    absent, present = (tags == ABSENT) & seen, (tags == PRESENT) & seen
    return _absent(log_p, absent, shown, pixels) + _present(log_p, present, shown, pixels, area)


def _absent(log_p: Tensor, absent: Tensor, shown: Tensor, pixels: Tensor) -> Tensor:
    told = absent.any(dim=1) & ~absent.all(dim=1)
    allowed = log_p.masked_fill((absent & told[:, None])[:, :, None, None], -math.inf).logsumexp(dim=1)
    per_image = -torch.where(shown, allowed, 0.0).sum(dim=(1, 2)) / pixels.clamp(min=1)
    return torch.where(told, per_image, 0.0).sum() / divisor(told.sum())


def _present(log_p: Tensor, present: Tensor, shown: Tensor, pixels: Tensor, area: Tensor) -> Tensor:
    powers = (SHARPNESS * log_p).masked_fill(~shown[:, None], torch.finfo(log_p.dtype).min)
    log_score = (powers.flatten(2).logsumexp(dim=2) - pixels.clamp(min=1).log()[:, None]) / SHARPNESS
    share = (pixels / area.clamp(min=1)).clamp(0, 1)[:, None]
    # log(1 - s + s P), by its logarithms: P may be smaller than a float can hold.
    log_likelihood = torch.logaddexp((1 - share).log().expand_as(log_score), share.log() + log_score)
    return -torch.where(present, log_likelihood, 0.0).sum() / divisor(present.sum())
