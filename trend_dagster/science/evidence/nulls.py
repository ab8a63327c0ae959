"""Data without networks, and parcellations without data: what a method finds in nothing.

Any spatial prior makes its own reproducible, homogeneous parcels. A measure means something only
beside the same measure on surrogates that went through the same pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import scipy  # loads a part of its own when it is first asked for
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.science.cores import usable_cores
from trend_dagster.science.sparse import compact, times
from trend_dagster.science.surface import Surface, edge_graph, geodesic_neighbours, unit_variance

MAX_SIGMA = 12.0  # mm, of the smoothing kernel: neighbours of 20 mm width at half maximum and more


_REACH = 5.3
"""Standard deviations up to which a kernel is made: what lies further weighs less than 1e-6."""

_EDGES = 4000
"""Edges of the mesh, drawn at random where there are more, from which a kernel's width is found."""

IntArray = NDArray[np.integer]


@dataclass(frozen=True)
class Smoothness:
    """What correlation there is that needs no networks.

    Attributes
    ----------
    common : float
        Mean correlation over all pairs of vertices: what a global signal gives.
    neighbours : float
        Correlation of vertices that share an edge of the mesh, once the common part is out.
    sigma : float
        Standard deviation in mm of the Gaussian that gives white noise that correlation.
    """

    common: float
    neighbours: float
    sigma: float


class SurrogateMaker:
    """Makes runs of independent noise as smooth as a run, in space and in time.

    Parameters
    ----------
    surface : Surface
        The mesh of the runs.
    """

    def __init__(self, surface: Surface) -> None:
        self._surface = surface
        edges = scipy.sparse.coo_array(scipy.sparse.triu(edge_graph(surface), k=1))
        self._first, self._second = edges.coords
        self._distances: scipy.sparse.csr_array | None = None
        self._reach = 0.0
        # Runs of one newborn are made in turn, and widths at the ends are tried for every run.
        self._smoother = lru_cache(maxsize=4)(self._make_smoother)
        self._neighbours = lru_cache(maxsize=64)(self._measure_neighbours)

    def measure(self, bold: NDArray[np.floating]) -> Smoothness:
        """Measure the smoothness of a run.

        Parameters
        ----------
        bold : ndarray of shape (n_vertices, n_timepoints)
            One run; constant vertices do not count.

        Returns
        -------
        Smoothness
            Networks make neighbours alike too, and count as smoothness here. The surrogate is
            thus at least as smooth as the data's noise: a null that is hard to beat.
        """
        signal = np.ptp(bold, axis=1) > 0
        z = np.zeros(bold.shape)
        centred = bold[signal] - bold[signal].mean(axis=1, keepdims=True, dtype=np.float64)
        z[signal] = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        n = int(signal.sum())
        common = float((np.square(z.sum(axis=0)).sum() - n) / (n * (n - 1)))
        both = signal[self._first] & signal[self._second]
        first, second = self._first[both], self._second[both]
        alike = float(np.einsum("ij,ij->i", z[first], z[second]).mean())
        local = max((alike - common) / (1 - common), 0.0)
        return Smoothness(common, local, self._sigma_for(local))

    @cached_property
    def _sample(self) -> tuple[scipy.sparse.csr_array, IntArray, IntArray]:
        """Distances around the ends of some edges of the mesh, and the rows of their two ends."""
        n = len(self._first)
        chosen = np.sort(np.random.default_rng(0).permutation(n)[:_EDGES])
        ends = np.stack([self._first[chosen], self._second[chosen]])
        sources, rows = np.unique(ends, return_inverse=True)
        first, second = rows.reshape(ends.shape)
        near = geodesic_neighbours(self._surface, 3 * MAX_SIGMA, sources)
        return near, sources, np.stack([first, second])

    def _measure_neighbours(self, sigma: float) -> float:
        """Correlation of neighbours in white noise that a kernel has smoothed."""
        distances, sources, (first, second) = self._sample
        kernel = _kernel(distances, sources, sigma)
        return float(kernel[first].multiply(kernel[second]).sum(axis=1).mean())

    def _sigma_for(self, correlation: float) -> float:
        def surplus(sigma: float) -> float:
            return self._neighbours(sigma) - correlation

        distances = self._sample[0]
        shortest = float(distances.data.min()) / 6  # no neighbour has any weight here
        if surplus(shortest) >= 0:
            return shortest
        if surplus(MAX_SIGMA) <= 0:
            return MAX_SIGMA
        return float(scipy.optimize.brentq(surplus, shortest, MAX_SIGMA, xtol=0.02))

    def _make_smoother(self, sigma: float) -> scipy.sparse.csr_array:
        """Smoothing over all vertices, over distances that are measured as far as it reaches."""
        reach = min(3 * MAX_SIGMA, _REACH * sigma)
        if self._distances is None or reach > self._reach:
            self._distances, self._reach = geodesic_neighbours(self._surface, reach), reach
        kernel = _kernel(self._distances, np.arange(self._surface.n_vertices), sigma)
        return compact(kernel.astype(np.float32))

    def surrogate(
        self, bold: NDArray[np.floating], smoothness: Smoothness, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Make one run of noise in the place of a run.

        Parameters
        ----------
        bold : ndarray of shape (n_vertices, n_timepoints)
            Gives each vertex' mean and variance, and the spectrum, averaged over vertices.
        smoothness : Smoothness
            From `measure`; of this run, or of a whole cohort.
        rng : Generator
            Source of chance.

        Returns
        -------
        ndarray of shape (n_vertices, n_timepoints), float32
            Gaussian; vertices without signal stay constant.
        """
        return self.surrogates_of(bold, smoothness)(rng)

    def surrogates_of(
        self,
        bold: NDArray[np.floating],
        smoothness: Smoothness,
        vertices: NDArray[np.integer] | None = None,
    ) -> Callable[[np.random.Generator], NDArray[np.float32]]:
        """Prepare what all surrogates of a run share.

        Parameters
        ----------
        bold, smoothness
            As for `surrogate`.
        vertices : ndarray of int, optional
            Those that are wanted, in ascending order; by default all. Their noise is that which a
            surrogate of all would have there.

        Returns
        -------
        callable
            Takes a source of chance, returns a surrogate (of the vertices that are wanted).
        """
        n_vertices, n_timepoints = bold.shape
        mean = bold.mean(axis=1, keepdims=True, dtype=np.float64)
        deviation = bold.std(axis=1, keepdims=True, dtype=np.float64)
        like = (bold - mean) / np.where(deviation > 0, deviation, 1)
        amplitude = _amplitude(like.astype(np.float32))
        common = max(smoothness.common, 0.0)
        smoother = self._smoother(smoothness.sigma)
        if vertices is not None:
            smoother = compact(smoother[vertices])
            mean, deviation = mean[vertices], deviation[vertices]

        def surrogate(rng: np.random.Generator) -> NDArray[np.float32]:
            # Single precision from here: of noise no digit beyond it tells anything.
            white = rng.normal(size=(n_vertices, n_timepoints)).astype(np.float32)
            smooth = times(smoother, white)
            noise = smooth * np.float32(np.sqrt(1 - common))
            noise += (np.sqrt(common) * rng.normal(size=n_timepoints)).astype(np.float32)
            return np.asarray(mean + deviation * _coloured(noise, amplitude), dtype=np.float32)

        return surrogate


def _kernel(
    distances: scipy.sparse.csr_array, sources: IntArray, sigma: float
) -> scipy.sparse.csr_array:
    """Gaussian smoothing whose output has unit variance for white noise of unit variance."""
    inside = distances.data <= _REACH * sigma  # the others are of no account, and most of them
    ends = np.concatenate([[0], np.cumsum(inside)])[distances.indptr]
    gaussian = np.exp(-(distances.data[inside].astype(np.float64) ** 2) / (2 * sigma**2))
    arrays = gaussian, distances.indices[inside], ends
    weights = scipy.sparse.csr_array(arrays, shape=distances.shape)
    here = (np.ones(len(sources)), (np.arange(len(sources)), sources))
    own = scipy.sparse.csr_array(here, shape=weights.shape)
    return unit_variance(scipy.sparse.csr_array(weights + own))


def _amplitude(like: NDArray[np.float32]) -> NDArray[np.float32]:
    """Root of the power at each frequency, mean over vertices; none of the mean over time."""
    spectrum = scipy.fft.rfft(like, axis=1, workers=usable_cores())
    power = np.square(np.abs(spectrum)).mean(axis=0, dtype=np.float64)
    power[0] = 0
    return np.asarray(np.sqrt(power), dtype=np.float32)


def _coloured(noise: NDArray[np.float32], amplitude: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give white noise a spectrum, and unit variance over time."""
    workers, n = usable_cores(), noise.shape[1]
    spectrum = scipy.fft.rfft(noise, axis=1, workers=workers)
    coloured = scipy.fft.irfft(spectrum * amplitude, n=n, axis=1, workers=workers)
    return np.asarray(coloured / coloured.std(axis=1, keepdims=True), dtype=np.float32)


def turns(surface: Surface, n: int, random_state: int) -> Iterator[NDArray[np.intp]]:
    """Turn the sphere at random, one time after another.

    Both hemispheres turn as mirror images of each other (Alexander-Bloch et al. 2018,
    doi:10.1016/j.neuroimage.2018.05.070).

    Parameters
    ----------
    surface : Surface
        The mesh, with its sphere.
    n : int
        How many turns.
    random_state : int
        Seed.

    Yields
    ------
    ndarray of shape (n_vertices,), intp
        The vertex that each turn brings to each place.

    Raises
    ------
    InputError
        If the mesh has no sphere.
    """
    rng = np.random.default_rng(random_state)
    for _ in range(n):
        yield _turn(surface, rng)


def turned(labels: NDArray[np.integer], source: NDArray[np.intp]) -> NDArray[np.int32]:
    """Parcellation after a turn: sizes and shapes stay, the place is chance; -1 turns as well."""
    return np.asarray(labels[source], dtype=np.int32)


def _turn(surface: Surface, rng: np.random.Generator) -> NDArray[np.intp]:
    if surface.sphere is None:
        raise InputError(
            "surface",
            expected="spherical coordinates to turn",
            found="none",
            remedy="Name the sphere of this mesh, left and right: inputs.spheres in trend.yaml.",
        )
    turn = scipy.stats.special_ortho_group.rvs(3, random_state=rng)
    mirror = np.diag([-1.0, 1.0, 1.0])
    found = np.empty(surface.n_vertices, dtype=np.intp)
    for side, rotation in ((0, turn), (1, mirror @ turn @ mirror)):
        own = np.flatnonzero(surface.hemisphere == side)
        sphere = surface.sphere[own].astype(np.float64)
        _, source = scipy.spatial.KDTree(sphere @ rotation.T).query(sphere)
        found[own] = own[source]
    return found
