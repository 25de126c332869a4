"""Communication between ranks other than tensors: results, errors, and work to share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch

from semiseg.errors import ProcessLost, ReportedElsewhere, UserError
from semiseg.training.distributed.external_launcher import restarts_left

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")
R = TypeVar("R")

# Ranks wait for rank 0 to read every mask, which may take hours. A dead rank is noticed by the broken connection.
NO_TIMEOUT = timedelta(days=7)


class ProcessGroup:
    """The ranks of a launch. Every method except ``fail`` is collective: all ranks must call it.

    Args:
        fabric: Lightning Fabric, launched.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.rank, self.world_size = fabric.global_rank, fabric.world_size
        self.group: Any = None
        if self.world_size > 1:
            self.group = torch.distributed.new_group(backend="gloo", timeout=NO_TIMEOUT)

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in the order of their ranks."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value, group=self.group)
        return values

    def broadcast(self, value: T) -> T:
        """Return the ``value`` of rank 0."""
        values = [value]
        if self.group is not None:
            torch.distributed.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.group is not None:
            torch.distributed.barrier(group=self.group)

    def on_all_ranks(self, function: Callable[[], R]) -> R:
        """Call ``function`` on every rank and return its result once all ranks have one.

        Raises:
            UserError: ``function`` raised it on any rank. ReportedElsewhere on ranks other than 0.
        """
        result: Any = None
        error: UserError | None = None
        try:
            result = function()
        except UserError as problem:
            error = problem
        if first := next(filter(None, self.all_gather(error)), None):
            self.fail(first)
        return result

    def on_rank_zero(self, function: Callable[[], R]) -> R | None:
        """Call ``function`` on rank 0 and return its result there, None elsewhere.

        Raises:
            BaseException: Whatever ``function`` raised, on rank 0. ReportedElsewhere on the others.
        """
        result: R | None = None
        if self.rank == 0:
            try:
                result = function()
            except BaseException as error:  # of any kind: the other ranks wait for it
                with suppress(RuntimeError):  # the same may have stopped them
                    self.broadcast(str(error) or type(error).__name__)
                raise
        if problem := self.broadcast(""):
            raise ReportedElsewhere(problem)
        return result

    def from_rank_zero(self, function: Callable[[], R]) -> R:
        """Call ``function`` on rank 0 and return its result on every rank. Raises as ``on_rank_zero``."""
        result: Any = self.broadcast(self.on_rank_zero(function))
        return result

    def map(self, function: Callable[[Sequence[T]], Iterable[R]], tasks: Sequence[T]) -> list[R]:
        """Split tasks among the ranks and return the results of all tasks, in their order, on every rank.

        Args:
            function: Maps the tasks of one rank to their results.
            tasks: The same on all ranks.

        Raises:
            UserError: As ``on_all_ranks``, after the other ranks have finished their tasks.
        """
        shares = self.all_gather(self.on_all_ranks(lambda: [*function(tasks[self.rank :: self.world_size])]))
        return [shares[index % self.world_size][index // self.world_size] for index in range(len(tasks))]

    def require(self, ok: bool, error: UserError) -> None:
        """Raise ``error`` unless ``ok`` holds on all ranks."""
        if not all(self.all_gather(ok)):
            self.fail(error)

    def fail(self, error: UserError) -> NoReturn:
        """Raise ``error`` on rank 0 and ReportedElsewhere on the others."""
        raise ReportedElsewhere(str(error)) if self.rank else error


@contextmanager
def process_group(fabric: Fabric, resume_hint: Callable[[], str]) -> Iterator[ProcessGroup]:
    """Give the process group of a launched Fabric.

    Inside the block, a broken connection to another rank raises ProcessLost. The launcher sees why the other rank
    failed, so that its report is the one to read.

    Args:
        fabric: Lightning Fabric, launched.
        resume_hint: Returns a sentence that says how to continue.

    Raises:
        ProcessLost: Another rank has died.
    """
    try:
        yield ProcessGroup(fabric)
    except RuntimeError as error:
        if fabric.world_size == 1 or not is_broken_connection(error):
            raise
        hint = "torchrun restarts the run." if restarts_left() else resume_hint()
        raise ProcessLost(f"rank {fabric.global_rank} lost the connection to another rank. {hint}") from error


def is_broken_connection(error: RuntimeError) -> bool:
    """Return whether ``error`` means that another rank cannot be reached. Gloo has no exception type of its own."""
    return isinstance(error, torch.distributed.DistError) or "gloo/" in str(error)
