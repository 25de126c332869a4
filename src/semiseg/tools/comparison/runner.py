"""The cells at work: each in processes of its own, several side by side, whatever becomes of one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from semiseg.errors import UserError
from semiseg.tools.comparison.cells import LOCK, Cell
from semiseg.tools.comparison.live_progress import DONE, FAILED, RUNNING, WAITING, Display

try:
    import fcntl
except ImportError:
    raise UserError("semiseg compare needs Linux or macOS: on Windows, run it inside WSL") from None

REFRESH_S = 1.0


class CellsFailed(RuntimeError):
    """Some cells of a comparison could not be finished; the others are."""


class Crew:
    """Trains and judges cells; knows how each stands (``states``) and why one has failed (``failures``)."""

    def __init__(self, cells: Sequence[Cell], jobs: int, lock: IO[str]) -> None:
        self.cells, self.jobs, self.lock = cells, jobs, lock
        self.states = {cell.run: DONE if cell.finished else WAITING for cell in cells}
        self.failures: dict[Path, str] = {}
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.stopping = threading.Event()

    def work(self, display: Display) -> None:
        """Do what is not done yet, showing how it goes. An interrupt ends the processes and goes on upward."""
        with ThreadPoolExecutor(self.jobs) as pool:
            todo = [cell for cell in self.cells if self.states[cell.run] != DONE]
            pending: set[Future[None]] = {pool.submit(self._cell, cell) for cell in todo}
            try:
                while pending:
                    display.show(self.states, self.failures)
                    finished, pending = wait(pending, timeout=REFRESH_S)
                    for future in finished:
                        future.result()
            except BaseException:
                self.stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                self._end_processes(pending)
                raise
        display.show(self.states, self.failures)

    def _cell(self, cell: Cell) -> None:
        """Train a cell, or go on with it, and judge it."""
        if self.stopping.is_set():
            return
        self.states[cell.run] = RUNNING
        resume = (cell.run / "config.yaml").is_file()
        source = (
            ["--resume", str(cell.run)] if resume else ["--config", str(cell.write_config()), "--out", str(cell.run)]
        )
        judging = ["semiseg.tools.comparison.evaluate_cell", str(cell.run), cell.split, cell.config.accelerator]
        for command in (["semiseg.cli", "train", *source], judging):
            status = self._process(command, cell.log)
            if self.stopping.is_set():
                self.states[cell.run] = WAITING
                return
            if status:
                self.failures[cell.run] = last_line(cell.log) or f"status {status}"
                self.states[cell.run] = FAILED
                return
        self.states[cell.run] = DONE

    def _process(self, command: list[str], log: Path) -> int:
        """Run a module of Python to its end, its output into the log; return its status."""
        threads = str(max(1, cores() // self.jobs))
        environment = {"OMP_NUM_THREADS": threads} | os.environ | {"PYTHONUNBUFFERED": "1"}
        with open(log, "ab") as output:
            output.write(f"$ python -m {' '.join(command)}\n".encode())
            output.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # so that it is ended with all processes of its own
                pass_fds=(self.lock.fileno(),),  # should we be killed, the directory is locked while it lives
            )
            self.processes.add(process)
            try:
                return process.wait()
            finally:
                self.processes.discard(process)

    def _end_processes(self, pending: set[Future[None]]) -> None:
        """Have the cells save and end, and wait for it; a further interrupt ends them as they are."""
        told: dict[int, signal.Signals] = {}
        message = signal.SIGTERM
        while any(not future.done() for future in pending):
            try:
                for process in list(self.processes):  # a thread may just be starting one
                    if told.get(process.pid) != message:
                        told[process.pid] = message
                        with suppress(ProcessLookupError):
                            os.killpg(process.pid, message)
                time.sleep(0.05)
            except KeyboardInterrupt:
                message = signal.SIGKILL


def last_line(log: Path) -> str:
    """Return the last line of a log that says anything, without the program's name before it."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("semiseg: ") if lines else ""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def locked(out: Path) -> Iterator[IO[str]]:
    """Make a directory where there is none, and hold it for one comparison at a time.

    Raises:
        UserError: it cannot be written, or another one is at work there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = open(out / LOCK, "w", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}): choose another --out") from None
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{out}: another comparison is at work there: wait for it, or choose another --out"
            ) from None
        yield lock


@contextmanager
def ended_as_interrupted() -> Iterator[None]:
    """Treat the signals that end a program or close its terminal as an interrupt, so that no cell outlives it."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
