"""The one exception type that means: the input is at fault, not the program; and what its message is made with."""

import difflib
import errno
import os
import reprlib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
REMEDIES = {
    errno.ENAMETOOLONG: "give a shorter name",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "see to its permissions"),
    **dict.fromkeys(FULL, "make room, or take another"),
    errno.EROFS: "take another place",
    errno.EIO: "see to the disk",
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP), "check the path"),
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


class UserError(Exception):
    """The user's input is at fault.

    The message is one clear line: which file or option, what is wrong, what to do. The command line prints it to
    stderr without a traceback and exits with status 2.
    """


class ToldElsewhere(UserError):
    """The same, on a process beside the one that tells the user."""


def printable(text: str) -> str:
    """Return text that fits a line: names of files may hold line ends, and bytes that are no characters."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def is_utf8(text: str) -> bool:
    """Tell whether a text can be written; names of files may have bytes that are no characters."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def fault_of_the_system(error: OSError) -> str:
    """Return in a line what the system says of a file that nobody has looked after; "" where it names none.

    Then it may be ours, and its traceback is to be seen.
    """
    if not isinstance(error.filename, str | bytes | os.PathLike) or error.errno not in REMEDIES:
        return ""
    return f"{os.fsdecode(error.filename)}: {error.strerror}: {REMEDIES[error.errno]}"


def brief(value: object) -> str:
    """Return ``repr(value)``, shortened: a small file may hold what is endless when written out."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = shown.maxlong = 200
    return shown.repr(value)


class Interrupted(KeyboardInterrupt):
    """A signal has ended a run; the message is one line that says how to go on.

    ``status`` is what the program exits with: 128 and the signal's number.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ProcessLost(RuntimeError):
    """Another process of a run has ended; the message is one line that says which, and how to go on.

    ``status`` is what the program exits with.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ``did you mean X?`` for the closest choice, or the choices where none is close."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"choose from {', '.join(choices)}"


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return ``table[name]``; raises UserError with the closest name."""
    if name not in table:
        raise UserError(f"unknown {kind} {name!r}: {did_you_mean(name, table)}")
    return table[name]
