"""Where one newborn has the networks of a cohort: the posterior of each vertex over the networks.

A vertex belongs to a network by Bayes' rule. Its *prior* is the cohort: where all newborns have
the network. Its *evidence* is the newborn's own BOLD: how well the vertex follows the network's
time series, which is made of the newborn's own vertices, so that both are found in turn. Its
*support* is the posterior of the cortex around it, for networks hang together (a mean-field
approximation of a Potts model). A cohort's prior is learned in rounds: the cohort's map first,
then the mean posterior of the newborns.

Nothing here is vertices by vertices but sparse matrices of vertices that are near each other.
Reading order: the cortex, a run, the prior, the evidence, a newborn, the cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy import fft

from trend_dagster.errors import InputError
from trend_dagster.science.cores import while_made
from trend_dagster.science.individuals.settings import IndividualsConfig
from trend_dagster.science.sparse import compact, products_of_near, times
from trend_dagster.science.surface import Surface, geodesic_neighbours, vertex_areas

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]
Labels = NDArray[np.int32]

_FWHM = np.sqrt(8 * np.log(2))  # of a Gaussian, in standard deviations
_SPACING = 1 / 3  # of the ring's spread: how near each other the places lie that a ring is made of
_LEAST_ENERGY = 0.01  # share of a network's series that must be left to be compared with
UNDECIDED = 0.5  # share of prior and support that the first turns of all go by
_SAMPLE = 2.0  # standard deviations of the noise: how far vertices that stand for all lie apart


@dataclass(frozen=True, eq=False)
class Cortex:
    """What is near what on a mesh, between the vertices with signal (`n_kept` of them).

    Attributes
    ----------
    mask : ndarray of bool of shape (n_vertices,)
        Vertices with signal.
    hemisphere : ndarray of shape (n_kept,)
        0 left, 1 right.
    area : ndarray of shape (n_kept,)
        Of each vertex, in mm^2.
    distances : csr_array of shape (n_kept, n_kept)
        Geodesic distances in mm, as far as anything here needs them.
    smoother : csr_array of shape (n_kept, n_kept)
        Gaussian mean along the cortex; rows sum to 1.
    near : csr_array of shape (n_kept, n_kept)
        1 for a vertex itself and those that share its noise.
    around : csr_array of shape (n_kept, n_kept)
        Mean over a ring around each vertex; rows sum to 1. On a fine mesh some vertices, evenly
        spread, stand for all: there are as many as the ring is wide, not as the mesh is fine.
    config : IndividualsConfig
        Whose widths these are.
    noise_mm : float
        Standard deviation of the kernel that makes white noise as smooth as the data.
    """

    mask: BoolArray
    hemisphere: NDArray[np.int8]
    area: FloatArray
    distances: sp.csr_array
    smoother: sp.csr_array
    near: sp.csr_array
    around: sp.csr_array
    config: IndividualsConfig
    noise_mm: float

    @classmethod
    def along(
        cls, surface: Surface, mask: BoolArray, config: IndividualsConfig, noise_mm: float = 0.0
    ) -> Cortex:
        """Measure a mesh.

        Parameters
        ----------
        surface : Surface
            The mesh.
        mask : ndarray of bool of shape (n_vertices,)
            Vertices with signal.
        config : IndividualsConfig
            Widths in mm.
        noise_mm : float
            Standard deviation of the kernel that makes white noise as smooth as the data, from
            `trend_dagster.science.evidence.nulls.SurrogateMaker.measure`. At 2.5 times that
            distance the correlation of such noise has fallen to a fifth.

        Returns
        -------
        Cortex
        """
        reach = max(
            3 * config.smoothing_fwhm_mm / _FWHM,
            3 * config.support_mm / 2,
            _exclusion(config, noise_mm),
        )
        distances = compact(geodesic_neighbours(surface, reach)[mask][:, mask])
        area = vertex_areas(surface)[mask].astype(np.float32)
        return cls._between(mask, surface.hemisphere[mask], area, distances, config, noise_mm)

    @classmethod
    def _between(
        cls,
        mask: BoolArray,
        hemisphere: NDArray[np.int8],
        area: NDArray[np.float32],
        distances: sp.csr_array,
        config: IndividualsConfig,
        noise_mm: float,
    ) -> Cortex:
        """Make what follows from distances."""
        spread = config.support_mm / 2
        sigma = config.smoothing_fwhm_mm / _FWHM
        own = sp.eye_array(len(area), dtype=np.float32, format="csr")

        def weighted(weights: NDArray[np.float32], within: float) -> sp.csr_array:
            kept = distances.copy()  # its indices too: zeros are taken out in place
            kept.data = np.where(distances.data <= within, weights, 0).astype(np.float32)
            kept.eliminate_zeros()
            return kept

        d = distances.data
        near = weighted(np.ones_like(d), _exclusion(config, noise_mm))
        near.data[:] = 1
        gaussian = weighted(np.exp(-(d**2) / (2 * sigma**2)), 3 * sigma)
        # d^4 exp(-d^2 / 2 s^2) is largest at d = 2 s.
        ring = weighted((d / spread) ** 4 * np.exp(-(d**2) / (2 * spread**2)), 3 * spread)
        spaced = area_of_places(places(distances, _SPACING * spread), area)
        return cls(
            mask,
            hemisphere,
            area,
            distances,
            _means(sp.csr_array(gaussian + own), area),
            compact(near + own),
            _means(ring, spaced, area),
            config,
            noise_mm,
        )

    @cached_property
    def sample(self) -> tuple[NDArray[np.intp], Cortex]:
        """Which of the vertices, evenly spread, stand for all, and the cortex between them.

        No vertex is further from one of them than two standard deviations of the noise's kernel.
        Networks found between them are not quite those of the mesh cut down: only what is found
        between the same vertices compares. All vertices, unless half of them are spared.
        """
        chosen = np.unique(self._stand_in)
        area = area_of_places(self._stand_in, self.area)
        if 2 * len(chosen) > len(area):
            return np.arange(len(area)), self
        mask = np.zeros_like(self.mask)
        mask[np.flatnonzero(self.mask)[chosen]] = True
        distances = compact(self.distances[chosen][:, chosen])
        of_all = self.hemisphere[chosen], area[chosen], distances, self.config, self.noise_mm
        return chosen, self._between(mask, *of_all)

    @cached_property
    def _stand_in(self) -> NDArray[np.intp]:
        """Vertex of the sample that is nearest to each."""
        return places(self.distances, _SAMPLE * self.noise_mm)

    def from_sample(self, labels: NDArray[np.integer]) -> Labels:
        """Give each vertex of the mesh the label of the vertex that stands for it, -1 elsewhere."""
        chosen, sample = self.sample
        if sample is self:
            return self.whole(labels)
        return self.whole(labels[np.searchsorted(chosen, self._stand_in)])

    def smooth(self, values: FloatArray, fwhm_mm: float, step_mm: float) -> FloatArray:
        """Smooth along the cortex by repeating `smoother`, whose width is `step_mm`.

        Variances of Gaussians add, so that n steps are sqrt(n) times as wide as one.
        """
        for _ in range(round((fwhm_mm / step_mm) ** 2)):
            values = times(self.smoother, values)
        return values

    def whole(self, labels: NDArray[np.integer]) -> Labels:
        """Lay labels of the vertices with signal out on the mesh, -1 elsewhere."""
        found = np.full(len(self.mask), -1, dtype=np.int32)
        found[self.mask] = labels
        return found


def _exclusion(config: IndividualsConfig, noise_mm: float) -> float:
    """Up to what distance in mm vertices share their noise."""
    return max(config.exclusion_mm, 2.5 * noise_mm)


def places(distances: sp.csr_array, spacing_mm: float) -> NDArray[np.intp]:
    """Let some vertices, evenly spread, stand for all.

    Parameters
    ----------
    distances : csr_array of shape (n_kept, n_kept)
        Geodesic distances in mm, as far as the spacing at least; the diagonal is not stored.
    spacing_mm : float
        How far from each other they lie at least. No vertex is further from one of them.

    Returns
    -------
    ndarray of int of shape (n_kept,)
        The nearest of them to each vertex; the vertex itself where all are further apart than the
        spacing.
    """
    n_kept = distances.shape[0]
    close = distances.copy()
    close.data = np.where(close.data < spacing_mm, close.data, 0)
    close.eliminate_zeros()
    nearest = np.full(n_kept, np.inf)
    place = np.full(n_kept, -1, dtype=np.intp)
    for vertex in range(n_kept):
        if nearest[vertex] < np.inf:
            continue
        nearest[vertex], place[vertex] = 0, vertex
        row = slice(close.indptr[vertex], close.indptr[vertex + 1])
        others, far = close.indices[row], close.data[row]
        nearer = others[far < nearest[others]]
        nearest[nearer], place[nearer] = far[far < nearest[others]], vertex
    return place


def area_of_places(place: NDArray[np.intp], area: FloatArray) -> NDArray[np.float32]:
    """Area in mm^2 that each vertex of those of `places` stands for; 0 for the others."""
    return np.bincount(place, area, len(area)).astype(np.float32)


def _means(
    weights: sp.csr_array, area: FloatArray, otherwise: FloatArray | None = None
) -> sp.csr_array:
    """Make rows of weights the rows of a mean over areas of the cortex.

    Where those are all 0 (the one place of a speck lies outside its own ring), over other areas.
    """
    every = weights
    weights = sp.csr_array(every @ sp.diags_array(area))
    if otherwise is not None:
        empty = (weights.sum(axis=1) == 0).astype(np.float32)
        weights = weights + sp.diags_array(empty) @ every @ sp.diags_array(otherwise)
    weights = sp.csr_array(weights)
    weights.eliminate_zeros()
    sums = weights.sum(axis=1)
    scale = np.divide(1, sums, out=np.zeros_like(sums), where=sums > 0)
    return compact(sp.csr_array(sp.diags_array(scale) @ weights, dtype=np.float32))


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A run as the evidence needs it.

    Attributes
    ----------
    series : ndarray of shape (n_kept, n_timepoints)
        Centred, of length 1.
    smoothed : ndarray of shape (n_kept, n_timepoints)
        The same smoothed along the cortex, again of length 1.
    near_products : csr_array of shape (n_kept, n_kept)
        Product of a vertex' smoothed series with the series of each vertex near it.
    near_energy : ndarray of shape (n_kept, 1)
        Squared length of the mean series of the vertices near each.
    """

    series: NDArray[np.float32]
    smoothed: NDArray[np.float32]
    near_products: sp.csr_array
    near_energy: NDArray[np.float32]

    @cached_property
    def spectrum(self) -> FloatArray:
        """Power of the smoothed series at each frequency, mean over vertices."""
        return _power(self.smoothed)

    @property
    def n_timepoints(self) -> int:
        """Volumes."""
        return int(self.series.shape[1])

    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""
        near = self.near_products
        parts = self.series, self.smoothed, self.near_energy, near.data, near.indices, near.indptr
        return sum(int(part.nbytes) for part in parts)


def prepare_run(bold: FloatArray, cortex: Cortex) -> PreparedRun:
    """Prepare a run.

    Parameters
    ----------
    bold : ndarray of shape (n_vertices, n_timepoints)
        Cleaned as the cohort's networks were found from (`trend_dagster.science.bold.prepare`).
    cortex : Cortex
        From `Cortex.along`.

    Returns
    -------
    PreparedRun
        Vertices that are constant in this run, though not in others, are zero throughout.
    """
    if len(bold) != len(cortex.mask):
        raise InputError(
            "BOLD run",
            expected=f"{len(cortex.mask)} vertices, as the cohort's map has",
            found=str(len(bold)),
            remedy="Bring it to the mesh of the cohort.",
        )
    return prepare_series(bold[cortex.mask], cortex)


def prepare_series(series: FloatArray, cortex: Cortex) -> PreparedRun:
    """Prepare a run of which only the vertices with signal are there, (n_kept, n_timepoints)."""
    series = unit(series)
    smoothed = unit(times(cortex.smoother, series))
    mean = times(cortex.near, series) / cortex.near.sum(axis=1)[:, None]
    energy = np.square(mean).sum(axis=1, keepdims=True)
    return PreparedRun(series, smoothed, products_of_near(smoothed, series, cortex.near), energy)


def at_sample(runs: Sequence[PreparedRun], cortex: Cortex) -> Sequence[PreparedRun]:
    """Prepare runs between the vertices of `Cortex.sample` only; they themselves if it is all."""
    chosen, sample = cortex.sample
    if sample is cortex:
        return runs
    return [prepare_series(run.series[chosen], sample) for run in runs]


def unit(series: FloatArray) -> NDArray[np.float32]:
    """Centre series and give them length 1; those that are constant become 0."""
    centred = series - series.mean(axis=1, keepdims=True, dtype=np.float64)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.zeros(centred.shape, dtype=np.float32)
    np.divide(centred, length, out=unit, where=length > 0, casting="same_kind")
    return unit


# The prior


@dataclass(frozen=True, eq=False)
class Others:
    """Where newborns have the networks; the cohort's map counts as one of them.

    Attributes
    ----------
    map_prior : ndarray of shape (n_kept, n_networks)
        The cohort's map, its borders smoothed. A network that the cohort has in one hemisphere
        only is impossible in the other.
    total : ndarray of shape (n_kept, n_networks)
        Sum of the posteriors of newborns.
    n_newborns : int
        How many.
    """

    map_prior: FloatArray
    total: FloatArray
    n_newborns: int

    @classmethod
    def from_map(cls, labels: Labels, cortex: Cortex, config: IndividualsConfig) -> Others:
        """Know nothing but a map.

        Parameters
        ----------
        labels : ndarray of shape (n_vertices,)
            The cohort's map, 0 .. n_networks - 1; -1 without network.
        cortex : Cortex
            From `Cortex.along`.
        config : IndividualsConfig
            How far borders may move.

        Returns
        -------
        Others
        """
        own = labels[cortex.mask]
        if (own < 0).all():
            raise InputError(
                "cohort's map",
                expected="networks where the BOLD has signal",
                found="none",
                remedy="Give a map of the mesh of the BOLD.",
            )
        n_networks = int(own.max()) + 1
        member = np.zeros((len(own), n_networks), dtype=np.float32)
        member[own >= 0, own[own >= 0]] = 1
        smooth = cortex.smooth(member, config.prior_fwhm_mm, config.smoothing_fwhm_mm)
        smooth = np.where(possible_networks(own, cortex.hemisphere), smooth + config.floor, 0)
        return cls(smooth / smooth.sum(axis=1, keepdims=True), np.zeros_like(smooth), 0)

    def without(self, posterior: FloatArray) -> Others:
        """Take a newborn out."""
        return Others(self.map_prior, self.total - posterior, self.n_newborns - 1)

    def at(self, vertices: NDArray[np.integer]) -> Others:
        """Of some of the vertices."""
        return Others(self.map_prior[vertices], self.total[vertices], self.n_newborns)

    def prior(self, config: IndividualsConfig, own: FloatArray | None = None) -> FloatArray:
        """Mean over all, and a newborn's own posterior as one more.

        Returns
        -------
        ndarray of shape (n_kept, n_networks)
            Rows sum to 1; 0 where a network is impossible.
        """
        total = self.map_prior + self.total + (0 if own is None else own)
        prior = total / total.sum(axis=1, keepdims=True)
        prior = np.where(self.map_prior > 0, np.maximum(prior, config.floor), 0)
        return np.asarray(prior / prior.sum(axis=1, keepdims=True), dtype=np.float32)

    @property
    def labels(self) -> Labels:
        """The network that most newborns have at each vertex with signal."""
        total = self.total if self.n_newborns else self.map_prior
        return np.asarray(total.argmax(axis=1), dtype=np.int32)


def possible_networks(labels: NDArray[np.integer], hemisphere: NDArray[np.integer]) -> BoolArray:
    """Tell which networks a vertex can have: those its hemisphere has in the cohort's map.

    Returns
    -------
    ndarray of bool of shape (n_kept, n_networks)
        A hundredth of a network must lie in a hemisphere; single vertices are errors.
    """
    n_networks = int(labels.max()) + 1
    counts = np.array(
        [
            np.bincount(labels[(hemisphere == side) & (labels >= 0)], minlength=n_networks)
            for side in (0, 1)
        ]
    )
    return np.asarray((counts > 0.01 * counts.sum(axis=0))[hemisphere])


# The evidence


def correlation_with_networks(
    runs: Sequence[PreparedRun], probability: FloatArray, near: sp.csr_array
) -> FloatArray:
    """Correlate each vertex with each network, without the vertices near it.

    Parameters
    ----------
    runs : sequence of PreparedRun
        Of one newborn; the mean over runs is weighted by their length.
    probability : ndarray of shape (n_kept, n_networks)
        Weights of the vertices in each network's time series.
    near : csr_array of shape (n_kept, n_kept)
        `Cortex.near`.

    Returns
    -------
    ndarray of shape (n_kept, n_networks)
        The product is exact; the length of a network's series without the vertices near v takes
        those to be alike in their probability.
    """
    total = np.zeros(probability.shape, dtype=np.float64)
    within = np.square(times(near, probability))
    for run in runs:
        networks = probability.T @ run.series
        product = run.smoothed @ networks.T - times(run.near_products, probability)
        whole = np.square(networks).sum(axis=1)
        energy = whole - 2 * times(near, probability * (run.series @ networks.T))
        energy = energy + within * run.near_energy
        # Of a network that lies near v as a whole hardly anything is left.
        energy = np.maximum(energy, _LEAST_ENERGY * whole + 1e-9)
        total += run.n_timepoints * np.clip(product / np.sqrt(energy), -1, 1)
    return np.asarray(total / sum(run.n_timepoints for run in runs), dtype=np.float32)


def independent_timepoints(runs: Sequence[PreparedRun], probability: FloatArray) -> float:
    """Count the independent timepoints in the correlation of a vertex with a network.

    Series that do not belong together correlate by chance with a variance of 1 over this number
    (Bartlett 1935; Afyouni et al. 2019, doi:10.1016/j.neuroimage.2019.05.011): it follows from
    the spectra of both, and is below the number of volumes where both are slow.

    Returns
    -------
    float
        Summed over runs.
    """
    found = 0.0
    for run in runs:
        vertex, network = run.spectrum, _power(unit(probability.T @ run.series))
        found += float(vertex.sum() * network.sum() / (vertex @ network))
    return found


def _power(series: FloatArray) -> FloatArray:
    return np.asarray(np.square(np.abs(fft.fft(series, axis=1))).mean(axis=0), dtype=np.float64)


def weight_of_evidence(correlation: FloatArray, probability: FloatArray, n: float) -> float:
    """Nats for each unit by which a vertex correlates more with one network than with another.

    If correlations with a vertex' own network are rho on average, and scatter with a variance of
    (1 - rho^2) / n, their log likelihood ratio is n rho / (1 - rho^2) for each unit. It grows with
    the length of the data, and with its quality.

    Parameters
    ----------
    correlation : ndarray of shape (n_kept, n_networks)
        From `correlation_with_networks`.
    probability : ndarray of shape (n_kept, n_networks)
        Of each vertex over networks.
    n : float
        From `independent_timepoints`.

    Returns
    -------
    float
        0 if vertices do not follow their networks at all.
    """
    rho = float(np.clip((probability * correlation).sum() / probability.sum(), 0, 0.99))
    return n * rho / (1 - rho**2)


# A newborn


@dataclass(frozen=True, eq=False)
class Individual:
    """One newborn's networks.

    Attributes
    ----------
    probability : ndarray of shape (n_kept, n_networks)
        Posterior; rows sum to 1.
    correlation : ndarray of shape (n_kept, n_networks)
        Of each vertex with each network: the evidence.
    weight : float
        Nats for each unit of correlation.
    """

    probability: FloatArray
    correlation: FloatArray
    weight: float

    @property
    def labels(self) -> Labels:
        """Most probable network of each vertex with signal."""
        return np.asarray(self.probability.argmax(axis=1), dtype=np.int32)

    @property
    def confidence(self) -> FloatArray:
        """Probability of that network."""
        return np.asarray(self.probability.max(axis=1))


def find_individual(
    runs: Sequence[PreparedRun], others: Others, cortex: Cortex, config: IndividualsConfig
) -> Individual:
    """Find one newborn's networks.

    Parameters
    ----------
    runs : sequence of PreparedRun
        The newborn's.
    others : Others
        Where the others of its cohort have the networks. The newborn itself joins the prior as
        one more, from the second round on.
    cortex : Cortex
        From `Cortex.along`.
    config : IndividualsConfig
        How.

    Returns
    -------
    Individual
        The number of a network is its number in the cohort's map.
    """
    found = turns(runs, others.prior(config), cortex, config, None, UNDECIDED)
    for _ in range(1, config.rounds):
        prior = others.prior(config, found.probability)
        found = turns(runs, prior, cortex, config, found.probability)
    return found


def turns(
    runs: Sequence[PreparedRun],
    prior: FloatArray,
    cortex: Cortex,
    config: IndividualsConfig,
    start: FloatArray | None,
    share: float = 1.0,
) -> Individual:
    """Take turns between network series and map under one prior.

    They lead to the nearest solution, which is near the cohort's map where prior and support count
    in full from the beginning. So the first turns of all go by a share of both, and the newborn's
    own series have a say before its map is settled (as in annealing: Ueda and Nakano 1998,
    doi:10.1016/S0893-6080(97)00133-0).
    """
    if not runs:
        raise InputError(
            "newborn",
            expected="at least one run",
            found="none",
            remedy="Add a run, or leave the newborn out.",
        )
    with np.errstate(divide="ignore"):
        log_prior = np.where(prior > 0, config.prior_weight * np.log(prior), -np.inf)
    probability = _softmax(log_prior) if start is None else start
    n = independent_timepoints(runs, probability)
    for _ in range(config.iterations if start is None else 2):
        correlation = correlation_with_networks(runs, probability, cortex.near)
        weight = weight_of_evidence(correlation, probability, n)
        known = weight * correlation + share * log_prior
        for _ in range(3):
            around = share * config.support * times(cortex.around, probability)
            probability = _softmax(known + around)
    return Individual(probability, correlation, weight)


def _softmax(logits: FloatArray) -> FloatArray:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float32)


# The cohort

Load = Callable[[], Sequence[PreparedRun]]
"""Gives the runs of one newborn, when they are needed."""

Progress = Callable[[int, int], None]
"""Takes how many are done, and how many there are."""


def kept_in_memory(newborns: Sequence[Load], most_bytes: float) -> list[Load]:
    """Prepare newborns once and not in each round, as many as there is memory for.

    Parameters
    ----------
    newborns : sequence of callable
        Each gives the runs of one newborn.
    most_bytes : float
        Memory for all that are kept.

    Returns
    -------
    list of callable
        To be called from one thread.
    """
    kept: dict[int, Sequence[PreparedRun]] = {}
    taken = 0

    def load(number: int) -> Sequence[PreparedRun]:
        nonlocal taken
        if number in kept:
            return kept[number]
        runs = newborns[number]()
        size = sum(run.n_bytes for run in runs)
        if taken + size <= most_bytes:
            kept[number], taken = runs, taken + size
        return runs

    return [partial(load, number) for number in range(len(newborns))]


def learn_prior(
    newborns: Sequence[Load],
    maps: Sequence[Labels],
    cortex: Cortex,
    config: IndividualsConfig,
    progress: Progress = lambda done, of: None,
) -> list[tuple[Others, list[FloatArray]]]:
    """Learn from a cohort's newborns where each network of some maps may be.

    Parameters
    ----------
    newborns : sequence of callable
        Each gives the runs of one newborn; called once a round, so that few newborns are in
        memory at a time.
    maps : sequence of ndarray of shape (n_vertices,)
        Maps of the cohort, each with networks 0 .. n_networks - 1 of its own; -1 without network.
    cortex : Cortex
        From `Cortex.along`.
    config : IndividualsConfig
        How.
    progress : callable
        Told before each newborn of each round how many went before, and how many there are.

    Returns
    -------
    list of tuple
        For each map what is known of the whole cohort, whose `labels` are the cohort's map, found
        through individuals; and the posterior of each newborn, of shape (n_kept, n_networks), to
        take it out again (`Others.without`).
    """
    everyone = [Others.from_map(labels, cortex, config) for labels in maps]
    found: list[list[FloatArray]] = []  # of each newborn, under each map

    def loaded(done: int) -> Iterator[tuple[int, Sequence[PreparedRun]]]:
        for number, load in enumerate(newborns):
            progress(done + number, config.rounds * len(newborns))
            yield number, load()

    def posteriors(newborn: tuple[int, Sequence[PreparedRun]]) -> list[FloatArray]:
        number, runs = newborn
        starts: Sequence[FloatArray | None] = found[number] if found else [None] * len(maps)
        return [
            turns(runs, prior, cortex, config, start, share).probability
            for prior, start in zip(priors, starts, strict=True)
        ]

    for done in range(0, config.rounds * len(newborns), len(newborns)):
        share = 1.0 if found else UNDECIDED
        priors = [others.prior(config) for others in everyone]
        found = list(while_made(posteriors, loaded(done)))
        by_map = [list(own) for own in zip(*found, strict=True)]
        everyone = [
            Others(others.map_prior, np.asarray(np.sum(own, axis=0, dtype=np.float32)), len(own))
            for others, own in zip(everyone, by_map, strict=True)
        ]
    return list(zip(everyone, by_map, strict=True))
