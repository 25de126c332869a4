"""The strong view's colors: jitter, grayscale and blur, drawn for each image by itself."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def photometric(images: Tensor, strength: float = 0.5) -> Tensor:
    """Jitter, sometimes gray, sometimes blur each image by its own draws.

    With probability 0.8 brightness, contrast and saturation are scaled by factors from ``[1 - s, 1 + s]`` and the hue
    is turned by up to ``s/2`` of the circle; with 0.2 the image turns gray; with 0.5 it is blurred with a sigma from
    U(0.1, max(0.1, 4 s)) pixels. With ``s`` = 0.5 this is the set of ST++ and UniMatch, made for crops of 321 pixels
    and more; small images want less. It happens before normalization: torchvision clamps to [0, 1], which would
    destroy normalized values.

    Args:
        images: float ``(N, 3, H, W)`` in [0, 1].
        strength: ``s``, in [0, 1]; 0 leaves the images as they are, without gray and blur too.

    Returns:
        A new tensor of the same shape and range.
    """
    if strength == 0 or not len(images):
        return images.clone()
    return torch.stack([_strong_colors(image, strength) for image in images])


def _strong_colors(image: Tensor, strength: float) -> Tensor:
    if torch.rand(()).item() < 0.8:
        low, high = 1 - strength, 1 + strength
        image = TF.adjust_brightness(image, _uniform(low, high))
        image = TF.adjust_contrast(image, _uniform(low, high))
        image = TF.adjust_saturation(image, _uniform(low, high))
        image = TF.adjust_hue(image, _uniform(-strength / 2, strength / 2))
    if torch.rand(()).item() < 0.2:
        image = TF.rgb_to_grayscale(image, num_output_channels=3)
    if torch.rand(()).item() < 0.5:
        sigma = _uniform(0.1, max(0.1, 4 * strength))
        kernel = 2 * min(int(2 * sigma + 0.5), (min(image.shape[-2:]) - 1) // 2) + 1
        image = TF.gaussian_blur(image, [kernel, kernel], [sigma, sigma])
    return image
