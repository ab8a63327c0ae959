"""Products with sparse matrices of what is near what on the cortex."""

from __future__ import annotations

import numpy as np
import scipy  # loads a part of its own when it is first asked for
from numpy.typing import NDArray


def times(near: scipy.sparse.csr_array, values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Multiply a matrix of what is near what with values of vertices.

    SciPy's product would keep Python's lock, and what works side by side would wait.

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
    from trend_dagster.science._sparse import times_dense  # numba loads slowly

    if near.format != "csr" or near.shape[1] != len(values):
        raise ValueError(f"{near.format} of {near.shape} times {len(values)} rows")

    product = np.zeros((near.shape[0], values.shape[1]), dtype=np.float32)
    dense = np.ascontiguousarray(values, dtype=np.float32)
    weights = near.data.astype(np.float32, copy=False)
    times_dense(near.indptr, near.indices, weights, dense, product)
    return product
