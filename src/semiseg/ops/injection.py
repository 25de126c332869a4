"""AugSeg's adaptive label injection: paste pieces of labeled images into images that the teacher is unsure of."""

import torch
import torch.nn.functional as F
from torch import Tensor

from semiseg.ops.global_batch import to_device, uniform
from semiseg.ops.losses import IGNORE
from semiseg.ops.mixing import cutmix_region
from semiseg.ops.pseudo_labels import PseudoLabels

Views = tuple[Tensor, Tensor, Tensor, Tensor]
"""Images, targets, confidence and validity: `PseudoLabels` as a plain tuple (deprecated)."""


def inject_labels(
    views: PseudoLabels | Views, images: Tensor, masks: Tensor, valid: Tensor, rho: Tensor, classes: int
) -> PseudoLabels:
    """Paste a small box of a labeled image into each view with probability ``1 - rho``.

    Zhao et al. 2023, section 3.3. Labeled pixels have confidence 1, unknown pixels confidence 0.

    Args:
        views: N unlabeled images and their pseudo-labels.
        images: Labeled images, float ``(B, 3, H, W)``.
        masks: Their labels, int64 ``(B, H, W)``.
        valid: bool ``(B, H, W)``, False on padding.
        rho: The teacher's `certainty`, float ``(N,)`` in [0, 1].
        classes: Number of classes.
    """
    views = PseudoLabels(*views)
    known, targets = masks != IGNORE, masks
    if views.targets.is_floating_point():  # unknown pixels have no probabilities
        targets = F.one_hot(masks.where(known, 0), classes).permute(0, 3, 1, 2).float() * known[:, None]
    region = cutmix_region(views.valid, concentration=(8, 2))
    region &= (to_device(uniform(len(rho)), rho) >= rho)[:, None, None]
    donor = torch.arange(len(rho), device=rho.device) % len(images)  # both lists are in random order
    pieces = zip((images, targets, known.float(), valid), views, strict=True)
    labeled = PseudoLabels(*(piece[donor].to(view.dtype) for piece, view in pieces))
    return labeled.mix(region, views)
