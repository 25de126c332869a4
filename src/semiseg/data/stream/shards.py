"""Images in shards: tar files of hundreds or thousands of images each, in a folder or under a URL.

The format is that of webdataset: files whose names agree up to the first dot belong together. The index next to the tar
files has the format of its ``wids`` module: ``{"shardlist": [{"url": ..., "nsamples": ..., "filesize": ...}]}``.
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
from semiseg.data.files.file_lists import IMAGE_SUFFIXES
from semiseg.data.files.string_array import StringArray
from semiseg.data.stream.remote_files import Unreachable, is_remote, list_urls, local_path, read_bytes, require_shards
from semiseg.data.stream.tar_files import Members, open_tar
from semiseg.errors import UserError, require_regular_file

INDEX = "index.json"
KIND = "wids-shard-index-v1"


@dataclass(frozen=True, eq=False)
class Shards:
    """Tar files and the number of images in each.

    Attributes:
        source: The name in messages.
        base: The common prefix of the URLs: a folder or a URL that ends with a slash.
        names: The tar files below ``base``. Name and key form the id of an image, wherever the shards are.
        counts: The number of images in each, int64.
        sizes: The size of each in bytes, int64; 0 if unknown.
    """

    source: str
    base: str
    names: Sequence[str]
    counts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.counts.sum())

    def url(self, shard: int) -> str:
        """Return the path or URL of a shard."""
        return self.base + self.names[shard]

    def members(self, shard: int) -> tuple[Path, Members]:
        """Return the path of a local copy of a shard, and its images.

        Raises:
            Unreachable: It cannot be downloaded or read, or holds another number of images than the index says.
        """
        path, found, _ = open_tar(self.url(shard), int(self.sizes[shard]))
        if len(found) != self.counts[shard]:
            problem = f"it holds {len(found)} images, but the index says {self.counts[shard]}"
            raise Unreachable(problem, path=self.url(shard), fix="create the index again")
        return path, found

    def to_json(self) -> dict[str, Any]:
        """Return the index in the format of webdataset's ``wids``."""
        rows = zip(self.names, self.counts.tolist(), self.sizes.tolist(), strict=True)
        entries = [{"url": name, "nsamples": count, "filesize": size} for name, count, size in rows]
        return {"__kind__": KIND, "wids_version": 1, "name": self.source, "base": self.base, "shardlist": entries}

    def describe(self) -> str:
        """Return a short description."""
        return f"{len(self)} images in {len(self.names)} shards of {self.source}"


def names_shards(text: str) -> bool:
    """Return whether ``text`` is a URL, a folder, an index, a tar file, or a pattern of tar files in braces."""
    if os.path.isfile(text):
        return text.endswith((".tar", ".json"))
    return "://" in text or text.endswith((".tar", ".json")) or "{" in text or os.path.isdir(text)


def holds_shards(text: str) -> bool:
    """Return whether ``text`` names shards rather than an image file or a folder of images.

    Raises:
        UserError: A folder holds both.
    """
    if not os.path.isdir(text):
        return names_shards(text)
    names = os.listdir(text)
    shard = min((name for name in names if name.endswith(".tar")), default="")
    image = min((name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and name[0] != "."), default="")
    if INDEX in names and (not image or _is_index(Path(text, INDEX))):
        shard = INDEX
    if image and shard:
        fix = f"give {Path(text, shard)} itself to use the shards, or move it elsewhere to use the images"
        raise UserError(f"the folder holds both {image} and {shard}", path=text, fix=fix)
    return bool(shard)


def _is_index(path: Path) -> bool:
    """Return whether a file is an index of shards; other programs write files called index.json as well."""
    try:
        return len(parse_index(str(path), require_regular_file(path).read_bytes())) > 0
    except (OSError, UserError):
        return False


def open_shards(source: str) -> Shards:
    """Find the shards that a text names.

    Args:
        source: A folder or URL with ``index.json`` or tar files, an index, a tar file, or a pattern in braces,
            ``https://example.org/photos-{000..127}.tar``. Local tar files need no index.

    Raises:
        UserError: There are no shards, remote shards have no index, or the extra is not installed.
        Unreachable: The source cannot be read.
    """
    require_shards()
    if source.endswith(".json"):
        content = read_bytes(source)
        if content is None:
            raise UserError("no such file", path=source, fix=f"give a folder or URL of shards, or their {INDEX}")
        return parse_index(source, content)
    if not (source.endswith(".tar") or "{" in source) and (
        content := read_bytes(index := source.rstrip("/") + "/" + INDEX)
    ):
        return parse_index(index, content, source)
    urls = find_shards(source)
    if is_remote(source):
        raise UserError(
            f"{len(urls)} shards without {INDEX}, which holds their number of images",
            path=source,
            fix=f"create one by semiseg prepare shards --from '{source}' --out DIR, and give DIR",
        )
    return count_images(source, urls)


def find_shards(source: str) -> list[str]:
    """Return the tar files that a text names, without opening them. Raises UserError if there are none."""
    from webdataset.shardlists import expand_urls

    if source.endswith(".tar") or "{" in source:
        return list(expand_urls(source))
    urls = [url for url in list_urls(source) if url.endswith(".tar")]
    if not urls:
        raise UserError(f"no {INDEX} and no .tar files there", path=source, fix="give the folder or URL of shards")
    return urls


def count_images(source: str, urls: Iterable[str], on_progress: Callable[[int], None] | None = None) -> Shards:
    """Count the images in each tar file, several at once. ``on_progress`` gets the number of finished files.

    Raises:
        UserError: There are no images.
        Unreachable: A file cannot be read.
    """
    urls = [url if is_remote(url) else absolute_path(url) for url in urls]
    counts, sizes = [], []
    for done, (_, found, size) in enumerate(read_ahead(open_tar, urls, workers=8, ahead=8), 1):
        counts.append(len(found))
        sizes.append(size)
        if on_progress:
            on_progress(done)
    return combine_shards(source, urls, counts, sizes)


def absolute_path(url: str) -> str:
    """Return the absolute path of a local file, so that it does not depend on the working directory."""
    return os.path.abspath(local_path(url))


def combine_shards(source: str, urls: Sequence[str], counts: Sequence[int], sizes: Sequence[int]) -> Shards:
    """Return shards whose base is the longest common prefix of the URLs.

    Raises:
        UserError: There are no images, or a tar file is listed twice.
    """
    first, last = min(urls, default=""), max(urls, default="")  # their common prefix is that of all
    common = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    base = first[: first.rfind("/", 0, common) + 1]
    names = [url.removeprefix(base) for url in urls]
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{twice} is listed twice", path=source)
    if not sum(counts):
        endings = ", ".join(IMAGE_SUFFIXES)
        raise UserError(f"no images in {len(urls)} shards (files named KEY.jpg, or {endings})", path=source)
    return Shards(source, base, StringArray(names), np.array(counts, dtype=np.int64), np.array(sizes, dtype=np.int64))


def parse_index(url: str, content: bytes, source: str | None = None) -> Shards:
    """Parse an index. Its addresses are relative to its own folder unless it has a base.

    Args:
        url: The index.
        content: Its content.
        source: The name of the shards in messages; by default the name in the index.

    Raises:
        UserError: The content is not a valid index.
    """

    def invalid(detail: str) -> UserError:
        fix = "write shardlist, a list of url and nsamples"
        return UserError(f"not an index of shards ({detail})", path=url, fix=fix)

    try:
        index = json.loads(content)
        entries = [(str(e["url"]), e["nsamples"], e.get("filesize", 0)) for e in index["shardlist"]]
        base, name = str(index.get("base") or ""), str(index.get("name") or url)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise invalid(type(error).__name__) from None
    own = (url if is_remote(url) else absolute_path(url)).rpartition("/")[0] + "/"
    urls = [entry if is_remote(entry) or entry.startswith("/") else (base or own) + entry for entry, _, _ in entries]
    named = [base, *(entry for entry, _, _ in entries)]
    if any(".." in Path(text).parts for text in named) or any(not u.endswith(".tar") or "\0" in u for u in urls):
        raise invalid("a url does not end with .tar, or contains ..")
    if is_remote(url) and not all(map(is_remote, urls)):
        raise invalid("it names local files")
    numbers = [number for _, *both in entries for number in both]
    if not all(type(number) is int and number >= 0 for number in numbers) or sum(numbers) >= 2**62:
        raise invalid("a count is not an integer, or too large")
    return combine_shards(source or name, urls, numbers[::2], numbers[1::2])
