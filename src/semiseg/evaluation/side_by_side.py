"""Several images at once on a CPU, whose cores the operators of one small image do not keep busy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")

AT_ONCE = 4
SMALL = 2**20  # pixels of an image that may have others beside it, each with activations of its own


def side_by_side(
    work: Callable[[S], T], items: Iterable[S], pixels: Callable[[S], int], device: torch.device | str
) -> Generator[T]:
    """Yield ``work(item)`` for each item in order; on a CPU several at once, each with its share of the threads.

    An item of more than `SMALL` pixels has the machine for itself.
    """
    threads = torch.get_num_threads()
    at_once = min(AT_ONCE, threads) if torch.device(device).type == "cpu" else 1
    if at_once == 1:
        yield from map(work, items)
        return
    pending: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(threads // at_once,))
    try:
        for item in items:
            if pixels(item) > SMALL:
                while pending:
                    yield pending.popleft().result()
                yield work(item)
                continue
            pending.append(pool.submit(work, item))
            if len(pending) > at_once:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # new threads take the number that any thread has set last
