"""Factorisation with loadings that are smooth along the cortex.

Minimised is, with A a graph of neighbouring vertices and D its degrees,

    1/2 |X - W H|^2 + lambda / 2 tr(W^T (D - A) W) + l1 (|W|_1 + |H|_1) + l2 / 2 |W|^2

over non-negative W and H with rows of H of length 1, without which lambda would mean nothing: W
could shrink and H grow. Cai et al., doi:10.1109/TPAMI.2010.231.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # loads a part of its own when it is first asked for

from trend_dagster.errors import FactorizationError
from trend_dagster.science.connectivity.thresholding import BlockMatrix, FloatArray

_STRIPE_ROWS = 512
GRAPH_REACH = 3.0  # sigma; vertices further apart than this are no neighbours


@dataclass(frozen=True, eq=False)
class Graph:
    """Neighbours on the cortex, in the block order of a matrix.

    Parameters
    ----------
    weights : sparse array of shape (n_kept, n_kept)
        Symmetric, non-negative, times lambda.
    degrees : ndarray of shape (n_kept,)
        Row sums of weights.
    """

    weights: scipy.sparse.csr_array
    degrees: FloatArray

    @classmethod
    def of(cls, weights: Any, matrix: BlockMatrix, smoothness: float) -> Graph:
        """Take the graph over all vertices to the vertices and the order of a matrix."""
        if weights is None or weights.shape != (matrix.n_vertices, matrix.n_vertices):
            raise FactorizationError(
                "smoothness",
                expected=f"a graph over {matrix.n_vertices} vertices beside smoothness > 0",
                found="none" if weights is None else f"one of shape {weights.shape}",
                remedy="Give the weights of neighbouring vertices, or set smoothness to 0.",
            )
        order = matrix.permutation
        kept = scipy.sparse.csr_array(weights)[order][:, order] * smoothness
        kept = kept.astype(matrix.dtype)
        return cls(kept, np.asarray(kept.sum(axis=1)).ravel())

    def gradient(self, w: FloatArray) -> FloatArray:
        """Return lambda (D - A) w."""
        slope: FloatArray = self.degrees * w - self.weights @ w
        return slope

    def energy(self, Wt: FloatArray) -> float:
        """Return lambda / 2 tr(W^T (D - A) W) for W transposed, of shape (k, n_kept)."""
        return 0.5 * float(sum(w @ self.gradient(w) for w in Wt.astype(np.float64)))


def neighbour_graph(distances: Sequence[Any], sigma_mm: float) -> scipy.sparse.csr_array:
    """Weigh neighbours by a Gaussian of their distance along the cortex.

    Parameters
    ----------
    distances : sequence of array of shape (n_h, n_h)
        Geodesic distances in mm within each hemisphere, hemispheres in the order of the vertices.
        Numpy or zarr arrays; read in stripes of rows, never whole.
    sigma_mm : float
        Width of the Gaussian, which is cut at three times that.

    Returns
    -------
    sparse array of shape (n_vertices, n_vertices)
        Symmetric, zero on the diagonal and across hemispheres, scaled to a mean row sum of 1.

    Raises
    ------
    FactorizationError
        If no two vertices are near enough to be neighbours.
    """
    stripes = []
    for distance in distances:
        n = distance.shape[0]
        rows = [_near(distance, start, sigma_mm) for start in range(0, n, _STRIPE_ROWS)]
        stripes.append(scipy.sparse.vstack(rows, format="csr"))
    graph = scipy.sparse.csr_array(scipy.sparse.block_diag(stripes, format="csr"))
    total = float(graph.sum())
    if total == 0:
        raise FactorizationError(
            "factorization.smoothness_sigma_mm",
            expected="a width that reaches from a vertex to its neighbours",
            found=f"{sigma_mm} mm, within three times which no vertex has any",
            remedy="Widen it, or check that the distances are in mm.",
        )
    return graph * (graph.shape[0] / total)


def _near(distance: Any, start: int, sigma_mm: float) -> scipy.sparse.csr_array:
    d = np.asarray(distance[start : start + _STRIPE_ROWS], dtype=np.float32)
    weights = np.exp(-0.5 * (d / np.float32(sigma_mm)) ** 2)
    weights[d > GRAPH_REACH * sigma_mm] = 0
    weights[np.arange(len(d)), start + np.arange(len(d))] = 0
    return scipy.sparse.csr_array(weights)


def solve_smooth(
    matrix: BlockMatrix,
    start: tuple[FloatArray, FloatArray],
    graph: Graph,
    l1: float,
    l2: float,
    tol: float,
    max_iter: int,
) -> tuple[FloatArray, FloatArray, int, bool]:
    """Minimise by coordinate descent over components.

    Parameters
    ----------
    matrix : BlockMatrix
        X.
    start : tuple of ndarray of shape (n_components, n_kept)
        W transposed, and H, in block order.
    graph : Graph
        Neighbours, times lambda.
    l1, l2 : float
        Elastic net.
    tol : float
        Stop when the projected gradient has shrunk to this share.
    max_iter : int
        Most sweeps.

    Returns
    -------
    tuple
        W transposed and H, in block order; sweeps done; whether the stop rule was met. The
        objective falls with every sweep.
    """
    Wt, H = (factor.copy() for factor in start)
    length = np.linalg.norm(H, axis=1, keepdims=True)
    Wt *= length
    H /= np.where(length > 0, length, 1)
    first = 0.0
    for n_iter in range(1, max_iter + 1):
        violation = _descend_loadings(Wt, matrix.multiply_blocks(H.T).T, H @ H.T, graph, l1, l2)
        violation += _turn_rows(H, matrix.multiply_blocks(Wt.T).T, Wt @ Wt.T, l1)
        first = first or violation
        if violation <= tol * first:
            return Wt, H, n_iter, True
    return Wt, H, max_iter, False


def _descend_loadings(
    Wt: FloatArray, product: FloatArray, gram: FloatArray, graph: Graph, l1: float, l2: float
) -> float:
    violation = 0.0
    for t, w in enumerate(Wt):
        slope = gram[t] @ Wt - product[t] + l1 + l2 * w + graph.gradient(w)
        violation += float(np.abs(np.where(w == 0, np.minimum(slope, 0), slope)).sum())
        # D - A is at most 2 D: a step of this length never overshoots, though all vertices of
        # a component move at once.
        curvature = gram[t, t] + l2 + 2 * graph.degrees
        step = np.divide(slope, curvature, out=np.zeros_like(w), where=curvature > 0)
        np.maximum(w - step, 0, out=w)
    return violation


def _turn_rows(H: FloatArray, product: FloatArray, gram: FloatArray, l1: float) -> float:
    violation = 0.0
    for t, h in enumerate(H):
        # The objective is linear in a row of fixed length: the best one points along the residual.
        residual = np.maximum(product[t] - gram[t] @ H + gram[t, t] * h - l1, 0)
        length = np.linalg.norm(residual)
        if length > 0:
            violation += float(gram[t, t] * np.abs(residual / length - h).sum())
            h[:] = residual / length
    return violation
