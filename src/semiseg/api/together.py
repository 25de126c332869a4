"""Work that several processes share, each of which takes its part, and whose errors one of them tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import torch

from semiseg.errors import ToldElsewhere, UserError

T = TypeVar("T")
R = TypeVar("R")


def gathered(fabric: Any, value: T) -> list[T]:
    """Return the value that each process gives, in the order of their ranks."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def together(fabric: Any, act: Callable[[], R]) -> R:
    """Do something on every process and wait for all; where the input is at fault on one, all end.

    Raises:
        UserError: what was wrong, on the first process; ToldElsewhere on the others.
    """
    result, problem = None, ""
    try:
        result = act()
    except UserError as error:
        problem = str(error)
    problem = next(filter(None, gathered(fabric, problem)), "")
    if problem:
        refuse(fabric, problem)
    return result  # type: ignore[return-value]


def by_first(fabric: Any, act: Callable[[], R]) -> R:
    """Do something on the first process alone and give the others what came of it; raises as ``together``."""
    result = together(fabric, lambda: act() if fabric.is_global_zero else None)
    shared: R = fabric.broadcast(result)
    return shared


def refuse(fabric: Any, problem: str) -> NoReturn:
    """Raise UserError on the first process, ToldElsewhere on the others."""
    raise UserError(problem) if fabric.is_global_zero else ToldElsewhere(problem)


def in_turns(fabric: Any, tasks: Sequence[T], act: Callable[[T], R], turn: int) -> list[R]:
    """Do all tasks, each on one of the processes, and return on all of them what came of each, in the tasks' order.

    The processes meet after ``turn`` tasks each: none waits for another so long that it would be taken for dead.

    Raises:
        UserError: as ``together``; what was done before stays done.
    """
    rank, size, done = fabric.global_rank, fabric.world_size, {}
    for first in range(0, len(tasks), turn * size):
        mine = range(first + rank, min(first + turn * size, len(tasks)), size)
        done.update(together(fabric, lambda mine=mine: {index: act(tasks[index]) for index in mine}))  # type: ignore[misc]
    everything = {index: result for part in gathered(fabric, done) for index, result in part.items()}
    return [everything[index] for index in range(len(tasks))]
