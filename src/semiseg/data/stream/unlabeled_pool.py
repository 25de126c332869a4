"""The unlabeled images of a run, from a list or from shards: their order, and how to read them.

The order of an epoch is a function of the seed and the epoch, so the batch of any step can be computed on its own, by
any number of processes and workers.
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
from semiseg.data.files.pixel_format import RGB, PixelFormat
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
DOWNLOADS = 8  # windows that a process downloads at the same time


@runtime_checkable
class Pool(Protocol):
    """The unlabeled images of a run."""

    @property
    def names(self) -> Sequence[str]:
        """The ids if there is a list of them; otherwise empty."""
        ...

    def __len__(self) -> int: ...

    def sample(self, epoch: int, step: int, index: int, batch_size: int) -> tuple[int, str]:
        """Return the image at one index of the global batch of a step in an epoch.

        Returns:
            The wrap-around count (nonzero only in the last batch) and the id.
        """
        ...

    def read(self, id: str) -> Decoded:
        """Read an image. Raises UserError if it cannot be read."""
        ...

    def fallbacks(self, id: str, epoch: int) -> Iterator[str]:
        """Yield the images that may replace an unreadable one, in a random order that depends on both arguments."""
        ...

    def preview(self, count: int) -> Sequence[str]:
        """Return a fixed selection of images for previews."""
        ...


class ListPool:
    """The images of a list. An epoch is a permutation of it, cut into batches."""

    def __init__(self, reader: ImageReader, ids: Iterable[str], seed: int) -> None:
        self.reader, self.seed = reader, seed
        self.names: Sequence[str] = as_string_array(ids)

    def __len__(self) -> int:
        return len(self.names)

    def sample(self, epoch: int, step: int, index: int, batch_size: int) -> tuple[int, str]:
        """Return an image, see ``Pool``."""
        lap, position = divmod(step * batch_size + index, len(self))
        return lap, self.names[int(permutation(len(self), self.seed, "unlabeled", epoch)[position])]

    def read(self, id: str) -> Decoded:
        """Read an image, see ``Pool``."""
        return self.reader.image(id)

    def fallbacks(self, id: str, epoch: int) -> Iterator[str]:
        """Yield all other images of the list."""
        for index in permutation(len(self), self.seed, _fallback_purpose(id), epoch):
            if self.names[int(index)] != id:
                yield self.names[int(index)]

    def preview(self, count: int) -> Sequence[str]:
        """Return images evenly spaced over the list."""
        return evenly_spaced(self.names, count)


class _OpenShard(NamedTuple):
    """A tar file in use: its index among the shards, its local copy, its images, and their keys in file order."""

    number: int
    path: Path
    members: Members
    keys: tuple[str, ...]


class ShardPool:
    """The images of shards, of which only a few are needed locally at any time.

    An epoch permutes the shards and shuffles the images within each ``WINDOW`` of them. Each index of the batch reads a
    contiguous range of the resulting order, which has length N: with T steps per epoch, index j reads
    ``order[j * T + step]``, modulo N. A rank therefore needs only the shards of its own batch indices. Memory: the
    index of the open windows, and three numbers per shard.

    Args:
        shards: The shards.
        seed: The seed of the run.
        rank_batch_size: Unlabeled images per step on this rank.
        factor: Images are decoded at ``1 / factor`` of their size, as by ``ImageReader``.
        format: The bands and the white value of the images.
    """

    names: Sequence[str] = ()

    def __init__(
        self, shards: Shards, seed: int, rank_batch_size: int, factor: int = 1, format: PixelFormat = RGB
    ) -> None:
        self.shards, self.seed, self.count = shards, seed, len(shards)
        self.factor, self.format = factor, format
        self._max_open = 2 * WINDOW * (rank_batch_size + 1)
        self._prefetch = is_remote(shards.base) and local_copy_bytes(shards, rank_batch_size) <= cache_bytes()
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._plans: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._prefetched: tuple[int, set[tuple[int, int]]] = (0, set())  # process id, (epoch, window)

    def __len__(self) -> int:
        return self.count

    def sample(self, epoch: int, step: int, index: int, batch_size: int) -> tuple[int, str]:
        """Return an image, see ``Pool``."""
        steps = -(-len(self) // batch_size)
        lap, position = divmod(index * steps + step, len(self))
        order, ends = self._plan(epoch)
        window = int(np.searchsorted(ends, position, side="right"))
        start, end = int(ends[window - 1]) if window else 0, int(ends[window])
        self._prefetch_window(epoch, window)
        if 2 * (position - start) >= end - start:
            self._prefetch_window(epoch, window + 1)
        image = int(_window_order(end - start, self.seed, window, epoch)[position - start])
        for number in order[window * WINDOW : (window + 1) * WINDOW].tolist():
            if image < self.shards.counts[number]:
                return lap, f"{self.shards.names[number]}/{self._shard(number).keys[image]}"
            image -= int(self.shards.counts[number])
        raise AssertionError("the position is outside its window")

    def read(self, id: str) -> Decoded:
        """Read an image, see ``Pool``. Decoded images are not cached."""
        shard, key = self._find(id)
        url, size = self.shards.url(shard.number), int(self.shards.sizes[shard.number])
        return read_image(url, size, key, shard.path, shard.members[key], self.factor, self.format)

    def fallbacks(self, id: str, epoch: int) -> Iterator[str]:
        """Yield all other images of the same shard, which is available locally."""
        shard, own = self._find(id)
        for index in permutation(len(shard.keys), self.seed, _fallback_purpose(id), epoch):
            if shard.keys[index] != own:
                yield id.removesuffix(own) + shard.keys[index]

    def preview(self, count: int) -> Sequence[str]:
        """Return images of the first shard that is not empty."""
        number = int(np.flatnonzero(self.shards.counts)[0])
        return [f"{self.shards.names[number]}/{key}" for key in evenly_spaced(self._shard(number).keys, count)]

    def _plan(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the order of the shards in an epoch, and the end of each window in the order of images."""
        if epoch not in self._plans:
            order = permutation(len(self.shards.names), self.seed, "shards", epoch)
            ends = np.cumsum(np.add.reduceat(self.shards.counts[order], np.arange(0, len(order), WINDOW)))
            self._plans = {epoch: (order, ends)}
        return self._plans[epoch]

    def _find(self, id: str) -> tuple[_OpenShard, str]:
        """Return the shard of an image, and its key."""
        name, _, key = id.partition(".tar/")
        name += ".tar"
        matches = (number for number in reversed(self._open) if self.shards.names[number] == name)  # usually the last
        number = next(matches, None)
        return self._shard(self.shards.names.index(name) if number is None else number), key

    def _shard(self, number: int) -> _OpenShard:
        """Return a shard, opening it if necessary and closing the least recently used one."""
        if number not in self._open:
            path, members = self.shards.members(number)
            self._open[number] = _OpenShard(number, path, members, tuple(members))
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    def _prefetch_window(self, epoch: int, window: int) -> None:
        """Start to download the shards of a window in a thread, once per process, if the cache can hold them."""
        process, started = self._prefetched
        if process != os.getpid():
            self._prefetched = process, started = os.getpid(), set()
        if (epoch, window) in started or not self._prefetch:
            return
        started.add((epoch, window))
        numbers = self._plan(epoch)[0][window * WINDOW : (window + 1) * WINDOW].tolist()

        def download() -> None:
            with _download_slots(process), suppress(UserError):  # raised again when the shard is needed
                for number in numbers:
                    fetch(self.shards.url(number), int(self.shards.sizes[number]))

        threading.Thread(target=download, daemon=True).start()


def make_pool(reader: ImageReader, split: Split, seed: int, rank_batch_size: int = 1) -> Pool:
    """Return the unlabeled images of a split. This rank reads ``rank_batch_size`` of them per step."""
    if split.shards is not None:
        return ShardPool(split.shards, seed, rank_batch_size, reader.factor, reader.dataset.pixel_format)
    return ListPool(reader, split.unlabeled, seed)


def local_copy_bytes(shards: Shards, batch_size: int) -> int:
    """Return the maximum size in bytes of the local copies that ``batch_size`` images per step need at once.

    Each index of the batch reads one window and downloads the next. Assumes that all shards are as large as the
    largest.
    """
    return min(int(shards.sizes.sum()), 2 * WINDOW * batch_size * int(shards.sizes.max()))


def disk_space_note(shards: Shards, batch_size: int) -> str:
    """Return a note or warning about the disk space for copies of remote shards, or "" for local shards."""
    if not is_remote(shards.base):
        return ""
    needed, limit = local_copy_bytes(shards, batch_size), cache_bytes()
    space = (
        f"copies of shards: up to {needed / 1e9:.2g} GB at a time in {cache_folder()}, limited to {limit / 1e9:.2g} GB"
    )
    if needed > limit:
        return f"warning: {space}. Shards will be downloaded repeatedly. Raise SEMISEG_CACHE_GB or make smaller shards"
    return f"{space} (SEMISEG_CACHE_GB)"


def _fallback_purpose(id: str) -> str:
    return f"stand-in {id}"  # part of the seed: changing it would change every run with unreadable images


@lru_cache(maxsize=256)  # one per index of the batch, with a few thousand images each
def _window_order(count: int, seed: int, window: int, epoch: int) -> NDArray[np.int32]:
    order = torch.randperm(count, generator=generator(seed, "window", epoch, window))
    return order.to(torch.int32).numpy()


@lru_cache(maxsize=1)
def _download_slots(process: int) -> threading.Semaphore:
    """Return the semaphore of a process. A semaphore inherited by fork could stay locked forever."""
    return threading.Semaphore(DOWNLOADS)


@lru_cache(maxsize=4)  # neighboring steps use the same two or three permutations
def permutation(count: int, seed: int, purpose: str, turn: int) -> NDArray[np.int64]:
    """Return a permutation of 0 to ``count - 1``, a function of all arguments."""
    order: NDArray[np.int64] = torch.randperm(count, generator=generator(seed, purpose, turn)).numpy()
    return order
