"""Files wherever they lie: read by fsspec, and kept for a while on the local disk, where many processes may share them.

Where copies are kept does not change a run, so that it is no option of it: ``SEMISEG_CACHE`` is the folder
(``~/.cache/semiseg`` where it is not set), ``SEMISEG_CACHE_GB`` how much may lie in it.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from semiseg.data.files.image_files import reason
from semiseg.data.stream.decoded_cache import user_cache
from semiseg.errors import UserError, require_regular_file

EXTRA = ("fsspec", "filelock", "webdataset")
CACHE_GB = 50.0
ABANDONED = 3600  # seconds after which nobody writes a part any more
WAITS = (1.0, 4.0)  # seconds before a second and a third attempt to get a file
TIMEOUTS = {"total": None, "sock_connect": 20, "sock_read": 60}  # seconds; aiohttp's own 300 in all ends large files


class Unreachable(UserError):
    """A place cannot be read now: no fault of one image, which another could stand in for."""


def require_shards() -> None:
    """Raise UserError where the extra is not installed."""
    for name in EXTRA:
        try:
            importlib.import_module(name)
        except ImportError:
            raise UserError("images in shards need an extra: pip install 'semiseg[shards]'") from None


def is_remote(place: str) -> bool:
    """Tell whether a place is a URL, and not a path."""
    return "://" in place and not place.startswith("file://")


def local_path(place: str) -> Path:
    """Return the path that a place on this machine means."""
    return Path(place.removeprefix("file://"))


def read_bytes(place: str) -> bytes | None:
    """Return what a file anywhere holds, None where there is none; raises Unreachable."""
    with io_errors(place):
        if not is_remote(place):
            require_regular_file(local_path(place))
        system, path = _open(place)
        try:
            content: bytes = system.cat_file(path)
        except (FileNotFoundError, IsADirectoryError):
            return None
    return content


def list_urls(place: str) -> list[str]:
    """Return the places of all files in a folder anywhere that can be listed, sorted; raises Unreachable."""
    with io_errors(place):
        system, path = _open(place)
        names = system.ls(path, detail=False)
        return sorted(place.rstrip("/") + "/" + str(name).rstrip("/").rpartition("/")[2] for name in names)


@contextmanager
def io_errors(place: str) -> Iterator[None]:
    """Turn whatever the libraries behind fsspec raise into one line that names the place."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise Unreachable(f"{place}: no such file or folder: check the address") from None
    except ImportError as error:  # fsspec says what to install for s3:// and others
        raise UserError(f"{place}: {reason(error)}") from None
    except Exception as error:  # each protocol's library has exceptions of its own
        raise Unreachable(f"{place}: cannot be read ({reason(error)}): check the address and the connection") from None


def _open(place: str) -> tuple[Any, str]:
    """Return fsspec's file system for a place, which it makes anew in each process, and the path in it."""
    import fsspec

    options: dict[str, Any] = {}
    if place.startswith(("http://", "https://")):
        import aiohttp

        options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(**TIMEOUTS)}
    system, path = fsspec.core.url_to_fs(place, **options)
    return system, path


def cache_folder() -> Path:
    """Return the folder for copies, made where it is missing."""
    folder = Path(os.environ.get("SEMISEG_CACHE") or user_cache()) / "shards"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unreachable(f"{folder}: cannot be written ({error.strerror}): set SEMISEG_CACHE to a folder") from None
    return folder


def cache_bytes() -> int:
    """Return how many bytes of copies may lie on the disk; raises UserError where that is no number."""
    text = os.environ.get("SEMISEG_CACHE_GB", str(CACHE_GB))
    try:
        limit = float(text)
    except ValueError:
        limit = 0
    if not limit > 0:
        raise UserError(f"SEMISEG_CACHE_GB is {text!r}: it must be a number of gigabytes above 0")
    return int(min(limit, 1e9) * 1e9)


def fetch(place: str, size: int = 0) -> Path:
    """Return the path of a file's local copy, which is got where it is missing, whole or not at all.

    Processes and threads that want the same file at once wait for the one that gets it. What was not asked for longest
    makes room; a file that somebody is reading stays readable where the system lets one unlink open files.

    Args:
        place: a URL, or a path, which is returned as it is.
        size: in bytes, where it is known: a copy of another size is got anew.

    Raises:
        Unreachable: it cannot be read, has another size, or there is no room.
    """
    if not is_remote(place):
        return local_path(place)
    from filelock import FileLock

    folder, name = cache_folder(), hashlib.sha256(place.encode()).hexdigest()[:32]
    path = folder / f"{name}.tar"
    if _is_whole(path, size):
        return path
    try:
        with FileLock(folder / f"{name[:2]}.lock"):  # of 256, so that they do not pile up
            if not _is_whole(path, size):
                evict_copies(folder, size)
                _download(place, path.with_suffix(".part"), size)
                os.replace(path.with_suffix(".part"), path)
        evict_copies(folder, 0, keep=path)
    except NotImplementedError:
        raise Unreachable(f"{folder}: this file system has no locks: set SEMISEG_CACHE to a local folder") from None
    except OSError as error:
        raise Unreachable(f"{folder}: cannot be written ({reason(error)}): set SEMISEG_CACHE to a folder") from None
    return path


def _is_whole(path: Path, size: int) -> bool:
    """Tell whether a copy is there, and note that it was asked for."""
    with suppress(FileNotFoundError):
        if size in (0, path.stat().st_size):
            os.utime(path)
            return True
    return False


def _download(place: str, part: Path, size: int) -> None:
    for wait in (*WAITS, None):
        try:
            with io_errors(place):
                system, path = _open(place)
                try:
                    system.get_file(path, str(part))
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                        raise Unreachable(
                            f"{part.parent}: cannot be written ({error.strerror}): make room, lower SEMISEG_CACHE_GB, "
                            "or set SEMISEG_CACHE to another folder"
                        ) from None
                    raise
            break
        except Unreachable:
            if wait is None:
                raise
            time.sleep(wait)
    found = part.stat().st_size
    if size and found != size:
        raise Unreachable(f"{place}: it has {found} bytes, {size} by the index: make the index anew")


def evict_copies(folder: Path, needed: int, keep: Path | None = None) -> None:
    """Remove copies, those first that were not asked for longest, until ``needed`` bytes more fit under the bound."""
    found: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process makes room as well
            if path.suffix in (".tar", ".part"):
                about = path.stat()
                found.append((about.st_mtime, about.st_size, path))
    excess = needed + sum(size for _, size, _ in found) - cache_bytes()
    for written, size, path in sorted(found):
        if excess <= 0:
            return
        if path != keep and (path.suffix == ".tar" or time.time() - written > ABANDONED):
            path.unlink(missing_ok=True)
            excess -= size
