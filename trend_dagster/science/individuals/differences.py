"""When a difference is a difference: each newborn beside itself without any.

Two maps of one newborn differ by noise alone, the more the shorter the runs. So each newborn's
departure from the cohort's map stands beside the departures of runs that have its noise, as smooth
and as long, its networks' time series, and the cohort's map in the place of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import SettingsError
from trend_dagster.science.cores import while_made
from trend_dagster.science.evidence.nulls import Smoothness, SurrogateMaker
from trend_dagster.science.evidence.stability import MIN_NULLS_FOR_Z, beside_null
from trend_dagster.science.individuals.model import (
    Cortex,
    FloatArray,
    Individual,
    Others,
    PreparedRun,
    find_individual,
    prepare_series,
    unit,
)
from trend_dagster.science.individuals.settings import IndividualsConfig
from trend_dagster.science.sparse import products_of_near, times

_STRENGTH_FWHM = 2.0  # in widths of the smoother; strength is noisy, and changes slowly


@dataclass(frozen=True)
class Departure:
    """How far one newborn's map departs from the cohort's, beside its null.

    Shares are of the area of the cortex with signal.

    Attributes
    ----------
    share : float
        Where the newborn's map has another network than the cohort's.
    null : float
        Mean share in runs without any difference.
    null_sd : float
        Its standard deviation from one null to the next.
    excess : float
        Share less that of the null: what is the newborn's own.
    z : float
        The excess in standard deviations of the null.
    different : bool
        Whether the excess is larger than one more null's would be with a probability of 5 %.
    """

    share: float
    null: float
    null_sd: float
    excess: float
    z: float
    different: bool


@dataclass(frozen=True, eq=False)
class Compared:
    """A newborn under one parcellation, and the map that it is compared with.

    Attributes
    ----------
    individual : Individual
        What `find_individual` found in its runs.
    others : Others
        What it was found with.
    labels : ndarray of shape (n_kept,)
        The cohort's map; -1 without network.
    """

    individual: Individual
    others: Others
    labels: NDArray[np.integer]


@dataclass(frozen=True)
class Noise:
    """Makes noise like that of a newborn's runs.

    Attributes
    ----------
    maker : SurrogateMaker
        Of the mesh.
    smoothness : tuple of Smoothness
        Of each run.
    """

    maker: SurrogateMaker
    smoothness: tuple[Smoothness, ...]

    @classmethod
    def like(cls, runs: Sequence[PreparedRun], cortex: Cortex, maker: SurrogateMaker) -> Noise:
        """Measure the smoothness of runs, once for all nulls."""
        return cls(maker, tuple(maker.measure(_on_mesh(run.series, cortex)) for run in runs))

    def copies(
        self, runs: Sequence[PreparedRun], cortex: Cortex, rng: np.random.Generator
    ) -> Iterator[tuple[FloatArray, ...]]:
        """Make noise as smooth as each run, in space and in time, again and again without end.

        Parameters
        ----------
        runs : sequence of PreparedRun
            The newborn's.
        cortex : Cortex
            Of these runs; of the mesh, or a sample of it.
        rng : Generator
            Source of chance.

        Yields
        ------
        tuple of ndarray of shape (n_kept, n_timepoints)
            For each run; centred, of length 1, or 0 at vertices without signal in that run.
        """
        there = np.flatnonzero(cortex.mask)
        surrogates = [
            self.maker.surrogates_of(_on_mesh(run.series, cortex), smoothness, there)
            for run, smoothness in zip(runs, self.smoothness, strict=True)
        ]
        while True:
            yield tuple(unit(surrogate(rng)) for surrogate in surrogates)


def measure_departures(
    runs: Sequence[PreparedRun],
    compared: Sequence[Compared],
    cortex: Cortex,
    config: IndividualsConfig,
    noise: Noise,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Departure]:
    """Set a newborn's departures from the maps of its cohort beside their nulls.

    Parameters
    ----------
    runs : sequence of PreparedRun
        The newborn's.
    compared : sequence of Compared
        The newborn under each parcellation; all have the noise of their nulls in common.
    cortex : Cortex
        Of these runs; of the mesh, or a sample of it.
    config : IndividualsConfig
        How the newborn's networks were found, and those of the null are; and how many nulls.
    noise : Noise
        Like that of the runs.
    rng : Generator
        Source of chance.
    progress : callable
        Told after each null how many there are by now, and how many there will be.

    Returns
    -------
    list of Departure
        One for each parcellation.

    Raises
    ------
    SettingsError
        If there are too few nulls to know how far they vary.
    """
    if config.n_nulls < MIN_NULLS_FOR_Z:
        raise SettingsError(
            "n_nulls",
            expected=f"at least {MIN_NULLS_FOR_Z}: with fewer nobody can tell how far they vary",
            found=str(config.n_nulls),
            remedy="Ask for more.",
        )
    makers = [_signal_maker(runs, each, cortex) for each in compared]

    def shares(made: tuple[FloatArray, ...]) -> list[float]:
        return [
            share_apart(find_individual(make(made), each.others, cortex, config), each, cortex)
            for each, make in zip(compared, makers, strict=True)
        ]

    nulls = []
    for found in while_made(shares, islice(noise.copies(runs, cortex, rng), config.n_nulls)):
        nulls.append(found)
        progress(len(nulls), config.n_nulls)
    own = np.array([share_apart(each.individual, each, cortex) for each in compared])
    beside = beside_null(own, np.array(nulls))
    excess, null, z = beside["excess"], beside["null"], beside["z"]
    return [
        Departure(
            share=float(own[i]),
            null=float(null[i]),
            null_sd=float(beside["null_sd"][i]),
            excess=float(excess[i]),
            z=float(z[i]),
            different=bool(excess[i] > beside["margin"][i]),
        )
        for i in range(len(compared))
    ]


def share_apart(found: Individual, compared: Compared, cortex: Cortex) -> float:
    """Share of the area whose network is another one than in the cohort's map."""
    area = np.where(compared.labels >= 0, cortex.area, 0)
    return float(area[found.labels != compared.labels].sum() / area.sum())


def without_difference(
    runs: Sequence[PreparedRun],
    compared: Compared,
    cortex: Cortex,
    noise: Noise,
    rng: np.random.Generator,
) -> Iterator[tuple[PreparedRun, ...]]:
    """Make runs of a newborn in which it has the cohort's map, again and again without end.

    Parameters
    ----------
    runs : sequence of PreparedRun
        The newborn's.
    compared : Compared
        What was found in its runs, and the cohort's map.
    cortex : Cortex
        Of these runs.
    noise : Noise
        Like that of the runs.
    rng : Generator
        Source of chance.

    Yields
    ------
    tuple of PreparedRun
        A copy of each run. At each vertex the time series of its network in the cohort's map, as
        strong as vertices there follow their own; and noise as smooth as the run, in space and in
        time.
    """
    return map(_signal_maker(runs, compared, cortex), noise.copies(runs, cortex, rng))


def _signal_maker(
    runs: Sequence[PreparedRun], compared: Compared, cortex: Cortex
) -> Callable[[tuple[FloatArray, ...]], tuple[PreparedRun, ...]]:
    """Return what puts the cohort's networks into noise; what all nulls share is made once."""
    probability, labels = compared.individual.probability, compared.labels
    parts = []
    for run in runs:
        sums = probability.T @ run.series
        networks = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
        strength = np.where(labels >= 0, signal_strength(run, probability, cortex), 0)[:, None]
        parts.append((strength, networks))

    def make(noise: tuple[FloatArray, ...]) -> tuple[PreparedRun, ...]:
        made = []
        for own, (strength, networks) in zip(noise, parts, strict=True):
            series = strength * networks[labels] + np.sqrt(1 - strength**2) * own
            silent = ~own.any(axis=1)
            series[silent] = 0
            made.append(prepare_series(series, cortex))
        return tuple(made)

    return make


def _on_mesh(series: FloatArray, cortex: Cortex) -> NDArray[np.float32]:
    """Lay series of the vertices with signal out on the mesh, 0 elsewhere."""
    bold = np.zeros((len(cortex.mask), series.shape[1]), dtype=np.float32)
    bold[cortex.mask] = series
    return bold


def signal_strength(
    run: PreparedRun, probability: FloatArray, cortex: Cortex
) -> NDArray[np.float64]:
    """Correlation of each vertex with the true series of its network, smoothed along the cortex.

    The mean series of a network is its true series and the mean noise of its vertices. How much
    is true shows in what vertices share with the network's vertices far from them.

    Parameters
    ----------
    run : PreparedRun
        One run.
    probability : ndarray of shape (n_kept, n_networks)
        Posterior of the newborn.
    cortex : Cortex
        From `Cortex.along`.

    Returns
    -------
    ndarray of shape (n_kept,)
        0 to 0.95.
    """
    sums = probability.T @ run.series
    energy = np.square(sums).sum(axis=1)
    itself = products_of_near(run.series, run.series, cortex.near)
    far = run.series @ sums.T - times(itself, probability)
    total = np.square(probability.sum(axis=0))
    share_far = 1 - (probability * times(cortex.near, probability)).sum(axis=0) / np.maximum(
        total, 1
    )
    far = far / np.maximum(share_far, 1e-3)
    true = np.clip((probability * far).sum(axis=0), 1e-3 * energy + 1e-9, energy + 1e-9)
    follows = (probability * far / np.sqrt(true)).sum(axis=1)
    both = np.column_stack([follows, np.square(probability).sum(axis=1)])
    smooth = cortex.smooth(both, _STRENGTH_FWHM, 1.0)
    return np.asarray(np.clip(smooth[:, 0] / smooth[:, 1], 0, 0.95))
