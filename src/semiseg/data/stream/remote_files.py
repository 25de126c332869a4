"""Read files from any URL with fsspec, and keep copies in a bounded directory that processes share.

The location of the copies does not change a run, so it is not an option of it. ``SEMISEG_CACHE`` sets the directory
(default ``~/.cache/semiseg``) and ``SEMISEG_CACHE_GB`` its size limit.
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

from semiseg.data.files.image_header import reason
from semiseg.data.stream.decoded_cache import user_cache
from semiseg.errors import UserError, os_error, require_regular_file

EXTRA = ("fsspec", "filelock", "webdataset")
CACHE_GB = 50.0
STALE_SECONDS = 3600  # age of abandoned downloads
RETRY_WAITS = (1.0, 4.0)  # seconds before the second and the third attempt to download a file
TIMEOUTS = {"total": None, "sock_connect": 20, "sock_read": 60}  # seconds; aiohttp's total of 300 aborts large files


class Unreachable(UserError):
    """A URL or file cannot be read at the moment. Replacing one image would not help."""


def require_shards() -> None:
    """Raise UserError if the extra for shards is not installed."""
    for name in EXTRA:
        try:
            importlib.import_module(name)
        except ImportError:
            raise UserError("images in shards need an extra", fix="run pip install 'semiseg[shards]'") from None


def is_remote(url: str) -> bool:
    """Return whether ``url`` is remote; paths and ``file://`` URLs are local."""
    return "://" in url and not url.startswith("file://")


def local_path(url: str) -> Path:
    """Return the path of a local URL."""
    return Path(url.removeprefix("file://"))


def read_bytes(url: str) -> bytes | None:
    """Return the content of a file, or None if it does not exist. Raises Unreachable on other errors."""
    with io_errors(url):
        if not is_remote(url):
            require_regular_file(local_path(url))
        system, path = _open(url)
        try:
            content: bytes = system.cat_file(path)
        except (FileNotFoundError, IsADirectoryError):
            return None
    return content


def list_urls(url: str) -> list[str]:
    """Return the sorted URLs of the files in a folder. Raises Unreachable if it cannot be listed."""
    with io_errors(url):
        system, path = _open(url)
        names = system.ls(path, detail=False)
        return sorted(url.rstrip("/") + "/" + str(name).rstrip("/").rpartition("/")[2] for name in names)


@contextmanager
def io_errors(url: str) -> Iterator[None]:
    """Convert the exceptions of fsspec and its libraries to Unreachable or UserError."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise Unreachable("no such file or folder", path=url, fix="check the address") from None
    except ImportError as error:  # fsspec says which package s3:// and others need
        raise UserError(reason(error), path=url) from None
    except Exception as error:  # each protocol has its own exceptions
        fix = "check the address and the connection"
        raise Unreachable(f"cannot be read ({reason(error)})", path=url, fix=fix) from None


def _open(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, which fsspec creates once per process, and the path in it."""
    import fsspec

    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        import aiohttp

        options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(**TIMEOUTS)}
    system, path = fsspec.core.url_to_fs(url, **options)
    return system, path


def cache_folder() -> Path:
    """Return the directory of copies, and create it if necessary."""
    folder = Path(os.environ.get("SEMISEG_CACHE") or user_cache()) / "shards"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(folder, error) from None
    return folder


def cache_bytes() -> int:
    """Return the size limit of the copies in bytes. Raises UserError if it is not a positive number."""
    text = os.environ.get("SEMISEG_CACHE_GB", str(CACHE_GB))
    try:
        limit = float(text)
    except ValueError:
        limit = 0
    if not limit > 0:
        raise UserError(f"SEMISEG_CACHE_GB is {text!r}", fix="set it to a number of gigabytes above 0")
    return int(min(limit, 1e9) * 1e9)


def fetch(url: str, size: int = 0) -> Path:
    """Return the path of the local copy of a file, and download it if necessary.

    A copy appears complete or not at all. Processes and threads that need the same file wait for one download. The
    least recently used copies are removed to stay within the limit. Open files stay readable on systems that allow
    unlinking them.

    Args:
        url: A URL, or a local path, which is returned unchanged.
        size: The size in bytes if known. A copy of another size is downloaded again.

    Raises:
        Unreachable: The file cannot be read or has another size, or the copy cannot be written.
    """
    if not is_remote(url):
        return local_path(url)
    from filelock import FileLock

    folder, name = cache_folder(), hashlib.sha256(url.encode()).hexdigest()[:32]
    path = folder / f"{name}.tar"
    if _is_complete(path, size):
        return path
    try:
        with FileLock(folder / f"{name[:2]}.lock"):  # at most 256 lock files
            if not _is_complete(path, size):
                evict_copies(folder, size)
                _download(url, path.with_suffix(".part"), size)
                os.replace(path.with_suffix(".part"), path)
        evict_copies(folder, 0, keep=path)
    except NotImplementedError:
        fix = "set SEMISEG_CACHE to a local folder"
        raise Unreachable("this file system does not support locks", path=folder, fix=fix) from None
    except OSError as error:
        raise _not_writable(folder, error) from None
    return path


def _not_writable(folder: Path, error: OSError) -> Unreachable:
    failure = os_error(error, "cannot be written", folder, "set SEMISEG_CACHE to another folder")
    return Unreachable(failure.problem, path=folder, fix=failure.fix)


def _is_complete(path: Path, size: int) -> bool:
    """Return whether a copy exists, and mark it as recently used."""
    with suppress(FileNotFoundError):
        if size in (0, path.stat().st_size):
            os.utime(path)
            return True
    return False


def _download(url: str, part: Path, size: int) -> None:
    for wait in (*RETRY_WAITS, None):
        try:
            with io_errors(url):
                system, path = _open(url)
                try:
                    system.get_file(path, str(part))
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                        raise Unreachable(
                            f"cannot be written ({error.strerror})",
                            path=part.parent,
                            fix="free disk space, lower SEMISEG_CACHE_GB, or set SEMISEG_CACHE to another folder",
                        ) from None
                    raise
            break
        except Unreachable:
            if wait is None:
                raise
            time.sleep(wait)
    found = part.stat().st_size
    if size and found != size:
        raise Unreachable(f"it has {found} bytes, but the index says {size}", path=url, fix="create the index again")


def evict_copies(folder: Path, needed: int, keep: Path | None = None) -> None:
    """Remove the least recently used copies until ``needed`` more bytes fit into the limit."""
    found: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process evicts copies too
            if path.suffix in (".tar", ".part"):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
    excess = needed + sum(size for _, size, _ in found) - cache_bytes()
    for modified, size, path in sorted(found):
        if excess <= 0:
            return
        if path != keep and (path.suffix == ".tar" or time.time() - modified > STALE_SECONDS):
            path.unlink(missing_ok=True)
            excess -= size
