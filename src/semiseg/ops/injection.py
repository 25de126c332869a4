"""AugSeg's adaptive label injection: pieces of labeled images into those that a teacher is unsure of."""

import torch
import torch.nn.functional as F
from torch import Tensor

from semiseg.ops.global_batch import uniform
from semiseg.ops.losses import IGNORE
from semiseg.ops.mixing import cutmix_region, paste

Views = tuple[Tensor, Tensor, Tensor, Tensor]
"""What belongs to each pixel of N views: images ``(N, 3, H, W)``, pseudo-labels ``(N, H, W)`` or probabilities
``(N, C, H, W)``, confidences and validity ``(N, H, W)``."""


def inject_labels(views: Views, images: Tensor, masks: Tensor, valid: Tensor, rho: Tensor, classes: int) -> Views:
    """Return the views, those of which the teacher is unsure under a small box of a labeled image.

    Zhao et al. 2023, section 3.3. Labels enter with confidence 1, unknown pixels with confidence 0.

    Args:
        views: of the N unlabeled images.
        images: float ``(B, 3, H, W)``, labeled.
        masks: int64 ``(B, H, W)``, their labels.
        valid: bool ``(B, H, W)``, False on padding.
        rho: float ``(N,)`` in [0, 1], the teacher's certainty (`certainty`); with probability ``1 - rho`` a box is
            pasted.
        classes: their number.
    """
    known, labels = masks != IGNORE, masks
    if views[1].is_floating_point():  # probabilities: an unknown pixel has none
        labels = F.one_hot(masks.where(known, 0), classes).permute(0, 3, 1, 2).float() * known[:, None]
    region = cutmix_region(views[3], concentration=(8, 2))
    region &= (uniform(len(rho)).to(rho.device) >= rho)[:, None, None]
    donor = torch.arange(len(rho)) % len(images)  # both come in random order
    given = (images, labels, known.float(), valid)
    x, q, c, v = (paste(region, g[donor].to(t.dtype), t) for g, t in zip(given, views, strict=True))
    return x, q, c, v
