"""Disk space: estimate the size of a run's checkpoints, and report write errors as one line."""

from __future__ import annotations

import errno
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.filesize import decimal
from torch import nn

from semiseg.config import TrainConfig
from semiseg.errors import DISK_FULL, OS_FIXES, UserError, os_error


def checkpoint_bytes(method: nn.Module, config: TrainConfig) -> int:
    """Return the peak size of a run's checkpoints, reached while a new last.pt is written next to the old one.

    Pictures, log and report add a few megabytes.
    """
    weights = sum(value.numel() * value.element_size() for value in method.state_dict().values())
    trainable = sum(p.numel() * p.element_size() for p in method.parameters() if p.requires_grad)
    last = weights + trainable * (1 if config.optimizer == "sgd" else 2)
    return 2 * last + weights * (1 + (config.keep + 1 if config.keep else 0))


def free_bytes(path: Path) -> int | None:
    """Return the free space of the disk that holds or will hold ``path``; None if it is unknown."""
    try:
        folder = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
        return shutil.disk_usage(folder).free
    except (OSError, StopIteration):
        return None


def require_disk_space(path: Path, needed: int) -> str:
    """Return a note with the needed and the free disk space of a new run at ``path``.

    Raises:
        UserError: The free space is too small.
    """
    free = free_bytes(path)
    if free is not None and free < needed:
        raise UserError(
            f"checkpoints take up to {decimal(needed)}, but only {decimal(free)} are free",
            path=path,
            fix="free disk space or choose another --out",
        )
    return f"disk: up to {decimal(needed)} for checkpoints" + (f", {decimal(free)} free" if free is not None else "")


@contextmanager
def add_file_name(path: Path) -> Iterator[None]:
    """Add the file name to an `OSError`: that of a failed write has none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def report_write_errors(run: Path, needed: int = 0) -> Iterator[None]:
    """Turn an OSError inside the block into a UserError that says how to resume.

    Args:
        run: The run directory.
        needed: Peak size of the checkpoints in bytes, if known.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in OS_FIXES:
            raise
        fix, free = OS_FIXES[error.errno], free_bytes(run)
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            fix = "restore the run directory"
        elif error.errno in DISK_FULL and needed:
            sizes = f"checkpoints take up to {decimal(needed)}" + (
                "" if free is None else f", {decimal(free)} are free"
            )
            fix = f"{fix} ({sizes})"
        fix += f", then run semiseg train --resume {shlex.quote(str(run))}"
        raise os_error(error, "cannot be written", error.filename or run, fix) from None
