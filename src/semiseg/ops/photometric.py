"""Color changes of the strong view, sampled per image: jitter, grayscale, blur and cutout.

Images of other than three channels change in brightness, contrast and noise only, because the other changes need RGB.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from semiseg.ops import colors as color_ops
from semiseg.ops.global_batch import generators, to_device, uniform
from semiseg.ops.mixing import box_region

MEAN_PIXEL = (0.485, 0.456, 0.406)
"""Mean color of ImageNet, in [0, 1], which the networks normalize to about zero."""


@dataclass(frozen=True)
class ColorSet:
    """Random changes of color of the strong view.

    Attributes:
        jitter_probability: Probability that brightness, contrast, saturation and hue change.
        factor: Brightness, contrast and saturation are scaled by factors from ``[1 - factor, 1 + factor]``.
        hue: The hue is rotated by up to this share of the circle.
        gray_probability: Probability that the image becomes gray.
        blur_probability: Probability that the image is blurred.
        blur_sigma: Smallest and largest sigma of the blur, in pixels.
    """

    jitter_probability: float
    factor: float
    hue: float
    gray_probability: float
    blur_probability: float
    blur_sigma: tuple[float, float] = (0.1, 2.0)


COLOR_SETS = {
    "blur": ColorSet(0.8, 0.25, 0.25, gray_probability=0, blur_probability=0.5, blur_sigma=(0.15, 1.15)),
    "gray": ColorSet(1.0, 0.5, 0.25, gray_probability=0.2, blur_probability=0),
}
"""The color sets of Dual Teacher's release: of its CutMix shift (``blur``) and of its ClassMix shift (``gray``)."""


def color_set(strength: float) -> ColorSet:
    """Return the changes of ST++ and UniMatch, scaled by ``strength``; see `photometric`."""
    return ColorSet(0.8, strength, strength / 2, 0.2, 0.5, (0.1, max(0.1, 4 * strength)))


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def photometric(images: Tensor, strength: float = 0.5) -> Tensor:
    """Apply color jitter, grayscale and blur to each image at random.

    With probability 0.8, brightness, contrast and saturation are scaled by factors from ``[1 - s, 1 + s]`` and the hue
    is rotated by up to ``s/2`` of the circle. With probability 0.2 the image becomes gray; with 0.5 it is blurred with
    sigma from U(0.1, max(0.1, 4 s)) pixels. Without three channels, noise of sigma from U(0, s/10) replaces saturation,
    hue, grayscale and blur. With ``s`` = 0.5 these are the changes of ST++ and UniMatch, made for crops
    of 321 pixels and more; small images need less. Images must not be normalized yet, since values are clamped to
    [0, 1]. Random numbers depend on the current shard (`global_batch`).

    Args:
        images: float ``(N, channels, H, W)`` in [0, 1].
        strength: ``s``, in [0, 1]; 0 returns the images unchanged, without grayscale and blur.

    Returns:
        A new tensor of the same shape and range.
    """
    return change_colors(images, color_set(strength) if strength else None)


def change_colors(images: Tensor, colors: ColorSet | None) -> Tensor:
    """Apply a color set to each image at random, or copy the images if it is None; otherwise like `photometric`."""
    if colors is None or not len(images):
        return images.clone()
    return torch.stack([_strong_colors(*pair, colors) for pair in zip(images, generators(len(images)), strict=True)])


def _strong_colors(image: Tensor, generator: torch.Generator, colors: ColorSet) -> Tensor:
    if len(image) != 3:
        return _strong_bands(image, generator, colors.factor)
    if _uniform(generator) < colors.jitter_probability:
        low, high = 1 - colors.factor, 1 + colors.factor
        image = color_ops.adjust_brightness(image, _uniform(generator, low, high))
        image = color_ops.adjust_contrast(image, _uniform(generator, low, high))
        image = color_ops.adjust_saturation(image, _uniform(generator, low, high))
        image = color_ops.adjust_hue(image, _uniform(generator, -colors.hue, colors.hue))
    if _uniform(generator) < colors.gray_probability:
        image = color_ops.grayscale(image).expand(3, -1, -1)
    if _uniform(generator) < colors.blur_probability:
        sigma = _uniform(generator, *colors.blur_sigma)
        kernel = 2 * min(int(2 * sigma + 0.5), (min(image.shape[-2:]) - 1) // 2) + 1
        image = color_ops.gaussian_blur(image, kernel, sigma)
    return image


def _strong_bands(image: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Return an image of any number of channels with another brightness, contrast and noise."""
    if _uniform(generator) < 0.8:
        image = (image * _uniform(generator, 1 - strength, 1 + strength)).clamp(0, 1)
        image = adjust_contrast(image, _uniform(generator, 1 - strength, 1 + strength))
    if _uniform(generator) < 0.5:
        image = add_noise(image, generator, _uniform(generator, 0, strength / 10))
    return image


def adjust_contrast(image: Tensor, factor: float) -> Tensor:
    """Return an image ``(channels, H, W)`` in [0, 1] with the distances from its mean scaled by a factor."""
    mean = image.mean()
    return (mean + (image - mean) * factor).clamp(0, 1)


def add_noise(image: Tensor, generator: torch.Generator, sigma: float) -> Tensor:
    """Return an image in [0, 1] with Gaussian noise, sampled on the CPU."""
    noise = to_device(torch.randn(image.shape, generator=generator).to(image.dtype), image)
    return (image + sigma * noise).clamp(0, 1)


def color_jitter(images: Tensor, strength: float = 0.5) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image, always and in random order (PseudoSeg).

    A number from ``[-s, s]`` is added to all values, contrast and saturation are scaled by factors from
    ``[1 - s, 1 + s]``, and the hue is rotated by up to ``s/2`` of the circle. Sums are clamped to [0, 1]: with the
    authors' ``s`` = 0.5, much of an image may become black or white. Random numbers depend on the current shard
    (`global_batch`). Without three channels, only brightness and contrast change, and noise of sigma from U(0, s/10)
    is added.

    Args:
        images: float ``(N, channels, H, W)`` in [0, 1].
        strength: ``s``, in [0, 1].

    Returns:
        A new tensor of the same shape and range.
    """
    if not len(images):
        return images
    return torch.stack([_jittered(*pair, strength) for pair in zip(images, generators(len(images)), strict=True)])


def _jittered(image: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    low, high = 1 - strength, 1 + strength
    if len(image) != 3:
        image = (image + _uniform(generator, -strength, strength)).clamp(0, 1)
        image = adjust_contrast(image, _uniform(generator, low, high))
        return add_noise(image, generator, _uniform(generator, 0, strength / 10))
    added = _uniform(generator, -strength, strength)
    contrast, saturation = _uniform(generator, low, high), _uniform(generator, low, high)
    hue = _uniform(generator, -strength / 2, strength / 2)
    changes = (
        lambda image: (image + added).clamp(0, 1),
        lambda image: color_ops.adjust_contrast(image, contrast),
        lambda image: color_ops.adjust_saturation(image, saturation),
        lambda image: color_ops.adjust_hue(image, hue),
    )
    for index in torch.randperm(len(changes), generator=generator).tolist():
        image = changes[index](image)
    return image


def cutout(images: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Fill a rectangle of each image with the mean color (CutOut, DeVries & Taylor 2017).

    Its center is any pixel of the image, so it may extend beyond the border. Random numbers depend on the current
    shard (`global_batch`).

    Args:
        images: float ``(N, 3, H, W)`` in [0, 1].
        share: Sides of the rectangle relative to those of the image, in [0, 1].

    Returns:
        A new tensor like ``images``, and bool ``(N, H, W)``, True inside the rectangle.
    """
    n, channels, height, width = images.shape
    lengths = [torch.full((n,), round(share * side)) for side in (height, width)]
    first = [(uniform(n) * side).long() - length // 2 for side, length in zip((height, width), lengths, strict=True)]
    cut = box_region(images[:, 0], *first, *lengths)
    mean = MEAN_PIXEL if channels == 3 else (sum(MEAN_PIXEL) / 3,) * channels
    return torch.where(cut[:, None], to_device(torch.tensor(mean), images).view(-1, 1, 1), images), cut
