"""The unlabeled images of a run, from a list or from shards: how many, in which order, and how one is read.

An epoch's order is a function of the seed and the epoch alone, so that any step's batch can be made by itself, by any
number of processes and workers.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from semiseg.data.dataset import Decoded
from semiseg.data.files.string_array import as_string_array
from semiseg.data.preview_selection import evenly_spaced
from semiseg.data.splits.dataset_split import Split
from semiseg.data.stream.image_reader import ImageReader
from semiseg.data.stream.remote_files import cache_bytes, cache_folder, fetch, is_remote
from semiseg.data.stream.shards import Shards
from semiseg.data.stream.tar_files import Members, read_image
from semiseg.errors import UserError
from semiseg.seeding import generator

WINDOW = 4  # shards whose images are shuffled together
DOWNLOADS = 8  # windows that a process gets at once


@runtime_checkable
class Pool(Protocol):
    """The unlabeled images of a run."""

    @property
    def names(self) -> Sequence[str]:
        """Their ids, where there is a list of them; nothing otherwise."""
        ...

    def __len__(self) -> int: ...

    def sample(self, epoch: int, step: int, place: int, batch: int) -> tuple[int, str]:
        """Return the image at a place of an epoch's ``step``, whose global batch has ``batch`` places.

        Returns:
            How many times the epoch's order has been begun anew before it, which the last batch may do; its id.
        """
        ...

    def read(self, id: str) -> Decoded:
        """Read an image; raises UserError if it cannot be read."""
        ...

    def fallbacks(self, id: str, epoch: int) -> Iterator[str]:
        """Yield, in an order of its own, the images that may stand in for one that cannot be read."""
        ...

    def preview(self, count: int) -> Sequence[str]:
        """Return some images to look at, always the same ones."""
        ...


class ListPool:
    """The images of a list in the data: an epoch is a permutation of it, cut into batches."""

    def __init__(self, reader: ImageReader, ids: Iterable[str], seed: int) -> None:
        self.reader, self.seed = reader, seed
        self.names: Sequence[str] = as_string_array(ids)

    def __len__(self) -> int:
        return len(self.names)

    def sample(self, epoch: int, step: int, place: int, batch: int) -> tuple[int, str]:
        """See ``Pool``."""
        lap, position = divmod(step * batch + place, len(self))
        return lap, self.names[int(permutation(len(self), self.seed, "unlabeled", epoch)[position])]

    def read(self, id: str) -> Decoded:
        """See ``Pool``."""
        return self.reader.image(id)

    def fallbacks(self, id: str, epoch: int) -> Iterator[str]:
        """See ``Pool``: any other image of the list."""
        for index in permutation(len(self), self.seed, f"stand-in {id}", epoch):
            if self.names[int(index)] != id:
                yield self.names[int(index)]

    def preview(self, count: int) -> Sequence[str]:
        """See ``Pool``: spread over the list."""
        return evenly_spaced(self.names, count)


class _Open(NamedTuple):
    """A tar file that is being read: its number, its local copy, what is in it, and that in the order of the file."""

    number: int
    path: Path
    members: Members
    keys: tuple[str, ...]


class ShardPool:
    """The images of shards, of which only a few have to be at hand at any time.

    An epoch permutes the shards and shuffles the images within each ``WINDOW`` of them. Of this order, N long, each
    place of the batch reads a stretch of its own: with T steps an epoch, place j sees ``order[j * T + step]``, modulo
    N. So a process, which holds some places of the batch, needs the shards of its own stretches alone. Memory: that of
    the windows being read, and three numbers a shard.

    Args:
        shards: the shards.
        seed: the run's.
        rank_batch_size: unlabeled images per step on this rank.
        factor: images are decoded at ``1 / factor`` of their size, as by ``Reader``.
    """

    names: Sequence[str] = ()

    def __init__(self, shards: Shards, seed: int, rank_batch_size: int, factor: int = 1) -> None:
        self.shards, self.seed, self.count, self.factor = shards, seed, len(shards), factor
        self._most_open = 2 * WINDOW * (rank_batch_size + 1)
        self._gets_ahead = is_remote(shards.base) and local_copy_bytes(shards, rank_batch_size) <= cache_bytes()
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._plans: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._ahead: tuple[int, set[tuple[int, int]]] = (0, set())

    def __len__(self) -> int:
        return self.count

    def sample(self, epoch: int, step: int, place: int, batch: int) -> tuple[int, str]:
        """See ``Pool``."""
        steps = -(-len(self) // batch)
        lap, position = divmod(place * steps + step, len(self))
        order, ends = self._plan(epoch)
        window = int(np.searchsorted(ends, position, side="right"))
        start, end = int(ends[window - 1]) if window else 0, int(ends[window])
        self._fetch_ahead(epoch, window)
        if 2 * (position - start) >= end - start:
            self._fetch_ahead(epoch, window + 1)
        shuffled = _window(end - start, self.seed, window, epoch)
        index = int(shuffled[position - start])
        for number in order[window * WINDOW : (window + 1) * WINDOW].tolist():
            if index < self.shards.counts[number]:
                return lap, f"{self.shards.names[number]}/{self._at(number).keys[index]}"
            index -= int(self.shards.counts[number])
        raise AssertionError("a window ends where its shards do")

    def read(self, id: str) -> Decoded:
        """See ``Pool``: kept nowhere decoded."""
        shard, key = self._find(id)
        place, size = self.shards.url(shard.number), int(self.shards.sizes[shard.number])
        return read_image(place, size, key, shard.path, shard.members[key], self.factor)

    def fallbacks(self, id: str, epoch: int) -> Iterator[str]:
        """See ``Pool``: any other image of the same shard, which is at hand."""
        shard, own = self._find(id)
        for index in permutation(len(shard.keys), self.seed, f"stand-in {id}", epoch):
            if shard.keys[index] != own:
                yield id.removesuffix(own) + shard.keys[index]

    def preview(self, count: int) -> Sequence[str]:
        """See ``Pool``: of the first shard that holds any."""
        number = int(np.flatnonzero(self.shards.counts)[0])
        return [f"{self.shards.names[number]}/{key}" for key in evenly_spaced(self._at(number).keys, count)]

    def _plan(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the order of the shards in an epoch, and where in the order of images its windows end."""
        if epoch not in self._plans:
            order = permutation(len(self.shards.names), self.seed, "shards", epoch)
            ends = np.cumsum(np.add.reduceat(self.shards.counts[order], np.arange(0, len(order), WINDOW)))
            self._plans = {epoch: (order, ends)}
        return self._plans[epoch]

    def _find(self, id: str) -> tuple[_Open, str]:
        name, _, key = id.partition(".tar/")
        name += ".tar"
        drawn = (number for number in reversed(self._open) if self.shards.names[number] == name)  # as a rule the last
        number = next(drawn, None)
        return self._at(self.shards.names.index(name) if number is None else number), key

    def _at(self, number: int) -> _Open:
        """Return an open shard, or open it and let go of the one that was left alone longest."""
        if number not in self._open:
            path, members = self.shards.members(number)
            self._open[number] = _Open(number, path, members, tuple(members))
            if len(self._open) > self._most_open:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    def _fetch_ahead(self, epoch: int, window: int) -> None:
        """Begin to get the shards of a window, once a process, while others are being read, if all these fit."""
        process, asked = self._ahead
        if process != os.getpid():
            self._ahead = process, asked = os.getpid(), set()
        if (epoch, window) in asked or not self._gets_ahead:
            return
        asked.add((epoch, window))
        numbers = self._plan(epoch)[0][window * WINDOW : (window + 1) * WINDOW].tolist()

        def get() -> None:
            with _slots(process), suppress(UserError):  # told when it is this shard's turn
                for number in numbers:
                    fetch(self.shards.url(number), int(self.shards.sizes[number]))

        threading.Thread(target=get, daemon=True).start()


def make_pool(reader: ImageReader, split: Split, seed: int, rank_batch_size: int = 1) -> Pool:
    """Return the unlabeled images of a run's lists; ``places`` of each batch are read here."""
    if split.shards is not None:
        return ShardPool(split.shards, seed, rank_batch_size, reader.factor)
    return ListPool(reader, split.unlabeled, seed)


def local_copy_bytes(shards: Shards, places: int) -> int:
    """Return at most how many bytes of copies so many places of the batch read from at once.

    A place reads one window and gets the next; each shard counts as the largest.
    """
    return min(int(shards.sizes.sum()), 2 * WINDOW * places * int(shards.sizes.max()))


def disk_space_note(shards: Shards, places: int) -> str:
    """Say where copies of shards are kept and whether those of ``places`` of the batch fit, or "" if none is kept."""
    if not is_remote(shards.base):
        return ""
    needed, bound = local_copy_bytes(shards, places), cache_bytes()
    told = (
        f"copies of shards: up to {needed / 1e9:.2g} GB at a time in {cache_folder()}, which may hold {bound / 1e9:.2g}"
    )
    if needed > bound:
        return f"warning: {told}: they are got again and again: raise SEMISEG_CACHE_GB, or make smaller shards"
    return f"{told} (SEMISEG_CACHE_GB)"


@lru_cache(maxsize=256)  # one for each place of the batch; a few thousand images each
def _window(count: int, seed: int, window: int, epoch: int) -> NDArray[np.int32]:
    order = torch.randperm(count, generator=generator(seed, "window", epoch, window))
    return order.to(torch.int32).numpy()


@lru_cache(maxsize=1)
def _slots(process: int) -> threading.Semaphore:
    """Return what bounds the downloads of a process; one of a parent process may be held for ever."""
    return threading.Semaphore(DOWNLOADS)


@lru_cache(maxsize=4)  # a pure function; neighboring steps ask for the same two or three orders
def permutation(count: int, seed: int, purpose: str, turn: int) -> NDArray[np.int64]:
    """Return 0 to ``count - 1`` in an order that follows from what it is for."""
    order: NDArray[np.int64] = torch.randperm(count, generator=generator(seed, purpose, turn)).numpy()
    return order
