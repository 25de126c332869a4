"""The strong view that FixMatch, UniMatch and UniMatch V2 share: colors, and sometimes a box of another image."""

from torch import Tensor

from semiseg.ops.mixing import occasional_box_region, partners, paste
from semiseg.ops.photometric import photometric


def strong_view(
    images: Tensor, labels: Tensor, confidence: Tensor, valid: Tensor, color_strength: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return strong views of weak ones, with what belongs to each of their pixels.

    Args:
        images: float ``(N, 3, H, W)`` in [0, 1], weak views.
        labels: int64 ``(N, H, W)``, or float ``(N, C, H, W)``, a probability each.
        confidence: float ``(N, H, W)``.
        valid: bool ``(N, H, W)``, False on padding.
        color_strength: see `photometric`.

    Returns:
        The four of them, alike in shape and type, mixed by one region.
    """
    region, partner = occasional_box_region(valid), partners(len(images))
    strong = photometric(images, color_strength)
    x_m, q_m, c_m, valid_m = (paste(region, t[partner], t) for t in (strong, labels, confidence, valid))
    return x_m, q_m, c_m, valid_m
