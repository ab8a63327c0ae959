"""Which hemisphere a file is of: one rule for BOLD, labels, masks, surfaces and distances.

A file tells its hemisphere by its place among the settings, its name, its header and its content.
Whatever tells it must tell the same, and the two files of a pair are never one and the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.storage.space import Side

SIDES: tuple[Side, Side] = ("L", "R")
WORD: Mapping[Side, str] = {"L": "left", "R": "right"}

SAMPLED_ROWS = 200  # compared in full; two recordings differ in any of them
COPIED = 0.9999  # correlation of a series with a copy of it in another unit, rounded
FEW_VOLUMES = 10  # of which fewer correlate by chance
MOSTLY = 0.9  # of an atlas' names carry the hemisphere, if its author wrote it there

# In the order in which they are believed: "hemi-" is BIDS, "left" may be part of a description.
_IN_NAME = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:^|[._-])(hemi-(?:[LRlr]|[lr]h|[LR]H|[Ll]eft|[Rr]ight))(?=[._-]|$)",
        r"(?:^|[._])(lh|rh|LH|RH|L|R)(?=[._]|$)",
        r"(?:^|[._-])(left|right|Left|Right|LEFT|RIGHT)(?=[._-]|$)",
    )
)
_STRUCTURE: Mapping[str, Side] = {"cortexleft": "L", "cortexright": "R"}
_IN_LABEL = re.compile(
    r"(?:^|[-_. ])(?:(?P<L>lh|l|left)|(?P<R>rh|r|right))(?:[-_. ]|$)", re.IGNORECASE
)


def hemisphere_of(stem: str) -> tuple[Side | None, str]:
    """Hemisphere that a name without ending tells (None if it does not), and the rest of it."""
    for pattern in _IN_NAME:
        if (match := pattern.search(stem)) is not None:
            word = match.group(1).lower().removeprefix("hemi-")
            rest = stem[: match.start()] + stem[match.end() :]
            return "L" if word[0] == "l" else "R", rest.lstrip("._-")
    return None, stem


def told_by_header(image: Any) -> set[Side]:
    """Hemispheres that a GIFTI image names as its anatomical structure; empty if it names none."""
    told = (each.meta.get("AnatomicalStructurePrimary") for each in (image, *image.darrays))
    words = {re.sub(r"[^a-z]", "", str(word).lower()) for word in told if word}
    return {_STRUCTURE[word] for word in words if word in _STRUCTURE}


def told_by_labels(names: Iterable[str]) -> Side | None:
    """Hemisphere that nearly all names of an atlas carry (``L_V1``, ``7Networks_RH_Vis_1``)."""
    named = [name for name in names if name]
    found = Counter(
        match.lastgroup for name in named if (match := _IN_LABEL.search(name)) is not None
    )
    for side in SIDES:
        if named and found[side] >= MOSTLY * len(named):
            return side
    return None


def without_side(name: str, side: Side) -> str:
    """Take the hemisphere out of the name of a label: ``L_V1_ROI`` is ``V1_ROI``."""
    match = _IN_LABEL.search(name)
    if match is None or match.lastgroup != side:
        return name
    before, after = name[: match.start()], name[match.end() :]
    return f"{before}_{after}" if before and after else before + after


def check_side(
    what: str,
    path: Path,
    wanted: Side,
    remedy: str,
    *,
    header: Iterable[Side] = (),
    name: bool = True,
    labels: Side | None = None,
) -> None:
    """Make sure that a file is of the hemisphere that it stands for.

    Parameters
    ----------
    what : str
        What it is, for messages ("surface file").
    path : Path
        The file.
    wanted : {"L", "R"}
        What it stands for.
    remedy : str
        What to do.
    header : iterable of str
        Hemispheres that its header names.
    name : bool
        Whether its name counts; not where it is how the file was paired.
    labels : str, optional
        Hemisphere that its label names tell.

    Raises
    ------
    InputError
        If its header, its name or its label names say the other one.
    """
    told: list[tuple[str, Side | None]] = [("its header says so", side) for side in sorted(header)]
    if name:
        told.append(("its name says so", hemisphere_of(path.name)[0]))
    told.append(("the names of its labels say so", labels))
    for who, side in told:
        if side not in (None, wanted):
            raise InputError(
                f"{what} {path}",
                expected=f"the {WORD[wanted]} hemisphere",
                found=f"the {WORD[side]} one ({who})",
                remedy=remedy,
            )


def check_order(what: str, files: Sequence[Path], setting: str) -> None:
    """Make sure that two files of a setting are different ones, the left one first.

    Raises
    ------
    InputError
        If their names say otherwise.
    """
    if len(files) != 2:
        return
    remedy = f"Name the left one first, then the right one ({setting} in trend.yaml)."
    if files[0] == files[1]:
        raise InputError(
            f"{what}s of {setting}",
            expected="the left and the right hemisphere",
            found=f"{files[0].name} twice",
            remedy=remedy,
        )
    for path, side in zip(files, SIDES, strict=True):
        check_side(what, path, side, remedy)


def twins(values: NDArray[Any], n_left: int) -> bool:
    """Tell whether a map that varies is the same in both hemispheres, vertex by vertex."""
    left, right = values[:n_left], values[n_left:]
    return bool(
        n_left and left.shape == right.shape and (left != left[0]).any() and (left == right).all()
    )


def hemispheres_equal(signal: NDArray[np.float32], n_left: int) -> bool:
    """Tell whether the right hemisphere of a recording is a copy of the left one.

    Parameters
    ----------
    signal : ndarray of shape (n_vertices, n_timepoints)
        Left, then right.
    n_left : int
        Vertices of the left hemisphere.

    Returns
    -------
    bool
        True if both have the same series, in whatever unit, in some vertices with any signal.
    """
    left, right = signal[:n_left], signal[n_left:]
    if not n_left or left.shape != right.shape:
        return False
    varying = np.flatnonzero(np.nan_to_num(left.max(axis=1) - left.min(axis=1)) > 0)
    some = varying[:: max(1, len(varying) // SAMPLED_ROWS)]
    if np.array_equal(left[some], right[some]):
        return bool(len(some))
    if not np.isfinite(right[some]).all() or left.shape[1] < FEW_VOLUMES:
        return False
    pairs = zip(left[some].astype(np.float64), right[some].astype(np.float64), strict=True)
    return all(np.ptp(b) > 0 and abs(np.corrcoef(a, b)[0, 1]) > COPIED for a, b in pairs)
