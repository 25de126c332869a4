"""A network between its encoder and its decoder: what methods that perturb or compare features work on.

The features are a list of maps, finest first; the first one is the normalized image itself and no feature. The network
has ``encode(images)``, ``decode(features)`` and ``resize(logits, size)``, as `semiseg.networks.SegmentationNetwork`.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiseg.ops.global_batch import uniform


def encode(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the network's features, finest first, for float images ``(N, 3, H, W)`` in [0, 1]."""
    offers: Any = network
    features: list[Tensor] = offers.encode(images)
    return features


def decode(network: nn.Module, features: list[Tensor], size: Sequence[int]) -> Tensor:
    """Return logits ``(N, C, *size)`` for the list that ``encode`` gave for images of ``size`` ``(H, W)``."""
    offers: Any = network
    logits: Tensor = offers.resize(offers.decode(features), size)
    return logits


def feature_channels(network: nn.Module) -> list[int]:
    """Return the number of channels of each of ``encode``'s maps."""
    was_training = [module for module in network.modules() if module.training]
    with torch.no_grad():
        channels = [feature.shape[1] for feature in encode(network.eval(), torch.zeros(1, 3, 64, 64))]
    for module in was_training:
        module.training = True
    return channels


def to_cells(maps: Tensor, features: list[Tensor], grid: Sequence[int]) -> Tensor:
    """Return the mean of ``maps`` over each cell of a grid that covers what the features cover.

    Args:
        maps: float ``(N, C, H, W)``, over the pixels of the images that were encoded.
        features: what ``encode`` gave for them. What the network padded to its stride counts as 0 in a cell's mean.
        grid: ``(h, w)``.

    Returns:
        float ``(N, C, h, w)``.
    """
    height, width = features[0].shape[-2:]
    padded = F.pad(maps, (0, width - maps.shape[-1], 0, height - maps.shape[-2]))
    return F.adaptive_avg_pool2d(padded, (grid[0], grid[1]))


def to_pixels(maps: Tensor, features: list[Tensor], size: Sequence[int]) -> Tensor:
    """Return ``maps`` ``(N, C, h, w)``, on a grid as in ``to_cells``, at the pixels of images of size ``(H, W)``."""
    maps = F.interpolate(maps, features[0].shape[-2:], mode="bilinear", align_corners=False)
    return maps[..., : size[0], : size[1]]


def channel_dropout(features: list[Tensor], rate: float) -> list[Tensor]:
    """Drop whole channels of each map, per sample, with probability ``rate``; what is kept is divided by ``1 - rate``.

    The feature perturbation of UniMatch (Yang et al. 2023, section 3.2): ``nn.Dropout2d(0.5)`` between encoder and
    decoder. Draws come from the CPU on every device (`global_batch`).

    Args:
        features: maps ``(N, C, h, w)``, as ``encode`` gives them; the first, the image, stays as it is.
        rate: in [0, 1).
    """
    return [features[0], *(f * _keep(len(f), f.shape[1], 1 - rate).to(f) for f in features[1:])]


def complementary_dropout(features: list[Tensor], whole: float = 0.5) -> list[Tensor]:
    """Give two views of each image complementary halves of the channels (UniMatch V2, Yang et al. 2024, section 3.3).

    With ``d ~ Bernoulli(1/2)^C``, view 1 keeps the channels ``d`` and view 2 the others, both times 2. A share of the
    pairs stays whole.

    Args:
        features: maps ``(2 N, C, h, w)``: view 1 of all images, then view 2 of all; the first map stays as it is.
        whole: probability that a pair is left as it is (release: half of the pairs of a batch, at random).
    """
    pairs = len(features[0]) // 2
    stays = (uniform(pairs, 1, 1, 1) < whole).float()
    dropped = [features[0]]
    for f in features[1:]:
        half = _keep(pairs, f.shape[1], 0.5)
        factor = torch.cat([half, 2 - half])
        factor = torch.where(torch.cat([stays, stays]) > 0, 1.0, factor)
        dropped.append(f * factor.to(f))
    return dropped


def _keep(samples: int, channels: int, keep: float) -> Tensor:
    """Draw a factor ``(samples, channels, 1, 1)``: ``1 / keep`` with probability ``keep``, else 0."""
    return (uniform(samples, channels, 1, 1) < keep).float() / keep
