"""Products with sparse matrices of what is near what, compiled: they let go of Python's lock."""

from __future__ import annotations

from typing import Any

import numba
from numpy.typing import NDArray


@numba.njit(nogil=True, cache=True)
def times_dense(
    indptr: NDArray[Any],
    indices: NDArray[Any],
    data: NDArray[Any],
    dense: NDArray[Any],
    product: NDArray[Any],
) -> None:
    """Add a sparse matrix (CSR) times a dense one to a product, both in rows.

    Sums are taken in the order of the entries and not fused, so that SciPy's product is the same
    to the last bit.
    """
    for row in range(len(indptr) - 1):
        for place in range(indptr[row], indptr[row + 1]):
            weight, other = data[place], indices[place]
            for column in range(dense.shape[1]):
                product[row, column] += weight * dense[other, column]


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
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
