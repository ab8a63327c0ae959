"""One class per situation a user meets.

Every message names the object, what was expected, what was found and what to do next.
This is the lowest layer: it imports nothing of the package.
"""

from __future__ import annotations

import errno


class TrendError(Exception):
    """Base of every error that a user can cause and mend.

    Parameters
    ----------
    subject : str
        The object that is wrong: a file, a setting, a partition.
    expected : str
        What was expected of it.
    found : str
        What was found instead.
    remedy : str
        What to do next, in the imperative.
    """

    def __init__(self, subject: str, *, expected: str, found: str, remedy: str) -> None:
        self.subject = subject
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(f"{subject}: expected {expected}, found {found}. {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders (workers, Dagster steps); keyword-only arguments
        # would be lost by the default reduction.
        return (_rebuild, (type(self), self.subject, self.expected, self.found, self.remedy))


def _rebuild(
    cls: type[TrendError], subject: str, expected: str, found: str, remedy: str
) -> TrendError:
    return cls(subject, expected=expected, found=found, remedy=remedy)


class InputError(TrendError):
    """A file or folder given by the user cannot be used."""


class SettingsError(TrendError):
    """A setting is unknown, has the wrong type, or is out of its range."""


class CohortError(TrendError):
    """Single runs are fine, but together they cannot be used."""


class MissingUpstreamError(TrendError):
    """An asset is asked for before what it is made from exists."""


class StoreError(TrendError):
    """A store cannot be read or written."""


def cannot_write(subject: str, error: OSError, remedy: str = "run again.") -> StoreError:
    """Say in words why something could not be written, and what mends that.

    Parameters
    ----------
    subject : str
        What could not be written.
    error : OSError
        What the system said.
    remedy : str
        What to do once its cause is mended.

    Returns
    -------
    StoreError
        To be raised from ``error``.
    """
    unknown = ("a place that can be written to", "Mend that")
    expected, mend = SAID_IN_WORDS.get(error.errno or 0, unknown)
    found = error.strerror or str(error)
    return StoreError(subject, expected=expected, found=found, remedy=f"{mend}, then {remedy}")


_NO_ROOM = ("room on the disk", "Free space")
_NO_PERMISSION = (
    "permission for this user",
    "Ask the owner of the project for it (a common group, and umask 002)",
)
SAID_IN_WORDS = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EROFS: ("a file system that can be written to", "Mount it for writing"),
    errno.ENAMETOOLONG: ("a name that the file system takes", "Shorten the name"),
    errno.ENOTDIR: ("a folder", "Move the file that is in its place"),
}
"""What is expected where writing fails, and what mends it, by the system's number."""


class ServerError(TrendError):
    """The web page cannot be served."""


class TrainingError(TrendError):
    """Training cannot start or cannot go on."""


class FactorizationError(TrendError):
    """A factorisation or clustering was asked for that the matrix does not allow."""


class RunDiedError(TrendError):
    """The process of a run was ended from outside."""
