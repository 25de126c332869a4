"""Signals during training: finish the step, save the run, and print the command that resumes it."""

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

# Ctrl-C, shutdown or preemption, a closed terminal, SLURM's --signal=USR1. Windows lacks some of them.
HANDLED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


class SignalHandler:
    """Record the first signal, so that the training loop can finish its step and save.

    - If ``deferred`` is set, record the first signal in ``received``. The loop then saves and raises `interruption`.
      Otherwise raise immediately, because there is nothing to save.
    - A second Ctrl-C raises immediately. A launcher passes it on as SIGTERM.
    - Ignore other repeated signals, because programs often send several to stop one process.

    Args:
        run: The run directory, for the message.
        rank: Rank of this process; only rank 0 reports the signal.
        world_size: Number of ranks.
    """

    def __init__(self, run: Path, rank: int = 0, world_size: int = 1) -> None:
        self.run, self.rank, self.world_size = run, rank, world_size
        self.received: signal.Signals | None = None
        self.deferred = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Record the signal, or raise the interruption, as described above."""
        if self.received is not None:
            if number == signal.SIGINT:
                self.received = signal.SIGINT
            elif (self.received, number) != (signal.SIGINT, signal.SIGTERM):
                return
            raise self.interruption()
        self.received = signal.Signals(number)
        if not self.deferred:
            raise self.interruption()
        # With several ranks, SIGTERM may come from the launcher after another rank has died. Then no step finishes.
        if self.rank == 0 and (self.world_size == 1 or number != signal.SIGTERM):
            line = f"{self.received.name}: finishing the step and saving the run; Ctrl-C stops it at once"
            # Use os.write: print is not reentrant in a signal handler.
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{line}\n".encode())

    def interruption(self, saved: str = "") -> Interrupted | ReportedElsewhere:
        """Return the exception that stops the run.

        Args:
            saved: The end of the message's first part, such as ", saved at step 40".
        """
        name = self.received.name if self.received else "a signal to another process"
        if self.rank:
            return ReportedElsewhere(name)
        message = f"interrupted by {name}{saved}. {resume_hint(self.run)}"
        return Interrupted(message, 128 + (self.received or signal.SIGTERM))


def resume_hint(run: Path) -> str:
    """Return a sentence that says how to continue a run that was stopped."""
    if (run / "config.yaml").is_file():
        return f"Resume with: semiseg train --resume {shlex.quote(str(run))}"
    return "The run has not started yet. Run the same command again."


@contextmanager
def handle_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install ``handler`` for the signals in ``HANDLED`` inside the block, and restore the previous handlers after it.

    Signals that this process was started to ignore (``nohup``, a background job of a shell) stay ignored. Outside the
    main thread, where Python cannot handle signals, this does nothing.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in HANDLED if hasattr(signal, name)):
            if signal.getsignal(number) != signal.SIG_IGN:
                previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler_before in previous.items():
            signal.signal(number, handler_before)
