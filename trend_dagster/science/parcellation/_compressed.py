"""A large block as a product of two thin matrices, for the sweeps that can do without the block.

A smoothed correlation has few directions that matter: X is nearly Q (Q^T X) with Q of some hundred
orthonormal columns, and a product with that costs a fraction of one with X. The solver sweeps with
it until it would stop, and then with X itself until it stops: what it returns has converged on X.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import scipy

from trend_dagster.science.connectivity.thresholding import FloatArray

RANK = 512
LEAST_GAIN = 4
"""A block has at least so many times as many rows as what stands for it has columns."""

MOST_LEFT_OUT = 0.05
"""Share of the norm of X that may be left out; else X is no such matrix, and is used itself."""

_STRIPE = 1024


@dataclass(frozen=True, eq=False)
class Compressed:
    """What stands for a symmetric matrix X.

    Parameters
    ----------
    basis : ndarray of shape (n, rank)
        Q, orthonormal columns.
    rows : ndarray of shape (rank, n)
        Q^T X.
    """

    basis: FloatArray
    rows: FloatArray


def compress(X: FloatArray, pool: Executor) -> Compressed | None:
    """Find a good Q by products of X with random vectors, or say that there is none.

    Parameters
    ----------
    X : ndarray of shape (n, n)
        Symmetric.
    pool : concurrent.futures.Executor
        Threads.

    Returns
    -------
    Compressed or None
        None where X is not nearly of that rank.

    Notes
    -----
    Halko, Martinsson and Tropp, doi:10.1137/090771806.
    """
    stripes = range(0, len(X), _STRIPE)

    def product(B: FloatArray) -> FloatArray:
        return np.concatenate(list(pool.map(lambda i: X[i : i + _STRIPE] @ B, stripes)))

    rank = min(RANK, len(X) // LEAST_GAIN)
    # A fixed start makes the result reproducible.
    start = np.random.default_rng(0).standard_normal((len(X), rank)).astype(X.dtype)
    basis, _ = scipy.linalg.qr(product(start), mode="economic", check_finite=False)
    rows = np.ascontiguousarray(product(basis).T)  # X is symmetric
    norm = sum(float(np.square(X[i : i + _STRIPE], dtype=np.float64).sum()) for i in stripes)
    left_out = norm - float(np.square(rows, dtype=np.float64).sum())
    return None if left_out > MOST_LEFT_OUT**2 * norm else Compressed(basis, rows)
