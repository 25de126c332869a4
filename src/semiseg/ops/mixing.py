"""Mixing regions (CutMix, ClassMix, ...), mixing partners, and pasting.

Random regions depend on the current shard (`global_batch`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from semiseg.ops.global_batch import generators, to_device, uniform, uniform_for_all

Region = Callable[[Tensor], Tensor]


def cutmix_region(labels: Tensor, concentration: tuple[int, int] = (4, 4)) -> Tensor:
    """Sample a box per image (CutMix, Yun et al. 2019; French et al. 2020).

    The share outside the box, ``lambda ~ Beta(a, b)``, is sampled per image; the sides of
    the box are ``sqrt(1 - lambda)`` times those of the image. Dual Teacher's code samples lambda per batch and clips
    boxes at the border, which shrinks them. Here the box lies inside the image, so it has the sampled area.

    Args:
        labels: ``(N, H, W)``; only shape and device are used.
        concentration: Integers ``(a, b)``: (4, 4) in Dual Teacher and AugSeg, (8, 2) for the small boxes of AugSeg's
            label injection.

    Returns:
        bool ``(N, H, W)``, True inside the box.
    """
    a, b = concentration
    # The a-th smallest of a + b - 1 uniform numbers has the distribution Beta(a, b).
    kept = uniform(len(labels), a + b - 1).sort(dim=1).values[:, a - 1]
    side = (1 - kept).sqrt()
    return _boxes(labels, side * labels.shape[1], side * labels.shape[2])


def occasional_box_region(labels: Tensor) -> Tensor:
    """Sample a box of 2 to 40 % of the image's area with probability 1/2 per image (ST++, UniMatch).

    The ratio of its sides is sampled from U(0.3, 1/0.3), and a side that is too long is cut to that of the image.
    Arguments and result are those of `cutmix_region`. An image without a box has an empty region.
    """
    n, height, width = labels.shape
    area = (0.02 + 0.38 * uniform(n)) * height * width
    ratio = 0.3 + (1 / 0.3 - 0.3) * uniform(n)
    region = _boxes(labels, (area * ratio).sqrt(), (area / ratio).sqrt())
    return region & to_device(uniform(n) < 0.5, labels)[:, None, None]


def fitting_box_region(labels: Tensor) -> Tensor:
    """Sample boxes like `occasional_box_region`, but sample ratio and position again until the box fits (UniMatch).

    Its corner is any pixel of the image, so that long and large boxes are rejected more often.
    """
    n, height, width = labels.shape
    boxes = [
        _fitting_box(height, width, generator) if torch.rand((), generator=generator) < 0.5 else (0, 0, 0, 0)
        for generator in generators(n)
    ]
    return box_region(labels, *torch.tensor(boxes, dtype=torch.float32).view(-1, 4).unbind(1))


def _fitting_box(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a box inside an image, in pixels."""
    area = (0.02 + 0.38 * torch.rand((), generator=generator).item()) * height * width
    while True:
        share, down, across = torch.rand(3, generator=generator).tolist()
        ratio, top, left = 0.3 + (1 / 0.3 - 0.3) * share, int(down * height), int(across * width)
        tall, wide = int((area * ratio) ** 0.5), int((area / ratio) ** 0.5)
        if top + tall <= height and left + wide <= width:
            return top, left, tall, wide


def half_box_region(labels: Tensor) -> Tensor:
    """Sample a box of half of each image's area, in half of all batches (U2PL, Gentle Teaching Assistant).

    Its width is sampled from U(W/2, W) and determines its height. Arguments and result are those of `cutmix_region`.
    In a batch without mixing all regions are empty.
    """
    n, height, width = labels.shape
    share = 0.5 + 0.5 * uniform(n)
    region = _boxes(labels, height / (2 * share), width * share)
    return region & to_device(uniform_for_all() < 0.5, labels)


def _boxes(labels: Tensor, box_height: Tensor, box_width: Tensor) -> Tensor:
    """Place a box of the given size, float ``(N,)`` in pixels, at random in each image; return bool like ``labels``."""
    n, height, width = labels.shape
    box_height, box_width = box_height.round().clamp(max=height), box_width.round().clamp(max=width)
    top = (uniform(n) * (height - box_height + 1)).floor()
    left = (uniform(n) * (width - box_width + 1)).floor()
    return box_region(labels, top, left, box_height, box_width)


def box_region(labels: Tensor, top: Tensor, left: Tensor, box_height: Tensor, box_width: Tensor) -> Tensor:
    """Return bool like ``labels``, True inside one box per image, which may extend beyond the image.

    Args:
        labels: ``(N, H, W)``; only shape and device are used.
        top: First row, float ``(N,)``, on the CPU like the other numbers.
        left: First column.
        box_height: Number of rows.
        box_width: Number of columns.
    """
    # Copy the corners instead of the region, which is too large to copy without waiting for a GPU.
    corners = to_device(torch.stack([top, top + box_height, left, left + box_width]), labels)
    first_row, end_row, first_column, end_column = corners[..., None].unbind()
    rows, columns = (torch.arange(side, device=labels.device) for side in labels.shape[1:])
    in_rows = (rows >= first_row) & (rows < end_row)
    in_columns = (columns >= first_column) & (columns < end_column)
    return in_rows[:, :, None] & in_columns[:, None, :]


def classmix_region(labels: Tensor) -> Tensor:
    """Select the pixels of half of the classes in each image (ClassMix, Olsson et al. 2021).

    ``floor(n / 2)`` of the ``n`` classes present are picked at random; with one class present the region is empty.

    Args:
        labels: int64 ``(N, H, W)``, pseudo-labels (values below 256).

    Returns:
        bool ``(N, H, W)``, True on the pixels of the picked classes.
    """
    n = labels.shape[0]
    present = torch.zeros(n, 256, dtype=torch.bool, device=labels.device)
    present.scatter_(1, labels.flatten(1), True)
    present[:, 255] = False
    scores = to_device(uniform(n, 256), labels).masked_fill(~present, 2.0)
    rank = scores.argsort(dim=1).argsort(dim=1)
    picked = present & (rank < present.sum(dim=1, keepdim=True) // 2)
    return picked.gather(1, labels.flatten(1)).view_as(labels)


REGIONS: dict[str, Region] = {"cutmix": cutmix_region, "classmix": classmix_region}


def partners(n: int) -> Tensor:
    """Return the index of a mixing partner for each of ``n`` images, int64 ``(n,)``: another image unless ``n`` is 1.

    Images are paired (0, 1), (2, 3), ...; if ``n`` is odd, the last three are rotated. A batch is in random order, so a
    neighbor is as random as any other image, and it does not depend on the number of processes. Dual Teacher's code
    permutes the batch, so that an image may be pasted onto itself.
    """
    partner = torch.arange(n) ^ 1
    if n % 2:
        partner[-3:] = torch.arange(n)[-3:].roll(1)
    return partner


def paste(region: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Return ``M * source + (1 - M) * target``, exact for any type.

    Args:
        region: M, bool ``(N, H, W)``.
        source: ``(N, H, W)`` or ``(N, C, H, W)``, used where the region is True.
        target: Like ``source``, used elsewhere.
    """
    mask = region if source.dim() == region.dim() else region[:, None]
    return torch.where(mask, source, target)
