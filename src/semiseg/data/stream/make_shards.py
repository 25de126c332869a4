"""Pack images into shards, or write an index of existing shards."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from semiseg.data.files.atomic_folder import new_folder, require_free
from semiseg.data.files.file_lists import IMAGE_SUFFIXES, list_files
from semiseg.data.stream.remote_files import require_shards
from semiseg.data.stream.shards import INDEX, Shards, combine_shards, count_images, find_shards, holds_shards
from semiseg.data.stream.unlabeled_pool import permutation
from semiseg.errors import UserError, os_error, require_regular_file
from semiseg.option_ranges import read_part

PER_SHARD = 1000


def make_shards(source: str, out: str | Path, images_per_shard: int = PER_SHARD, part: str = "1/1") -> list[str]:
    """Write the images of a folder as shards to ``out``, or an index of existing shards.

    Images are packed byte for byte in a random order, so that the frames of a video end up in different shards. A key
    is the path below the folder without suffix; dots become ``_``, because a key ends at the first dot in webdataset.

    Args:
        source: A folder of images, or shards: a folder or URL of tar files, or ``.../photos-{000..127}.tar``.
        out: A new folder. It appears complete or not at all.
        images_per_shard: The number of images per shard.
        part: ``I/N`` writes part I of N of the shards of a folder, with the names and content that they have in the
            whole.

    Returns:
        A summary for the user, line by line.

    Raises:
        UserError: There are no images, ``out`` exists, or two images would have the same key.
    """
    require_shards()
    out, own = Path(out), read_part(part)
    require_free(out)
    if images_per_shard < 1:
        raise UserError(f"must be at least 1, got {images_per_shard}", option="images-per-shard")
    if part != "1/1" and holds_shards(source):
        raise UserError("applies to a folder of images only", option="part", fix="leave it out")
    if holds_shards(source):
        urls = find_shards(source)
        shards = count_images(source, urls, lambda done: print_progress(done - 1, done, len(urls), "shards scanned"))
        with new_folder(out) as draft:
            write_index(draft, shards.to_json())
    else:
        files = find_images(Path(source))
        with new_folder(out) as draft:
            shards = write_shards(files, draft, images_per_shard, own)
    return [
        f"{out}: {len(shards)} images in {len(shards.names)} shards",
        f"next: semiseg train --data DIR --unlabeled {out}",
    ]


def find_images(folder: Path) -> dict[str, Path]:
    """Return the images in a folder and its subfolders, except ``masks``, by the keys they get in shards.

    A key is the path below the folder, or below its subfolder ``images``.

    Raises:
        UserError: There are no images, or two would have the same key.
    """
    if not folder.is_dir():
        raise UserError("no such folder", path=folder, option="from", fix="give a folder of images, or shards")
    source = folder / "images" if (folder / "images").is_dir() else folder
    keys: dict[str, Path] = {}
    for id, path in list_files(source, IMAGE_SUFFIXES, nested=True).items():
        if "masks" in id.split("/")[:-1]:
            continue
        key = id.replace(".", "_")
        if keys.setdefault(key, path) != path:
            raise UserError(f"{keys[key]} would have the same key, {key}", path=path, fix="rename one of the two")
    if not keys:
        raise UserError(f"no images there ({', '.join(IMAGE_SUFFIXES)})", path=folder, option="from")
    return keys


def write_shards(files: Mapping[str, Path], folder: Path, images_per_shard: int, part: slice) -> Shards:
    """Write a part of the shards of images, by key, and its index into a folder."""
    keys, order = list(files), permutation(len(files), 0, "shards", 0).tolist()
    paths: list[str] = []
    counts, sizes = [], []
    for start in range(0, len(keys), images_per_shard)[part]:
        chunk = [keys[index] for index in order[start : start + images_per_shard]]
        path = folder / f"shard-{start // images_per_shard:06d}.tar"
        with open(path, "wb") as file, tar_writer(file) as tar:
            for key in chunk:
                tar.write({"__key__": key, files[key].suffix[1:].lower(): read_file(files[key])})
        paths.append(str(path))
        counts.append(len(chunk))
        sizes.append(path.stat().st_size)
        print_progress(start, start + len(chunk), len(keys), "images packed")
    shards = combine_shards(str(folder), paths, counts, sizes)
    write_index(folder, shards.to_json() | {"base": "", "name": ""})
    return shards


def read_file(path: Path) -> bytes:
    """Return the content of an image file. Raises UserError if it cannot be read."""
    try:
        return require_regular_file(path).read_bytes()
    except OSError as error:
        raise os_error(error, "cannot be read", path, "replace or remove it") from None


def write_index(folder: Path, content: dict[str, Any]) -> None:
    """Write the index of shards into a folder."""
    (folder / INDEX).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def tar_writer(file: BinaryIO) -> Any:
    """Return webdataset's writer of a tar file, with all timestamps set to 0."""
    from webdataset import TarWriter

    return TarWriter(file, user="", group="", mode=0o644, encoder=False, compress=False, mtime=0)


def print_progress(before: int, done: int, count: int, unit: str) -> None:
    """Print the progress to stderr, about ten times in total."""
    if done * 10 // count > before * 10 // count:
        print(f"{done} of {count} {unit}", file=sys.stderr)
