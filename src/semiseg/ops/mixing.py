"""Regions (CutMix, ClassMix) and the one way to paste with them: image, label and confidence move together."""

from collections.abc import Callable

import torch
from torch import Tensor

from semiseg.ops.global_batch import uniform, uniform_for_all

Region = Callable[[Tensor], Tensor]


def cutmix_region(labels: Tensor, concentration: tuple[int, int] = (4, 4)) -> Tensor:
    """Draw a box per image (CutMix, Yun et al. 2019; French et al. 2020).

    The share kept, ``lambda ~ Beta(a, b)``, is drawn once per image; the box has ``sqrt(1 - lambda)`` of either side.
    Dual Teacher's release draws lambda once per batch and clips boxes at the border, which shrinks them; here the box
    lies inside the image, so its area is what was drawn.

    Args:
        labels: ``(N, H, W)``; only its shape and device are used.
        concentration: ``(a, b)``, whole numbers: (4, 4) in Dual Teacher and AugSeg, (8, 2) for AugSeg's injection of
            labels, small boxes.

    Returns:
        bool ``(N, H, W)``, True inside the box.
    """
    a, b = concentration
    # Beta(a, b) is the a-th smallest of a + b - 1 uniform draws: needs no sampler but the uniform one.
    kept = uniform(len(labels), a + b - 1).sort(dim=1).values[:, a - 1]
    side = (1 - kept).sqrt()
    return _boxes(labels, side * labels.shape[1], side * labels.shape[2])


def occasional_box_region(labels: Tensor) -> Tensor:
    """Draw, with probability 1/2 per image, a box of 2 to 40 % of its area (ST++, UniMatch).

    The ratio of its sides is drawn from U(0.3, 1/0.3). UniMatch draws again until a box fits; here a side that is too
    long is cut to the image's.

    Args and Returns: as `cutmix_region`; the region of an image without a box is empty.
    """
    n, height, width = labels.shape
    area = (0.02 + 0.38 * uniform(n)) * height * width
    ratio = 0.3 + (1 / 0.3 - 0.3) * uniform(n)
    region = _boxes(labels, (area * ratio).sqrt(), (area / ratio).sqrt())
    return region & (uniform(n) < 0.5).to(labels.device)[:, None, None]


def half_box_region(labels: Tensor) -> Tensor:
    """Draw, for half of all batches, a box of half of each image's area (U2PL, Gentle Teaching Assistant).

    Its width is drawn from U(W/2, W), its height follows.

    Args and Returns: as `cutmix_region`; in a batch without mixing all regions are empty.
    """
    n, height, width = labels.shape
    share = 0.5 + 0.5 * uniform(n)
    region = _boxes(labels, height / (2 * share), width * share)
    return region & (uniform_for_all() < 0.5).to(labels.device)


def _boxes(labels: Tensor, box_height: Tensor, box_width: Tensor) -> Tensor:
    """Place a box of the given size, float ``(N,)`` in pixels, at random inside each image: bool like ``labels``."""
    n, height, width = labels.shape
    box_height, box_width = box_height.round().clamp(max=height), box_width.round().clamp(max=width)
    top = (uniform(n) * (height - box_height + 1)).floor()
    left = (uniform(n) * (width - box_width + 1)).floor()
    rows, columns = torch.arange(height), torch.arange(width)
    in_rows = (rows >= top[:, None]) & (rows < (top + box_height)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + box_width)[:, None])
    return (in_rows[:, :, None] & in_columns[:, None, :]).to(labels.device)


def classmix_region(labels: Tensor) -> Tensor:
    """Draw, per image, half of the classes it shows; the region is their pixels (ClassMix, Olsson et al. 2021).

    ``floor(n / 2)`` of the ``n`` classes present are picked at random; with one class present the region is empty.
    Works for any number of classes and without a loop over them.

    Args:
        labels: int64 ``(N, H, W)``, pseudo-labels (values below 256).

    Returns:
        bool ``(N, H, W)``, True on the pixels of the picked classes.
    """
    n = labels.shape[0]
    present = torch.zeros(n, 256, dtype=torch.bool, device=labels.device)
    present.scatter_(1, labels.flatten(1), True)
    present[:, 255] = False
    draws = uniform(n, 256).to(labels.device).masked_fill(~present, 2.0)
    rank = draws.argsort(dim=1).argsort(dim=1)
    picked = present & (rank < present.sum(dim=1, keepdim=True) // 2)
    return picked.gather(1, labels.flatten(1)).view_as(labels)


REGIONS: dict[str, Region] = {"cutmix": cutmix_region, "classmix": classmix_region}


def partners(n: int) -> Tensor:
    """Return a mixing partner for each of ``n`` images: int64 ``(n,)``, nobody its own partner (unless ``n`` is 1).

    Neighbors exchange, 0 and 1, 2 and 3; of an odd number the last three take turns. The images of a batch come in
    random order, so that a neighbor is as random as any other, and stays the same where the batch is shared out among
    processes. Dual Teacher's release permutes freely, so that an image may be pasted onto itself.
    """
    partner = torch.arange(n) ^ 1
    if n % 2:
        partner[-3:] = torch.arange(n)[-3:].roll(1)
    return partner


def paste(region: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Return ``M * source + (1 - M) * target``, exact for any type.

    Args:
        region: bool ``(N, H, W)``, the ``M`` of the equation.
        source: ``(N, H, W)`` or ``(N, C, H, W)``, shown where the region is True.
        target: like ``source``, shown elsewhere.
    """
    mask = region if source.dim() == region.dim() else region[:, None]
    return torch.where(mask, source, target)
