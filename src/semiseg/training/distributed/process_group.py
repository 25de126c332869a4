"""The processes that share a task, a training or a prediction: how they meet, and what the end of one does to all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from lightning_fabric import Fabric

from semiseg.errors import ProcessLost, ReportedElsewhere, UserError
from semiseg.training.distributed.launch import by_torchrun, restarts, started_by
from semiseg.training.distributed.watch import GRACE_S, Watch, alive, children, end, how_it_ended, place

T = TypeVar("T")
R = TypeVar("R")

HEAR_S = 3.0  # from a broken connection to the death of the process behind it
PATIENCE = timedelta(days=7)  # while the first process reads every mask: as long as it takes, if only it lives


class Peers:
    """The processes that share a task: what they tell one another, and how those on this machine are.

    Args:
        fabric: after its launch.
        remedy: says how the task goes on after one of them has ended.
    """

    def __init__(self, fabric: Fabric, remedy: Callable[[], str]) -> None:
        self.rank, self.world, self.go_on = fabric.global_rank, fabric.world_size, remedy
        self.children = children(fabric)
        self.parent = os.getppid() if by_torchrun() else None
        self.watch = Watch(self.lost, self.children)
        self.group: Any = None
        if self.world > 1:
            self.group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        met = self.gathered((place(), os.getpid()))
        self.pids = {rank: pid for rank, (where, pid) in enumerate(met) if where == place()}

    def gathered(self, value: T) -> list[T]:
        """Return the value that each process gives, in the order of their ranks, however long they take to give it."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value, group=self.group)
        return values

    def on_each(self, act: Callable[[], R]) -> R:
        """Do something on every process and wait for all; what is wrong on one ends all.

        Raises:
            UserError: what was wrong, on the first process; ReportedElsewhere on the others.
        """
        result, problem = None, ""
        try:
            result = act()
        except UserError as error:
            problem = str(error)
        if problem := next(filter(None, self.gathered(problem)), ""):
            self.refuse(problem)
        return result  # type: ignore[return-value]

    def on_first(self, act: Callable[[], R]) -> R | None:
        """Do something on the first process and return there what it gives; where it fails, the others end with it."""
        result, problem = None, None
        if not self.rank:
            try:
                result = act()
            except BaseException as error:  # whatever it was, the other processes wait to hear of it
                problem = error
        with suppress(*((RuntimeError,) if problem else ())):  # the same may have ended the others
            said = self.sent("" if problem is None else str(problem) or type(problem).__name__)
        if problem:
            raise problem
        if said:
            raise ReportedElsewhere(said)
        return result

    def from_first(self, act: Callable[[], R]) -> R:
        """Do as `on_first`, and return on all processes what it gives."""
        result: Any = self.sent(self.on_first(act))
        return result

    def sent(self, value: T) -> T:
        """Return the first process's ``value`` on every process, however long they have to wait for it."""
        values = [value]
        if self.group is not None:
            torch.distributed.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def shared_out(self, tasks: Sequence[T], act: Callable[[Sequence[T]], Iterable[R]]) -> list[R]:
        """Do each task on one of the processes, and return on all of them what came of each, in the tasks' order.

        Args:
            tasks: the same on all processes.
            act: does some of them, and gives what comes of each in their order.

        Raises:
            UserError: as `on_each`, after the other processes have done their part.
        """
        parts = self.gathered(self.on_each(lambda: [*act(tasks[self.rank :: self.world])]))
        return [parts[index % self.world][index // self.world] for index in range(len(tasks))]

    def require(self, ok: bool, message: str) -> None:
        """Refuse with ``message`` unless all processes say ``ok``."""
        if not all(self.gathered(ok)):
            self.refuse(message)

    def refuse(self, problem: str) -> NoReturn:
        """Raise UserError on the first process, ReportedElsewhere on the others."""
        raise ReportedElsewhere(problem) if self.rank else UserError(problem)

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

    def lost(self) -> ProcessLost | ReportedElsewhere | None:
        """Return what ends this process, if one of the others or torchrun has ended; one process a machine tells."""
        gone = self.gone()
        orphaned = self.parent is not None and os.getppid() != self.parent
        if not gone and not orphaned:
            return None
        if self.rank != min(self.pids.keys() - gone.keys()):
            return ReportedElsewhere("another process has ended")
        if orphaned:
            return ProcessLost(f"torchrun has ended, and the run with it: {self.remedy(again=False)}")
        # Those that end because another one was killed have a status of their own; the signal is the cause.
        rank, status = min(gone.items(), key=lambda item: (item[1] is None or item[1] >= 0, not item[1], item[0]))
        end_of_it = f"rank {rank} of {self.world} {how_it_ended(status)}, and the run with it: {self.remedy()}"
        return ProcessLost(end_of_it, status=2 if status == 2 else 1)

    def cut_off(self) -> ProcessLost | ReportedElsewhere:
        """Return what ends this process after a connection has broken."""
        deadline = time.monotonic() + HEAR_S
        while time.monotonic() < deadline:
            if lost := self.lost():
                return lost
            time.sleep(0.1)
        if self.rank != min(self.pids):
            return ReportedElsewhere("a connection has broken")
        there = "on another machine" if len(self.pids) < self.world else "beside this one"
        return ProcessLost(f"a process {there} does not answer, which ends the run: {self.remedy()}")

    def remedy(self, again: bool = True) -> str:
        """Return how it goes on; ``again``: torchrun is there to start it."""
        count, most = restarts()
        if again and count < most:
            return f"torchrun starts it again ({count + 1} of {most} times)"
        return self.go_on() + (", started as before" if started_by() else "")


@contextmanager
def together(fabric: Fabric, remedy: Callable[[], str]) -> Iterator[Peers]:
    """Inside the block, until they `part`, a process whose peer has ended ends too, within seconds.

    Raises:
        ProcessLost: a peer has ended; on one process of each machine, which tells. ReportedElsewhere on the others.
    """
    peers = Peers(fabric, remedy)
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
            if torch.distributed.get_backend() != "gloo":
                # A GPU's group waits for the lost one at the end of the program; so long and no longer.
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


def is_broken_connection(error: RuntimeError) -> bool:
    """Whether an error says that another process could not be reached (gloo's has no type of its own)."""
    return isinstance(error, torch.distributed.DistError) or "gloo/" in str(error)
