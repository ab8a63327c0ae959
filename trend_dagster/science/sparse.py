"""Products with sparse matrices of what is near what on the cortex."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy  # loads a part of its own when it is first asked for
from numpy.typing import NDArray

from trend_dagster.science.cores import usable_cores

_WORTH_A_THREAD = 10**7
"""Multiplications that take some milliseconds, against a tenth of one to start a thread."""


def times(near: scipy.sparse.csr_array, values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Multiply a matrix of what is near what with values of vertices.

    SciPy's product would keep Python's lock, and what works side by side would wait. Of a large
    product each core makes some rows.

    Parameters
    ----------
    near : csr_array of shape (n_rows, n_vertices)
        Such as a smoother.
    values : ndarray of shape (n_vertices, n_columns)
        Such as probabilities, or series.

    Returns
    -------
    ndarray of shape (n_rows, n_columns)
        Added up in single precision.
    """
    from trend_dagster.science import _sparse  # numba loads slowly

    if near.format != "csr" or near.shape[1] != len(values):
        raise ValueError(f"{near.format} of {near.shape} times {len(values)} rows")

    n_columns = width = values.shape[1]
    multiply, dense = _sparse.times_dense, np.ascontiguousarray(values, dtype=np.float32)
    if n_columns <= _sparse.LANES * _sparse.MOST_VECTORS:
        multiply, width = (
            _sparse.times_narrow,
            max(-(-n_columns // _sparse.LANES), 1) * _sparse.LANES,
        )
        dense = np.pad(dense, ((0, 0), (0, width - n_columns)))
    product = np.zeros((near.shape[0], width), dtype=np.float32)
    weights = near.data.astype(np.float32, copy=False)

    def rows(start: int, stop: int) -> None:
        multiply(near.indptr[start : stop + 1], near.indices, weights, dense, product[start:stop])

    _by_rows(near, width, rows)
    return product[:, :n_columns].copy() if width > n_columns else product


def compact(near: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Count rows and entries in 32 bits where that is enough: products are bound by memory.

    SciPy takes 64 wherever it selects rows or columns.
    """
    if max(near.nnz, *near.shape) > np.iinfo(np.int32).max:
        return near
    arrays = near.data, near.indices.astype(np.int32), near.indptr.astype(np.int32)
    return scipy.sparse.csr_array(arrays, shape=near.shape)


def products_of_near(
    one: NDArray[np.float32], other: NDArray[np.float32], near: scipy.sparse.csr_array
) -> scipy.sparse.csr_array:
    """Multiply the series of vertices with those of the vertices near them.

    Parameters
    ----------
    one, other : ndarray of shape (n_vertices, n_timepoints)
        Series.
    near : csr_array of shape (n_vertices, n_vertices)
        Its entries say which.

    Returns
    -------
    csr_array of shape (n_vertices, n_vertices)
        With the entries of `near`: row i of one times row j of the other.
    """
    from trend_dagster.science._sparse import sampled_product  # numba loads slowly

    products = np.empty(near.nnz, dtype=np.float32)

    def rows(start: int, stop: int) -> None:
        part = near.indptr[start : stop + 1]
        sampled_product(part, near.indices, one[start:stop], other, products)

    _by_rows(near, one.shape[1], rows)
    return scipy.sparse.csr_array((products, near.indices, near.indptr), shape=near.shape)


def _by_rows(
    near: scipy.sparse.csr_array, work_of_entry: int, rows: Callable[[int, int], None]
) -> None:
    """Make some rows after the other, or large products on all cores."""
    n_parts = min(usable_cores(), 1 + near.nnz * work_of_entry // _WORTH_A_THREAD)
    if n_parts == 1:
        return rows(0, near.shape[0])
    # Of as many entries each.
    ends = np.searchsorted(near.indptr, np.linspace(0, near.nnz, 4 * n_parts + 1)).tolist()
    ends[0], ends[-1] = 0, near.shape[0]
    with ThreadPoolExecutor(n_parts) as pool:
        list(pool.map(rows, ends[:-1], ends[1:]))
