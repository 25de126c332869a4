"""The strong view of FixMatch, UniMatch and UniMatch V2: colors, and CutMix in half of the images."""

from semiseg.ops.mixing import occasional_box_region, partners
from semiseg.ops.photometric import photometric
from semiseg.ops.pseudo_labels import PseudoLabels


def strong_view(weak: PseudoLabels, color_strength: float) -> PseudoLabels:
    """Return strong views of N weak ones, mixed with their labels.

    Args:
        weak: Weak views of N images and their pseudo-labels.
        color_strength: See `photometric`.
    """
    region = occasional_box_region(weak.valid)
    strong = weak.with_images(photometric(weak.images, color_strength))
    return strong.select(partners(len(weak.images))).mix(region, strong)
