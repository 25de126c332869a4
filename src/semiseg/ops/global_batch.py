"""Random numbers and means that do not depend on how a global batch is split among ranks and micro-batches.

A sample's random numbers depend on its index in the global batch, and a mean over pixels divides by their number in the
whole batch, so N processes compute the same update as one. `use_shard` sets the shard that the other functions assume.
Outside a run the shard is the whole batch, and random numbers come from torch's default CPU generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shard:
    """One of ``count`` equal shards of a global batch: the micro-batch that one rank processes at a time.

    Attributes:
        index: Position of the shard in the global batch, from 0.
        count: Number of shards.
        size: Number of labeled images in the shard, which equals the number of unlabeled ones; 0 if unknown.
        processes: Number of shards that are processed at the same time, each by its own rank.
        generator: Source of random numbers, in the same state for every shard. None: torch's default generator.
    """

    index: int = 0
    count: int = 1
    size: int = 0
    processes: int = 1
    generator: torch.Generator | None = None


_shard = Shard()


@contextmanager
def use_shard(shard: Shard) -> Iterator[None]:
    """Set the shard that the functions of this module refer to inside the ``with`` block."""
    global _shard
    before, _shard = _shard, shard
    try:
        yield
    finally:
        _shard = before


def uniform(samples: int, *shape: int) -> Tensor:
    """Sample from U[0, 1) for each sample of the current shard: float ``(samples, *shape)``, on the CPU.

    Numbers are generated for the whole global batch; those of other shards are discarded. If ``samples`` is a multiple
    of the shard's size, the batch is treated as stacked views of the same images.
    """
    views = samples // _shard.size if _shard.size and samples % _shard.size == 0 else 1
    own = samples // views if views else 0
    values = torch.rand(views, _shard.count * own, *shape, generator=_shard.generator)
    return values[:, _shard.index * own : (_shard.index + 1) * own].flatten(0, 1)


def uniform_for_all() -> Tensor:
    """Sample one scalar from U[0, 1) on the CPU, the same for every shard of the global batch."""
    return torch.rand((), generator=_shard.generator)


def to_device(values: Tensor, like: Tensor) -> Tensor:
    """Copy ``values`` from the CPU to the device of ``like``, without making the host wait for a GPU.

    CUDA waits for copies of more than 64 KB from pageable memory, so these go through page-locked memory.
    """
    if like.is_cuda and values.nbytes > 2**16:
        values = values.pin_memory()
    return values.to(like.device, non_blocking=True)


def generators(samples: int) -> list[torch.Generator]:
    """Return a CPU generator for each sample of the current shard, for any number of random values per sample."""
    seeds = (uniform(samples, 2) * 2**24).long()  # a float32 holds 24 bits
    return [torch.Generator().manual_seed(high << 24 | low) for high, low in seeds.tolist()]


@torch.no_grad()
def global_sum(count: Tensor) -> Tensor:
    """Sum a count of the current shard over all processes. Every process must call it."""
    if _shard.processes == 1:
        return count
    count = count.clone()
    torch.distributed.all_reduce(count)
    return count


@torch.no_grad()
def concatenate(values: Tensor) -> Tensor:
    """Concatenate tensors of equal shape of all processes, without gradients. Every process must call it."""
    if _shard.processes == 1:
        return values
    values = values.contiguous()
    gathered = [torch.empty_like(values) for _ in range(_shard.processes)]
    torch.distributed.all_gather(gathered, values)
    return torch.cat(gathered)


def global_mean_denominator(count: Tensor) -> Tensor:
    """Return the denominator of a mean over ``count`` items of the current shard.

    For one process it is the count, at least 1. Several processes average their gradients, so it is the mean count per
    process: the average of their quotients is then the mean over the global batch. Successive micro-batches of one
    process do not share counts; all micro-batches have the same weight.
    """
    total = global_sum(count).clamp(min=1)
    return total if _shard.processes == 1 else total / _shard.processes


divisor = global_mean_denominator  # deprecated name of version 0.1.0
