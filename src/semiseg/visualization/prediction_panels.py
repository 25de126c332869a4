"""Small pictures of what a network says of an image: its labels, which of them count, where it errs, how sure it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
from torch import Tensor

from semiseg.data.dataset import IGNORE, Color
from semiseg.visualization.mask_pictures import IGNORE_COLOR, Picture, palette_table

WRONG_COLOR: Color = (220, 40, 30)
FADED = 0.25  # of a color is left where a label is not trusted; the rest is white, since black is a class's color too


def trusted_labels(mask: Tensor, trusted: Tensor, palette: Sequence[Color]) -> Picture:
    """Return the mask in color, faded where it is not trusted.

    Args:
        mask: integers ``(H, W)`` in [0, 255].
        trusted: bool ``(H, W)``.
        palette: one RGB color per class.
    """
    colors = palette_table(palette)[_array(mask, np.uint8)]
    faded = (colors * FADED + 255 * (1 - FADED)).round().astype(np.uint8)
    return PIL.Image.fromarray(np.where(_array(trusted, np.bool_)[..., None], colors, faded))


def mistakes(image: Tensor, mask: Tensor, truth: Tensor) -> Picture:
    """Return the image in pale gray, red where the mask is wrong; where nobody knows the truth it is light gray.

    Args:
        image: uint8 ``(3, H, W)``.
        mask: integers ``(H, W)``.
        truth: integers ``(H, W)``, 255 where nothing is known.
    """
    gray = _array(image, np.float32).mean(axis=0)
    picture = np.repeat((150 + gray * 0.4).round().astype(np.uint8)[..., None], 3, axis=2)
    known = _array(truth, np.uint8) != IGNORE
    picture[known & (_array(mask, np.uint8) != _array(truth, np.uint8))] = WRONG_COLOR
    picture[~known] = IGNORE_COLOR
    return PIL.Image.fromarray(picture)


def certainty_picture(confidence: Tensor) -> Picture:
    """Return the confidence, float ``(H, W)`` in [0, 1], in gray: white is certain."""
    gray = (255 * _array(confidence, np.float32).clip(0, 1)).round().astype(np.uint8)
    return PIL.Image.fromarray(gray).convert("RGB")


def at_width(picture: Picture, width: int, smooth: bool = False) -> Picture:
    """Return the picture at a width in pixels, its height in proportion; ``smooth`` is for photographs.

    Between two classes lies none, so all else keeps the colors that it has (nearest neighbor).
    """
    size = (width, max(1, round(picture.height * width / picture.width)))
    return picture.resize(size, PIL.Image.Resampling.LANCZOS if smooth else PIL.Image.Resampling.NEAREST)


def photograph(image: Tensor) -> Picture:
    """Return the image, uint8 ``(3, H, W)``, as a picture."""
    return PIL.Image.fromarray(np.ascontiguousarray(_array(image, np.uint8).transpose(1, 2, 0)))


def _array(values: Tensor, kind: type[np.generic]) -> np.ndarray:
    return values.detach().cpu().numpy().astype(kind)
