"""From a factorisation to networks: the spectrum of what it says, and a vote of neighbours.

KMeans on the rows of W splits large networks and gives up small ones for the halves. The product
W H is the matrix without most of its noise, and spectral clustering of that finds both (Ng, Jordan
and Weiss 2001). Being of low rank, it never has to be made: nothing here is vertices by vertices.
On request every vertex then joins the network whose members it correlates with like they do.

Correlations between a vertex and its surroundings are left out throughout: noise is shared there,
and the vertex' correlation with itself is nothing but noise.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from trend_dagster.science.block_matrix import BoolArray, FloatArray, IntArray
from trend_dagster.science.geodesic import (
    Surface,
    edge_graph,
    gaussian_weights,
    geodesic_neighbours,
)

_STRIPE_ROWS = 1024
_SWEEPS = 8
_MEAN_FIELD_STEPS = 15
# Residuals that are looked at to learn the noise of a correlation.
_NOISE_ROWS = 256


class NetworksConfig(BaseModel, frozen=True, extra="forbid"):
    """How networks are made from the loadings of a factorisation."""

    method: Literal["spectral", "kmeans"] = Field(
        default="kmeans",
        description=(
            "'spectral' clusters vertices by the leading eigenvectors of W H. 'kmeans' clusters "
            "the rows of W, as the tutorial does."
        ),
    )
    border_prior: float | None = Field(
        default=None,
        ge=0,
        description=(
            "A number lets every vertex join the network whose members it correlates with like "
            "they do, with that weight of a neighbour's vote on the mesh, in units of "
            "log-likelihood. On real data that was found to cost reproducibility. None: vertices "
            "stay where the spectrum puts them."
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


# --- Networks ----------------------------------------------------------------------------------


def find_networks(
    W: FloatArray,
    H: FloatArray,
    correlation: Any,
    n_networks: int,
    neighbourhood: Neighbourhood,
    config: NetworksConfig | None = None,
    *,
    random_state: int = 108,
) -> IntArray:
    """Turn a factorisation into networks.

    Vertices are clustered by the spectrum of W H. With a border prior, every vertex then joins the
    network whose members it correlates with like they do, and its neighbours on the mesh have a
    say (a Potts prior, solved by mean fields), until nothing moves.

    Parameters
    ----------
    W : ndarray of shape (n_vertices, n_components)
        Loadings; zero rows where there is no signal.
    H : ndarray of shape (n_components, n_vertices)
        The other factor.
    correlation : array of shape (n_vertices, n_vertices)
        Average correlation, neither smoothed nor thresholded; read in stripes of rows.
    n_networks : int
        Networks wanted.
    neighbourhood : Neighbourhood
        Near pairs and the mesh.
    config : NetworksConfig, optional
        What a neighbour's vote weighs.
    random_state : int
        Seed of KMeans on the eigenvectors.

    Returns
    -------
    ndarray of shape (n_vertices,)
        0 .. n_networks - 1; -1 for vertices that load on nothing at all.
    """
    border_prior = (config or NetworksConfig()).border_prior
    loaded: BoolArray = np.asarray(W.any(axis=1))
    labels = np.full(len(W), -1)
    labels[loaded] = _by_spectrum(W[loaded], H[:, loaded], n_networks, random_state)
    if border_prior is None or int(loaded.sum()) <= n_networks:
        return labels
    for _ in range(_SWEEPS):
        moved = _assign(labels, correlation, n_networks, neighbourhood, border_prior, loaded)
        if np.array_equal(moved, labels):
            break
        labels = moved
    return labels


def _by_spectrum(
    W: FloatArray, H: FloatArray, n_networks: int, random_state: int
) -> NDArray[np.integer[Any]]:
    """Cluster by the leading eigenvectors of D^(-1/2) A D^(-1/2) with A = (W H + (W H)^T) / 2."""
    if len(W) <= n_networks:
        return np.arange(len(W))
    space = _leading_vectors(W.astype(np.float64), H.astype(np.float64), n_networks)
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: W has collapsed, which is measured elsewhere.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(n_networks, n_init=10, random_state=random_state)
        return np.asarray(model.fit_predict(space))


def _leading_vectors(W: FloatArray, H: FloatArray, n_vectors: int) -> FloatArray:
    """Eigenvectors of the largest eigenvalues, as scikit-learn's spectral embedding scales them.

    A is B M B^T for B = [W, H^T] and a small M, so that its eigenvectors follow from a QR
    decomposition of B and the eigenvectors of a matrix of twice as many rows as components.
    """
    degree = (W @ H.sum(axis=1) + H.T @ W.sum(axis=0)) / 2
    scale = np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
    basis, mixed = np.linalg.qr(np.hstack([W, H.T]) * scale[:, None])
    half = mixed[:, : W.shape[1]] @ mixed[:, W.shape[1] :].T
    _, vectors = np.linalg.eigh((half + half.T) / 2)
    leading = vectors[:, ::-1][:, : min(n_vectors, W.shape[1])]
    space: FloatArray = (basis @ leading) * scale[:, None]
    return space


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
