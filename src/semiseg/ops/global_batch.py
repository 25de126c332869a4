"""Draws and means that do not depend on how a batch is shared out: among processes, or in parts one after the other.

What is drawn for a sample follows from its place in the global batch, and a mean over pixels divides by their number in
all of it, so that N processes learn what one learns. Outside a run there is one part, the batch itself, and draws come
from torch's default CPU generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """The samples at hand: part ``number`` (from 0) of ``parts`` alike, in which a global batch is shared out.

    Attributes:
        number: of this part; parts follow one another in the global batch.
        parts: how many there are.
        size: labeled images of the part, as many as unlabeled ones; 0 where nobody knows.
        processes: how many of the parts are at work at the same time, in processes that meet at each `summed`.
        generator: where draws come from, in the same state for every part; None: torch's default.
    """

    number: int = 0
    parts: int = 1
    size: int = 0
    processes: int = 1
    generator: torch.Generator | None = None


_part = Part()


@contextmanager
def at_hand(part: Part) -> Iterator[None]:
    """Inside the block, the samples at hand are this part of the global batch."""
    global _part
    before, _part = _part, part
    try:
        yield
    finally:
        _part = before


def uniform(samples: int, *shape: int) -> Tensor:
    """Draw from U[0, 1) for each sample at hand: float ``(samples, *shape)``, on the CPU.

    All that the global batch needs is drawn, and what belongs to the part is kept. Several views of each sample may lie
    one after the other (labeled, mixed, ...); each of them counts as a batch.
    """
    views = samples // _part.size if _part.size and samples % _part.size == 0 else 1
    mine = samples // views if views else 0
    drawn = torch.rand(views, _part.parts * mine, *shape, generator=_part.generator)
    return drawn[:, _part.number * mine : (_part.number + 1) * mine].flatten(0, 1)


def uniform_for_all() -> Tensor:
    """Draw from U[0, 1) once for the whole global batch: a scalar, on the CPU."""
    return torch.rand((), generator=_part.generator)


def generators(samples: int) -> list[torch.Generator]:
    """Return a CPU generator for each sample at hand, for draws whose number depends on what is drawn."""
    seeds = (uniform(samples, 2) * 2**24).long()  # 24 bits are what a float holds
    return [torch.Generator().manual_seed(high << 24 | low) for high, low in seeds.tolist()]


@torch.no_grad()
def summed(count: Tensor) -> Tensor:
    """Return a count over the samples at hand, summed over the processes; every process has to ask."""
    if _part.processes == 1:
        return count
    count = count.clone()
    torch.distributed.all_reduce(count)
    return count


def divisor(count: Tensor) -> Tensor:
    """Return what to divide a sum over the samples at hand by, so that it becomes a mean over ``count``.

    That is the count itself, 1 where there is nothing to count. With several processes, whose gradients are averaged,
    it is their mean count: the average of the processes' quotients is then the mean over the global batch. (Parts
    taken one after the other do not know of one another: each of them counts alike.)
    """
    total = summed(count).clamp(min=1)
    return total if _part.processes == 1 else total / _part.processes
