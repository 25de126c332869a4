"""The processes of a run watch one another: where one is gone the others say so, say how to go on, and end."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from semiseg.errors import ProcessLost, ToldElsewhere, UserError, printable
from semiseg.training.interruption import how_to_go_on
from semiseg.training.launching import by_torchrun, restarts, started_by

LOOK_S = 1.0  # between two looks at the others
HEAR_S = 3.0  # from a broken connection to the death of the process behind it
GRACE_S = 10.0  # for the main thread to hear of a death by itself: gloo's connections break, while a GPU waits
PATIENCE = timedelta(days=7)  # while the first process reads every mask: as long as it takes, if only it lives


class Watch:
    """A thread that ends this process where another one has ended and the main thread does not come to hear of it.

    Args:
        lost: says which process is gone, as the exception to raise, if one is.
        children: processes to end with this one.
    """

    def __init__(
        self, lost: Callable[[], ProcessLost | ToldElsewhere | None], children: Sequence[subprocess.Popen[Any]]
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


class Peers:
    """The other processes of a run, of which those on this machine can be looked at.

    Args:
        fabric: after its launch.
        run: where the run is or will be.
    """

    def __init__(self, fabric: Fabric, run: Path) -> None:
        self.rank, self.world, self.run = fabric.global_rank, fabric.world_size, run
        self.children = children(fabric)
        self.pids: dict[int, int] = {self.rank: os.getpid()}
        self.parent = os.getppid() if by_torchrun() else None
        self.watch = Watch(self.lost, self.children)
        self.group: Any = None
        if self.world > 1:
            self.group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
            met: list[Any] = [None] * self.world
            torch.distributed.all_gather_object(met, (place(), os.getpid()), group=self.group)
            self.pids = {rank: pid for rank, (where, pid) in enumerate(met) if where == place()}

    def told(self, text: str) -> str:
        """Return the first process's ``text`` on every process, however long they have to wait for it."""
        if self.group is None:
            return text
        words = [text]
        torch.distributed.broadcast_object_list(words, src=0, group=self.group)
        return words[0]

    def require(self, ok: bool, message: str) -> None:
        """Raise UserError with ``message`` on the first process, and ToldElsewhere on others, unless all say ``ok``."""
        said: list[Any] = [ok] * self.world
        if self.group is not None:
            torch.distributed.all_gather_object(said, ok, group=self.group)
        if not all(said):
            raise ToldElsewhere(message) if self.rank else UserError(message)

    def part(self) -> None:
        """Wait until every process has come here; from then on each may end when it likes."""
        if self.group is not None:
            torch.distributed.barrier(group=self.group)
        self.watch.over.set()

    def gone(self) -> dict[int, int | None]:
        """Return the other processes of this machine that have ended, by rank, with their status where it is known.

        A child has ended when it has a status: its threads may take a moment longer than what ``alive`` looks at.
        """
        known = {child.pid: child.poll() for child in self.children}
        others = {rank: pid for rank, pid in self.pids.items() if rank != self.rank}
        ended = {rank: pid for rank, pid in others.items() if known.get(pid) is not None}
        ended |= {rank: pid for rank, pid in others.items() if pid not in known and not alive(pid)}
        return {rank: known.get(pid) for rank, pid in ended.items()}

    def lost(self) -> ProcessLost | ToldElsewhere | None:
        """Return what ends this process, if one of the others or torchrun has ended; one process a machine tells."""
        gone = self.gone()
        orphaned = self.parent is not None and os.getppid() != self.parent
        if not gone and not orphaned:
            return None
        if self.rank != min(self.pids.keys() - gone.keys()):
            return ToldElsewhere("another process has ended")
        if orphaned:
            return ProcessLost(f"torchrun has ended, and the run with it: {self.remedy(again=False)}")
        # Those that end because another one was killed have a status of their own; the signal is the cause.
        rank, status = min(gone.items(), key=lambda item: (item[1] is None or item[1] >= 0, not item[1], item[0]))
        end_of_it = f"rank {rank} of {self.world} {how_it_ended(status)}, and the run with it: {self.remedy()}"
        return ProcessLost(end_of_it, status=2 if status == 2 else 1)

    def cut_off(self) -> ProcessLost | ToldElsewhere:
        """Return what ends this process after a connection has broken."""
        deadline = time.monotonic() + HEAR_S
        while time.monotonic() < deadline:
            if lost := self.lost():
                return lost
            time.sleep(0.1)
        if self.rank != min(self.pids):
            return ToldElsewhere("a connection has broken")
        there = "on another machine" if len(self.pids) < self.world else "beside this one"
        return ProcessLost(f"a process {there} does not answer, which ends the run: {self.remedy()}")

    def remedy(self, again: bool = True) -> str:
        """Return how the run goes on; ``again``: torchrun is there to start it."""
        count, most = restarts()
        if again and count < most:
            return f"torchrun starts it again ({count + 1} of {most} times)"
        return how_to_go_on(self.run) + (", started as before" if started_by() else "")


@contextmanager
def together(fabric: Fabric, run: Path) -> Iterator[Peers]:
    """Inside the block, until they `part`, a process whose peer has ended ends too, within seconds.

    Raises:
        ProcessLost: a peer has ended; on one process of each machine, which tells. ToldElsewhere on the others.
    """
    peers = Peers(fabric, run)
    if peers.world == 1:
        yield peers
        return
    with peers.watch:
        try:
            yield peers
        except BaseException as problem:
            if not isinstance(problem, RuntimeError) or not is_broken_connection(problem):
                end(peers.children, HEAR_S)
                raise
            lost = peers.cut_off()
            end(peers.children, HEAR_S)
            # Whatever waits for the lost one at the end of the program (a GPU's group) waits so long and no longer.
            deadline = threading.Timer(GRACE_S, os._exit, [1])
            deadline.daemon = True
            deadline.start()
            raise lost from problem


def watched_launch(fabric: Fabric) -> None:
    """Launch Fabric; a process that ends before all have met ends the others too."""
    begun = children(fabric)

    def lost() -> ProcessLost | None:
        for rank, child in enumerate(begun, 1):
            if child.poll() is not None:
                status = child.returncode
                return ProcessLost(f"process {rank} {how_it_ended(status)} as it started", 2 if status == 2 else 1)
        return None

    with Watch(lost, begun):
        fabric.launch()


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


def is_broken_connection(error: RuntimeError) -> bool:
    """Whether an error says that another process could not be reached (gloo's has no type of its own)."""
    return isinstance(error, torch.distributed.DistError) or "gloo/" in str(error)


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
