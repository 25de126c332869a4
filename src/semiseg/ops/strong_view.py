"""The strong view of FixMatch, UniMatch and UniMatch V2: colors, and CutMix in half of the images."""

from semiseg.ops.mixing import fitting_box_region, occasional_box_region, partners
from semiseg.ops.photometric import photometric
from semiseg.ops.pseudo_labels import PseudoLabels


def strong_view(weak: PseudoLabels, color_strength: float, redraw_boxes: bool = False) -> PseudoLabels:
    """Return strong views of N weak ones, mixed with their labels.

    Args:
        weak: Weak views of N images and their pseudo-labels.
        color_strength: See `photometric`.
        redraw_boxes: Use `fitting_box_region`, else `occasional_box_region`.
    """
    region = (fitting_box_region if redraw_boxes else occasional_box_region)(weak.valid)
    strong = weak.with_images(photometric(weak.images, color_strength))
    return strong.select(partners(len(weak.images))).mix(region, strong)
