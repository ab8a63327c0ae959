"""How many cores there are to work with."""

from __future__ import annotations

import os

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
