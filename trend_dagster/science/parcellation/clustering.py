"""Clusters of vertices from the rows of W, and the numbers that describe a clustering."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.science.connectivity.thresholding import BlockMatrix, FloatArray, IntArray
from trend_dagster.science.parcellation.settings import ClusteringConfig

_TILE = 256
_STRIPE_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Clustering:
    """One parcellation and its metrics.

    Parameters
    ----------
    n_clusters : int
        Clusters asked for.
    labels : ndarray of int32 of shape (n_vertices,)
        Cluster of each vertex, from 0; -1 without signal.
    n_found : int
        Clusters that have a vertex; fewer than asked for where rows of W coincide.
    distinct_rows : int
        Distinct rows of W among vertices with signal.
    inertia : float
        Sum of squared distances to the cluster centres.
    silhouette, davies_bouldin : float
        As scikit-learn; NaN where they are not defined (fewer than 2 clusters, or as many as
        vertices).
    within_connectivity, between_connectivity, connectivity_ratio : float
        On the thresholded matrix, as the tutorial: the mean over clusters (pairs of clusters) of
        the mean correlation between their vertices.
    full_within_connectivity, full_between_connectivity, full_connectivity_ratio : float
        The same on the whole correlation; NaN where it was not given.
    cluster_sizes : ndarray of int64 of shape (n_clusters,)
        Vertices per cluster.
    """

    n_clusters: int
    labels: NDArray[np.int32]
    n_found: int
    distinct_rows: int
    inertia: float
    silhouette: float
    davies_bouldin: float
    within_connectivity: float
    between_connectivity: float
    connectivity_ratio: float
    full_within_connectivity: float
    full_between_connectivity: float
    full_connectivity_ratio: float
    cluster_sizes: IntArray

    @property
    def collapsed(self) -> bool:
        """Whether W has fewer distinct rows than clusters were asked for."""
        return self.distinct_rows < self.n_clusters


def cluster(
    matrix: BlockMatrix,
    W: FloatArray,
    n_clusters: Sequence[int],
    config: ClusteringConfig | None = None,
    *,
    full_correlation: Any = None,
    labelings: Sequence[IntArray] | None = None,
) -> tuple[Clustering, ...]:
    """Group vertices by their loadings, once for each number of clusters.

    Parameters
    ----------
    matrix : BlockMatrix
        The thresholded matrix that W was made from.
    W : ndarray of shape (n_vertices, n_components)
        Loadings.
    n_clusters : sequence of int
        Numbers of clusters.
    config : ClusteringConfig, optional
        Seed and row scaling.
    full_correlation : array of shape (n_vertices, n_vertices), optional
        The correlation before thresholding, read in stripes of rows; or what adds it up by itself
        (`trend_dagster.science.connectivity.from_runs.SmoothedRuns`).
    labelings : sequence of ndarray of shape (n_vertices,), optional
        Groups made elsewhere, one labeling for each number of clusters, in place of KMeans'.

    Returns
    -------
    tuple of Clustering
        One for each number of clusters. Where W has collapsed (fewer distinct rows than
        clusters) the labels are what KMeans gives, and `Clustering.collapsed` says so.
    """
    from sklearn.preprocessing import normalize

    config = config or ClusteringConfig()
    kept = np.sort(matrix.permutation)
    rows = normalize(W[kept], norm="l1") if config.scale_rows else W[kept]
    if labelings is None:
        fits = [_kmeans(rows, n, config.random_state) for n in n_clusters]
    else:
        fits = [_given(rows, labels[kept]) for labels in labelings]
    found = [labels for labels, _ in fits]
    # What follows is shared by all numbers of clusters, whose columns stand side by side.
    one_hot, spans = _one_hots(found)
    cut = _thresholded_sums(matrix, one_hot)
    full = None if full_correlation is None else _full_sums(full_correlation, kept, one_hot)
    distinct = count_distinct_rows(rows)
    clusterings = []
    for n, (labels, inertia), span, distances in zip(
        n_clusters, fits, spans, distance_sums(rows, found), strict=True
    ):
        everywhere = np.full(matrix.n_vertices, -1, dtype=np.int32)
        everywhere[kept] = labels
        sizes = np.bincount(labels, minlength=n)
        present = sizes[: span.stop - span.start]
        clusterings.append(
            Clustering(
                n,
                everywhere,
                int(np.count_nonzero(sizes)),
                distinct,
                inertia,
                silhouette(distances, labels),
                davies_bouldin(rows, labels),
                *connectivity(cut, span, present),
                *((float("nan"),) * 3 if full is None else connectivity(full, span, present)),
                sizes,
            )
        )
    return tuple(clusterings)


def davies_bouldin(rows: FloatArray, labels: IntArray) -> float:
    """Return the Davies-Bouldin index of a labelling; NaN where it is not defined.

    The mean over clusters of the largest ratio, to any other cluster, of the summed spreads to
    the distance of the centres (Davies and Bouldin 1979, doi:10.1109/TPAMI.1979.4766909).

    Parameters
    ----------
    rows : ndarray of shape (n, n_features)
        Points.
    labels : ndarray of int64 of shape (n,)
        Cluster of each point.

    Returns
    -------
    float
        Equal to `sklearn.metrics.davies_bouldin_score`.
    """
    from scipy.spatial.distance import cdist  # loads slowly

    sizes = np.bincount(labels)
    present = np.flatnonzero(sizes)
    if not 2 <= len(present) <= len(labels) - 1:
        return float("nan")
    # scikit-learn's asks for pairwise distances cluster by cluster, which takes as long as KMeans.
    cluster, points = np.searchsorted(present, labels), rows.astype(np.float64)
    member, sizes = np.eye(len(present))[cluster], sizes[present]
    centres = member.T @ points / sizes[:, None]
    spread = np.linalg.norm(points - centres[cluster], axis=1) @ member / sizes
    between = cdist(centres, centres)
    if np.allclose(spread, 0) or np.allclose(between, 0):
        return 0.0
    between[between == 0] = np.inf
    return float(((spread[:, None] + spread) / between).max(axis=1).mean())


def count_distinct_rows(W: FloatArray) -> int:
    """Count the different rows of W, of shape (n, n_components)."""
    as_bytes = np.ascontiguousarray(W).view(np.dtype((np.void, W.itemsize * W.shape[1])))
    return len(np.unique(as_bytes))


def _kmeans(rows: FloatArray, n_clusters: int, random_state: int) -> tuple[IntArray, float]:
    """Cluster rows; each vertex is apart where there are no more of them than clusters."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if len(rows) <= n_clusters:
        return np.arange(len(rows)), 0.0
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: measured and named in the result instead.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(n_clusters=n_clusters, n_init="auto", random_state=random_state).fit(rows)
    return model.labels_.astype(np.int64), float(model.inertia_)


def _given(rows: FloatArray, labels: IntArray) -> tuple[IntArray, float]:
    """Describe a labeling by the inertia that KMeans would report for it."""
    labels = np.asarray(np.maximum(labels, 0), dtype=np.int64)
    one_hot = np.eye(labels.max() + 1)[labels]
    centres = one_hot.T @ rows / np.maximum(one_hot.sum(axis=0), 1)[:, None]
    return labels, float(np.square(rows - centres[labels]).sum())


def _one_hots(labelings: Sequence[IntArray]) -> tuple[FloatArray, list[slice]]:
    """Stand the one-hot matrices of all labelings side by side."""
    parts = [np.eye(labels.max() + 1, dtype=np.float32)[labels] for labels in labelings]
    ends = np.cumsum([0, *(part.shape[1] for part in parts)]).tolist()
    return np.hstack(parts), [slice(a, b) for a, b in pairwise(ends)]


# --- Silhouette ------------------------------------------------------------------------------


def distance_sums(rows: FloatArray, labelings: Sequence[IntArray]) -> list[FloatArray]:
    """Sum each point's distances to the points of each cluster, for every labeling.

    All labelings share one pass over the pairwise distances, each pair once, in tiles: the
    distance matrix is never whole in memory.

    Parameters
    ----------
    rows : ndarray of shape (n, n_features)
        Points.
    labelings : sequence of ndarray of int64 of shape (n,)
        Cluster of each point, from 0.

    Returns
    -------
    list of ndarray of shape (n, n_clusters)
    """
    from trend_dagster.science.parcellation._distances import add_distances

    groups, group = np.unique(np.stack(labelings), axis=1, return_inverse=True)
    order = np.argsort(group, kind="stable")
    points = rows[order].astype(np.float64)
    # Inner products of these are squared distances; in float64 the difference of large numbers
    # leaves small distances exact to float32.
    squares = np.einsum("ij,ij->i", points, points)[:, None]
    left = np.hstack([points, squares, np.ones_like(squares)])
    right = np.hstack([-2 * points, np.ones_like(squares), squares])
    sums = np.zeros((len(rows), groups.shape[1]))
    for a in range(0, len(rows), _TILE):
        for b in range(a, len(rows), _TILE):
            squared = left[a : a + _TILE] @ right[b : b + _TILE].T
            add_distances(squared, group[order], a, b, sums)
    back = np.argsort(order)
    return [(sums @ np.eye(labels.max() + 1)[labels])[back] for labels in groups]


def silhouette(sums: FloatArray, labels: IntArray) -> float:
    """Return the mean silhouette of a labelling.

    Parameters
    ----------
    sums : ndarray of shape (n, n_clusters)
        Sum of the distances from each point to the others of each cluster.
    labels : ndarray of int of shape (n,)
        Cluster of each point, from 0.

    Returns
    -------
    float
        Equal to `sklearn.metrics.silhouette_score`; NaN where that is not defined.
    """
    sizes = np.bincount(labels, minlength=sums.shape[1])
    present = sizes > 0
    if not 2 <= np.count_nonzero(present) <= len(labels) - 1:
        return float("nan")
    own = np.arange(len(labels)), labels
    within = sums[own] / np.maximum(sizes[labels] - 1, 1)
    means = sums / np.where(present, sizes, 1)
    means[:, ~present] = np.inf
    means[own] = np.inf
    nearest = means.min(axis=1)
    larger = np.maximum(within, nearest)
    # A point alone in its cluster, or without any distance to others, counts 0.
    score = np.divide(nearest - within, larger, out=np.zeros_like(larger), where=larger > 0)
    score[sizes[labels] == 1] = 0
    return float(score.mean())


# --- Connectivity ----------------------------------------------------------------------------


Sums = tuple[FloatArray, FloatArray]
"""Sums of correlations between the vertices of each two clusters, and of their diagonal entries."""


def connectivity(sums: Sums, span: slice, sizes: IntArray) -> tuple[float, float, float]:
    """Return mean connectivity within clusters, between clusters, and their ratio.

    Parameters
    ----------
    sums : tuple of ndarray of shape (n_columns, n_columns) and (n_columns,)
        Sum of correlations between the vertices of two clusters, and of the diagonal entries of
        each, which are left out of the mean within.
    span : slice
        Columns of one clustering.
    sizes : ndarray of shape (n_clusters,)
        Vertices per cluster; clusters without any are passed over.

    Returns
    -------
    tuple of float
        As the tutorial's loops: a cluster of one vertex counts 0 within; the ratio is infinite
        where nothing connects two clusters; NaN between where there is one cluster only.
    """
    own, traces, present = sums[0][span, span], sums[1][span], sizes > 0
    own, traces, sizes = own[np.ix_(present, present)], traces[present], sizes[present]
    pairs = sizes * (sizes - 1)
    within = np.divide(np.diag(own) - traces, pairs, out=np.zeros(len(sizes)), where=pairs > 0)
    means = own / np.outer(sizes, sizes)
    between = means[np.triu_indices(len(sizes), 1)]
    mean_within = float(within.mean()) if len(within) else float("nan")
    mean_between = float(between.mean()) if len(between) else float("nan")
    ratio = mean_within / mean_between if mean_between != 0 else float("inf")
    return mean_within, mean_between, ratio


def _thresholded_sums(matrix: BlockMatrix, one_hot: FloatArray) -> Sums:
    """Return Z^T X Z and Z^T diag(X) for a one-hot Z over the vertices with signal."""
    kept = np.sort(matrix.permutation)
    Z = one_hot[np.searchsorted(kept, matrix.permutation)]
    diagonal = np.concatenate([np.diag(block) for block in matrix.blocks])
    product = matrix.multiply_blocks(Z)
    return Z.T.astype(np.float64) @ product, diagonal.astype(np.float64) @ Z


def _full_sums(correlation: Any, kept: IntArray, one_hot: FloatArray) -> Sums:
    """Return Z^T C Z and Z^T diag(C), reading C in stripes of rows unless it adds up by itself."""
    n = correlation.shape[0]
    Z = np.zeros((n, one_hot.shape[1]), dtype=np.float32)
    Z[kept] = one_hot
    if (add := getattr(correlation, "group_sums", None)) is not None:
        found: Sums = add(Z)
        return found
    sums = np.zeros((Z.shape[1], Z.shape[1]))
    traces = np.zeros(Z.shape[1])
    for start in range(0, n, _STRIPE_ROWS):
        stripe = np.asarray(correlation[start : start + _STRIPE_ROWS], dtype=np.float32)
        part = Z[start : start + len(stripe)]
        sums += part.T.astype(np.float64) @ (stripe @ Z)
        traces += np.diagonal(stripe, start).astype(np.float64) @ part
    return sums, traces
