"""Confound time series that preprocessing writes beside a run."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.storage.arrays import is_companion
from trend_dagster.storage.runs import PROCESSING, BoldRun, entities_of, fits

SETTLED_NS = 2 * 10**9
"""Age of a folder's last change, in ns, from which on a later one has another time for certain."""

_ENCODING = "utf-8-sig"  # spreadsheets write a mark in front
_ENDINGS = ("_desc-confounds_timeseries.tsv", "_desc-confounds_regressors.tsv")  # fMRIPrep's


def confounds_file(run: BoldRun) -> Path:
    """Find the confounds table beside a run, by the entities of its name.

    The table is named like the run, but for what tells how the run was processed: hemisphere,
    space, cohort, density, resolution, description; and it may leave out echo and part.

    Raises
    ------
    InputError
        If it is not beside the run, or if several are.
    """
    found = beside(run, _ENDINGS)
    if len(found) != 1:
        raise InputError(
            f"confounds of BOLD run {run.key}",
            expected=f"one table of this recording, {_name_of(run)}{_ENDINGS[0]}, beside "
            f"{run.files[0]}; the settings name confounds",
            found=", ".join(path.name for path in found) or "no such file",
            remedy="Put it there, or take the confounds out of trend.yaml (bold).",
        )
    return found[0]


def beside(run: BoldRun, endings: tuple[str, ...]) -> list[Path]:
    """Tables of a recording that lie beside it: of its entities, but those of processing."""
    own = _own(run.entities)
    found = []
    for path in _tables_in(run.files[0].parent):
        ending = next((each for each in endings if path.name.endswith(each)), None)
        if ending is not None and not is_companion(path):
            stem = path.name.removesuffix(ending)
            told = _own(entities_of(stem))
            if stem == run.key or (told and _of_recording(told, own)):
                found.append(path)
    exact = [path for path in found if path.name.removesuffix(endings[0]) == run.key]
    return exact or found


def _tables_in(folder: Path) -> Sequence[Path]:
    """List a folder's tables; anew only where it has changed, for each of its runs asks."""
    changed = folder.stat().st_mtime_ns
    listed = _listed if time.time_ns() - changed > SETTLED_NS else _listed.__wrapped__
    return listed(folder, changed)


@lru_cache(maxsize=64)
def _listed(folder: Path, changed: int) -> Sequence[Path]:
    return tuple(sorted(folder.glob("*.tsv")))


def _own(entities: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in entities.items() if name not in PROCESSING}


def _of_recording(told: Mapping[str, str], own: Mapping[str, str]) -> bool:
    """Whether a table is of a recording: one table serves all echoes and parts of the signal."""
    same = all(name in own and fits(own[name], (value,)) for name, value in told.items())
    return same and own.keys() - told.keys() <= {"echo", "part"}


def _name_of(run: BoldRun) -> str:
    return "_".join(f"{name}-{value}" for name, value in _own(run.entities).items()) or run.key


_TRUTH = {"true": 1.0, "false": 0.0}  # as pandas and R write it, of volumes to leave out
_CANNOT_READ = (OSError, UnicodeDecodeError, csv.Error)
_NO_TABS = re.compile(r"[,;\s]")  # in a lone name: another separator


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[list[str]]]:
    """Lines of a table that are not empty, cut at tabs; R writes names in quotes."""
    with path.open(encoding=_ENCODING, newline="") as file:
        cut = csv.reader(file, delimiter="\t", skipinitialspace=True)
        lines = ([cell.strip() for cell in line] for line in cut)
        yield (line for line in lines if line not in ([], [""]))


def _names(lines: Iterator[list[str]]) -> list[str]:
    """Names in the first line; none where there is none, or no tabs. Some end lines with a tab."""
    names = next(lines, [])
    while names and not names[-1]:
        names.pop()
    return [] if len(names) == 1 and _NO_TABS.search(names[0]) else names


def columns_of(path: Path) -> list[str]:
    """Names of the columns of a table; none where it cannot be read, or is none."""
    try:
        with _lines(path) as lines:
            return _names(lines)
    except _CANNOT_READ:  # said where its numbers are read
        return []


def count_rows(path: Path) -> int | None:
    """Rows of a table below its header; None where it is none, or cannot be read."""
    try:
        with _lines(path) as lines:
            return sum(1 for _ in lines) if _names(lines) else None
    except _CANNOT_READ:  # said where its numbers are read
        return None


def shortened(columns: list[str]) -> list[str]:
    """Columns for people: a pattern for a numbered family, and no derivatives and powers."""
    bases = (re.sub(r"(_derivative\d+|_power\d+)+$", "", name) for name in columns)
    return list(dict.fromkeys(re.sub(r"\d+$", "*", base) for base in bases))


def matching(patterns: tuple[str, ...], columns: list[str]) -> tuple[list[str], list[str]]:
    """Columns that names or patterns (``a_comp_cor_*``) stand for, and those that match none."""
    found: dict[str, None] = {}
    unknown = []
    for pattern in patterns:
        names = [name for name in columns if fnmatchcase(name, pattern)]
        found |= dict.fromkeys(names)
        unknown += [] if names else [pattern]
    return list(found), unknown


def read_confounds(
    path: Path, columns: tuple[str, ...], n_timepoints: int, n_dropped: int = 0
) -> NDArray[np.float64]:
    """Read columns of a confounds table by name or pattern.

    Parameters
    ----------
    path : Path
        A .tsv with a header, ``n/a`` where there is no value.
    columns : tuple of str
        Their names; ``*`` and ``?`` stand for any letters.
    n_timepoints : int
        Rows that it must have.
    n_dropped : int
        Rows at the start that nobody uses.

    Returns
    -------
    ndarray of shape (n_timepoints, n_columns), float64
        A derivative has no value in the first row; it takes that of the second, and so do rows
        that nobody uses.

    Raises
    ------
    InputError
        If it cannot be read, lacks a column or a value, or has another length.
    """

    def bad(expected: str, found: str) -> InputError:
        return InputError(
            f"confounds table {path}",
            expected=expected,
            found=found,
            remedy="Check that it belongs to the run, and the names in bold.confounds; or leave "
            "the run out (inputs.exclude).",
        )

    try:
        with _lines(path) as lines:
            header, rows = _names(lines), list(lines)
    except _CANNOT_READ as error:
        raise bad("a table with tabs between its columns", " ".join(str(error).split())) from error
    if not header:
        with _lines(path) as lines:
            found = next((f"one column {line[0]!r}" for line in lines), "nothing in it")
        raise bad("a table with tabs between its columns", found)
    chosen_columns, missing = matching(columns, header)
    if twice := [name for name in chosen_columns if header.count(name) > 1]:
        raise bad("each column once", f"several {twice[0]}")
    if missing:
        raise bad(f"columns {', '.join(missing)}", f"others: {', '.join(shortened(header))}")
    n = len(header)
    # One cell more in each row is a name of the row, or a number in another column's place.
    uneven = [i for i, row in enumerate(rows) if len(row) < n or any(row[n:])]
    if uneven:
        cells = f"{len(rows[uneven[0]])} in row {uneven[0] + 1}"
        raise bad(f"{n} values in each row, one for each name in its first line", cells)
    if len(rows) != n_timepoints:
        raise bad(f"{n_timepoints} rows, one per volume", str(len(rows)))
    places = [header.index(name) for name in chosen_columns]
    chosen = np.array([[_number(row[place]) for place in places] for row in rows])
    for row in reversed(range(min(max(1, n_dropped), n_timepoints - 1))):
        chosen[row] = np.where(np.isnan(chosen[row]), chosen[row + 1], chosen[row])
    without = np.argwhere(~np.isfinite(chosen))
    if len(without):
        row, column = without[0]
        raise bad(
            "a number in every row",
            f"{len(without)} without one, first {chosen_columns[column]} in row {row + 1}",
        )
    return chosen


def _number(cell: str) -> float:
    """A cell as a number; NaN where it is none."""
    try:
        return _TRUTH[cell.lower()] if cell.lower() in _TRUTH else float(cell)
    except ValueError:
        return float("nan")
