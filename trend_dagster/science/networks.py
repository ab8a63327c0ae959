"""From the components of a factorisation to networks: merge what is alike, dissolve mixtures.

A factorisation with more components than networks splits large networks, and gives components of
their own to zones where the borders of subjects differ. KMeans keeps those and gives up small
networks for them. Two facts tell them apart. Once the noise is divided out (disattenuation,
Spearman 1904, doi:10.2307/1412159), parts of one network correlate at 1, different networks much
less; and a zone between two networks is a mixture of these two neighbours.

Correlations between a vertex and its surroundings are left out throughout: noise is shared there,
and the vertex' correlation with itself is nothing but noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from scipy.special import softmax
from sklearn.cluster import KMeans

from trend_dagster.science.block_matrix import BoolArray, FloatArray, IntArray
from trend_dagster.science.geodesic import (
    Surface,
    edge_graph,
    gaussian_weights,
    geodesic_neighbours,
)

_STRIPE_ROWS = 1024
# Parts of one network correlate above this once noise is divided out; two networks do not.
_SAME_NETWORK = 0.8
# Edges between two parts from which on they count as neighbours.
_BORDER_EDGES = 2
_SWEEPS = 8
_MEAN_FIELD_STEPS = 15
# Residuals that are looked at to learn the noise of a correlation.
_NOISE_ROWS = 256


class NetworksConfig(BaseModel, frozen=True, extra="forbid"):
    """How networks are made from the loadings of a factorisation."""

    method: Literal["reduce", "kmeans"] = Field(
        default="kmeans",
        description=(
            "'reduce' merges components that are alike once noise is divided out, dissolves "
            "mixtures of neighbours, and lets every vertex join the network it correlates with. "
            "'kmeans' clusters the rows of W, as the tutorial does."
        ),
    )
    border_prior: float = Field(
        default=4.0,
        ge=0,
        description=(
            "What the vote of a neighbour on the mesh weighs when a vertex joins a network, in "
            "units of log-likelihood. 0: no vote."
        ),
    )


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Which vertices are close to each other.

    Parameters
    ----------
    near : csr_array of bool of shape (n_vertices, n_vertices)
        Pairs whose correlation is left out, each vertex with itself at least.
    edges : csr_array of shape (n_vertices, n_vertices)
        Ones between neighbours on the mesh; empty where the mesh is not known.
    """

    near: sp.csr_array
    edges: sp.csr_array

    @classmethod
    def of(cls, surface: Surface, exclusion_mm: float) -> Neighbourhood:
        """Measure on a surface; pairs up to `exclusion_mm` apart count as near."""
        near = sp.eye_array(surface.n_vertices, dtype=bool, format="csr")
        if exclusion_mm > 0:
            near = near + geodesic_neighbours(surface, exclusion_mm).astype(bool)
        edges = edge_graph(surface)
        edges.data[:] = 1
        return cls(sp.csr_array(near), edges)

    @classmethod
    def unknown(cls, n_vertices: int) -> Neighbourhood:
        """Return what holds without a mesh: a vertex is near itself only."""
        near = sp.eye_array(n_vertices, dtype=bool, format="csr")
        return cls(near, sp.csr_array((n_vertices, n_vertices)))


# --- Smoothing along the cortex ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SmoothedCorrelation:
    """A correlation smoothed over both of its vertices, computed where it is sliced.

    With S the smoother (rows of sum 1) and C the correlation without pairs that are near, this is
    S C S^T. Were those pairs left in, each vertex' noise would be smeared over its surroundings
    and make neighbours alike that share no network.

    Parameters
    ----------
    correlation : array of shape (n_vertices, n_vertices)
        Anything that is sliced by rows and columns.
    smoother : csr_array of shape (n_vertices, n_vertices)
        From `smoother`.
    near : csr_array of bool of shape (n_vertices, n_vertices)
        From `Neighbourhood`.
    """

    correlation: Any
    smoother: sp.csr_array
    near: sp.csr_array

    @property
    def shape(self) -> tuple[int, int]:
        """Vertices by vertices."""
        return self.smoother.shape  # type: ignore[no-any-return]

    def __getitem__(self, key: tuple[slice, slice]) -> FloatArray:
        left, right = self.smoother[key[0]], self.smoother[key[1]]
        # The sources of all columns, sources of rows a stripe at a time.
        rows, columns = _span(left), _span(right)
        half = np.zeros((left.shape[0], columns.stop - columns.start))
        for start in range(rows.start, rows.stop, _STRIPE_ROWS):
            stripe = slice(start, min(start + _STRIPE_ROWS, rows.stop))
            half += left[:, stripe] @ _without_near(self.correlation, self.near, stripe, columns)
        smooth: FloatArray = (right[:, columns] @ half.T).T.astype(np.float32)
        return smooth


def smoother(surface: Surface, mask: BoolArray, fwhm_mm: float) -> sp.csr_array:
    """Gaussian smoothing along the cortex over the vertices with signal.

    Parameters
    ----------
    surface : Surface
        The mesh.
    mask : ndarray of bool of shape (n_vertices,)
        Vertices with signal; others neither give nor take.
    fwhm_mm : float
        Full width at half maximum of the kernel, in mm of geodesic distance.

    Returns
    -------
    csr_array of shape (n_vertices, n_vertices)
        Rows sum to 1, or to 0 without signal.
    """
    inside = sp.diags_array(mask.astype(np.float64))
    weights = inside @ gaussian_weights(surface, fwhm_mm / np.sqrt(8 * np.log(2))) @ inside
    sums = weights.sum(axis=1)
    scale = np.divide(1, sums, out=np.zeros_like(sums), where=sums > 0)
    return sp.csr_array(sp.diags_array(scale) @ weights)


def _span(rows: sp.csr_array) -> slice:
    used = rows.indices
    return slice(int(used.min()), int(used.max()) + 1) if len(used) else slice(0, 0)


def _without_near(
    correlation: Any, near: sp.csr_array, rows: slice, columns: slice = slice(None)
) -> FloatArray:
    tile = np.array(correlation[rows, columns], dtype=np.float32)
    tile[near[rows, columns].nonzero()] = 0
    return tile


# --- Correlation of vertices with parts --------------------------------------------------------


def _profiles(
    correlation: Any, near: sp.csr_array, membership: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Sum each vertex' correlations with each part, and count them; near pairs left out."""
    n = len(membership)
    sums = np.empty(membership.shape)
    for start in range(0, n, _STRIPE_ROWS):
        rows = slice(start, min(start + _STRIPE_ROWS, n))
        sums[rows] = _without_near(correlation, near, rows) @ membership.astype(np.float32)
    counts = membership.sum(axis=0) - near @ membership
    return sums, counts


def _mean(sums: FloatArray, counts: FloatArray) -> FloatArray:
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)


def _one_hot(labels: IntArray, n: int) -> FloatArray:
    membership = np.zeros((len(labels), n))
    inside = np.flatnonzero(labels >= 0)
    membership[inside, labels[inside]] = 1
    return membership


# --- Merge and dissolve ------------------------------------------------------------------------


@dataclass(eq=False)
class _Parts:
    """Parts of the cortex while they are reduced to networks.

    Attributes
    ----------
    sums, pairs, borders : ndarray of shape (n_parts, n_parts)
        Sum of correlations between two parts, how many pairs that are, edges of the mesh.
    sizes : ndarray of shape (n_parts,)
        Vertices.
    """

    sums: FloatArray
    pairs: FloatArray
    borders: FloatArray
    sizes: FloatArray

    def signals(self, alive: Sequence[int]) -> tuple[FloatArray, FloatArray]:
        """Strength of each part's signal, and how signals correlate free of noise."""
        some = np.ix_(alive, alive)
        mean = _mean(self.sums[some], self.pairs[some])
        strength = np.sqrt(np.maximum(np.diag(mean), 1e-9))
        return strength, np.clip(mean / np.outer(strength, strength), -1, 1)

    def merge(self, part: int, into: int) -> None:
        for matrix in (self.sums, self.pairs, self.borders):
            matrix[into] += matrix[part]
            matrix[:, into] += matrix[:, part]
        self.sizes[into] += self.sizes[part]


def reduce_parts(parts: _Parts, n_networks: int) -> dict[int, int]:
    """Take away the least missed part until so many are left.

    A part is missed by its size, times the power of its signal, times the share of that signal
    that no other part, nor a mixture of two neighbours of it, explains.

    Parameters
    ----------
    parts : _Parts
        Changed in place.
    n_networks : int
        How many to keep.

    Returns
    -------
    dict of int to int
        Network of each part that is one or was merged into one; dissolved mixtures have none.
    """
    alive = list(range(len(parts.sizes)))
    owner = {part: part for part in alive}
    while len(alive) > n_networks:
        strength, alike = parts.signals(alive)
        neighbours = parts.borders[np.ix_(alive, alive)] >= _BORDER_EDGES
        unexplained = np.array([_unexplained(alike, m, neighbours[m]) for m in range(len(alive))])
        least = int(np.argmin(parts.sizes[alive] * strength**2 * unexplained))
        others = np.delete(np.arange(len(alive)), least)
        twin = int(others[alike[least, others].argmax()])
        alone = 1 - max(alike[least, twin], 0) ** 2
        gone = alive[least]
        if alike[least, twin] > _SAME_NETWORK and alone <= unexplained[least] + 1e-12:
            parts.merge(gone, alive[twin])
            owner = {p: alive[twin] if o == gone else o for p, o in owner.items()}
        else:
            owner = {p: o for p, o in owner.items() if o != gone}
        alive.pop(least)
    return {part: alive.index(own) for part, own in owner.items()}


def _unexplained(alike: FloatArray, m: int, neighbours: BoolArray) -> float:
    """Share of a part's signal left by the best other part or mixture of two neighbours."""
    others = np.delete(np.arange(len(alike)), m)
    best = float(np.maximum(alike[m, others], 0).max()) ** 2 if len(others) else 0.0
    around = others[neighbours[others]]
    one, two = (around[i] for i in np.triu_indices(len(around), 1))
    a, b, c = alike[m, one], alike[m, two], alike[one, two]
    determinant = 1 - c**2
    usable = determinant > 1e-3
    a, b, c, determinant = (v[usable] for v in (a, b, c, determinant))
    first, second = (a - c * b) / determinant, (b - c * a) / determinant
    mixed = np.where((first > 0) & (second > 0), a * first + b * second, 0)
    return float(max(1 - max(best, mixed.max(initial=0)), 0))


# --- Networks ----------------------------------------------------------------------------------


def find_networks(
    W: FloatArray,
    correlation: Any,
    n_networks: int,
    neighbourhood: Neighbourhood,
    config: NetworksConfig | None = None,
    *,
    random_state: int = 108,
) -> IntArray:
    """Turn loadings into networks.

    Vertices are parted by the component that they load on most; parts are merged and dissolved
    until as many are left as networks are wanted; then every vertex joins the network whose
    members it correlates with like they do, and its neighbours on the mesh have a say (a Potts
    prior, solved by mean fields). The last step is repeated until nothing moves.

    Parameters
    ----------
    W : ndarray of shape (n_vertices, n_components)
        Loadings; zero rows where there is no signal.
    correlation : array of shape (n_vertices, n_vertices)
        Average correlation, neither smoothed nor thresholded; read in stripes of rows.
    n_networks : int
        Networks wanted.
    neighbourhood : Neighbourhood
        Near pairs and the mesh.
    config : NetworksConfig, optional
        What a neighbour's vote weighs.
    random_state : int
        Seed, where KMeans has to make more parts than there are components.

    Returns
    -------
    ndarray of shape (n_vertices,)
        0 .. n_networks - 1; -1 for vertices that load on nothing at all.
    """
    border_prior = (config or NetworksConfig()).border_prior
    loaded: BoolArray = np.asarray(W.any(axis=1))
    parts = np.full(len(W), -1)
    parts[loaded] = _part(W[loaded], n_networks, random_state)
    n_parts = int(parts.max(initial=-1)) + 1
    if n_parts <= n_networks:
        return parts
    membership = _one_hot(parts, n_parts)
    sums, counts = _profiles(correlation, neighbourhood.near, membership)
    table = _Parts(
        membership.T @ sums,
        membership.T @ counts,
        membership.T @ (neighbourhood.edges @ membership),
        membership.sum(axis=0),
    )
    network = reduce_parts(table, n_networks)
    labels = np.array([network.get(int(part), -1) for part in parts])
    for _ in range(_SWEEPS):
        moved = _assign(labels, correlation, n_networks, neighbourhood, border_prior, loaded)
        if np.array_equal(moved, labels):
            break
        labels = moved
    return labels


def _part(W: FloatArray, n_networks: int, random_state: int) -> IntArray:
    """Part vertices by their largest loading; by KMeans where components are too few."""
    if W.shape[1] >= 2 * n_networks:
        length = np.linalg.norm(W, axis=0)
        largest = (W / np.where(length > 0, length, 1)).argmax(axis=1)
        return np.asarray(np.unique(largest, return_inverse=True)[1])
    rows = W / W.sum(axis=1, keepdims=True)
    n_parts = min(2 * n_networks, len(np.unique(rows, axis=0)))
    fit = KMeans(n_parts, n_init="auto", random_state=random_state).fit_predict(rows)
    return np.asarray(np.unique(fit, return_inverse=True)[1])


def _assign(
    labels: IntArray,
    correlation: Any,
    n_networks: int,
    neighbourhood: Neighbourhood,
    border_prior: float,
    loaded: BoolArray,
) -> IntArray:
    membership = _one_hot(labels, n_networks)
    sums, counts = _profiles(correlation, neighbourhood.near, membership)
    profile = _mean(sums, counts)
    block = _mean(membership.T @ sums, membership.T @ counts)
    weight = np.sqrt(np.maximum(membership.sum(axis=0), 1))
    noise = _noise_variance(correlation, neighbourhood.near, membership, block, loaded)
    # The mean over n members is as precise as the root of n: so weighted, a vertex is compared
    # with each network by a likelihood in which the strength of its own signal is free.
    directions = block * weight
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    evidence = np.maximum((profile * weight) @ directions.T, 0) ** 2 / (2 * noise)
    belief = softmax(evidence, axis=1)
    belief[~loaded] = 0
    for _ in range(_MEAN_FIELD_STEPS if border_prior > 0 else 0):
        belief = softmax(evidence + border_prior * (neighbourhood.edges @ belief), axis=1)
        belief[~loaded] = 0
    return np.where(loaded, belief.argmax(axis=1), -1)


def _noise_variance(
    correlation: Any, near: sp.csr_array, membership: FloatArray, block: FloatArray, use: BoolArray
) -> float:
    """Variance of a correlation about the mean of its two networks, by its median deviation."""
    inside = np.flatnonzero(use)
    residuals: list[NDArray[Any]] = []
    for i in inside[:: max(len(inside) // _NOISE_ROWS, 1)]:
        row = np.asarray(correlation[slice(i, i + 1), slice(None)], dtype=np.float64)[0]
        residual = row - membership @ (block @ membership[i])
        far = use.copy()
        far[near[[i]].indices] = False
        residuals.append(residual[far])
    deviation = np.median(np.abs(np.concatenate(residuals))) / 0.6745
    return float(max(deviation**2, 1e-12))
