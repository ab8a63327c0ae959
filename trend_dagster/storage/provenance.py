"""What an output was made from, and how two such records differ.

A *recipe* names everything that decides the content of an output: the code version of its asset,
the settings it reads, and the digest of each input. Two equal recipes make the same output, so an
output whose stored recipe equals today's is current; otherwise the difference says why it is not.

An output that a user brought has a recipe as well: it names the file that it came from. There is no
recipe of today to compare it with, so it stays in use until it is made anew on request.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trend_dagster.errors import InputError
from trend_dagster.files import replace_file
from trend_dagster.storage.gifti import external_files

DIGEST_LENGTH = 16  # hexadecimal digits: 64 bits, enough to tell a lab's outputs apart

Look = tuple[str, Sequence[str]]

LIBRARIES = ("dagster", "numpy", "scipy", "scikit-learn", "torch", "zarr")


def digest_of(value: object) -> str:
    """Digest of anything that JSON can express.

    Parameters
    ----------
    value : object
        Numbers, strings, lists and dictionaries.

    Returns
    -------
    str
        The first 16 hexadecimal digits of the SHA-256 of its canonical JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def digest_of_file(path: Path) -> str:
    """Digest of a file's bytes, read in pieces.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    str
        The first 16 hexadecimal digits of its SHA-256.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_LENGTH]
    except OSError as error:
        raise InputError(
            f"file {path}",
            expected="a file that can be read",
            found=error.strerror or str(error),
            remedy="Put it back, mend the link or the permissions, or take it out of the inputs.",
        ) from error


def digest_of_input(path: Path, look: Callable[[Path], Look] | None = None) -> str:
    """Digest of an input file and, for a GIFTI file that only describes them, of its numbers.

    Parameters
    ----------
    path : Path
        The file.
    look : callable, optional
        What gives the digest of the bytes of one file, and the names of the files beside it that
        hold its numbers.

    Returns
    -------
    str
        :func:`digest_of_file`, unless its numbers lie in other files.

    Raises
    ------
    InputError
        If one of them cannot be read.
    """
    look = look or _look
    digest, held = look(path)
    if not held:
        return digest
    return digest_of({path.name: digest} | {name: look(path.with_name(name))[0] for name in held})


def _look(path: Path) -> Look:
    held = external_files(path) if _may_point(path) else ()
    return digest_of_file(path), [file.name for file in held]


def _may_point(path: Path) -> bool:
    return ".gii" in path.suffixes


class InputDigests:
    """Digests of input files; a file that has not changed since is not read again.

    A cohort's files are gigabytes, and a command that only asks how things stand would read all of
    them. As git does it, a file counts as unchanged while its size, times and inode are the same;
    one that was written to a moment ago is not remembered, for it may change within one tick of the
    clock.

    Parameters
    ----------
    memory : Path
        File that remembers; it may be deleted, or not be writable.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known: dict[str, list[Any]] = {}
        self._saved = -math.inf
        with suppress(OSError, ValueError, TypeError):
            self._known = dict(json.loads(memory.read_bytes()))

    def of(self, path: Path) -> str:
        """Digest of an input file, as `digest_of_input`."""
        return digest_of_input(path, self._look)

    def _look(self, path: Path) -> Look:
        stamp = _stamp(path)
        key = str(path.absolute())
        known = self._known.get(key, [])
        if known[:4] == stamp:
            digest, *held = known[4:]
            if held or not _may_point(path):  # an older memory says nothing of other files
                return str(digest), list(*held)
        digest, found = _look(path)
        if stamp == _stamp(path) and max(stamp[1:3]) < time.time_ns() - _TICK_NS:
            self._known[key] = [*stamp, digest, found]
            now = time.monotonic()  # a cohort of small files would write it for each of them
            if now - self._saved > 1 and self._memory.parent.is_dir():  # asking makes no store
                self._saved = now
                with suppress(OSError):
                    replace_file(self._memory, json.dumps(self._known).encode())
        return digest, found


_TICK_NS = 2 * 10**9  # of the clocks of file systems, the coarsest


def _stamp(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError:  # said where it is read
        return [0, 0, 0, 0]
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


_MANY_FILES = 64
"""Chunks of an array of some hundred MB: worth starting threads, which read side by side."""


def digest_of_folder(folder: Path, *, leave_out: frozenset[str] = frozenset()) -> str:
    """Digest of all files below a folder: their relative names and their bytes.

    Parameters
    ----------
    folder : Path
        The folder.
    leave_out : frozenset of str
        Relative names that do not count.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    total = hashlib.sha256()
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    counted = [name for name in files if name not in leave_out]
    paths = [folder / name for name in counted]
    if len(paths) < _MANY_FILES:
        digests = [digest_of_file(path) for path in paths]
    else:
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(digest_of_file, paths))
    for name, digest in zip(counted, digests, strict=True):
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()[:DIGEST_LENGTH]


def library_versions() -> dict[str, str]:
    """Versions of the libraries that the numbers depend on."""
    return dict(_library_versions())


@cache  # each is a file that is parsed, and every output asks
def _library_versions() -> tuple[tuple[str, str], ...]:
    return tuple((name, version(name)) for name in LIBRARIES)


BECAUSE = "because"
"""In a section of a recipe's settings: why the output is an exclusion that nothing is computed for.
"""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the content of an output.

    Parameters
    ----------
    asset : str
        Name of the asset.
    code_version : str
        Version of the asset's code; raised when a change of code changes results.
    settings : mapping
        The settings that the asset reads, by section.
    inputs : mapping of str to str
        Digest of each input, by name (``embeddings[bold_run=sub-01]``, ``file``).
    imported_from : str, optional
        Name of the file that a user brought the output in; its digest is among the inputs.
    traced : bool
        Whether the inputs are those that were really looked at. Before this was recorded, an input
        that could be missing was named only where it was there.
    """

    asset: str
    code_version: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    imported_from: str | None = None
    traced: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON can store it."""
        recipe = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in recipe.items() if value not in (None, False)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Recipe:
        """Read a recipe back from a store's attributes."""
        return cls(**stored)

    @property
    def because(self) -> str | None:
        """Why the output is an exclusion that nothing was computed for; None if it is none."""
        sections = (s for s in self.settings.values() if isinstance(s, Mapping))
        return next((section[BECAUSE] for section in sections if BECAUSE in section), None)

    @property
    def fingerprint(self) -> str:
        """One short text that is equal for equal recipes."""
        return digest_of(self.as_dict())


def differences(stored: Recipe, today: Recipe) -> list[str]:
    """Say in words why an output made by one recipe would be made differently by another.

    Parameters
    ----------
    stored : Recipe
        What the output was made from.
    today : Recipe
        What it would be made from now.

    Returns
    -------
    list of str
        One sentence part per difference; empty if the recipes are equal.
    """
    was, now = stored.because, today.because
    if was != now:
        # Settings and inputs of one that is not computed are not recorded: they all seem to differ.
        taken = f"it was left out ({was}), and is taken now"
        return [taken if now is None else f"it is left out now: {now}"]
    reasons = []
    if stored.code_version != today.code_version:
        reasons.append(f"the code is version {today.code_version}, was {stored.code_version}")
    before, after = flatten(stored.as_dict()["settings"]), flatten(today.as_dict()["settings"])
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            was, now = before.get(name, "not set"), after.get(name, "not set")
            reasons.append(f"setting {name} is {now}, was {was}")
    for name in sorted(stored.inputs.keys() | today.inputs.keys()):
        if name not in today.inputs:
            reasons.append(f"input {name} is gone")
        elif name not in stored.inputs:
            reasons.append(f"input {name} is new")
        elif stored.inputs[name] != today.inputs[name]:
            reasons.append(f"input {name} has changed")
    return reasons


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by ``section.name``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
