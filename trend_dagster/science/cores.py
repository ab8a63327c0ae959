"""How many cores there are to work with, and work on two things at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_limit: int | None = None


def usable_cores() -> int:
    """Return how many cores this process may use, which a scheduler may have limited."""
    if hasattr(os, "sched_getaffinity"):
        found = len(os.sched_getaffinity(0))
    else:
        found = os.cpu_count() or 1
    return found if _limit is None else min(found, _limit)


def limit_cores(n_cores: int) -> None:
    """Let this process use no more than some cores: it is one of several side by side."""
    global _limit
    _limit = n_cores


def while_made(work: Callable[[T], R], made: Iterable[T], at_once: int = 2) -> Iterator[R]:
    """Work on things in threads while the next ones are made, and keep their order.

    Parameters
    ----------
    work : callable
        Takes one thing; spends its time where Python lets go of its lock.
    made : iterable
        What makes them, one after the other, in the thread that asks.
    at_once : int
        Most things at work on; one more is in memory.

    Yields
    ------
    object
        What ``work`` returned. With one core nothing happens at the same time.
    """
    # Making takes less than the work, mostly: beside it as many are at work as there are cores.
    n_threads = min(at_once, usable_cores())
    if n_threads < 2:
        yield from map(work, made)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        waiting: deque[Future[R]] = deque()
        for thing in made:
            waiting.append(pool.submit(work, thing))
            if len(waiting) > n_threads:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()
