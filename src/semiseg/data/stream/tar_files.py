"""Index a tar file of images, and read single images from it without unpacking the rest."""

from __future__ import annotations

import os
import tarfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path, PureWindowsPath

from semiseg.data.dataset import Decoded
from semiseg.data.files.file_lists import IMAGE_SUFFIXES
from semiseg.data.files.image_files import decode
from semiseg.data.files.image_header import reason
from semiseg.data.files.pixel_format import RGB, PixelFormat
from semiseg.data.stream.remote_files import Unreachable, fetch, is_remote
from semiseg.errors import UserError, require_regular_file

ATTEMPTS = 3  # to open a copy that another process may evict
MAX_IMAGE_BYTES = 1 << 30  # headers can claim any size, and sparse files can match it
Members = dict[str, tuple[int, int]]
"""The offset and the size in bytes of each image in a tar file by key, in the order of the file."""


def open_tar(url: str, size: int = 0) -> tuple[Path, Members, int]:
    """Return the path of a local copy of a tar file, its images, and its size in bytes.

    Raises:
        Unreachable: The file cannot be downloaded or read.
    """
    for _ in range(ATTEMPTS):
        path = fetch(url, size)
        with suppress(FileNotFoundError):  # another process has just evicted the copy
            return path, read_members(path, url), path.stat().st_size
    raise missing_error(url)


def read_members(path: Path, url: str) -> Members:
    """Find the images in a tar file without unpacking it.

    Files with the same key belong together (``a.jpg``, ``a.json``, ``a.mask.png``). The image is the first one called
    KEY.jpg, or KEY with another image suffix.

    Raises:
        Unreachable: The file cannot be read, or is compressed.
    """
    from webdataset.tariterators import base_plus_ext

    found: Members = {}
    try:
        with tarfile.open(require_regular_file(path), "r:") as tar:
            while (member := tar.next()) is not None:
                key, ending = base_plus_ext(member.name)
                if member.isreg() and not member.issparse() and key and f".{ending.lower()}" in IMAGE_SUFFIXES:
                    found.setdefault(key, (member.offset_data, member.size))
                tar.members = []  # type: ignore[attr-defined]  # otherwise it keeps all members in memory
    except FileNotFoundError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        problem = f"not a plain tar file, or damaged ({reason(error)})"
        raise Unreachable(problem, path=url, fix="replace it") from None
    return found


def read_image(
    url: str, size: int, key: str, path: Path, location: tuple[int, int], factor: int = 1, format: PixelFormat = RGB
) -> Decoded:
    """Decode an image from the local copy of its tar file, which is downloaded again if it was evicted.

    Args:
        url: The tar file.
        size: Its size in bytes, 0 if unknown.
        key: The key of the image.
        path: The local copy.
        location: Offset and size of the image in bytes.
        factor: The reduction, see ``decode``.
        format: The bands and the white value.

    Raises:
        UserError: The image cannot be read, is too large, or its name leads out of its folder.
        Unreachable: The tar file cannot be downloaded.
    """
    offset, count = location
    name = f"{url}: {key}"
    if escapes_folder(key):
        raise UserError("the image's name leads out of its folder", path=name, fix="rename it and pack it again")
    for _ in range(ATTEMPTS):
        with suppress(FileNotFoundError), open(path, "rb") as file:
            if count > min(MAX_IMAGE_BYTES, os.fstat(file.fileno()).st_size - offset):
                raise UserError(f"the image cannot be read (it claims {count} bytes)", path=name, fix="pack it again")
            file.seek(offset)
            return decode(BytesIO(file.read(count)), name, factor, format)
        fetch(url, size)
    raise missing_error(url)


def escapes_folder(name: str) -> bool:
    """Return whether a name joined to a folder may lead out of it, on this system or another."""
    path = PureWindowsPath(name)  # recognizes both kinds of slashes
    return bool(path.root) or ".." in path.parts


def missing_error(url: str) -> Unreachable:
    """Return the error for a tar file that does not exist, or whose copies are evicted before they can be read."""
    if is_remote(url):
        return Unreachable("its copy is evicted before it can be read", path=url, fix="raise SEMISEG_CACHE_GB")
    return Unreachable("no such file", path=url, fix="check the path")
