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

    Returns:
        image uint8 ``(3, S, S)``, mask uint8 ``(S, S)`` (255 throughout where there is none), valid bool ``(S, S)``.
    """
    draw = random.Random(seed)
    height, width = _resized(image, draw, image_scale, scale_range)
    flip = draw.random() < 0.5
    top, left = (draw.randint(min(0, side - crop_size), max(0, side - crop_size)) for side in (height, width))

    # The square's part on the image, in pixels of the resized image, and where that part lies in the square.
    y0, y1 = max(top, 0), min(top + crop_size, height)
    x0, x1 = max(left, 0), min(left + crop_size, width)
    place = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)

    pixels = np.full((crop_size, crop_size, 3), PADDING, dtype=np.uint8)
    labels = np.full((crop_size, crop_size), IGNORE, dtype=np.uint8)
    valid = np.zeros((crop_size, crop_size), dtype=np.bool_)
    pixels[place] = _resized_part(image, height, width, (y0, y1, x0, x1))
    if mask is not None:
        rows, columns = _nearest(mask.shape[0], height, y0, y1), _nearest(mask.shape[1], width, x0, x1)
        labels[place] = mask.numpy()[rows[:, None], columns]
    valid[place] = True
    way = slice(None, None, -1 if flip else 1)
    image_view, mask_view, valid_view = (
        torch.from_numpy(array.copy()) for array in (pixels[:, way].transpose(2, 0, 1), labels[:, way], valid[:, way])
    )
    return image_view, mask_view, valid_view


def view_area(image: Tensor, seed: int, image_scale: float = 1.0, scale_range: tuple[float, float] = (0.5, 2.0)) -> int:
    """Return the pixels of the resized image of which ``weak_view`` cuts a part, by the same arguments."""
    height, width = _resized(image, random.Random(seed), image_scale, scale_range)
    return height * width


def _resized(
    image: Tensor, draw: random.Random, image_scale: float, scale_range: tuple[float, float]
) -> tuple[int, int]:
    """Draw the scale, the first of a view's draws, and return the height and width that it gives."""
    scale = image_scale * draw.uniform(*scale_range)
    height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
    return height, width


def _resized_part(image: Tensor, height: int, width: int, part: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Return rows y0:y1 and columns x0:x1 of the image resized to ``(height, width)``, computing that part only."""
    y0, y1, x0, x1 = part
    source = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    down, across = source.height / height, source.width / width
    # The filter reads beyond the box where it must, so this equals resizing the whole and then cutting.
    box = (x0 * across, y0 * down, min(x1 * across, source.width), min(y1 * down, source.height))
    return np.asarray(source.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box))


def _nearest(size: int, resized: int, start: int, stop: int) -> NDArray[np.int64]:
    """Return the source index of the resized pixels from ``start`` to ``stop``, by their centers."""
    return ((2 * np.arange(start, stop) + 1) * size) // (2 * resized)
