"""Features between a network's encoder and decoder, for methods that perturb or compare them.

The features are a list of maps, finest first. The first map is the normalized image itself. The network needs the
methods ``encode``, ``decode`` and ``resize`` of `semiseg.networks.SegmentationNetwork`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiseg.ops.global_batch import to_device, uniform


def encode(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the network's features, finest first, for float images ``(N, 3, H, W)`` in [0, 1]."""
    any_network: Any = network
    features: list[Tensor] = any_network.encode(images)
    return features


def decode(network: nn.Module, features: list[Tensor], size: Sequence[int]) -> Tensor:
    """Return logits ``(N, C, *size)`` for the features of images of ``size`` ``(H, W)``."""
    any_network: Any = network
    logits: Tensor = any_network.resize(any_network.decode(features), size)
    return logits


@contextmanager
def watch_head(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect input and output of the network's ``head``, its last layer, in a forward pass inside the block."""
    seen: list[Tensor] = []
    any_network: Any = network
    hook = any_network.head.register_forward_hook(lambda _, args, output: seen.extend((args[0], output)))
    try:
        yield seen
    finally:
        hook.remove()


def feature_channels(network: nn.Module) -> list[int]:
    """Return the number of channels of each of ``encode``'s maps."""
    was_training = [module for module in network.modules() if module.training]
    images = torch.zeros(1, getattr(network, "channels", 3), 64, 64)
    with torch.no_grad():
        channels = [feature.shape[1] for feature in encode(network.eval(), images)]
    for module in was_training:
        module.training = True
    return channels


def to_cells(maps: Tensor, features: list[Tensor], grid: Sequence[int]) -> Tensor:
    """Return the mean of ``maps`` over each cell of a grid over the padded image.

    Args:
        maps: float ``(N, C, H, W)``, over the pixels of the encoded images.
        features: Features from ``encode``. Pixels that the network added as padding count as 0 in a cell's mean.
        grid: Number of cells ``(h, w)``.

    Returns:
        float ``(N, C, h, w)``.
    """
    height, width = features[0].shape[-2:]
    padded = F.pad(maps, (0, width - maps.shape[-1], 0, height - maps.shape[-2]))
    return F.adaptive_avg_pool2d(padded, (grid[0], grid[1]))


def to_nearest_cells(labels: Tensor, features: list[Tensor], grid: Sequence[int], padding: int) -> Tensor:
    """Return the label at the center of each cell; see `to_cells`.

    Args:
        labels: int64 ``(N, H, W)``, below 2^24.
        features: Features from ``encode``.
        grid: Number of cells ``(h, w)``.
        padding: The label of pixels that the network added as padding.
    """
    height, width = features[0].shape[-2:]
    padded = F.pad(labels, (0, width - labels.shape[-1], 0, height - labels.shape[-2]), value=padding)
    return F.interpolate(padded[:, None].float(), (grid[0], grid[1]), mode="nearest-exact")[:, 0].long()


def to_pixels(maps: Tensor, features: list[Tensor], size: Sequence[int]) -> Tensor:
    """Interpolate ``maps`` ``(N, C, h, w)`` on a grid of ``to_cells`` to images of size ``(H, W)``."""
    maps = F.interpolate(maps, features[0].shape[-2:], mode="bilinear", align_corners=False)
    return maps[..., : size[0], : size[1]]


def channel_dropout(features: list[Tensor], rate: float) -> list[Tensor]:
    """Drop whole channels of each map, per sample, with probability ``rate``; divide the others by ``1 - rate``.

    The feature perturbation of UniMatch (Yang et al. 2023, section 3.2): ``nn.Dropout2d(0.5)`` between encoder and
    decoder. Random numbers come from the CPU and depend on the current shard (`global_batch`).

    Args:
        features: Maps ``(N, C, h, w)`` from ``encode``; the first one, the image, does not change.
        rate: In [0, 1).
    """
    return [features[0], *(f * to_device(_keep(len(f), f.shape[1], 1 - rate).to(f.dtype), f) for f in features[1:])]


def complementary_dropout(features: list[Tensor], whole: float = 0.5, shared: bool = False) -> list[Tensor]:
    """Give two views of each image complementary halves of the channels (UniMatch V2, Yang et al. 2024, section 3.3).

    With ``d ~ Bernoulli(1/2)^C``, view 1 keeps the channels ``d`` and view 2 the others, both times 2. A fraction of
    the pairs keeps all channels. Random numbers depend on the current shard (`global_batch`).

    Args:
        features: Maps ``(2 N, C, h, w)``: view 1 of all images, then view 2; the first map does not change.
        whole: Probability that a pair keeps all channels (authors' code: half of the pairs of a batch).
        shared: Drop the same channels in all maps (authors' code). The maps must have equal numbers of channels.
    """
    pairs = len(features[0]) // 2
    keeps_all = (uniform(pairs, 1, 1, 1) < whole).float()
    dropped = [features[0]]
    half = _keep(pairs, features[1].shape[1], 0.5) if shared else None
    for f in features[1:]:
        if not shared:
            half = _keep(pairs, f.shape[1], 0.5)
        assert half is not None
        factor = torch.cat([half, 2 - half])
        factor = torch.where(torch.cat([keeps_all, keeps_all]) > 0, 1.0, factor)
        dropped.append(f * to_device(factor.to(f.dtype), f))
    return dropped


def _keep(samples: int, channels: int, keep: float) -> Tensor:
    """Sample a factor ``(samples, channels, 1, 1)``: ``1 / keep`` with probability ``keep``, else 0."""
    return (uniform(samples, channels, 1, 1) < keep).float() / keep
