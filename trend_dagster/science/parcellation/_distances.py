"""Sums of distances between points and groups of points, compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def add_distances(
    squared: NDArray[Any], group: NDArray[Any], a: int, b: int, sums: NDArray[Any]
) -> None:
    """Add the distances of one tile to the sums of its rows, and of its columns if off-diagonal.

    Parameters
    ----------
    squared : ndarray of shape (height, width)
        Squared distances between points ``a, a + 1, ...`` and points ``b, b + 1, ...``; rounding
        may have made some negative.
    group : ndarray of shape (n,)
        Group of each point, ascending, so that a group is a range of points.
    a, b : int
        First points of the tile, a <= b.
    sums : ndarray of shape (n, n_groups)
        Receives the sum of distances from each point to each group.
    """
    height, width = squared.shape
    zero = np.float32(0)
    ends = np.empty(width, np.int64)  # where the groups of the columns end
    n_ranges = 0
    for j in range(width):
        if j == width - 1 or group[b + j + 1] != group[b + j]:
            ends[n_ranges] = j + 1
            n_ranges += 1
    row = np.empty(width, np.float32)
    of_columns = np.zeros(width, np.float32)
    for i in range(height):
        for j in range(width):
            row[j] = np.sqrt(max(np.float32(squared[i, j]), zero))
        for j in range(width):
            of_columns[j] += row[j]
        low = 0
        for r in range(n_ranges):
            total = zero
            for j in range(low, ends[r]):
                total += row[j]
            sums[a + i, group[b + low]] += total
            low = ends[r]
        last = i == height - 1 or group[a + i + 1] != group[a + i]
        if last and b > a:
            for j in range(width):
                sums[b + j, group[a + i]] += of_columns[j]
        if last:
            of_columns[:] = zero
