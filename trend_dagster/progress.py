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
    """Time left of all that is under way, from what it did since it was first seen.

    What an interruption left done counts as done, and not as quick work.
    """

    def __init__(self) -> None:
        self._seen: dict[object, tuple[float, float, float]] = {}  # when, share then, share now

    def seconds_left(self, of: object, share: float) -> float | None:
        """Tell how long it still takes; None where that is not known yet.

        Parameters
        ----------
        of : object
            What it is the share of; less of it than before begins anew.
        share : float
            Done, from 0 to 1.
        """
        now = time.monotonic()
        began, before, last = self._seen.get(of, (now, share, share))
        if share < last:
            began, before = now, share
        self._seen[of] = (began, before, share)
        seconds, done = now - began, share - before
        return seconds * (1 - share) / done if done > 0 and seconds > 1 else None
