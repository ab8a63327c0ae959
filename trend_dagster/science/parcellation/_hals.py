"""The inner loop of the factorisation, compiled.

One half of a coordinate descent sweep, for one tile of vertices of one block and for the rows of
many factorisations at once. Given the Gram matrix of the other factor, vertices are independent
of each other, so that a tile stays in the fastest cache while all components pass over it.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

# Sums may be reordered and fused, but NaN and infinity keep their meaning.
_FASTMATH = {"contract", "reassoc", "nsz"}
_CHUNK = 128


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)
def half_sweep(
    factor: NDArray[Any],
    product: NDArray[Any],
    other_gram: NDArray[Any],
    component: NDArray[Any],
    problems: NDArray[Any],
    starts: NDArray[Any],
    l1: NDArray[Any],
    l2: NDArray[Any],
    begin: int,
    end: int,
    gram: NDArray[Any],
    violation: NDArray[Any],
    alive: NDArray[Any],
) -> None:
    """Update columns ``begin:end`` of one factor in place, component by component.

    Parameters
    ----------
    factor : ndarray of shape (n_rows, n_block)
        Living rows of W (or H) of one block; the rows of one factorisation stand together.
    product : ndarray of shape (n_rows, end - begin)
        Rows of the other factor times the block.
    other_gram : ndarray of shape (n_cells, k_max, k_max)
        Inner products of the other factor's components.
    component : ndarray of shape (n_rows,)
        Component of each row within its factorisation.
    problems, starts : ndarray of shape (n_present,) and (n_present + 1,)
        Factorisations with rows in this block, and where their rows begin and end.
    l1, l2 : ndarray of shape (n_cells,)
        Penalties of each factorisation.
    begin, end : int
        The tile.
    gram : ndarray of shape (sum of squared row counts,)
        Receives the inner products of the updated rows over the tile, factorisation by
        factorisation.
    violation : ndarray of shape (n_cells,)
        Receives the sum of absolute projected gradients.
    alive : ndarray of shape (n_rows,)
        Set to 1 where a row has a positive entry in the tile.
    """
    # Typed constants: a bare 0 or 1 would promote float32 arithmetic to float64.
    zero, one = factor.dtype.type(0), factor.dtype.type(1)
    most = 0
    for c in range(len(problems)):
        most = max(most, starts[c + 1] - starts[c])
    # A chunk of one factorisation lies side by side in the fastest cache, padded with zeros: loops
    # of a fixed length over memory that cannot overlap are what compilers make vectors of.
    rows = np.empty((most, _CHUNK), factor.dtype)
    weights = np.empty((most, most), factor.dtype)
    gradient = np.empty(_CHUNK, factor.dtype)
    for low in range(begin, end, _CHUNK):
        width = min(_CHUNK, end - low)
        offset = 0
        for c in range(len(problems)):
            problem = problems[c]
            first = starts[c]
            n_rows = starts[c + 1] - first
            for row in range(n_rows):
                rows[row, :width] = factor[first + row, low : low + width]
                rows[row, width:] = zero
                for r in range(n_rows):
                    weights[row, r] = other_gram[
                        problem, component[first + row], component[first + r]
                    ]
            total = zero
            for row in range(n_rows):
                for i in range(width):
                    gradient[i] = l1[problem] - product[first + row, low - begin + i]
                for i in range(_CHUNK):
                    gradient[i] += l2[problem] * rows[row, i]
                # Four at a time: the gradient is read and written a quarter as often.
                fours = n_rows - n_rows % 4
                for r in range(0, fours, 4):
                    a, b = weights[row, r], weights[row, r + 1]
                    d, e = weights[row, r + 2], weights[row, r + 3]
                    for i in range(_CHUNK):
                        gradient[i] += (a * rows[r, i] + b * rows[r + 1, i]) + (
                            d * rows[r + 2, i] + e * rows[r + 3, i]
                        )
                for r in range(fours, n_rows):
                    a = weights[row, r]
                    for i in range(_CHUNK):
                        gradient[i] += a * rows[r, i]
                curvature = weights[row, row] + l2[problem]
                step = one / curvature if curvature != 0 else zero
                largest = zero
                for i in range(width):
                    w = rows[row, i]
                    g = gradient[i]
                    total += abs(min(g, zero) if w == 0 else g)
                    w = max(w - g * step, zero)
                    rows[row, i] = w
                    factor[first + row, low + i] = w
                    largest = max(largest, w)
                if largest > 0:
                    alive[first + row] = 1
            violation[problem] += total
            for row in range(n_rows):
                for r in range(row + 1):
                    dot = zero
                    for i in range(_CHUNK):
                        dot += rows[row, i] * rows[r, i]
                    gram[offset + row * n_rows + r] += dot
            offset += n_rows * n_rows


@numba.njit(nogil=True, cache=True)
def add_grams(
    total: NDArray[Any],
    part: NDArray[Any],
    component: NDArray[Any],
    problems: NDArray[Any],
    starts: NDArray[Any],
) -> None:
    """Add what `half_sweep` left in ``gram`` to the Gram matrices of all factorisations."""
    offset = 0
    for c in range(len(problems)):
        first = starts[c]
        n_rows = starts[c + 1] - first
        for row in range(n_rows):
            s = component[first + row]
            for r in range(row + 1):
                t = component[first + r]
                value = part[offset + row * n_rows + r]
                total[problems[c], s, t] += value
                if r != row:
                    total[problems[c], t, s] += value
        offset += n_rows * n_rows
