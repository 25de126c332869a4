"""Changes of color and sharpness of one RGB image, with the results of ``torchvision.transforms.v2.functional``.

They are written here because importing torchvision takes as long as importing PyTorch.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601
# For each channel and sixth of the color circle: value, low, falling or rising.
_LEVELS = torch.tensor([[0, 2, 1, 1, 3, 0], [3, 0, 0, 2, 1, 1], [1, 1, 3, 0, 0, 2]])


def grayscale(image: Tensor) -> Tensor:
    """Return the brightness of each pixel, float ``(1, H, W)``, of an image float ``(3, H, W)``."""
    red, green, blue = image
    return red.mul(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])[None]


def adjust_brightness(image: Tensor, factor: float) -> Tensor:
    """Return an image in [0, 1] times a factor, clamped."""
    return image.mul(factor).clamp_(0, 1)


def adjust_contrast(image: Tensor, factor: float) -> Tensor:
    """Return an image in [0, 1] with the distances from its mean brightness scaled by a factor, clamped."""
    return _blend(image, grayscale(image).mean(), factor)


def adjust_saturation(image: Tensor, factor: float) -> Tensor:
    """Return an image in [0, 1] with the distances from its gray version scaled by a factor, clamped."""
    return _blend(image, grayscale(image), factor)


def _blend(image: Tensor, other: Tensor, ratio: float) -> Tensor:
    return image.mul(ratio).add_(other, alpha=1 - ratio).clamp_(0, 1)


def adjust_hue(image: Tensor, shift: float) -> Tensor:
    """Return an image in [0, 1] with the hue rotated by ``shift`` of the circle, in [-0.5, 0.5].

    The conversion to hue, saturation and value and back follows torchvision's arithmetic, so that results are equal.
    """
    (red, green, _), (least, value) = image, torch.aminmax(image, dim=0)
    chroma = value - least
    gray = chroma == 0
    to_red, to_green, to_blue = (value - image) / torch.where(gray, 1.0, chroma)
    hue = torch.where(value == green, (to_red + 2) - to_blue, (to_green + 4) - to_red)
    hue = torch.where(value == red, to_blue - to_green, hue).mul_(1 / 6).add_(1).fmod_(1)
    saturation = chroma / torch.where(gray, 1.0, value)
    sixths = hue.add_(shift).remainder_(1).mul_(6)
    sector = sixths.floor()
    fraction = saturation * (sixths - sector)
    low = 1 - saturation
    levels = torch.stack([value, low * value, (1 - fraction) * value, (fraction + low) * value]).clamp_(0, 1)
    return levels.gather(0, _LEVELS.to(image.device, non_blocking=True)[:, sector.long() % 6])


def gaussian_blur(image: Tensor, kernel: int, sigma: float) -> Tensor:
    """Return an image ``(3, H, W)`` blurred by a Gaussian of ``sigma`` pixels; borders are reflected.

    Args:
        image: float, with sides above ``kernel // 2``.
        kernel: The odd number of pixels per side of the kernel.
        sigma: The standard deviation.
    """
    limit = (kernel - 1) / (2 * math.sqrt(2))  # exp(-(x / sigma)^2) at steps of 1 / sqrt(2) is the Gaussian
    offsets = torch.linspace(-limit, limit, kernel, dtype=image.dtype, device=image.device)
    weights = torch.softmax(-((offsets / sigma) ** 2), dim=0)
    padded = F.pad(image[None], [kernel // 2] * 4, mode="reflect")
    return F.conv2d(padded, (weights[:, None] * weights).expand(3, 1, -1, -1), groups=3)[0]
