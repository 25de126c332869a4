"""Images in shards: plain tar files of some hundred or thousand images each, in a folder or under a URL.

The form is that of the webdataset library: files of one name up to its first dot belong together, and the index beside
the tar files is that of its ``wids`` part, ``{"shardlist": [{"url": ..., "nsamples": ..., "filesize": ...}]}``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiseg.data.dataset import read_ahead
from semiseg.data.files.image_files import IMAGE_SUFFIXES
from semiseg.data.files.string_array import StringArray
from semiseg.data.stream.remote_files import Unreachable, is_remote, list_urls, local_path, read_bytes, require_shards
from semiseg.data.stream.tar_files import Members, open_tar
from semiseg.errors import UserError, require_regular_file

INDEX = "index.json"
KIND = "wids-shard-index-v1"


@dataclass(frozen=True, eq=False)
class Shards:
    """Tar files, and how many images each of them holds.

    Attributes:
        source: what a person calls them.
        base: what stands before each name: a folder or a URL, with a slash at its end.
        names: of the tar files; with a key, the id of an image, wherever a copy of the shards lies.
        counts: images in each, int64.
        sizes: bytes of each, int64; 0 where that is not known.
    """

    source: str
    base: str
    names: Sequence[str]
    counts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.counts.sum())

    def url(self, shard: int) -> str:
        """Return where the tar file of a number lies."""
        return self.base + self.names[shard]

    def members(self, shard: int) -> tuple[Path, Members]:
        """Return a local copy of the tar file of a number, and what is in it.

        Raises:
            Unreachable: it cannot be got or read, or holds another number of images than the index says.
        """
        path, found, _ = open_tar(self.url(shard), int(self.sizes[shard]))
        if len(found) != self.counts[shard]:
            raise Unreachable(
                f"{self.url(shard)}: it holds {len(found)} images, {self.counts[shard]} by the index: make it anew"
            )
        return path, found

    def to_json(self) -> dict[str, Any]:
        """Return the index, in the form of webdataset's ``wids``."""
        rows = zip(self.names, self.counts.tolist(), self.sizes.tolist(), strict=True)
        entries = [{"url": name, "nsamples": count, "filesize": size} for name, count, size in rows]
        return {"__kind__": KIND, "wids_version": 1, "name": self.source, "base": self.base, "shardlist": entries}

    def describe(self) -> str:
        """Return what they are in a few words."""
        return f"{len(self)} images in {len(self.names)} shards of {self.source}"


def names_shards(text: str) -> bool:
    """Tell whether a text names shards: a URL, a folder, an index, a tar file, or several in braces."""
    if os.path.isfile(text):
        return text.endswith((".tar", ".json"))
    return "://" in text or text.endswith((".tar", ".json")) or "{" in text or os.path.isdir(text)


def holds_shards(text: str) -> bool:
    """Tell whether a text names shards where image files and folders of them are meant as well.

    Raises:
        UserError: a folder holds both.
    """
    if not os.path.isdir(text):
        return names_shards(text)
    names = os.listdir(text)
    shard = min((name for name in names if name.endswith(".tar")), default="")
    image = min((name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and name[0] != "."), default="")
    if INDEX in names and (not image or _is_index(Path(text, INDEX))):
        shard = INDEX
    if image and shard:
        raise UserError(
            f"{text}: {image} and {shard} lie side by side: give {Path(text, shard)} itself if shards are meant, or "
            "move it elsewhere if the images are"
        )
    return bool(shard)


def _is_index(path: Path) -> bool:
    """Tell whether a file is an index of shards: other programs have files called index.json as well."""
    try:
        return len(parse_index(str(path), require_regular_file(path).read_bytes())) > 0
    except (OSError, UserError):
        return False


def open_shards(source: str) -> Shards:
    """Find the shards that a text names.

    Args:
        source: a folder or a URL with ``index.json`` or tar files in it, an index, a tar file, or several written with
            braces, ``https://example.org/photos-{000..127}.tar``. Tar files on this machine need no index.

    Raises:
        UserError: there is none, no index says how many images they hold, or the extra is missing.
        Unreachable: the place cannot be read.
    """
    require_shards()
    if source.endswith(".json"):
        content = read_bytes(source)
        if content is None:
            raise UserError(f"{source}: no such file: give a folder or URL of shards, or their {INDEX}")
        return parse_index(source, content)
    if not (source.endswith(".tar") or "{" in source) and (
        content := read_bytes(index := source.rstrip("/") + "/" + INDEX)
    ):
        return parse_index(index, content, source)
    places = find_shards(source)
    if is_remote(source):
        raise UserError(
            f"{source}: no {INDEX} there says how many images each of {len(places)} shards holds: make one by "
            f"semiseg prepare shards --from '{source}' --out DIR, and give DIR"
        )
    return count_images(source, places)


def find_shards(source: str) -> list[str]:
    """Return the places of the tar files that a text names, unopened; raises UserError where there are none."""
    from webdataset.shardlists import expand_urls

    if source.endswith(".tar") or "{" in source:
        return list(expand_urls(source))
    places = [place for place in list_urls(source) if place.endswith(".tar")]
    if not places:
        raise UserError(f"{source}: no {INDEX} and no .tar files there: give the folder or URL of shards")
    return places


def count_images(source: str, places: Iterable[str], tell: Callable[[int], None] | None = None) -> Shards:
    """Look into each tar file for how many images it holds, into several at once; ``tell`` hears how many are done.

    Raises:
        UserError: they hold none.
        Unreachable: one cannot be read.
    """
    places = [place if is_remote(place) else absolute_path(place) for place in places]
    counts, sizes = [], []
    for done, (_, found, size) in enumerate(read_ahead(open_tar, places, workers=8, ahead=8), 1):
        counts.append(len(found))
        sizes.append(size)
        if tell:
            tell(done)
    return combine_shards(source, places, counts, sizes)


def absolute_path(place: str) -> str:
    """Return a path on this machine from the root on, without ``..``: what it means must not depend on where one is."""
    return os.path.abspath(local_path(place))


def combine_shards(source: str, places: Sequence[str], counts: Sequence[int], sizes: Sequence[int]) -> Shards:
    """Put shards together: what stands before all of their names is their base.

    Raises:
        UserError: there is no image, or a tar file stands there twice.
    """
    first, last = min(places, default=""), max(places, default="")  # what these share, all of them do
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    base = first[: first.rfind("/", 0, same) + 1]
    names = [place.removeprefix(base) for place in places]
    if len({*names}) < len(names):
        raise UserError(f"{source}: {next(name for name in names if names.count(name) > 1)} stands there twice")
    if not sum(counts):
        endings = ", ".join(IMAGE_SUFFIXES)
        raise UserError(f"{source}: no images in {len(places)} shards (an image is called KEY.jpg; of {endings})")
    return Shards(source, base, StringArray(names), np.array(counts, dtype=np.int64), np.array(sizes, dtype=np.int64))


def parse_index(place: str, content: bytes, source: str | None = None) -> Shards:
    """Read the content of an index; addresses in it are relative to its own place, unless it says otherwise.

    Args:
        place: where the index lies.
        content: what it holds.
        source: what to call the shards; as the index does, where it is None.

    Raises:
        UserError: it is none.
    """
    wrong = f"{place}: no index of shards ({{}}); it must hold shardlist, a list of url and nsamples"
    try:
        index = json.loads(content)
        entries = [(str(e["url"]), e["nsamples"], e.get("filesize", 0)) for e in index["shardlist"]]
        base, name = str(index.get("base") or ""), str(index.get("name") or place)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(wrong.format(type(error).__name__)) from None
    own = (place if is_remote(place) else absolute_path(place)).rpartition("/")[0] + "/"
    places = [url if is_remote(url) or url.startswith("/") else (base or own) + url for url, _, _ in entries]
    named = [base, *(url for url, _, _ in entries)]
    if any(".." in Path(text).parts for text in named) or any(not p.endswith(".tar") or "\0" in p for p in places):
        raise UserError(wrong.format("a url is no .tar, or has .. in it"))
    if is_remote(place) and not all(map(is_remote, places)):
        raise UserError(wrong.format("it names files of this machine"))
    numbers = [number for _, *both in entries for number in both]
    if not all(type(number) is int and number >= 0 for number in numbers) or sum(numbers) >= 2**62:
        raise UserError(wrong.format("a count is no whole number, or absurdly large"))
    return combine_shards(source or name, places, numbers[::2], numbers[1::2])
