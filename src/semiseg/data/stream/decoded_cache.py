"""Decoded images in a folder, mapped into memory: the first reading decodes and keeps, later ones map.

A file an image: six numbers (int64: ``FORMAT``, height and width of the whole image, factor, height and width of the
pixels), then the pixels, uint8 ``(h, w, 3)``. Its name follows from the source's path, size and time of change, from
the factor and from Pillow's version, so that a changed image is another file. It is filled beside its place, synced and
renamed: whoever maps it sees all of it, and what a kill leaves half done is never read.
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

FORMAT = 1
HEADER_BYTES = 6 * 8  # bytes
RESERVED_BYTES = 10**9  # bytes that stay free on the disk, for checkpoints and all else
OLD = 3600.0  # seconds after which a half-written file is nobody's


def user_cache() -> Path:
    """Return semiseg's folder among the user's caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "semiseg")


class DecodedCache:
    """Keeps decoded images of files in ``folder``, which any number of processes and runs may share.

    Reading with it gives what reading without it gives, to the bit. Where nothing more can be written, it says so on
    stderr, once for all workers of a run, and goes on with what it has.

    Raises:
        OSError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._drafts = folder, folder / "drafts"
        self._drafts.mkdir(parents=True, exist_ok=True)
        if not os.access(self._drafts, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        for draft in self._drafts.iterdir():  # what a kill has left
            with suppress(OSError):
                if time.time() - draft.stat().st_mtime > OLD:
                    draft.unlink()
        self._stopped = torch.zeros(1, dtype=torch.bool).share_memory_()  # seen by all workers

    def read(self, path: Path, factor: int, read: Callable[[], Decoded]) -> Decoded:
        """Return an image file decoded: what is kept of it, or else what ``read`` gives, which is then kept."""
        place = self.path_of(path, factor)
        kept = None if place is None else _load(place)
        if kept is not None:
            return kept
        decoded = read()
        if place is not None and not self._stopped and place == self.path_of(path, factor):  # unchanged meanwhile
            self._keep(place, decoded)
        return decoded

    def path_of(self, path: Path, factor: int) -> Path | None:
        """Return where an image is or would be kept; None where the file cannot be asked, and ``read`` will say why."""
        try:
            about = os.stat(path)
        except OSError:
            return None
        parts = (FORMAT, PIL.__version__, os.path.abspath(path), about.st_size, about.st_mtime_ns, factor)
        name = hashlib.blake2b("\0".join(map(str, parts)).encode("utf-8", "surrogateescape"), digest_size=16)
        return self.folder / name.hexdigest()[:2] / name.hexdigest()[2:]

    def _keep(self, place: Path, decoded: Decoded) -> None:
        pixels = decoded.pixels.permute(1, 2, 0).contiguous().numpy()
        head = np.array((FORMAT, *decoded.size, decoded.factor, *pixels.shape[:2]), dtype=np.int64)
        draft = self._drafts / f"{place.name}.{os.getpid()}.{threading.get_ident()}"
        try:
            for folder in (place.parent, self._drafts):
                folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.folder).free < RESERVED_BYTES + pixels.nbytes:
                raise OSError(errno.ENOSPC, f"{RESERVED_BYTES // 10**6} MB are to stay free on the disk")
            with open(draft, "wb") as file:
                file.write(head.tobytes())
                file.write(pixels.data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, place)
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            self._stop(error.strerror or type(error).__name__)

    def _stop(self, why: str) -> None:
        self._stopped.fill_(True)
        print(f"warning: --cache {self.folder}: nothing more is kept ({why}); the run goes on", file=sys.stderr)


def _load(place: Path) -> Decoded | None:
    """Map a kept image; None where there is none, or it is not whole."""
    try:
        content = np.memmap(place, np.uint8, "c")  # private: torch wants to be allowed to write
    except (OSError, ValueError):  # it is not there, or empty
        return None
    if len(content) < HEADER_BYTES:
        return None
    form, *size, factor, height, width = content[:HEADER_BYTES].view(np.int64).tolist()
    if form != FORMAT or min(height, width) < 1 or len(content) != HEADER_BYTES + 3 * height * width:
        return None
    pixels = torch.from_numpy(content[HEADER_BYTES:].reshape(height, width, 3)).permute(2, 0, 1)
    return Decoded(pixels, (size[0], size[1]), factor)
