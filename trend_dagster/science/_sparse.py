"""Products with sparse matrices, compiled: unlike SciPy's they let go of Python's lock."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
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


LANES = 8
"""Numbers in single precision that are worked on at once."""

MOST_VECTORS = 4
"""Vectors of so many numbers that the sums of a row may fill: they stay in registers."""


def _write_sum_of_rows(
    _: Any,
    indices: Any,
    data: Any,
    dense: Any,
    product: Any,
    row: Any,
    begin: Any,
    end: Any,
    n_vectors: Any,
) -> Any:
    """Write the code that puts the weighted sum of rows of ``dense`` into a row of ``product``.

    ``data[begin:end]`` are the weights, ``indices[begin:end]`` say which rows.
    """
    arrays = data, dense, product
    if not isinstance(n_vectors, types.IntegerLiteral) or any(
        array.dtype != types.float32 or array.layout != "C" for array in arrays
    ):
        return None  # numba says which types do not fit
    n, width = n_vectors.literal_value, n_vectors.literal_value * LANES
    signature = types.void(indices, data, dense, product, row, begin, end, n_vectors)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointers = [
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(signature.args[:4], arguments[:4], strict=True)
        ]
        indices, data, dense, product = pointers
        row, begin, end = arguments[4:7]
        vector, long = ir.VectorType(ir.FloatType(), LANES), ir.IntType(64)
        zeros = ir.Constant(vector, [0.0] * LANES)

        def of_row(array: Any, number: Any) -> list[Any]:
            start = builder.gep(array, [builder.mul(number, ir.Constant(long, width))])
            start = builder.bitcast(start, vector.as_pointer())
            return [builder.gep(start, [ir.Constant(long, i)]) for i in range(n)]

        sums = [cgutils.alloca_once(builder, vector) for _ in range(n)]
        for total in sums:
            builder.store(zeros, total)
        with cgutils.for_range_slice(builder, begin, end, ir.Constant(long, 1)) as (place, _):
            weight = builder.load(builder.gep(data, [place]))
            lane = builder.insert_element(zeros, weight, ir.Constant(ir.IntType(32), 0))
            weights = builder.shuffle_vector(
                lane, zeros, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            )
            other = builder.load(builder.gep(indices, [place]))
            other = context.cast(builder, other, signature.args[0].dtype, types.int64)
            for total, address in zip(sums, of_row(dense, other), strict=True):
                numbers = builder.load(address)
                numbers.align = 4  # numpy promises no more
                part = builder.fmul(weights, numbers, flags=("contract",))
                builder.store(builder.fadd(builder.load(total), part, flags=("contract",)), total)
        for total, address in zip(sums, of_row(product, row), strict=True):
            builder.store(builder.load(total), address).align = 4
        return context.get_dummy_value()

    return signature, generate


_sum_of_rows: Any = intrinsic(prefer_literal=True)(_write_sum_of_rows)


@numba.njit(nogil=True, cache=True)
def times_narrow(
    indptr: NDArray[Any],
    indices: NDArray[Any],
    data: NDArray[Any],
    dense: NDArray[Any],
    product: NDArray[Any],
) -> None:
    """Multiply a sparse matrix (CSR) with a dense one of `LANES` to 32 columns, both in rows.

    All numbers are float32, and the columns a multiple of `LANES`. The compiler finds no vectors in
    so short a loop over columns, so they are written out.
    """
    n_vectors = dense.shape[1] // LANES
    for row in range(len(indptr) - 1):
        begin, end = np.int64(indptr[row]), np.int64(indptr[row + 1])
        if n_vectors == 1:
            _sum_of_rows(indices, data, dense, product, row, begin, end, 1)
        elif n_vectors == 2:
            _sum_of_rows(indices, data, dense, product, row, begin, end, 2)
        elif n_vectors == 3:
            _sum_of_rows(indices, data, dense, product, row, begin, end, 3)
        elif n_vectors == 4:
            _sum_of_rows(indices, data, dense, product, row, begin, end, 4)
        else:
            raise ValueError("so many columns are not narrow")


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
