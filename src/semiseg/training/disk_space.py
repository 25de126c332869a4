"""Room on the disk: what a run will take, and one line where something cannot be written."""

from __future__ import annotations

import errno
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from semiseg.config import TrainConfig
from semiseg.errors import DISK_FULL as FULL
from semiseg.errors import UserError

REMEDIES = dict.fromkeys(FULL, "make room") | {
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "make it writable"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "put the run's directory back"),
    errno.EIO: "see to the disk",
}


def checkpoint_bytes(method: nn.Module, config: TrainConfig) -> int:
    """Return what the checkpoints of a run take at their most: while a new last.pt is written beside the old one.

    Pictures, log and report come on top: some megabytes as a rule.
    """
    weights = sum(value.numel() * value.element_size() for value in method.state_dict().values())
    learning = sum(p.numel() * p.element_size() for p in method.parameters() if p.requires_grad)
    last = weights + learning * (1 if config.optimizer == "sgd" else 2)
    return 2 * last + weights * (1 + (config.keep + 1 if config.keep else 0))


def free_bytes(path: Path) -> int | None:
    """Return what is free where ``path`` is or will be; None where nobody knows, or it has gone."""
    try:
        folder = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
        return shutil.disk_usage(folder).free
    except (OSError, StopIteration):
        return None


def require_room(path: Path, needed: int) -> str:
    """Return a line that says what a new run at ``path`` needs and has; raises UserError where that is too little."""
    free = free_bytes(path)
    if free is not None and free < needed:
        raise UserError(
            f"{path}: its checkpoints will take up to {size(needed)}, and {size(free)} are free there: make room, or "
            "choose another --out"
        )
    return f"disk: up to {size(needed)} for checkpoints" + (f", {size(free)} free" if free is not None else "")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give errors of the system the name of the file that was meant: a write that fails does not know it."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def told_in_one_line(run: Path, needed: int = 0) -> Iterator[None]:
    """Turn what keeps a run from being written into a UserError that says how to go on.

    Args:
        run: its directory.
        needed: bytes that its checkpoints take at their most, if known.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        free, room = free_bytes(run), ""
        if error.errno in FULL and needed:
            room = f"; checkpoints take up to {size(needed)}" + (f", {size(free)} are free" if free is not None else "")
        raise UserError(
            f"{error.filename or run}: cannot be written ({error.strerror}){room}: {REMEDIES[error.errno]}, then "
            f"semiseg train --resume {shlex.quote(str(run))}"
        ) from None


def size(count: int) -> str:
    """Bytes as ``3.2 GB``, ``75 MB`` or ``0.4 MB``."""
    if count >= 10**9:
        return f"{count / 10**9:.1f} GB"
    return f"{count / 10**6:.0f} MB" if count >= 10**7 else f"{count / 10**6:.1f} MB"
