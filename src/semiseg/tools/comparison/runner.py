"""Run the cells of a comparison: each in its own processes, several at a time."""

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

from semiseg.errors import UserError, os_error
from semiseg.tools.comparison.cells import Cell
from semiseg.tools.comparison.comparison_plan import LOCK
from semiseg.tools.comparison.live_progress import DONE, FAILED, RUNNING, WAITING, Display

try:
    import fcntl
except ImportError:
    raise UserError("semiseg compare needs Linux or macOS", fix="on Windows, run it inside WSL") from None

REFRESH_S = 1.0


class CellsFailed(RuntimeError):
    """Some cells of a comparison failed; the others are finished."""


class Runner:
    """Trains and evaluates cells.

    Args:
        cells: The cells.
        jobs: The number of cells that run at a time.
        lock: The lock of the directory, from ``locked``.

    Attributes:
        states: State of each cell by run directory.
        failures: Reason of each failure by run directory.
    """

    def __init__(self, cells: Sequence[Cell], jobs: int, lock: IO[str]) -> None:
        self.cells, self.jobs, self.lock = cells, jobs, lock
        self.states = {cell.run: DONE if cell.finished else WAITING for cell in cells}
        self.failures: dict[Path, str] = {}
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.stopping = threading.Event()

    def run(self, display: Display) -> None:
        """Run all unfinished cells. An interrupt stops the processes and is raised again."""
        with ThreadPoolExecutor(self.jobs) as pool:
            unfinished = [cell for cell in self.cells if self.states[cell.run] != DONE]
            pending: set[Future[None]] = {pool.submit(self._run_cell, cell) for cell in unfinished}
            try:
                while pending:
                    display.show(self.states, self.failures)
                    finished, pending = wait(pending, timeout=REFRESH_S)
                    for future in finished:
                        future.result()
            except BaseException:
                self.stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop_processes(pending)
                raise
        display.show(self.states, self.failures)

    def _run_cell(self, cell: Cell) -> None:
        """Train a cell, or resume its training, and evaluate it."""
        if self.stopping.is_set():
            return
        self.states[cell.run] = RUNNING
        if (cell.run / "config.yaml").is_file():
            train = ["semiseg.cli", "train", "--resume", str(cell.run)]
        else:
            train = ["semiseg.cli", "train", "--config", str(cell.write_config()), "--out", str(cell.run)]
        evaluate = ["semiseg.tools.comparison.evaluate_cell", str(cell.run), cell.split, cell.config.accelerator]
        for command in (train, evaluate):
            status = self._run_process(command, cell.log)
            if self.stopping.is_set():
                self.states[cell.run] = WAITING
                return
            if status:
                self.failures[cell.run] = last_line(cell.log) or f"status {status}"
                self.states[cell.run] = FAILED
                return
        self.states[cell.run] = DONE

    def _run_process(self, command: list[str], log: Path) -> int:
        """Run a Python module, append its output to the log, and return its exit status."""
        threads = str(max(1, cpu_count() // self.jobs))
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
                start_new_session=True,  # so that it can be stopped with its child processes
                pass_fds=(self.lock.fileno(),),  # keeps the directory locked if this process is killed
            )
            self.processes.add(process)
            try:
                return process.wait()
            finally:
                self.processes.discard(process)

    def _stop_processes(self, pending: set[Future[None]]) -> None:
        """Send SIGTERM, so that the cells save and stop, and wait; a second interrupt sends SIGKILL."""
        sent: dict[int, signal.Signals] = {}
        number = signal.SIGTERM
        while any(not future.done() for future in pending):
            try:
                for process in list(self.processes):  # repeated, since a thread may just be starting one
                    if sent.get(process.pid) != number:
                        sent[process.pid] = number
                        with suppress(ProcessLookupError):
                            os.killpg(process.pid, number)
                time.sleep(0.05)
            except KeyboardInterrupt:
                number = signal.SIGKILL


def last_line(log: Path) -> str:
    """Return the last non-empty line of a log without the prefix ``semiseg:``."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("semiseg: ") if lines else ""


def cpu_count() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def locked(out: Path) -> Iterator[IO[str]]:
    """Create the directory if needed, and lock it for one comparison at a time.

    Raises:
        UserError: The directory cannot be written, or another comparison runs in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = open(out / LOCK, "w", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise os_error(error, "cannot be written", out, "choose another --out") from None
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fix = "wait for it, or choose another --out"
            raise UserError("another comparison is running in this directory", path=out, fix=fix) from None
        yield lock


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP, so that no cell outlives this process."""

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
