"""A product of sparse matrices that goes straight into a dense one, compiled."""

from __future__ import annotations

from typing import Any

import numba
from numpy.typing import NDArray

# Sums may be reordered and fused, but NaN and infinity keep their meaning.
_FASTMATH = {"contract", "reassoc", "nsz"}


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
