"""A large block as a few of its eigenpairs, for the sweeps that can do without the block.

A smoothed correlation has few directions that matter: X is nearly U diag(v) U^T with U of some
hundred orthonormal columns, and a product with that costs a fraction of one with X. The solver
starts from the leading pairs and sweeps with all of them until it would stop. From there on a sweep
with X now and then tells what products with U diag(v) U^T lack, and what is lacking is added in the
sweeps between: what the solver returns has converged on X.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import scipy

from trend_dagster.science.connectivity.thresholding import FloatArray

LEAST_RANK = 96
"""Eigenpairs that are kept at least, and twice as many as components: fewer make a sweep cheaper,
and leave more to what is added to its products (see `factorize_many`)."""

LEAST_GAIN = 4
"""A block has at least so many times as many rows as directions are looked through."""

MOST_LEFT_OUT = 0.5
"""What stands for X leaves out at most so much (of its squared norm) in relation to what as many
pairs as there are components leave out; else X is no such matrix, and is used itself."""

_STRIPE = 1024


@dataclass(frozen=True, eq=False)
class Compressed:
    """What stands for a symmetric matrix X.

    Parameters
    ----------
    values : ndarray of shape (rank,)
        Eigenvalues v, descending by absolute value.
    vectors : ndarray of shape (n, rank)
        U, orthonormal columns.
    rows : ndarray of shape (rank, n)
        diag(v) U^T.
    """

    values: FloatArray
    vectors: FloatArray
    rows: FloatArray


def rank_and_sketch(n_components: int) -> tuple[int, int]:
    """How many eigenpairs are kept, and among how many random directions they are looked for."""
    rank = max(LEAST_RANK, 2 * n_components)
    return rank, 8 * rank // 3


def compress(X: FloatArray, n_components: int, pool: Executor) -> Compressed | None:
    """Find leading eigenpairs by products of X with random vectors, or say that they do not do.

    Parameters
    ----------
    X : ndarray of shape (n, n)
        Symmetric.
    n_components : int
        Most components that X is factorised into.
    pool : concurrent.futures.Executor
        Threads.

    Returns
    -------
    Compressed or None
        None where X is not nearly of that rank.

    Notes
    -----
    Halko, Martinsson and Tropp, doi:10.1137/090771806, section 5.3.
    """
    stripes = range(0, len(X), _STRIPE)

    def product(B: FloatArray) -> FloatArray:
        return np.concatenate(list(pool.map(lambda i: X[i : i + _STRIPE] @ B, stripes)))

    rank, sketch = rank_and_sketch(n_components)
    sketch = min(sketch, len(X) // LEAST_GAIN)
    # A fixed start makes the result reproducible.
    start = np.random.default_rng(0).standard_normal((len(X), sketch)).astype(X.dtype)
    basis, _ = scipy.linalg.qr(product(start), mode="economic", check_finite=False)
    inner = (basis.T @ product(basis)).astype(np.float64)
    values, inside = scipy.linalg.eigh((inner + inner.T) / 2, check_finite=False)
    order = np.argsort(-np.abs(values))[:rank]
    norm = sum(float(np.square(X[i : i + _STRIPE], dtype=np.float64).sum()) for i in stripes)
    left_out = norm - np.cumsum(np.square(values[order]))
    if len(order) <= n_components or left_out[-1] > MOST_LEFT_OUT * left_out[n_components - 1]:
        return None
    vectors = basis @ inside[:, order].astype(X.dtype)
    rows = np.ascontiguousarray((vectors * values[order].astype(X.dtype)).T)
    return Compressed(values[order], vectors, rows)
