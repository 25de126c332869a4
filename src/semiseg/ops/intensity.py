"""AugSeg's color changes: a random number of random changes per image (Zhao et al. 2023, section 3.2)."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from semiseg.ops.global_batch import generators, to_device
from semiseg.ops.photometric import add_noise, adjust_contrast


class _Functional:
    """The functions of torchvision, which is imported at the first call because that takes long."""

    def __getattr__(self, name: str) -> Any:
        from torchvision.transforms.v2 import functional

        return getattr(functional, name)


TF = _Functional()
# Each change takes an image uint8 (3, H, W) and a strength u, sampled from U(0, 1).
Change = Callable[[Tensor, float], Tensor]


def _factor(u: float) -> float:
    return 0.05 + 0.9 * u


def _blur(image: Tensor, u: float) -> Tensor:
    sigma = 0.1 + 1.9 * u
    kernel = 2 * min(int(2 * sigma + 0.5), (min(image.shape[-2:]) - 1) // 2) + 1
    return TF.gaussian_blur(image, [kernel, kernel], [sigma, sigma])


def _sharpness(image: Tensor, u: float) -> Tensor:
    """Return torchvision's ``adjust_sharpness``, which copies its kernel so that the host waits for a GPU."""
    if min(image.shape[-2:]) <= 2:
        return image
    kernel = to_device(torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13, image).expand(len(image), 1, 3, 3)
    output = image.float()
    inside = output[..., 1:-1, 1:-1]
    inside.add_(F.conv2d(output, kernel, groups=len(image)).round_().sub_(inside), alpha=1 - _factor(u))
    return output.clamp_(0, 255).to(image.dtype)


POOL: dict[str, Change] = {
    "identity": lambda image, u: image,
    "autocontrast": lambda image, u: TF.autocontrast(image),
    "equalize": lambda image, u: TF.equalize(image),
    "blur": _blur,
    "contrast": lambda image, u: TF.adjust_contrast(image, _factor(u)),
    "brightness": lambda image, u: TF.adjust_brightness(image, _factor(u)),
    "color": lambda image, u: TF.adjust_saturation(image, _factor(u)),
    "sharpness": _sharpness,
    "posterize": lambda image, u: TF.posterize(image, min(7, 8 - math.ceil(4 * u))),
    "solarize": lambda image, u: TF.solarize(image, min(255.0, 256.0 - math.ceil(255 * u))),
    "hue": lambda image, u: TF.adjust_hue(image, u - 0.5),
}
"""The eleven changes, with the ranges of AugSeg's code: blur of sigma 0.1 to 2 pixels, factors 0.05 to 0.95,
4 to 7 bits, thresholds 1 to 255 of 255, a hue rotation by up to half the circle."""


def random_intensity(images: Tensor, max_changes: int = 3) -> Tensor:
    """Apply ``k ~ U{1, ..., max_changes}`` changes of ``POOL`` to each image.

    They are sampled with replacement and have random strengths. Images are converted to 8 bits first, as in AugSeg's
    code. Random numbers come from the CPU and depend on the current shard (`global_batch`). Images of other than three
    channels change in brightness, contrast and noise of sigma up to 0.05 only.

    Args:
        images: float ``(N, channels, H, W)`` in [0, 1].
        max_changes: Largest number of changes, at least 1 (AugSeg: 3).

    Returns:
        A new tensor of the same shape and range.
    """
    if not len(images):
        return images
    return torch.stack([_changed(*pair, max_changes) for pair in zip(images, generators(len(images)), strict=True)])


def _changed(image: Tensor, generator: torch.Generator, max_changes: int) -> Tensor:
    if len(image) != 3:
        for _ in range(int(torch.randint(1, max_changes + 1, (), generator=generator))):
            image = _changed_bands(image, generator)
        return image.clone()
    changed = (image * 255).round().to(torch.uint8)
    changes = list(POOL.values())
    for _ in range(int(torch.randint(1, max_changes + 1, (), generator=generator))):
        change = changes[int(torch.randint(len(changes), (), generator=generator))]
        changed = change(changed, torch.rand((), generator=generator).item())
    return changed.to(image.dtype) / 255


def _changed_bands(image: Tensor, generator: torch.Generator) -> Tensor:
    """Return an image of any number of channels after one random change."""
    change, u = int(torch.randint(4, (), generator=generator)), torch.rand((), generator=generator).item()
    if change == 0:
        return image * _factor(u)
    if change == 1:
        return adjust_contrast(image, _factor(u))
    return add_noise(image, generator, 0.05 * u) if change == 2 else image
