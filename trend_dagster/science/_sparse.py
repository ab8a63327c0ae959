"""Products with sparse matrices, compiled: unlike SciPy's they let go of Python's lock."""

from __future__ import annotations

from typing import Any

import numba
from numpy.typing import NDArray

# Sums may be reordered and fused, but NaN and infinity keep their meaning.
_FASTMATH = {"contract", "reassoc", "nsz"}


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def times_dense(
    indptr: NDArray[Any],
    indices: NDArray[Any],
    data: NDArray[Any],
    dense: NDArray[Any],
    product: NDArray[Any],
) -> None:
    """Add a sparse matrix (CSR) times a dense one to a product, both in rows."""
    for row in range(len(indptr) - 1):
        sums = product[row]
        begin, end = indptr[row], indptr[row + 1]
        # Four at a time: the sums are read and written a quarter as often.
        fours = end - (end - begin) % 4
        for place in range(begin, fours, 4):
            a, b = data[place], data[place + 1]
            c, d = data[place + 2], data[place + 3]
            i, j = indices[place], indices[place + 1]
            k, m = indices[place + 2], indices[place + 3]
            for column in range(dense.shape[1]):
                sums[column] += (a * dense[i, column] + b * dense[j, column]) + (
                    c * dense[k, column] + d * dense[m, column]
                )
        for place in range(fours, end):
            weight, other = data[place], indices[place]
            for column in range(dense.shape[1]):
                sums[column] += weight * dense[other, column]


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def sampled_product(
    indptr: NDArray[Any],
    indices: NDArray[Any],
    one: NDArray[Any],
    other: NDArray[Any],
    product: NDArray[Any],
) -> None:
    """Multiply rows of one matrix with those rows of another that entries (CSR) name."""
    for row in range(len(indptr) - 1):
        for place in range(indptr[row], indptr[row + 1]):
            near = indices[place]
            total = one.dtype.type(0)
            for column in range(one.shape[1]):
                total += one[row, column] * other[near, column]
            product[place] = total


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def subtract_product(
    indptr: NDArray[Any],
    indices: NDArray[Any],
    data: NDArray[Any],
    right_indptr: NDArray[Any],
    right_indices: NDArray[Any],
    right_data: NDArray[Any],
    block: NDArray[Any],
    begin: int,
    end: int,
) -> None:
    """Subtract the product of two sparse matrices (CSR) from a dense one, above the diagonal.

    Rows ``begin:end`` only. Indices of the right matrix ascend within a row.
    """
    for row in range(begin, end):
        for place in range(indptr[row], indptr[row + 1]):
            weight, middle = data[place], indices[place]
            for other in range(right_indptr[middle + 1] - 1, right_indptr[middle] - 1, -1):
                column = right_indices[other]
                if column < row:
                    break
                block[row, column] -= weight * right_data[other]
