"""Euclidean distances between points, compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_CHUNK = 64


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def distances(columns: NDArray[Any], a: int, b: int, out: NDArray[Any]) -> None:
    """Write the distances between points ``a, a + 1, ...`` and ``b, b + 1, ...`` into a tile.

    Differences are squared and summed one by one: the shorter way over inner products would
    lose the small distances between similar points in float32.

    Parameters
    ----------
    columns : ndarray of shape (n_features, n)
        Points, one per column.
    a, b : int
        First point of the rows and of the columns of the tile.
    out : ndarray of shape (height, width)
        Receives the distances.
    """
    zero = columns.dtype.type(0)
    total = np.empty(_CHUNK, columns.dtype)
    for i in range(out.shape[0]):
        for low in range(0, out.shape[1], _CHUNK):
            width = min(_CHUNK, out.shape[1] - low)
            for j in range(width):
                total[j] = zero
            for r in range(columns.shape[0]):
                x = columns[r, a + i]
                for j in range(width):
                    difference = columns[r, b + low + j] - x
                    total[j] += difference * difference
            for j in range(width):
                out[i, low + j] = np.sqrt(total[j])
