"""Cohorts with planted networks on a real cortical mesh: BOLD whose right answer is known.

Reading order: settings, the planted networks, the time series, one run, the cohort.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import Field
from scipy import signal, stats
from scipy.sparse import csgraph
from scipy.spatial import KDTree

from trend_dagster.errors import SettingsError
from trend_dagster.science.identity import Section
from trend_dagster.science.surface import (
    Surface,
    edge_graph,
    gaussian_weights,
    largest_piece,
    mirrored_coordinates,
    unit_variance,
)

FloatArray = NDArray[np.float64]
Labels = NDArray[np.int32]


class SimulationConfig(Section):
    """What a simulated cohort is like."""

    n_vertices_per_hemisphere: int = Field(642, ge=12)
    """Vertices of one hemisphere of the mesh the cohort lives on."""
    n_networks: int = Field(7, ge=2)
    """Networks planted in each hemisphere; the paper's atlases have 7 and 19."""
    n_subjects: int = Field(4, ge=1)
    """Newborns in the cohort."""
    runs_per_subject: int = Field(2, ge=1)
    """BOLD runs of each newborn."""
    n_timepoints: int = Field(120, ge=8)
    """Volumes of a run; the tutorial has 1600."""
    repetition_time: float = Field(2.0, gt=0)
    """Seconds from one volume to the next."""
    snr: float = Field(0.5, ge=0)
    """Standard deviation of a network's signal over that of the local noise. 0 plants nothing: the
    null, in which any network that is found was made by the method.
    """
    smoothness: float = Field(8.0, ge=0)
    """Full width at half maximum of the noise along the cortex, in mm."""
    distributed: float = Field(0.3, ge=0, le=1)
    """Share of networks that consist of three separate patches a hemisphere."""
    irregularity: float = Field(0.5, ge=0)
    """How ragged borders are; 0 gives round, compact networks."""
    unequal_sizes: float = Field(0.7, ge=0, lt=1)
    """How much patches differ in size; 0 makes them nearly equal."""
    border_variation: float = Field(0.2, ge=0)
    """How far borders differ between newborns; 0 gives all the same map."""
    homotopic_correlation: float = Field(0.5, ge=0, le=1)
    """Correlation of a network with its partner across hemispheres."""
    network_correlation: float = Field(0.3, ge=0, lt=1)
    """Correlation between different networks of a hemisphere at most: some pairs are akin, some
    oppose each other, most are in between.
    """
    noise_autocorrelation: float = Field(0.4, ge=0, lt=1)
    """Correlation of the noise from one volume to the next."""
    motion: float = Field(0.2, ge=0)
    """Size of a head-motion-like signal common to all vertices, against noise."""
    signal_loss: float = Field(0.6, ge=0, le=1)
    """Share of the signal lost in the worst regions (susceptibility)."""
    seed: int = Field(108, ge=0)
    """Every cohort of one seed and settings is the same."""


@dataclass(frozen=True)
class Plan:
    """Where the networks of a cohort grow from; borders follow for each newborn.

    Attributes
    ----------
    cortex : ndarray of int
        Vertices that belong to a network: the connected cortex of both hemispheres.
    seeds : tuple of two ndarray of int
        One vertex for each patch, per hemisphere; patches at one index are homologous.
    network_of_patch : ndarray of int
        Network 0 .. n_networks - 1 of each patch.
    head_start : ndarray of float
        0 .. 1 for each patch: large patches start ahead.
    """

    cortex: NDArray[np.intp]
    seeds: tuple[NDArray[np.intp], NDArray[np.intp]]
    network_of_patch: NDArray[np.intp]
    head_start: FloatArray


def plan_networks(surface: Surface, config: SimulationConfig) -> Plan:
    """Choose where networks grow from, the same in both hemispheres but for anatomy.

    Parameters
    ----------
    surface : Surface
        The mesh.
    config : SimulationConfig
        Networks, their distribution and sizes.

    Returns
    -------
    Plan
        Seeds of patches and the network of each.
    """
    rng = _generator(config, "plan")
    graph, cortex = edge_graph(surface), _cortex_mask(surface)
    left, right = (largest_piece(graph, cortex & (surface.hemisphere == side)) for side in (0, 1))
    n_spread = round(config.distributed * config.n_networks)
    n_patches = config.n_networks + 2 * n_spread
    if n_patches * 4 > min(len(left), len(right)):
        raise SettingsError(
            "n_networks",
            expected=f"at most {min(len(left), len(right)) // 4} patches on this mesh",
            found=f"{n_patches} patches of {config.n_networks} networks",
            remedy="Plant fewer networks or use a finer mesh.",
        )
    seeds = left[_spread_out(graph[left][:, left], n_patches, rng)]
    points = mirrored_coordinates(surface)
    partners = right[_nearest_distinct(points[right], points[seeds])]
    network = _assign_patches(points[seeds], config.n_networks, n_spread, rng)
    return Plan(np.concatenate([left, right]), (seeds, partners), network, rng.random(n_patches))


def _cortex_mask(surface: Surface) -> NDArray[np.bool_]:
    if surface.medial_wall is None:
        return np.ones(surface.n_vertices, dtype=bool)
    return ~surface.medial_wall


def _spread_out(graph: sp.csr_array, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Vertices of a random start, each as far as can be from those before it."""
    chosen = [int(rng.integers(graph.shape[0]))]
    nearest = csgraph.dijkstra(graph, directed=False, indices=chosen[0])
    while len(chosen) < n:
        # Any of the farther quarter will do: the farthest itself makes an even, unnatural lattice.
        far = np.flatnonzero(nearest >= np.quantile(nearest, 0.75))
        chosen.append(int(rng.choice(far)))
        nearest = np.minimum(nearest, csgraph.dijkstra(graph, directed=False, indices=chosen[-1]))
    return np.array(chosen)


def _nearest_distinct(points: FloatArray, targets: FloatArray) -> NDArray[np.intp]:
    """For each target its nearest point that no earlier target has taken."""
    tree, taken = KDTree(points), list[int]()
    for target in targets:
        _, near = tree.query(target, k=len(taken) + 1)
        taken.append(next(int(i) for i in np.atleast_1d(near) if int(i) not in taken))
    return np.array(taken)


def _assign_patches(
    points: FloatArray, n_networks: int, n_spread: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Give the first n_spread networks three distant patches, the others one."""
    network = np.full(len(points), -1)
    for spread in range(n_spread):
        own = [int(rng.choice(np.flatnonzero(network < 0)))]
        for _ in range(2):
            free = np.flatnonzero(network < 0)
            free = free[~np.isin(free, own)]
            apart = np.linalg.norm(points[free, None] - points[own], axis=2).min(axis=1)
            own.append(int(free[apart.argmax()]))
        network[own] = spread
    free = np.flatnonzero(network < 0)
    network[free] = rng.permutation(np.arange(n_spread, n_networks))
    return network


def plant_networks(
    surface: Surface, config: SimulationConfig, plan: Plan, subject: int | None = None
) -> Labels:
    """Grow the networks of a plan over the cortex until they meet.

    Every vertex joins the patch that reaches it first, along a surface whose steps are stretched
    by a smooth random field: an additively weighted Voronoi diagram, in which each patch is
    connected and irregular. A newborn's own field moves the borders.

    Parameters
    ----------
    surface : Surface
        The mesh.
    config : SimulationConfig
        Irregularity, sizes, variation.
    plan : Plan
        From `plan_networks`.
    subject : int, optional
        Newborn whose map is wanted; by default the map of the cohort.

    Returns
    -------
    ndarray of shape (n_vertices,), int32
        Left networks 0 .. n - 1, their right partners n .. 2n - 1, -1 where there is no cortex.
    """
    points = mirrored_coordinates(surface)
    stretch = config.irregularity * _smooth_field(points, 25.0, _generator(config, "borders"))
    if subject is not None:
        own = _smooth_field(points, 15.0, _generator(config, "newborn", subject))
        stretch = stretch + config.border_variation * own
    steps = sp.coo_array(edge_graph(surface))
    start, end = steps.coords
    lengths = steps.data * np.exp((stretch[start] + stretch[end]) / 2)
    graph = sp.csr_array((lengths, (start, end)), shape=steps.shape)
    labels = np.full(surface.n_vertices, -1, dtype=np.int32)
    for side in (0, 1):
        region = plan.cortex[surface.hemisphere[plan.cortex] == side]
        patch = _first_to_arrive(graph[region][:, region], region, plan, side, config)
        labels[region] = plan.network_of_patch[patch] + side * config.n_networks
    return labels


def _first_to_arrive(
    graph: sp.csr_array, region: NDArray[np.intp], plan: Plan, side: int, config: SimulationConfig
) -> NDArray[np.intp]:
    seeds = np.searchsorted(region, plan.seeds[side])
    time = csgraph.dijkstra(graph, directed=False, indices=seeds)
    # A head start below the way between any two seeds cannot swallow a patch.
    between = time[:, seeds] + np.diag(np.full(len(seeds), np.inf))
    head_start = config.unequal_sizes * between.min() * plan.head_start
    return np.asarray((time - head_start[:, None]).argmin(axis=0))


def _smooth_field(points: FloatArray, scale: float, rng: np.random.Generator) -> FloatArray:
    """Gaussian random field of unit variance in space, by random Fourier features.

    Being a function of position and not of the mesh, it is the same at every resolution.
    """
    waves = rng.normal(scale=1 / scale, size=(3, 256))
    phases = rng.uniform(0, 2 * np.pi, 256)
    return np.asarray(np.cos(points @ waves + phases).sum(axis=1) * np.sqrt(2 / 256))


def haemodynamic_response(repetition_time: float) -> FloatArray:
    """Double-gamma response to a short burst of activity, one value per volume.

    Peak after 5 s and an undershoot of one sixth after 15 s (Glover 1999,
    doi:10.1006/nimg.1998.0419). A newborn's is slower and weaker; what matters here is that
    network signals are as slow as BOLD.

    Returns
    -------
    ndarray of shape (32 s / repetition_time,)
        Of unit energy.
    """
    seconds = np.arange(0, 32, repetition_time)
    response = stats.gamma.pdf(seconds, 6) - stats.gamma.pdf(seconds, 16) / 6
    return np.asarray(response / np.linalg.norm(response))


def network_covariance(config: SimulationConfig) -> FloatArray:
    """How networks correlate, the same in every run of a cohort.

    Every network has a direction in a space of three dimensions, and two networks correlate as
    their directions do: some are akin, some oppose each other.

    Returns
    -------
    ndarray of shape (2 * n_networks, 2 * n_networks)
        Ones on the diagonal; partners across hemispheres correlate as `homotopic_correlation`.
    """
    directions = _generator(config, "kinship").normal(size=(config.n_networks, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    kinship, own = config.network_correlation, np.eye(config.n_networks)
    within = kinship * directions @ directions.T + (1 - kinship) * own
    across = config.homotopic_correlation
    return np.kron(np.array([[1, across], [across, 1]]), within)


def network_signals(config: SimulationConfig, rng: np.random.Generator) -> FloatArray:
    """Time series of all networks in one run.

    Returns
    -------
    ndarray of shape (2 * n_networks, n_timepoints)
        Of unit variance, with the correlation of `network_covariance`.
    """
    eigenvalues, vectors = np.linalg.eigh(network_covariance(config))
    mixing = vectors * np.sqrt(np.clip(eigenvalues, 0, None))
    response = haemodynamic_response(config.repetition_time)
    n_volumes = config.n_timepoints + len(response)
    activity = mixing @ rng.normal(size=(len(mixing), n_volumes))
    return np.asarray(signal.lfilter(response, 1.0, activity, axis=1)[:, len(response) :])


@dataclass(frozen=True)
class _Cortex:
    """What all runs of a cohort share."""

    surface: Surface
    plan: Plan
    smoother: sp.csr_array
    sensitivity: FloatArray


def _prepare(surface: Surface, config: SimulationConfig) -> _Cortex:
    plan = plan_networks(surface, config)
    smoother = sp.csr_array(sp.eye_array(surface.n_vertices))
    if config.smoothness > 0:
        # Noise smoothed by a kernel of width s has the autocorrelation of width s * sqrt(2).
        smoother = gaussian_weights(surface, config.smoothness / 2.355 / np.sqrt(2))
    field = _smooth_field(mirrored_coordinates(surface), 20.0, _generator(config, "signal loss"))
    # A seventh of the cortex loses some, like orbitofrontal and inferior temporal cortex do.
    lost = np.clip(field - np.quantile(field, 0.85), 0, None)
    sensitivity = 1 - config.signal_loss * lost / lost.max()
    return _Cortex(surface, plan, unit_variance(smoother), sensitivity)


def _noise(cortex: _Cortex, config: SimulationConfig, rng: np.random.Generator) -> FloatArray:
    """Noise of unit variance: half of it smooth along the cortex, all of it smooth in time."""
    shape = (cortex.surface.n_vertices, config.n_timepoints + 50)
    white, smooth = rng.normal(size=shape), cortex.smoother @ rng.normal(size=shape)
    rho = config.noise_autocorrelation
    coloured = signal.lfilter([np.sqrt(1 - rho**2)], [1, -rho], white + smooth, axis=1)
    return np.asarray(coloured[:, 50:] / np.sqrt(2))


def _motion(cortex: _Cortex, config: SimulationConfig, rng: np.random.Generator) -> FloatArray:
    """Make a slow drift with sudden jumps, stronger in some regions than in others."""
    jumps = rng.normal(size=config.n_timepoints) * (
        1 + 4 * (rng.random(config.n_timepoints) < 0.03)
    )
    course = signal.detrend(np.cumsum(jumps))
    gain = 1 + 0.3 * _smooth_field(mirrored_coordinates(cortex.surface), 40.0, rng)
    return np.outer(gain, config.motion * course / course.std())


def simulate_run(
    cortex: _Cortex, labels: Labels, config: SimulationConfig, rng: np.random.Generator
) -> NDArray[np.float32]:
    """One BOLD run of a newborn.

    Returns
    -------
    ndarray of shape (n_vertices, n_timepoints), float32
        In units of the local noise's standard deviation; 0 where there is no cortex.
    """
    planted = labels >= 0
    bold = np.zeros((len(labels), config.n_timepoints))
    bold[planted] = network_signals(config, rng)[labels[planted]]
    bold *= config.snr * cortex.sensitivity[:, None]
    bold += _noise(cortex, config, rng) + _motion(cortex, config, rng)
    bold[~planted] = 0
    return bold.astype(np.float32)


def simulate_cohort(
    surface: Surface, config: SimulationConfig
) -> tuple[Labels, Iterator[tuple[str, NDArray[np.float32]]]]:
    """Plant networks and record a cohort of newborns who have them.

    Parameters
    ----------
    surface : Surface
        The mesh; its medial wall gets no signal.
    config : SimulationConfig
        What the cohort is like.

    Returns
    -------
    truth : ndarray of shape (n_vertices,), int32
        Planted network of each vertex: left 0 .. n - 1, right partners n .. 2n - 1, -1 without.
    runs : iterator of (str, ndarray of shape (n_vertices, n_timepoints))
        Name, such as ``sub-01_ses-1_run-1``, and BOLD; made one at a time. A run does not depend
        on how many others there are.

    Raises
    ------
    SettingsError
        If the surface is not the one the settings name, or too coarse for so many networks.
    """
    if surface.n_vertices != 2 * config.n_vertices_per_hemisphere:
        raise SettingsError(
            "n_vertices_per_hemisphere",
            expected=f"{surface.n_vertices // 2}, as the surface has",
            found=str(config.n_vertices_per_hemisphere),
            remedy="Set it to the surface's number, or load the surface that it names.",
        )
    cortex = _prepare(surface, config)
    return plant_networks(surface, config, cortex.plan), _runs(cortex, config)


def _runs(cortex: _Cortex, config: SimulationConfig) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for subject in range(config.n_subjects):
        labels = plant_networks(cortex.surface, config, cortex.plan, subject)
        for run in range(config.runs_per_subject):
            rng = _generator(config, "run", subject, run)
            name = f"sub-{subject + 1:02d}_ses-1_run-{run + 1}"
            yield name, simulate_run(cortex, labels, config, rng)


def _generator(config: SimulationConfig, purpose: str, *numbers: int) -> np.random.Generator:
    # Each purpose draws from a stream of its own, so a setting changes only what it is about.
    return np.random.default_rng([config.seed, *purpose.encode(), *numbers])
