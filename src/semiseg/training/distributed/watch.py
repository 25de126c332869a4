"""Processes as seen from beside them: whether they are there, how they ended, and to end with them."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from semiseg.errors import ProcessLost, ReportedElsewhere, printable

LOOK_S = 1.0  # between two looks at the others
GRACE_S = 10.0  # for the main thread to hear of a death by itself: gloo's connections break, while a GPU waits


class Watch:
    """A thread that ends this process where another one has ended and the main thread does not come to hear of it.

    Args:
        lost: says which process is gone, as the exception to raise, if one is.
        children: processes to end with this one.
    """

    def __init__(
        self, lost: Callable[[], ProcessLost | ReportedElsewhere | None], children: Sequence[subprocess.Popen[Any]]
    ) -> None:
        self.lost, self.children = lost, children
        self.over = threading.Event()

    def __enter__(self) -> Watch:
        threading.Thread(target=self._look, name="watch over the other processes", daemon=True).start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.over.set()

    def _look(self) -> None:
        while not self.over.wait(LOOK_S):
            if self.lost() and not self.over.wait(GRACE_S) and (lost := self.lost()):
                if isinstance(lost, ProcessLost):
                    os.write(2, f"semiseg: {printable(str(lost))}\n".encode())
                end(self.children, 0)
                for worker in multiprocessing.active_children():  # they would look after us only every few seconds
                    worker.kill()
                os._exit(lost.status if isinstance(lost, ProcessLost) else 1)


def children(fabric: Fabric) -> list[subprocess.Popen[Any]]:
    """Return the processes that Fabric starts from this one; the list fills when it launches."""
    return getattr(fabric.strategy.launcher, "procs", [])


def end(processes: Sequence[subprocess.Popen[Any]], patience_s: float) -> None:
    """Wait for processes to end by themselves, and kill those that do not."""
    deadline = time.monotonic() + patience_s
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        process.kill()


def how_it_ended(status: int | None) -> str:
    """Return in words how a process ended, by its status, or without."""
    if status is None:
        return "has ended (killed, out of memory, or as it has said)"
    if status < 0:
        name = signal.Signals(-status).name
        return f"was ended by {name}{' (out of memory, if nobody sent it)' if name == 'SIGKILL' else ''}"
    return f"has ended with status {status} (it has said why)" if status else "has ended"


def place() -> str:
    """Return what processes that can see one another have in common: the machine, and on Linux the container."""
    with suppress(OSError):
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()


def alive(pid: int) -> bool:
    """Whether a process is at work; one that has ended, and whose parent has not asked how, is not.

    Where one cannot tell (Windows: a signal to look would end it), it is.
    """
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return True
