"""Does a parcellation come back in another half of the cohort, and more than noise would have it.

Any spatial encoding makes parcels that come back: on noise without networks two halves agree, with
as many labels as clusters even perfectly. So nothing here stands alone: each measure is taken once
more on surrogate cohorts (`trend_dagster.science.evidence.nulls`) that went the same way, and what
counts is the excess over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy  # loads a part of its own when it is first asked for
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.science.evidence.measures import adjusted_rand_index
from trend_dagster.science.parcellation.sweep import Solution

MEASURES = ("stability", "half_silhouette", "homogeneity")
"""What is measured of a cell on two halves; larger is better. `storage.schema` describes each."""

BESIDE = ("null", "null_sd", "excess", "z", "margin")
"""What stands beside each measure, under its name and this. `storage.schema` describes each."""

MIN_NULLS_FOR_Z = 3

MIN_DEVIATION = 0.01
"""Least standard deviation that is believed: a handful of surrogates may be alike by chance, and
no difference of a hundredth of such an index is worth a word."""

CHANCE = 0.05

FloatArray = NDArray[np.float64]
SplitBy = Literal["subject", "run", "time"]


@dataclass(frozen=True)
class Halves:
    """How a cohort is cut in two.

    Attributes
    ----------
    by : {"subject", "run", "time"}
        What is never on both sides; by time, each half has half of the timepoints of each run.
    runs : tuple of two tuples of int
        Runs of each half.
    """

    by: SplitBy
    runs: tuple[tuple[int, ...], tuple[int, ...]]


def split_halves(subjects: Sequence[str | None], random_state: int) -> Halves:
    """Cut a cohort in two: by subject; one subject by run; one run by time.

    Parameters
    ----------
    subjects : sequence of str or None
        Subject of each run; None where it is not known, and then by run.
    random_state : int
        Seed: which subjects (or runs) belong together is chance, not their order.

    Returns
    -------
    Halves
        The first half has one subject (or run) more where their number is odd.
    """
    if not subjects:
        raise InputError(
            "cohort to be cut in two",
            expected="at least one run",
            found="none",
            remedy="Add a BOLD run.",
        )
    if len(subjects) == 1:
        return Halves("time", ((0,), (0,)))
    people = sorted({s for s in subjects if s is not None})
    by: SplitBy = "subject" if len(people) > 1 and None not in subjects else "run"
    units: list[list[int]] = [[run] for run in range(len(subjects))]
    if by == "subject":
        units = [[run for run, s in enumerate(subjects) if s == person] for person in people]
    order = np.random.default_rng(random_state).permutation(len(units))
    middle = (len(units) + 1) // 2
    first, second = (
        tuple(sorted(run for unit in part for run in units[unit]))
        for part in (order[:middle], order[middle:])
    )
    return Halves(by, (first, second))


def timepoints_of(half: int, by: SplitBy, n_timepoints: int) -> slice:
    """Return which timepoints of its runs belong to a half (0 or 1): all, unless it is by time."""
    if by != "time":
        return slice(0, n_timepoints)
    middle = n_timepoints // 2
    return slice(0, middle) if half == 0 else slice(middle, n_timepoints)


def measure_halves(first: Sequence[Solution], second: Sequence[Solution]) -> dict[str, FloatArray]:
    """Compare the sweeps of two halves of a cohort.

    Parameters
    ----------
    first, second : sequence of Solution
        The same solutions in the same order, each swept with the correlation of the *other* half as
        ``full_correlation``: its connectivity within clusters is then homogeneity on data that
        the clusters were not made from.

    Returns
    -------
    dict of str to ndarray of shape (n_solutions, n_clusters)
        By the names of `MEASURES`; NaN where W has fewer distinct rows than clusters in a half.
        Vertices whose loadings are all zero are left out of the agreement: where W collapses they
        would agree about nothing, perfectly.
    """
    found = {name: np.full((len(first), len(first[0].clusterings)), np.nan) for name in MEASURES}
    for i, (one, other) in enumerate(zip(first, second, strict=True)):
        loaded = one.W.any(axis=1) & other.W.any(axis=1)
        for j, pair in enumerate(zip(one.clusterings, other.clusterings, strict=True)):
            if any(c.collapsed for c in pair):
                continue
            labels = [np.where(loaded, c.labels, -1) for c in pair]
            if (np.minimum(*labels) >= 0).any():
                found["stability"][i, j] = adjusted_rand_index(*labels)
            found["half_silhouette"][i, j] = np.mean([c.silhouette for c in pair])
            found["homogeneity"][i, j] = np.mean([c.full_within_connectivity for c in pair])
    return found


def beside_null(values: FloatArray | float, nulls: FloatArray) -> dict[str, FloatArray]:
    """Set measures beside what surrogate cohorts give.

    Parameters
    ----------
    values : ndarray or float
        A measure, of the data.
    nulls : ndarray of shape (n_nulls, *values.shape)
        The same of each surrogate cohort; NaN where it has none, which then does not count.

    Returns
    -------
    dict of str to ndarray
        By the names of `BESIDE`, and ``p`` = (1 + number of nulls >= value) / (1 + number of
        nulls); NaN where it is not known. The margin is the prediction bound of a normal
        distribution whose mean and deviation are known from these surrogates only: with three it
        is 3.4 deviations, with twenty 1.8.

    Raises
    ------
    InputError
        If there is no surrogate.
    """
    values, nulls = np.asarray(values, np.float64), np.asarray(nulls, np.float64)
    if nulls.shape[1:] != values.shape or len(nulls) == 0:
        raise InputError(
            "null distribution",
            expected=f"values of shape {values.shape} for each surrogate, at least one",
            found=f"shape {nulls.shape}",
            remedy="Run the method on at least one surrogate.",
        )
    known = np.ma.masked_invalid(nulls)
    mean = np.ma.filled(known.mean(axis=0), np.nan)
    count = np.isfinite(nulls).sum(axis=0)
    deviation = np.full(values.shape, np.nan)
    several = count > 1
    deviation[several] = np.ma.filled(known.std(axis=0, ddof=1), np.nan)[several]
    excess = values - mean
    enough = count >= MIN_NULLS_FOR_Z
    unit = np.where(enough, np.maximum(deviation, MIN_DEVIATION), np.nan)
    bound = scipy.special.stdtrit(np.maximum(count - 1, 1), 1 - CHANCE) * np.sqrt(
        1 + 1 / np.maximum(count, 1)
    )
    as_good = (1 + (nulls >= values).sum(axis=0)) / (1 + count)
    return {
        "null": mean,
        "null_sd": deviation,
        "excess": excess,
        "z": excess / unit,
        "margin": bound * unit,
        "p": np.where((count > 0) & np.isfinite(values), as_good, np.nan),
    }


def stability_arrays(
    data: Mapping[str, FloatArray], nulls: Sequence[Mapping[str, FloatArray]]
) -> dict[str, FloatArray]:
    """Lay out the measures of a cell, with those of its surrogates and the difference.

    Parameters
    ----------
    data : mapping of str to ndarray
        From `measure_halves` on the data.
    nulls : sequence of mapping
        The same of each surrogate cohort.

    Returns
    -------
    dict of str to ndarray
        Each measure under its name; ``<name>_nulls`` of shape (n_nulls, ...); and `BESIDE`.
    """
    arrays: dict[str, FloatArray] = {}
    for name, values in data.items():
        others = np.stack([null[name] for null in nulls])
        arrays |= {name: values, f"{name}_nulls": others}
        beside = beside_null(values, others)
        arrays |= {f"{name}_{what}": beside[what] for what in BESIDE}
    return arrays


COLUMNS = tuple(
    column for name in MEASURES for column in (name, *(f"{name}_{what}" for what in BESIDE))
)
"""Columns of a table of cells that hold the measures and what stands beside them."""
