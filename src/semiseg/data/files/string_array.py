"""Immutable sequences of strings in one buffer, which worker processes share without copying."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np


class StringArray(Sequence[str]):
    """Strings stored as one text plus 8 bytes each. Equal to a tuple of the same strings.

    Reading an element of a list changes its reference count, so forked workers that share a list end up copying all
    of its memory. Reading a StringArray changes only the reference count of the text.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        strings = strings if isinstance(strings, (list, tuple)) else list(strings)
        self._text = "".join(strings)
        self._ends = np.cumsum(np.fromiter(map(len, strings), np.int64, len(strings)))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[number] for number in range(*index.indices(len(self))))
        number = range(len(self))[index]  # supports negative indices, raises IndexError
        start = int(self._ends[number - 1]) if number else 0
        return self._text[start : int(self._ends[number])]

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


def as_string_array(strings: Iterable[str]) -> StringArray:
    """Return the strings as a StringArray, without a copy if they are one."""
    return strings if isinstance(strings, StringArray) else StringArray(strings)


class FolderFiles(Mapping[str, Path]):
    """The files of a folder and its subfolders by id, sorted. A read-only mapping that creates each path on access.

    Args:
        directory: The folder.
        suffixes: The suffix of each file by its id.
        originals: The path without suffix of each file for which it is not the id.

    Attributes:
        stems: The keys.
    """

    def __init__(
        self, directory: Path, suffixes: Mapping[str, str], originals: Mapping[str, str] | None = None
    ) -> None:
        self._directory = directory
        self._originals = dict(originals or {})
        stems = sorted(suffixes)
        self._suffixes = tuple(sorted(set(suffixes.values())))
        numbers = {suffix: number for number, suffix in enumerate(self._suffixes)}
        self._suffix_index = np.array([numbers[suffixes[stem]] for stem in stems], dtype=np.uint16)
        self.stems = StringArray(stems)

    def __getitem__(self, stem: str) -> Path:
        index = bisect_left(self.stems, stem)
        if index == len(self.stems) or self.stems[index] != stem:
            raise KeyError(stem)
        return self._directory / (self._originals.get(stem, stem) + self._suffixes[self._suffix_index[index]])

    def __iter__(self) -> Iterator[str]:
        return iter(self.stems)

    def __len__(self) -> int:
        return len(self.stems)


def sorted_keys(files: Mapping[str, Path]) -> StringArray:
    """Return the keys, sorted."""
    return files.stems if isinstance(files, FolderFiles) else StringArray(sorted(files))
