"""How long something still takes, told from its own pace."""

from __future__ import annotations

import time


def time_left(seconds: float) -> str:
    """Say how long something still takes, as people say it."""
    for length, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * length:
            return f"about {seconds / length:.0f} {unit} left"
    return f"about {seconds:.0f} s left"


class Pace:
    """Time left of what is under way, from what it did since it was first seen.

    What an interruption left done counts as done, and not as quick work.
    """

    def __init__(self) -> None:
        self._of: object = None
        self._first = self._last = (0.0, 0.0)  # when, and the share done

    def left(self, of: object, share: float) -> str:
        """Say how long it still takes; empty where that is not known yet.

        Parameters
        ----------
        of : object
            What it is the share of; another thing, or less of it, begins anew.
        share : float
            Done, from 0 to 1.
        """
        now = (time.monotonic(), share)
        if of != self._of or share < self._last[1]:
            self._of, self._first = of, now
        self._last = now
        seconds, done = now[0] - self._first[0], share - self._first[1]
        return time_left(seconds * (1 - share) / done) if done > 0 and seconds > 1 else ""
