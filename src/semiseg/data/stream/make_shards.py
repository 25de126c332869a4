"""Shards: made of photographs, looked into for an index, and made of masks."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from semiseg.data.files.atomic_folder import is_free, new_folder
from semiseg.data.files.image_files import IMAGE_SUFFIXES, list_files, list_tree, reason
from semiseg.data.stream.remote_files import require_shards
from semiseg.data.stream.shards import INDEX, Shards, combine_shards, count_images, find_shards, holds_shards
from semiseg.data.stream.unlabeled_pool import permutation
from semiseg.errors import UserError, require_regular_file

PER_SHARD = 1000


def make_shards(source: str, out: str | Path, images_per_shard: int = PER_SHARD) -> list[str]:
    """Make ``out``: shards of the photographs in a folder, or an index of shards that lie anywhere.

    Photographs are packed byte for byte, in an order drawn once, so that neighbors (frames of one video) come into
    different shards. A shard of their names: up to the first dot, as webdataset has it; other dots become ``_``.

    Args:
        source: a folder of image files, or shards: a folder or a URL of tar files, or ``.../photos-{000..127}.tar``.
        out: a folder to make, in one piece.
        images_per_shard: how many images a shard holds.

    Returns:
        What was made, line by line, for a person to read.

    Raises:
        UserError: there is no image, ``out`` exists, or two images would have one name.
    """
    require_shards()
    out = Path(out)
    if not is_free(out):
        raise UserError(f"{out} exists: nothing is overwritten: choose another --out")
    if images_per_shard < 1:
        raise UserError(f"--images-per-shard {images_per_shard}: it must be at least 1")
    if holds_shards(source):
        places = find_shards(source)
        shards = count_images(
            source, places, lambda done: print_progress(done - 1, done, len(places), "shards looked into")
        )
        with new_folder(out) as draft:
            write_index(draft, shards.to_json())
    else:
        files = find_images(Path(source))
        with new_folder(out) as draft:
            shards = write_shards(files, draft, images_per_shard)
    return [
        f"{out}: {len(shards)} images in {len(shards.names)} shards",
        f"next: semiseg train --data DIR --unlabeled {out}",
    ]


def find_images(folder: Path) -> dict[str, Path]:
    """Return the images in a folder, or in folders below where it has none, by the keys they get in shards.

    Raises:
        UserError: there is none, or two would have one key.
    """
    if not folder.is_dir():
        raise UserError(f"--from {folder}: no such folder: give a folder of images, or shards")
    files = list_files(folder, IMAGE_SUFFIXES) or list_tree(folder)
    keys: dict[str, Path] = {}
    for stem, path in files.items():
        key = stem.replace(".", "_")
        if keys.setdefault(key, path) != path:
            raise UserError(f"{path}: {keys[key]} would have the same key, {key}: rename one of the two")
    if not keys:
        raise UserError(f"--from {folder}: no images there (looked for {', '.join(IMAGE_SUFFIXES)})")
    return keys


def write_shards(files: Mapping[str, Path], folder: Path, images_per_shard: int) -> Shards:
    """Write shards of images, by key, and their index into a folder."""
    keys, order = list(files), permutation(len(files), 0, "shards", 0).tolist()
    places: list[str] = []
    counts, sizes = [], []
    for start in range(0, len(keys), images_per_shard):
        part = [keys[index] for index in order[start : start + images_per_shard]]
        path = folder / f"shard-{len(places):06d}.tar"
        with open(path, "wb") as file, tar_writer(file) as tar:
            for key in part:
                tar.write({"__key__": key, files[key].suffix[1:].lower(): read_file(files[key])})
        places.append(str(path))
        counts.append(len(part))
        sizes.append(path.stat().st_size)
        print_progress(start, start + len(part), len(keys), "images packed")
    shards = combine_shards(str(folder), places, counts, sizes)
    write_index(folder, shards.to_json() | {"base": "", "name": ""})
    return shards


def read_file(path: Path) -> bytes:
    """Return what an image file holds; raises UserError where it cannot be read."""
    try:
        return require_regular_file(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); replace or remove it") from None


def write_index(folder: Path, content: dict[str, Any]) -> None:
    """Write the index of shards into a folder."""
    (folder / INDEX).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def tar_writer(file: BinaryIO) -> Any:
    """Return webdataset's writer of a tar file in which nothing depends on the clock."""
    from webdataset import TarWriter

    return TarWriter(file, user="", group="", mode=0o644, encoder=False, compress=False, mtime=0)


def print_progress(before: int, done: int, count: int, what: str) -> None:
    """Say how far it is, ten times on the way."""
    if done * 10 // count > before * 10 // count:
        print(f"{done} of {count} {what}", file=sys.stderr)
