"""One tar file of images: what is in it, and an image of it, without unpacking the rest."""

from __future__ import annotations

import os
import tarfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path, PureWindowsPath

from semiseg.data.dataset import Decoded
from semiseg.data.files.image_files import IMAGE_SUFFIXES, decode, reason
from semiseg.data.stream.remote_files import Unreachable, fetch, is_remote
from semiseg.errors import UserError, require_regular_file

ATTEMPTS = 3  # at a copy that others may remove
GONE = "its copy is removed before it can be read: raise SEMISEG_CACHE_GB"
MAX_IMAGE_BYTES = (
    1 << 30
)  # bytes of one image: a header may claim what no memory holds, and a sparse file seem to have it
Members = dict[str, tuple[int, int]]
"""Of a tar file: where an image's bytes begin and how many they are, by its key, in the order of the file."""


def open_tar(place: str, size: int = 0) -> tuple[Path, Members, int]:
    """Return a local copy of a tar file anywhere, what is in it, and its size in bytes.

    Raises:
        Unreachable: it cannot be got or read.
    """
    for _ in range(ATTEMPTS):
        path = fetch(place, size)
        with suppress(FileNotFoundError):  # of a copy: another process has just made room for its own
            return path, read_members(path, place), path.stat().st_size
    raise missing_error(place)


def read_members(path: Path, place: str) -> Members:
    """Find the images in a tar file; nothing of it is unpacked.

    Of several files with one key (``a.jpg``, ``a.json``, ``a.mask.png``) the first called KEY.jpg or the like is the
    image.

    Raises:
        Unreachable: it cannot be read, or is compressed.
    """
    from webdataset.tariterators import base_plus_ext

    found: Members = {}
    try:
        with tarfile.open(require_regular_file(path), "r:") as tar:
            while (member := tar.next()) is not None:
                key, ending = base_plus_ext(member.name)
                if member.isreg() and not member.issparse() and key and f".{ending.lower()}" in IMAGE_SUFFIXES:
                    found.setdefault(key, (member.offset_data, member.size))
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
    except FileNotFoundError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise Unreachable(f"{place}: no plain tar file, or a damaged one ({reason(error)}): replace it") from None
    return found


def read_image(place: str, size: int, key: str, path: Path, where: tuple[int, int], factor: int = 1) -> Decoded:
    """Read an image as ``decode`` does, from a local copy of its tar file, which is got anew if it has gone.

    Raises:
        UserError: the image cannot be read, is absurdly large, or has a name that leads out of its folder.
        Unreachable: the tar file cannot be got.
    """
    begin, count = where
    if escapes_folder(key):
        raise UserError(f"{place}: {key}: the image's name leads out of its folder; pack it anew under another name")
    for _ in range(ATTEMPTS):
        with suppress(FileNotFoundError), open(path, "rb") as file:
            if count > min(MAX_IMAGE_BYTES, os.fstat(file.fileno()).st_size - begin):
                raise UserError(f"{place}: {key}: the image cannot be read (it claims {count} bytes); pack it anew")
            file.seek(begin)
            return decode(BytesIO(file.read(count)), f"{place}: {key}", factor)
        fetch(place, size)
    raise missing_error(place)


def escapes_folder(name: str) -> bool:
    """Tell whether a name, joined to a folder, may mean a place outside of it, here or on another system."""
    path = PureWindowsPath(name)  # which knows both slashes
    return bool(path.root) or ".." in path.parts


def missing_error(place: str) -> Unreachable:
    """Return what to say of a tar file, or of its local copy, that is not there each time one looks."""
    return Unreachable(f"{place}: {GONE if is_remote(place) else 'no such file: check the path'}")
