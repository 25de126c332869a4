"""The weak view: scale, crop and flip of image and mask, as a pure function of a seed."""

from __future__ import annotations

import random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from semiseg.data.dataset import IGNORE

PADDING = (124, 116, 104)
"""The mean color of ImageNet in 8 bits, which normalization maps to about zero."""

GRAY_PADDING = 115
"""The mean of ``PADDING``, for images of other than three channels."""


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
    """Scale an image randomly, crop a random square and flip it with probability 1/2.

    The image is resized with an antialiased bilinear filter, the mask with nearest neighbors. Padding has the mean
    color, mask 255, and is not valid.

    Args:
        image: uint8 ``(channels, H, W)``.
        mask: uint8 ``(H, W)``, or None.
        crop_size: Side ``S`` of the square in pixels.
        seed: Determines scale, position and flip.
        image_scale: Factor on the size of every image, before the random one.
        scale_range: Smallest and largest random factor, sampled uniformly.
        whole: Height and width of the full image if ``image`` was decoded at reduced size (``Decoded``).
        factor: The reduction: one pixel of ``image`` covers ``factor * factor`` pixels of the full image.

    Returns:
        Image uint8 ``(channels, S, S)``, mask uint8 ``(S, S)`` (all 255 without a mask), valid bool ``(S, S)``.
    """
    rng = random.Random(seed)
    whole = whole or (image.shape[-2], image.shape[-1])
    height, width = _resized(whole, rng, image_scale, scale_range)
    flip = rng.random() < 0.5
    top, left = (rng.randint(min(0, side - crop_size), max(0, side - crop_size)) for side in (height, width))

    # The part of the square inside the resized image, in its pixels, and the position of that part in the square.
    y0, y1 = max(top, 0), min(top + crop_size, height)
    x0, x1 = max(left, 0), min(left + crop_size, width)
    region = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)

    channels = image.shape[0]
    padding = PADDING if channels == 3 else (GRAY_PADDING,) * channels
    pixels = np.full((crop_size, crop_size, channels), padding, dtype=np.uint8)
    labels = np.full((crop_size, crop_size), IGNORE, dtype=np.uint8)
    valid = np.zeros((crop_size, crop_size), dtype=np.bool_)
    steps = whole[0] / height / factor, whole[1] / width / factor
    pixels[region] = _resized_part(image, steps, (y0, y1, x0, x1))
    if mask is not None:
        rows, cols = _nearest(mask.shape[0], height, y0, y1), _nearest(mask.shape[1], width, x0, x1)
        labels[region] = mask.numpy()[rows[:, None], cols]
    valid[region] = True
    flipped = slice(None, None, -1 if flip else 1)
    image_view, mask_view, valid_view = (
        torch.from_numpy(array.copy())
        for array in (pixels[:, flipped].transpose(2, 0, 1), labels[:, flipped], valid[:, flipped])
    )
    return image_view, mask_view, valid_view


def view_area(
    whole: tuple[int, int], seed: int, image_scale: float = 1.0, scale_range: tuple[float, float] = (0.5, 2.0)
) -> int:
    """Return the number of pixels of the resized image that ``weak_view`` crops, for the same arguments."""
    height, width = _resized(whole, random.Random(seed), image_scale, scale_range)
    return height * width


def _resized(
    whole: tuple[int, int], rng: random.Random, image_scale: float, scale_range: tuple[float, float]
) -> tuple[int, int]:
    """Sample the scale, the first random number of a view, and return the resized height and width."""
    scale = image_scale * rng.uniform(*scale_range)
    height, width = (max(1, round(side * scale)) for side in whole)
    return height, width


def _resized_part(image: Tensor, steps: tuple[float, float], part: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Return rows y0:y1 and columns x0:x1 of the resized image, computing only this part.

    ``steps`` are the rows and columns of ``image`` per row and column of the resized image.
    """
    if image.shape[0] != 3:
        return np.stack([_resized_band(band, steps, part) for band in image.numpy()], axis=-1)
    return _resized_band(image.permute(1, 2, 0).contiguous().numpy(), steps, part)


def _resized_band(
    pixels: NDArray[np.uint8], steps: tuple[float, float], part: tuple[int, int, int, int]
) -> NDArray[np.uint8]:
    """Return the part for pixels ``(H, W)`` or ``(H, W, 3)``."""
    (down, across), (y0, y1, x0, x1) = steps, part
    source = Image.fromarray(pixels)
    # The filter reads beyond the box where necessary, so this equals resizing the whole image and then cropping.
    box = (x0 * across, y0 * down, min(x1 * across, source.width), min(y1 * down, source.height))
    return np.asarray(source.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box))


def _nearest(size: int, resized: int, start: int, stop: int) -> NDArray[np.int64]:
    """Return the source indices of the resized pixels from ``start`` to ``stop``, by their centers."""
    return ((2 * np.arange(start, stop) + 1) * size) // (2 * resized)
