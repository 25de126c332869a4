"""A million names in little memory: one text instead of a million strings, for workers to share without a copy."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np


class StringArray(Sequence[str]):
    """Strings in one text, in the order given; 8 bytes each beside their letters. Equal to a tuple of the same strings.

    A Python string has a counter that changes whenever somebody looks at it, so that processes which share a list of
    them come to copy all of it, page by page. Nothing here changes when it is read, but the counter of the text.
    """

    def __init__(self, names: Iterable[str]) -> None:
        names = names if isinstance(names, (list, tuple)) else list(names)
        self._text = "".join(names)
        self._ends = np.cumsum(np.fromiter(map(len, names), np.int64, len(names)))

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
        return self._text[start : int(self._ends[place])]

    def __iter__(self) -> Iterator[str]:
        text, start = self._text, 0
        for end in self._ends.tolist():
            yield text[start:end]
            start = end

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StringArray):
            return self._text == other._text and np.array_equal(self._ends, other._ends)
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))


def as_string_array(names: Iterable[str]) -> StringArray:
    """Return ``Names`` of the strings: themselves where they are that already."""
    return names if isinstance(names, StringArray) else StringArray(names)


class FolderFiles(Mapping[str, Path]):
    """The files of one folder by their stems, sorted: a read-only dict that makes each path when it is asked for.

    Args:
        directory: the folder.
        suffixes: the suffix of each file, by its stem.

    Attributes:
        stems: its keys.
    """

    def __init__(self, directory: Path, suffixes: Mapping[str, str]) -> None:
        self._directory = directory
        stems = sorted(suffixes)
        self._kinds = tuple(sorted(set(suffixes.values())))
        numbers = {suffix: number for number, suffix in enumerate(self._kinds)}
        self._kind = np.array([numbers[suffixes[stem]] for stem in stems], dtype=np.uint16)
        self.stems = StringArray(stems)

    def __getitem__(self, stem: str) -> Path:
        place = bisect_left(self.stems, stem)
        if place == len(self.stems) or self.stems[place] != stem:
            raise KeyError(stem)
        return self._directory / (stem + self._kinds[self._kind[place]])

    def __iter__(self) -> Iterator[str]:
        return iter(self.stems)

    def __len__(self) -> int:
        return len(self.stems)


def sorted_keys(files: Mapping[str, Path]) -> StringArray:
    """Return the keys, sorted."""
    return files.stems if isinstance(files, FolderFiles) else StringArray(sorted(files))
