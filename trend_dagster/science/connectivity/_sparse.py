"""Products with sparse matrices, compiled: scipy's use one core, and hold Python's lock."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

# Sums may be reordered and fused, but NaN and infinity keep their meaning.
_FASTMATH = {"contract", "reassoc", "nsz"}
_COLUMNS = 256


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def multiply_rows(
    indptr: NDArray[Any],
    indices: NDArray[Any],
    data: NDArray[Any],
    dense: NDArray[Any],
    out: NDArray[Any],
    begin: int,
    end: int,
) -> None:
    """Write rows ``begin:end`` of a sparse matrix (CSR) times a dense one into ``out``."""
    n_columns = dense.shape[1]
    total = np.empty(_COLUMNS, dense.dtype)
    for low in range(0, n_columns, _COLUMNS):
        width = min(_COLUMNS, n_columns - low)
        for row in range(begin, end):
            for c in range(width):
                total[c] = 0
            for place in range(indptr[row], indptr[row + 1]):
                weight, source = data[place], indices[place]
                for c in range(width):
                    total[c] += weight * dense[source, low + c]
            for c in range(width):
                out[row, low + c] = total[c]


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
