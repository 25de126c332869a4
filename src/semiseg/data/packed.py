"""A million names in little memory: one buffer instead of a million strings, for workers to share without a copy."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np


class Names(Sequence[str]):
    """Strings in one buffer, in the order given; some 10 bytes each beside their letters.

    A Python string has a counter that changes whenever somebody looks at it, so that processes which share a list of
    them come to copy all of it, page by page. Nothing here changes when it is read.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]  # also names that are no UTF-8
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._letters = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = range(len(self))[index]  # raises IndexError, and knows negative ones
        start = int(self._ends[place - 1]) if place else 0
        return self._letters[start : int(self._ends[place])].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self._ends.tolist():
            yield self._letters[start:end].decode("utf-8", "surrogateescape")
            start = end


class Files(Mapping[str, Path]):
    """The files of one folder by their stems, sorted: a read-only dict that makes each path when it is asked for.

    Args:
        directory: the folder.
        suffixes: the suffix of each file, by its stem.
    """

    def __init__(self, directory: Path, suffixes: Mapping[str, str]) -> None:
        self._directory = directory
        stems = sorted(suffixes)
        self._kinds = tuple(sorted(set(suffixes.values())))
        numbers = {suffix: number for number, suffix in enumerate(self._kinds)}
        self._kind = np.array([numbers[suffixes[stem]] for stem in stems], dtype=np.uint16)
        self._stems = Names(stems)

    def __getitem__(self, stem: str) -> Path:
        place = bisect_left(self._stems, stem)
        if place == len(self._stems) or self._stems[place] != stem:
            raise KeyError(stem)
        return self._directory / (stem + self._kinds[self._kind[place]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._stems)

    def __len__(self) -> int:
        return len(self._stems)
