"""The weak view: scale, crop and flip, on image and mask together, as a pure function of a seed."""

from __future__ import annotations

import random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from semiseg.data.dataset import IGNORE

PADDING = (124, 116, 104)
"""Mean color of ImageNet, in 8 bits: padding that a network's normalization maps to about zero."""


def weak_view(
    image: Tensor,
    mask: Tensor | None,
    crop_size: int,
    seed: int,
    image_scale: float = 1.0,
    scale_range: tuple[float, float] = (0.5, 2.0),
    whole: tuple[int, int] | None = None,
    factor: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale an image at random, cut a random square out of it and flip it with probability 1/2 (the field's weak view).

    The image is resized with an antialiased bilinear filter, the mask by its nearest pixel. What the square covers
    beyond the image is padding: the mean color, mask 255, not valid.

    Args:
        image: uint8 ``(3, H, W)``.
        mask: uint8 ``(H, W)``, or None.
        crop_size: side ``S`` of the square in pixels.
        seed: decides all of it.
        image_scale: factor on the size of every image, before the random one.
        scale_range: least and greatest random factor; uniform in between.
        whole: height and width of the whole image where ``image`` was decoded at a part of its size (``Decoded``).
        factor: how many of the whole image's pixels are one, across and down.

    Returns:
        image uint8 ``(3, S, S)``, mask uint8 ``(S, S)`` (255 throughout where there is none), valid bool ``(S, S)``.
    """
    draw = random.Random(seed)
    whole = whole or (image.shape[-2], image.shape[-1])
    height, width = _resized(whole, draw, image_scale, scale_range)
    flip = draw.random() < 0.5
    top, left = (draw.randint(min(0, side - crop_size), max(0, side - crop_size)) for side in (height, width))

    # The square's part on the image, in pixels of the resized image, and where that part lies in the square.
    y0, y1 = max(top, 0), min(top + crop_size, height)
    x0, x1 = max(left, 0), min(left + crop_size, width)
    place = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)

    pixels = np.full((crop_size, crop_size, 3), PADDING, dtype=np.uint8)
    labels = np.full((crop_size, crop_size), IGNORE, dtype=np.uint8)
    valid = np.zeros((crop_size, crop_size), dtype=np.bool_)
    steps = whole[0] / height / factor, whole[1] / width / factor
    pixels[place] = _resized_part(image, steps, (y0, y1, x0, x1))
    if mask is not None:
        rows, columns = _nearest(mask.shape[0], height, y0, y1), _nearest(mask.shape[1], width, x0, x1)
        labels[place] = mask.numpy()[rows[:, None], columns]
    valid[place] = True
    way = slice(None, None, -1 if flip else 1)
    image_view, mask_view, valid_view = (
        torch.from_numpy(array.copy()) for array in (pixels[:, way].transpose(2, 0, 1), labels[:, way], valid[:, way])
    )
    return image_view, mask_view, valid_view


def view_area(
    whole: tuple[int, int], seed: int, image_scale: float = 1.0, scale_range: tuple[float, float] = (0.5, 2.0)
) -> int:
    """Return the pixels of the resized image of which ``weak_view`` cuts a part, by the same arguments."""
    height, width = _resized(whole, random.Random(seed), image_scale, scale_range)
    return height * width


def _resized(
    whole: tuple[int, int], draw: random.Random, image_scale: float, scale_range: tuple[float, float]
) -> tuple[int, int]:
    """Draw the scale, the first of a view's draws, and return the height and width that it gives."""
    scale = image_scale * draw.uniform(*scale_range)
    height, width = (max(1, round(side * scale)) for side in whole)
    return height, width


def _resized_part(image: Tensor, steps: tuple[float, float], part: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Return rows y0:y1 and columns x0:x1 of the resized image, computing that part only.

    ``steps`` says how many rows and columns of ``image`` one of the resized image is.
    """
    (down, across), (y0, y1, x0, x1) = steps, part
    source = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    # The filter reads beyond the box where it must, so this equals resizing the whole and then cutting.
    box = (x0 * across, y0 * down, min(x1 * across, source.width), min(y1 * down, source.height))
    return np.asarray(source.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box))


def _nearest(size: int, resized: int, start: int, stop: int) -> NDArray[np.int64]:
    """Return the source index of the resized pixels from ``start`` to ``stop``, by their centers."""
    return ((2 * np.arange(start, stop) + 1) * size) // (2 * resized)
