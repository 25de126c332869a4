"""Exceptions that the command line prints as one line, and helpers that format messages."""

from __future__ import annotations

import difflib
import errno
import os
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

DISK_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
OS_FIXES = {
    errno.ENAMETOOLONG: "give a shorter name",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check its permissions"),
    **dict.fromkeys(DISK_FULL, "free disk space or choose another disk"),
    errno.EROFS: "choose a directory that is not mounted read-only",
    errno.EIO: "check the disk",
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP), "check the path"),
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
"""The fix for each error of the operating system that a user can correct."""


class UserError(Exception):
    """The user's input is invalid.

    ``str(error)`` is one line: ``<path or option>: <problem>. <Fix>.`` The command line prints it to stderr without a
    traceback and exits with status 2.

    Args:
        problem: What is wrong, without a closing period.
        path: The file or directory with the problem.
        option: The option with the problem, as ``--labeled`` or ``labeled``. With ``path``, the path comes first.
        fix: What to do, as an imperative without a closing period.

    Example:
        >>> str(UserError("size 64x48 does not match its image (65x48)", path="masks/a.png", fix="resize the mask"))
        'masks/a.png: size 64x48 does not match its image (65x48). Resize the mask.'
    """

    def __init__(
        self, problem: str, *, path: str | Path | None = None, option: str | None = None, fix: str | None = None
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = None if path is None else Path(path)
        self.location = None if path is None else str(path)
        self.option = None if option is None else "--" + option.removeprefix("--").replace("_", "-")
        self.fix = fix

    def __str__(self) -> str:
        head = "".join(f"{part}: " for part in (self.location, self.option) if part)
        end = "" if self.problem.endswith(("?", ".")) else "."  # "did you mean X?" ends the sentence
        fix = f" {self.fix[0].upper()}{self.fix[1:]}." if self.fix else ""
        return f"{head}{self.problem}{end}{fix}"


class ReportedElsewhere(UserError):
    """The same error is reported by another rank; exit quietly."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run; the message is one line that says how to resume.

    Args:
        message: One line.
        status: The exit status: 128 plus the number of the signal.
    """

    def __init__(self, message: str, status: int = 130) -> None:  # the default lets it be unpickled
        super().__init__(message)
        self.status = status


class ProcessLost(RuntimeError):
    """Another process of the run has died; the message is one line that names it and says how to resume.

    Args:
        message: One line.
        status: The exit status.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class TrainingStopped(RuntimeError):
    """The loss or the gradient is not finite; the last checkpoint is kept."""


def os_error(error: OSError, action: str, path: str | Path | None = None, fix: str | None = None) -> UserError:
    """Return the UserError for an error of the operating system.

    Args:
        error: The error.
        action: What failed: ``cannot be read``, ``cannot be written``.
        path: The file. Defaults to the file name of the error.
        fix: What to do. Defaults to the entry of ``OS_FIXES``.
    """
    name = path if path is not None else os.fsdecode(error.filename or "")
    reason = error.strerror or str(error) or type(error).__name__
    return UserError(f"{action} ({reason})", path=name or None, fix=fix or OS_FIXES.get(error.errno or 0))


def uncaught_os_error(error: OSError) -> UserError | None:
    """Return the UserError for an OSError that no caller handled, or None if it may be a bug.

    Only errors that name a file and have an entry in ``OS_FIXES`` are the user's to correct.
    """
    if not isinstance(error.filename, str | bytes | os.PathLike) or error.errno not in OS_FIXES:
        return None
    return UserError(str(error.strerror), path=os.fsdecode(error.filename), fix=OS_FIXES[error.errno])


def require_regular_file(path: Path) -> Path:
    """Return ``path``; raise OSError for a directory, a pipe or a device, which could block or never end."""
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    return path


def printable(text: str) -> str:
    """Escape line breaks and bytes that are not characters, which file names may contain."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def is_utf8(text: str) -> bool:
    """Return whether ``text`` can be encoded; file names may contain bytes that are not characters."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def short_repr(value: object) -> str:
    """Return ``repr(value)``, shortened to about 200 characters."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = shown.maxlong = 200
    return shown.repr(value)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ``did you mean X?`` for the closest choice, or all choices if none is close."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"choose from {', '.join(choices)}"


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return ``table[name]``.

    Raises:
        UserError: The table has no such name; the message suggests the closest.
    """
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]


def unknown(kind: str, name: str, choices: Iterable[str], path: str | Path | None = None) -> UserError:
    """Return the UserError for a name that is not one of ``choices``; it suggests the closest, or lists all."""
    problem, suggestion = f"unknown {kind} {name!r}", did_you_mean(name, choices)
    if suggestion.endswith("?"):
        return UserError(f"{problem}: {suggestion}", path=path)
    return UserError(problem, path=path, fix=suggestion)
