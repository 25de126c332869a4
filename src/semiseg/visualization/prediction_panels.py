"""Pictures of one prediction: trusted pseudo-labels, errors, confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
from torch import Tensor

from semiseg.data.dataset import IGNORE, Color
from semiseg.visualization.mask_pictures import IGNORE_COLOR, Picture, palette_table

WRONG_COLOR: Color = (220, 40, 30)
FADED = 0.25  # opacity of untrusted labels on white; black may be the color of a class


def trusted_labels(mask: Tensor, trusted: Tensor, palette: Sequence[Color]) -> Picture:
    """Return the mask in color, faded where it is not trusted.

    Args:
        mask: Integers ``(H, W)`` in [0, 255].
        trusted: Bool ``(H, W)``.
        palette: One RGB color per class.
    """
    colors = palette_table(palette)[_array(mask, np.uint8)]
    faded = (colors * FADED + 255 * (1 - FADED)).round().astype(np.uint8)
    return PIL.Image.fromarray(np.where(_array(trusted, np.bool_)[..., None], colors, faded))


def error_picture(image: Tensor, mask: Tensor, truth: Tensor) -> Picture:
    """Return the image in pale gray, with errors in red and pixels without a label in light gray.

    Args:
        image: uint8 ``(3, H, W)``.
        mask: Integers ``(H, W)``.
        truth: Integers ``(H, W)``; 255 means no label.
    """
    gray = _array(image, np.float32).mean(axis=0)
    picture = np.repeat((150 + gray * 0.4).round().astype(np.uint8)[..., None], 3, axis=2)
    known = _array(truth, np.uint8) != IGNORE
    picture[known & (_array(mask, np.uint8) != _array(truth, np.uint8))] = WRONG_COLOR
    picture[~known] = IGNORE_COLOR
    return PIL.Image.fromarray(picture)


def confidence_picture(confidence: Tensor) -> Picture:
    """Return the confidence, float ``(H, W)`` in [0, 1], in gray: white is 1."""
    gray = (255 * _array(confidence, np.float32).clip(0, 1)).round().astype(np.uint8)
    return PIL.Image.fromarray(gray).convert("RGB")


def _array(values: Tensor, dtype: type[np.generic]) -> np.ndarray:
    return values.detach().cpu().numpy().astype(dtype)
