"""When a difference is a difference: each newborn beside itself without any.

Two maps of one newborn differ by noise alone, the more the shorter the runs. So each newborn's
departure from the cohort's map stands beside the departures of runs that have its noise, as smooth
and as long, its networks' time series, and the cohort's map in the place of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    prepare_run,
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
    n_vertices : int
        The same in vertices.
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
    excess_vertices : float
        The excess in vertices of mean area; 0 where the newborn is not different.
    """

    share: float
    n_vertices: int
    null: float
    null_sd: float
    excess: float
    z: float
    different: bool
    excess_vertices: float


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


def measure_departure(
    runs: Sequence[PreparedRun],
    individual: Individual,
    others: Others,
    labels: NDArray[np.integer],
    cortex: Cortex,
    config: IndividualsConfig,
    noise: Noise,
    rng: np.random.Generator,
) -> Departure:
    """Set a newborn's departure from the cohort's map beside its null.

    Parameters
    ----------
    runs : sequence of PreparedRun
        The newborn's.
    individual : Individual
        What `find_individual` found in them.
    others : Others
        What it was found with.
    labels : ndarray of shape (n_kept,)
        The cohort's map; -1 without network.
    cortex : Cortex
        From `Cortex.along`.
    config : IndividualsConfig
        How the newborn's networks were found, and those of the null are; and how many nulls.
    noise : Noise
        Like that of the runs.
    rng : Generator
        Source of chance.

    Returns
    -------
    Departure

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
    known = labels >= 0
    area = np.where(known, cortex.area, 0)

    def share(found: Individual) -> float:
        return float(area[found.labels != labels].sum() / area.sum())

    def share_found(made: tuple[PreparedRun, ...]) -> float:
        return share(find_individual(made, others, cortex, config))

    copies = without_difference(runs, individual, labels, cortex, noise, rng)
    nulls = list(while_made(share_found, islice(copies, config.n_nulls)))
    beside = beside_null(np.array([share(individual)]), np.array(nulls)[:, None])
    excess, margin = float(beside["excess"][0]), float(beside["margin"][0])
    return Departure(
        share=share(individual),
        n_vertices=int((known & (individual.labels != labels)).sum()),
        null=float(beside["null"][0]),
        null_sd=float(beside["null_sd"][0]),
        excess=excess,
        z=float(beside["z"][0]),
        different=excess > margin,
        excess_vertices=excess * int(known.sum()) if excess > margin else 0.0,
    )


def without_difference(
    runs: Sequence[PreparedRun],
    individual: Individual,
    labels: NDArray[np.integer],
    cortex: Cortex,
    noise: Noise,
    rng: np.random.Generator,
) -> Iterator[tuple[PreparedRun, ...]]:
    """Make runs of a newborn in which it has the cohort's map, again and again without end.

    Parameters
    ----------
    runs : sequence of PreparedRun
        The newborn's.
    individual : Individual
        What was found in its runs.
    labels : ndarray of shape (n_kept,)
        The cohort's map; -1 without network.
    cortex : Cortex
        From `Cortex.along`.
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
    copies = [
        _copies(run, individual.probability, labels, cortex, noise.maker, smoothness, rng)
        for run, smoothness in zip(runs, noise.smoothness, strict=True)
    ]
    return zip(*copies, strict=True)


def _copies(
    run: PreparedRun,
    probability: FloatArray,
    labels: NDArray[np.integer],
    cortex: Cortex,
    maker: SurrogateMaker,
    smoothness: Smoothness,
    rng: np.random.Generator,
) -> Iterator[PreparedRun]:
    """Copies of one run; what all of them share is made once."""
    bold = _on_mesh(run.series, cortex)
    sums = probability.T @ run.series
    networks = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    strength = np.where(labels >= 0, signal_strength(run, probability, cortex), 0)[:, None]
    signal, share_of_noise = strength * networks[labels], np.sqrt(1 - strength**2)
    surrogate = maker.surrogates_of(bold, smoothness)
    while True:
        noise = surrogate(rng)[cortex.mask]
        noise = noise - noise.mean(axis=1, keepdims=True)
        length = np.linalg.norm(noise, axis=1, keepdims=True)
        noise = np.divide(noise, length, out=np.zeros_like(noise), where=length > 0)
        made = signal + share_of_noise * noise
        yield prepare_run(_on_mesh(np.where(length > 0, made, 0), cortex), cortex)


def _on_mesh(series: FloatArray, cortex: Cortex) -> NDArray[np.float32]:
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
