"""What a signal does to a run: the step is finished, the run saved, and it is said how to go on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from semiseg.errors import Interrupted, ReportedElsewhere

# Ctrl-C, a system that shuts down, a terminal that is closed, SLURM before it takes the machine (not all on Windows).
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


class Interruption:
    """Keeps the first signal in ``asked`` while the loop takes steps (``patient``); the loop saves, and raises `end`.

    Elsewhere there is nothing to save, and a signal ends the run at once. So does a second Ctrl-C; of other signals
    those that repeat the first mean the same (whoever ends a program often says so more than once).
    """

    def __init__(self, run: Path, main: bool = True, lost: Callable[[], object] = lambda: None) -> None:
        self.run, self.main, self.lost = run, main, lost
        self.asked: signal.Signals | None = None
        self.patient = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal, as its handler."""
        again = self.asked is not None
        if again and number != signal.SIGINT:
            return
        self.asked = signal.Signals(number)
        if again or not self.patient:
            raise self.end()
        if self.main and not self.lost():  # not by print: it may be what the signal has interrupted
            text = f"\n{self.asked.name}: finishing the step and saving the run; Ctrl-C stops it at once\n"
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())

    def end(self, saved: str = "") -> Interrupted | ReportedElsewhere:
        """Return what ends the run, after it was ``saved`` (at which step), or as it is."""
        name = self.asked.name if self.asked else "another process"
        if not self.main:
            return ReportedElsewhere(name)
        return Interrupted(
            f"interrupted by {name}{saved}: {how_to_go_on(self.run)}", 128 + (self.asked or signal.SIGTERM)
        )


def how_to_go_on(run: Path) -> str:
    """Return what to do after a run has been ended."""
    if (run / "config.yaml").is_file():
        return f"go on by semiseg train --resume {shlex.quote(str(run))}"
    return "there is no run yet, so give the same command again"


@contextmanager
def interruptible(run: Path, main: bool = True, lost: Callable[[], object] = lambda: None) -> Iterator[Interruption]:
    """Treat signals as `Interruption` says inside the block; ``main``: this process is the one that saves and tells.

    Where another process is ``lost`` no step can be finished any more, and none is promised: torchrun sends its signal
    to those that are left.

    A signal that whoever started us had us ignore stays ignored (``nohup``, a shell's background job). Outside the
    main thread, where Python takes no signals, nothing is done.
    """
    interruption, before = Interruption(run, main, lost), {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, interruption)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
