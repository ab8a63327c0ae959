"""Correlations smoothed along the cortex, over both of their vertices.

Correlations between a vertex and its surroundings are left out: noise is shared there, and the
vertex' correlation with itself is nothing but noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # loads a part of its own when it is first asked for

from trend_dagster.science.connectivity.thresholding import BoolArray, FloatArray
from trend_dagster.science.surface import Surface, gaussian_weights, geodesic_neighbours

_STRIPE_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Smoothing:
    """How any correlation of a cohort is smoothed: measured once, used for each.

    Parameters
    ----------
    kernel : csr_array of shape (n_vertices, n_vertices)
        From `smoother`.
    near : csr_array of bool of shape (n_vertices, n_vertices)
        From `near_pairs`.
    """

    kernel: scipy.sparse.csr_array
    near: scipy.sparse.csr_array

    @classmethod
    def along(
        cls, surface: Surface, mask: BoolArray, fwhm_mm: float, exclusion_mm: float
    ) -> Smoothing:
        """Measure on a surface; see `smoother` and `near_pairs`."""
        return cls(smoother(surface, mask, fwhm_mm), near_pairs(surface, exclusion_mm))

    def __call__(self, correlation: Any) -> SmoothedCorrelation:
        """Smooth a correlation of shape (n_vertices, n_vertices), where it is sliced."""
        return SmoothedCorrelation(correlation, self.kernel, self.near)


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
        Pairs whose correlation is left out, from `near_pairs`.
    """

    correlation: Any
    smoother: scipy.sparse.csr_array
    near: scipy.sparse.csr_array

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
            tile = np.array(self.correlation[stripe, columns], dtype=np.float32)
            tile[self.near[stripe, columns].nonzero()] = 0
            half += left[:, stripe] @ tile
        smooth: FloatArray = (right[:, columns] @ half.T).T.astype(np.float32)
        return smooth


def near_pairs(surface: Surface, exclusion_mm: float) -> scipy.sparse.csr_array:
    """Pairs of vertices whose correlation is left out.

    Parameters
    ----------
    surface : Surface
        The mesh.
    exclusion_mm : float
        Geodesic distance up to which vertices are near.

    Returns
    -------
    csr_array of bool of shape (n_vertices, n_vertices)
        Each vertex with itself at least.
    """
    near = scipy.sparse.eye_array(surface.n_vertices, dtype=bool, format="csr")
    if exclusion_mm > 0:
        near = near + geodesic_neighbours(surface, exclusion_mm).astype(bool)
    return scipy.sparse.csr_array(near)


def smoother(surface: Surface, mask: BoolArray, fwhm_mm: float) -> scipy.sparse.csr_array:
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
    weights = gaussian_weights(surface, fwhm_mm / np.sqrt(8 * np.log(2)))
    # In place of products with diagonal matrices, which take longer than measuring the distances.
    inside = np.repeat(mask, np.diff(weights.indptr)) & mask[weights.indices]
    indptr = np.concatenate([[0], inside.cumsum()])[weights.indptr]
    kernel = scipy.sparse.csr_array(
        (weights.data[inside].astype(np.float64), weights.indices[inside], indptr),
        shape=weights.shape,
    )
    sums = kernel.sum(axis=1)
    scale = np.divide(1, sums, out=np.zeros_like(sums), where=sums > 0)
    kernel.data *= np.repeat(scale, np.diff(indptr))
    return kernel


def _span(rows: scipy.sparse.csr_array) -> slice:
    used = rows.indices
    return slice(int(used.min()), int(used.max()) + 1) if len(used) else slice(0, 0)
