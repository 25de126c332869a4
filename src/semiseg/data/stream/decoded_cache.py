"""A cache directory of decoded images, which are mapped into memory.

Each image is one file: six int64 numbers (``FORMAT``, height and width of the full image, factor, height and width of
the pixels), then the pixels, uint8 ``(h, w, channels)``. The file name is a hash of the path, size and modification
time of the source, the factor, the pixel format and the version of Pillow, so a changed image gets a new file. Files
are written to ``drafts``, synced and renamed. Readers never see a partial file, even after a crash.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
import torch

from semiseg.data.dataset import Decoded
from semiseg.data.files.pixel_format import RGB, PixelFormat

FORMAT = 1
HEADER_BYTES = 6 * 8
RESERVED_BYTES = 10**9  # of disk space left free, for checkpoints and other files
STALE_SECONDS = 3600.0  # age of drafts that a crash has left behind


def user_cache() -> Path:
    """Return the cache directory of semiseg."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "semiseg")


class DecodedCache:
    """A cache of decoded image files in ``folder``, which any number of processes and runs may share.

    Cached images are bit-identical to decoded ones. If the disk is full, the cache prints one warning for all workers
    and stops writing.

    Raises:
        OSError: The folder cannot be created or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._drafts = folder, folder / "drafts"
        self._drafts.mkdir(parents=True, exist_ok=True)
        if not os.access(self._drafts, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        for draft in self._drafts.iterdir():
            with suppress(OSError):
                if time.time() - draft.stat().st_mtime > STALE_SECONDS:
                    draft.unlink()
        self._stopped = torch.zeros(1, dtype=torch.bool).share_memory_()  # shared by all workers

    def read(self, path: Path, factor: int, read: Callable[[], Decoded], format: PixelFormat = RGB) -> Decoded:
        """Return the decoded image file from the cache, or decode it with ``read`` and cache it."""
        cached_path = self.path_of(path, factor, format)
        cached = None if cached_path is None else _load(cached_path)
        if cached is not None:
            return cached
        decoded = read()
        unchanged = cached_path == self.path_of(path, factor, format)
        if cached_path is not None and unchanged and not self._stopped:
            self._write(cached_path, decoded)
        return decoded

    def path_of(self, path: Path, factor: int, format: PixelFormat = RGB) -> Path | None:
        """Return the cache file of an image file, or None if the image file does not exist or is not accessible."""
        try:
            status = os.stat(path)
        except OSError:
            return None
        parts: tuple[object, ...] = (
            FORMAT,
            PIL.__version__,
            os.path.abspath(path),
            status.st_size,
            status.st_mtime_ns,
            factor,
        )
        parts += () if format == RGB else (format.bands, format.white)
        name = hashlib.blake2b("\0".join(map(str, parts)).encode("utf-8", "surrogateescape"), digest_size=16)
        return self.folder / name.hexdigest()[:2] / name.hexdigest()[2:]

    def _write(self, path: Path, decoded: Decoded) -> None:
        pixels = decoded.pixels.permute(1, 2, 0).contiguous().numpy()
        header = np.array((FORMAT, *decoded.size, decoded.factor, *pixels.shape[:2]), dtype=np.int64)
        draft = self._drafts / f"{path.name}.{os.getpid()}.{threading.get_ident()}"
        try:
            for folder in (path.parent, self._drafts):
                folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.folder).free < RESERVED_BYTES + pixels.nbytes:
                raise OSError(errno.ENOSPC, f"{RESERVED_BYTES // 10**6} MB are to stay free on the disk")
            with open(draft, "wb") as file:
                file.write(header.tobytes())
                file.write(pixels.data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            self._stopped.fill_(True)
            reason = error.strerror or type(error).__name__
            print(f"warning: --cache {self.folder}: caching stops ({reason}), the run continues", file=sys.stderr)


def _load(path: Path) -> Decoded | None:
    """Map a cached image into memory, or return None if it does not exist or is damaged."""
    try:
        content = np.memmap(path, np.uint8, "c")  # copy-on-write, because torch requires writable memory
    except (OSError, ValueError):  # missing or empty
        return None
    if len(content) < HEADER_BYTES:
        return None
    version, *size, factor, height, width = content[:HEADER_BYTES].view(np.int64).tolist()
    if version != FORMAT or min(height, width) < 1 or (len(content) - HEADER_BYTES) % (height * width):
        return None
    if len(content) == HEADER_BYTES:
        return None
    pixels = torch.from_numpy(content[HEADER_BYTES:].reshape(height, width, -1)).permute(2, 0, 1)
    return Decoded(pixels, (size[0], size[1]), factor)
