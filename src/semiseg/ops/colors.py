"""Changes of color and sharpness of one RGB image, with the results of ``torchvision.transforms.v2.functional``.

They are written here because importing torchvision takes as long as importing PyTorch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601


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

    Value and saturation stay: a channel is ``value - chroma * clamp(min(k, 4 - k), 0, 1)``, where ``k`` is the distance
    of the hue, in sixths of the circle, from an offset of the channel.
    """
    (red, green, blue), (least, value) = image, torch.aminmax(image, dim=0)
    chroma = value - least
    divisor = torch.where(chroma == 0, 1.0, chroma)  # gray pixels have no hue, and stay
    hue = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(value == red, (green - blue) / divisor, hue)
    k = torch.stack([hue + (offset + 6 * shift) for offset in (5, 3, 1)]).remainder_(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


def gaussian_blur(image: Tensor, kernel: int, sigma: float) -> Tensor:
    """Return an image ``(3, H, W)`` blurred by a Gaussian of ``sigma`` pixels; borders are reflected.

    Args:
        image: float, with sides above ``kernel // 2``.
        kernel: The odd number of pixels per side of the kernel.
        sigma: The standard deviation.
    """
    offsets = torch.arange(kernel, dtype=image.dtype, device=image.device) - kernel // 2
    weights = torch.softmax(-(offsets**2) / (2 * sigma**2), dim=0)
    padded = F.pad(image[None], [kernel // 2] * 4, mode="reflect")
    return F.conv2d(padded, (weights[:, None] * weights).expand(3, 1, -1, -1), groups=3)[0]
