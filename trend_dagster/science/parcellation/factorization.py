"""Regularised non-negative factorisation of a block matrix.

The order is that of the mathematics: the objective and its penalties, the starting values from
the leading eigenpairs, one sweep of coordinate descent, the solve, the public functions.

Minimised is, for X of shape (n, n) and W of shape (n, k), H of shape (k, n),

    1/2 |X - W H|^2 + l1 (|W|_1 + |H|_1) + l2 / 2 (|W|^2 + |H|^2),

by coordinate descent in the order of scikit-learn, with its penalties and its stop rule. What is
gained comes from the blocks and from sharing: see docs/method-engine.md.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy  # loads a part of its own when it is first asked for
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from trend_dagster.errors import FactorizationError
from trend_dagster.science._device import torch_device
from trend_dagster.science.connectivity.thresholding import BlockMatrix, FloatArray, IntArray
from trend_dagster.science.parcellation._compressed import Compressed, compress
from trend_dagster.science.parcellation._hals_torch import TorchLockstep
from trend_dagster.science.parcellation.graph_factorization import Graph, solve_smooth
from trend_dagster.science.parcellation.settings import (
    DENSE_UP_TO,
    FactorizationConfig,
    Problem,
)

Factors = tuple[FloatArray, FloatArray]
Solved = tuple[int, FloatArray, FloatArray, int, bool]
"""Index of a problem, W transposed and H in block order, sweeps, and whether they converged."""

_NNDSVD_EPS = 1e-6
_TIE = 1e-6

MOST_WITHOUT_X = 20
"""Most sweeps without X once its solution is near: one with X costs many times as much."""


@dataclass(frozen=True, eq=False)
class Factorization:
    """One solved factorisation over all vertices.

    Parameters
    ----------
    n_components : int
        Columns of W.
    alpha_W, l1_ratio : float
        The penalty asked for.
    W : ndarray of shape (n_vertices, n_components)
        Loadings; rows of vertices without signal are zero.
    H : ndarray of shape (n_components, n_vertices)
        The other factor.
    n_iter : int
        Sweeps done.
    objective : float
        Value of the objective, penalties included.
    converged : bool
        Whether the stop rule was met within max_iter.
    seconds : float
        Wall time from the start of the solve to the end of this factorisation; where many are
        solved in lockstep, the time is shared.
    """

    n_components: int
    alpha_W: float
    l1_ratio: float
    W: FloatArray
    H: FloatArray
    n_iter: int
    objective: float
    converged: bool
    seconds: float


# --- Objective -------------------------------------------------------------------------------


def penalties(
    matrix: BlockMatrix, alpha_W: float, l1_ratio: float, penalty: str = "absolute"
) -> tuple[float, float]:
    """Return the weights l1 and l2 of the elastic net.

    Parameters
    ----------
    matrix : BlockMatrix
        The matrix to be factorised.
    alpha_W, l1_ratio : float
        As in scikit-learn's NMF, for W and H alike.
    penalty : {"absolute", "scaled"}
        'absolute': alpha_W times the number of vertices with signal, as scikit-learn. 'scaled':
        alpha_W times the mean row sum of the matrix in place of that number, and l1 further times
        the square root of the typical entry, sum(X^2) / sum(X). Then c X has the solution of X
        times sqrt(c), and splitting a matrix into more labels does not tighten the penalty.

    Returns
    -------
    tuple of float
        l1 and l2.
    """
    size, strength = float(matrix.n_kept), 1.0
    if penalty == "scaled":
        total = matrix.sum()
        size = total / max(matrix.n_kept, 1)
        strength = matrix.squared_norm() / total if total > 0 else 0.0
    return alpha_W * l1_ratio * size * strength**0.5, alpha_W * (1 - l1_ratio) * size


def objective(matrix: BlockMatrix, W: FloatArray, H: FloatArray, l1: float, l2: float) -> float:
    """Return 1/2 |X - W H|^2 and the elastic net, in float64.

    Parameters
    ----------
    matrix : BlockMatrix
        X.
    W : ndarray of shape (n_vertices, n_components)
        Loadings.
    H : ndarray of shape (n_components, n_vertices)
        The other factor.
    l1, l2 : float
        From `penalties`.

    Returns
    -------
    float
    """
    rows = matrix.permutation
    left, right = W[rows].astype(np.float64).T, H[:, rows].astype(np.float64)
    cross = float((matrix.multiply_blocks(W[rows]).astype(np.float64) * right.T).sum())
    # |X - W H|^2 without forming W H, which has V^2 entries.
    gram_w, gram_h = left @ left.T, right @ right.T
    fit = matrix.squared_norm() - 2 * cross + float((gram_w * gram_h).sum())
    ridge = float(np.trace(gram_w) + np.trace(gram_h))
    return 0.5 * fit + l1 * float(left.sum() + right.sum()) + 0.5 * l2 * ridge


# --- Starting values -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """The leading eigenpairs of a block matrix, each of them living in one block.

    Parameters
    ----------
    values : ndarray of shape (n_pairs,)
        Descending by absolute value; the positive one first among equals, then the block with
        the smaller first vertex.
    vectors : tuple of ndarray of shape (n_l,)
        Of length 1, oriented so that the positive part is the longer one.
    block : ndarray of shape (n_pairs,)
        The block of each pair.
    """

    values: FloatArray
    vectors: tuple[FloatArray, ...]
    block: IntArray


def leading_eigenpairs(
    matrix: BlockMatrix,
    n_pairs: int,
    pool: Executor | None = None,
    known: Sequence[Compressed | None] | None = None,
) -> Eigenpairs:
    """Return the eigenpairs of largest absolute value.

    The spectrum of a block diagonal matrix is that of its blocks together, so that each block is
    decomposed alone: densely, or by Lanczos iterations where a block is large.

    Parameters
    ----------
    matrix : BlockMatrix
        Symmetric.
    n_pairs : int
        How many; fewer are returned where the matrix has fewer rows.
    pool : concurrent.futures.Executor, optional
        Threads to share blocks among.
    known : sequence of Compressed or None, optional
        What stands for each block; where it has as many pairs, they are taken.

    Returns
    -------
    Eigenpairs
    """
    run = map if pool is None else pool.map
    known = known or [None] * len(matrix.blocks)
    found = list(
        run(lambda block, thin: _block_eigenpairs(block, thin, n_pairs), matrix.blocks, known)
    )
    first_vertex = [int(members[0]) for members in matrix.members()]
    candidates = [
        (float(value), b, vectors[:, j])
        for b, (values, vectors) in enumerate(found)
        for j, value in enumerate(values)
    ]
    candidates.sort(key=lambda c: -abs(c[0]))
    chosen = _settle_ties(candidates, first_vertex)[:n_pairs]
    return Eigenpairs(
        values=np.array([value for value, _, _ in chosen]),
        vectors=tuple(_orient(vector) for _, _, vector in chosen),
        block=np.array([b for _, b, _ in chosen], dtype=np.int64),
    )


def _block_eigenpairs(
    block: FloatArray, known: Compressed | None, n_pairs: int
) -> tuple[FloatArray, FloatArray]:
    if known is not None and len(known.values) >= n_pairs:
        return known.values[:n_pairs], known.vectors[:, :n_pairs]
    if len(block) <= max(DENSE_UP_TO * n_pairs, 2):
        values, vectors = scipy.linalg.eigh(block, check_finite=False)
    else:
        values, vectors = _lanczos(block, n_pairs)
    order = np.argsort(-np.abs(values), kind="stable")[:n_pairs]
    return values[order], vectors[:, order]


def _lanczos(block: FloatArray, n_pairs: int) -> tuple[FloatArray, FloatArray]:
    # A fixed start makes the result reproducible.
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    start = np.random.default_rng(0).random(len(block)).astype(block.dtype)
    operator = LinearOperator(block.shape, matvec=lambda v: block @ v, dtype=block.dtype)
    try:
        values, vectors = eigsh(operator, k=n_pairs, which="LM", v0=start)
    except ArpackError:
        # A label of zeros, or more equal eigenvalues than the iteration can tell apart.
        values, vectors = scipy.linalg.eigh(block, check_finite=False)
    return values, vectors


def _settle_ties(
    candidates: list[tuple[float, int, FloatArray]], first_vertex: Sequence[int]
) -> list[tuple[float, int, FloatArray]]:
    """Order equal absolute values by sign, then by the first vertex of their block."""
    limit = _TIE * abs(candidates[0][0]) if candidates else 0.0
    settled: list[tuple[float, int, FloatArray]] = []
    group: list[tuple[float, int, FloatArray]] = []
    for candidate in candidates:
        if group and abs(group[-1][0]) - abs(candidate[0]) > limit:
            settled += sorted(group, key=lambda c: (c[0] < 0, first_vertex[c[1]]))
            group = []
        group.append(candidate)
    return settled + sorted(group, key=lambda c: (c[0] < 0, first_vertex[c[1]]))


def _orient(vector: FloatArray) -> FloatArray:
    """Let the longer of the two one-signed parts be positive; the largest entry if equal."""
    positive = float(np.square(np.maximum(vector, 0), dtype=np.float64).sum())
    negative = float(np.square(np.minimum(vector, 0), dtype=np.float64).sum())
    if abs(positive - negative) <= _TIE * (positive + negative):
        return vector if vector[np.argmax(np.abs(vector))] >= 0 else -vector
    return vector if positive > negative else -vector


def nndsvda(
    matrix: BlockMatrix, eigenpairs: Eigenpairs, n_components: int
) -> tuple[FloatArray, FloatArray]:
    """Return the NNDSVDa starting values, in block order.

    Parameters
    ----------
    matrix : BlockMatrix
        X.
    eigenpairs : Eigenpairs
        At least n_components of them, or all that the matrix has.
    n_components : int
        Components wanted.

    Returns
    -------
    tuple of ndarray of shape (n_components, n_kept)
        W transposed, and H. The start of fewer components is the beginning of these rows.

    Notes
    -----
    Boutsidis and Gallopoulos, doi:10.1016/j.patcog.2007.09.010. For a symmetric matrix the left
    and right singular vectors are u and sign(lambda) u. With u oriented so that its positive
    part p is longer than its negative part m, W takes p; H takes p where the eigenvalue is
    positive and m where it is negative (where the paper's choice is a tie).
    """
    Wt = np.zeros((n_components, matrix.n_kept), dtype=matrix.dtype)
    H = np.zeros_like(Wt)
    rows = list(matrix.slices())
    for j, (value, u) in enumerate(zip(eigenpairs.values, eigenpairs.vectors, strict=True)):
        if j == n_components:
            break
        # The leading pair of a non-negative matrix is of one sign.
        left = np.abs(u) if j == 0 else np.maximum(u, 0)
        right = left if j == 0 or value > 0 else np.maximum(-u, 0)
        lengths = float(np.linalg.norm(left)), float(np.linalg.norm(right))
        if min(lengths) == 0:
            continue
        scale = np.sqrt(abs(float(value)) * lengths[0] * lengths[1])
        Wt[j, rows[eigenpairs.block[j]]] = scale / lengths[0] * left
        H[j, rows[eigenpairs.block[j]]] = scale / lengths[1] * right
    mean = matrix.mean()
    for start in (Wt, H):
        start[start < _NNDSVD_EPS] = mean
    return Wt, H


# --- One sweep -------------------------------------------------------------------------------


@dataclass(eq=False)
class _Block:
    """The living rows of W and H of all factorisations within one block of X."""

    X: FloatArray
    W: FloatArray  # (n_rows, n_l)
    H: FloatArray  # (n_rows, n_l)
    problem: IntArray  # (n_rows,) the factorisation of each row, ascending
    component: IntArray  # (n_rows,) its component there
    thin: Compressed | None  # stands for X in the sweeps that can do without it
    # What H times X, and W times X, had beyond the products with `thin` when X was last asked.
    lack: tuple[_Lack, _Lack] | None = None

    def __post_init__(self) -> None:
        self.problems, first = np.unique(self.problem, return_index=True)
        self.starts = np.append(first, len(self.problem))

    def keep(self, rows: NDArray[np.bool_]) -> _Block:
        return replace(
            self,
            W=self.W[rows],
            H=self.H[rows],
            problem=self.problem[rows],
            component=self.component[rows],
            lack=None if self.lack is None else (self.lack[0].keep(rows), self.lack[1].keep(rows)),
        )

    def onto_vectors(self, *, exact: bool, update_W: bool) -> FloatArray | None:
        """Take the factor that stays onto the vectors of `thin`, where a product asks for it."""
        other = self.H if update_W else self.W
        if self.thin is None or (exact and self.lack is None):
            return None
        if self.lack is not None:
            lack = self.lack[0 if update_W else 1]
            lack.know(other) if exact else lack.fit(other)
        return np.asarray(other @ self.thin.vectors)

    def product(
        self, onto: FloatArray | None, begin: int, end: int, *, exact: bool, update_W: bool
    ) -> FloatArray:
        """Multiply the factor that stays with columns of X, or with what stands for X.

        ``onto`` is that factor on the vectors of `thin`, where that is used.
        """
        other = self.H if update_W else self.W
        if onto is None or self.thin is None:
            return np.asarray(other @ self.X[:, begin:end])
        nearly = np.asarray(onto @ self.thin.rows[:, begin:end])
        if self.lack is None:
            return nearly
        lack = self.lack[0 if update_W else 1]
        if not exact:
            return nearly + lack.share * lack.product[:, begin:end]
        product = np.asarray(other @ self.X[:, begin:end])
        np.subtract(product, nearly, out=lack.product[:, begin:end])
        return product


@dataclass(eq=False)
class _Lack:
    """What products of a factor with X have beyond those with what stands for X.

    It is linear in the factor: a row that has become c times as long lacks c times as much. Kept as
    it was it would lead a factor that shrinks away, up to where all of it is zero.
    """

    product: FloatArray  # (n_rows, n_l)
    factor: FloatArray  # (n_rows, n_l) for which it was computed
    share: FloatArray  # (n_rows, 1) how much of each row of that is in the factor of today

    @classmethod
    def unknown(cls, factor: FloatArray) -> _Lack:
        zeros = np.zeros_like(factor)
        return cls(zeros, factor, np.zeros((len(factor), 1), factor.dtype))

    def keep(self, rows: NDArray[np.bool_]) -> _Lack:
        return _Lack(self.product[rows], self.factor[rows], self.share[rows])

    def know(self, factor: FloatArray) -> None:
        """Take this factor as that for which the product is about to be computed."""
        self.factor = factor.copy()

    def fit(self, factor: FloatArray) -> None:
        """Find how much of each row is in a factor, by least squares."""
        both = np.einsum("ij,ij->i", factor, self.factor)[:, None]
        own = np.einsum("ij,ij->i", self.factor, self.factor)[:, None]
        self.share = np.divide(both, own, out=np.zeros_like(both), where=own > 0)


UPHILL = 1e-5
"""By how much of <X, W H> the objective may rise between two sweeps with X, for rounding."""

Tile = tuple[int, int, int]
"""A block and a range of its vertices: the unit of work of one thread."""


class _Lockstep:
    """Many factorisations of one block matrix, advanced together sweep by sweep.

    A product with X costs the same whether its columns belong to one factorisation or to many,
    and wide ones run at the full speed of the machine. A component whose rows of W and H are
    zero all over a block stays so (its gradient there is not negative), and is left out of that
    block from then on: nothing that happens differs from the full computation.
    """

    def __init__(
        self,
        matrix: BlockMatrix,
        starts: Sequence[tuple[FloatArray, FloatArray]],
        penalty: Sequence[tuple[float, float]],
        pool: Executor,
        n_threads: int,
        thin: Sequence[Compressed | None] | None = None,
    ) -> None:
        self.matrix = matrix
        self.pool = pool
        self.exact = True  # whether a sweep is with X itself
        self.near = False  # whether what products with its stand-in lack is known, and added
        self.watched = any(thin or [])  # whether sweeps may lead uphill
        self.least = np.full(len(starts), np.inf)  # objective after the last sweep with X
        dtype = matrix.dtype
        self.l1 = np.array([l1 for l1, _ in penalty], dtype=dtype)
        self.l2 = np.array([l2 for _, l2 in penalty], dtype=dtype)
        sizes = [len(Wt) for Wt, _ in starts]
        self.k_max = max(sizes)
        problem = np.repeat(np.arange(len(sizes)), sizes)
        component = np.concatenate([np.arange(size) for size in sizes])
        self.sizes = sizes
        self.blocks = []
        thin = thin or [None] * len(matrix.blocks)
        for X, stand_in, rows in zip(matrix.blocks, thin, matrix.slices(), strict=True):
            W = np.concatenate([Wt[:, rows] for Wt, _ in starts])
            H = np.concatenate([Ht[:, rows] for _, Ht in starts])
            self.blocks.append(_Block(X, W, H, problem, component, stand_in))
        self.shares = _share_tiles(matrix.block_sizes, n_threads)
        self.gram_H = self._initial_grams()

    def _initial_grams(self) -> FloatArray:
        grams = np.zeros((len(self.sizes), self.k_max, self.k_max))
        for block in self.blocks:
            for c, first, last in zip(
                block.problems, block.starts[:-1], block.starts[1:], strict=True
            ):
                H = block.H[first:last].astype(np.float64)
                grams[c, : last - first, : last - first] += H @ H.T
        return grams.astype(self.matrix.dtype)

    def sweep(self) -> FloatArray:
        """Update W, then H; return the violation of each factorisation."""
        for block in self.blocks:
            if self.near and block.thin is not None and block.lack is None:
                block.lack = _Lack.unknown(block.H), _Lack.unknown(block.W)
        self.value, self.fit = np.zeros((2, len(self.sizes)))
        gram_W, violation_W, alive_W = self._half(self.gram_H, update_W=True)
        self.gram_H, violation_H, alive_H = self._half(gram_W, update_W=False)
        self._drop([w | h for w, h in zip(alive_W, alive_H, strict=True)])
        return violation_W + violation_H

    def _half(
        self, other_gram: FloatArray, *, update_W: bool
    ) -> tuple[FloatArray, FloatArray, list[NDArray[np.bool_]]]:
        from trend_dagster.science.parcellation._hals import add_grams

        def onto_vectors(block: _Block) -> FloatArray | None:
            return block.onto_vectors(exact=self.exact, update_W=update_W)

        thin = list(self.pool.map(onto_vectors, self.blocks))

        def work(tiles: list[Tile]) -> list[Any]:
            return [self._update(tile, other_gram, thin, update_W=update_W) for tile in tiles]

        parts = [part for share in self.pool.map(work, self.shares) for part in share]
        grams = np.zeros(other_gram.shape)
        violation = np.zeros(len(self.sizes))
        alive = [np.zeros(len(block.W), dtype=bool) for block in self.blocks]
        # Always added in the order of the tiles: the result does not depend on the threads.
        for b, gram, part_violation, part_alive, part_value in parts:
            block = self.blocks[b]
            add_grams(grams, gram, block.component, block.problems, block.starts)
            violation += part_violation
            alive[b] |= part_alive
            self.value += part_value[0]
            self.fit += part_value[1]
        return grams.astype(other_gram.dtype), violation, alive

    def _update(
        self,
        tile: Tile,
        other_gram: FloatArray,
        thin: Sequence[FloatArray | None],
        *,
        update_W: bool,
    ) -> tuple[int, FloatArray, FloatArray, NDArray[np.bool_], FloatArray]:
        from trend_dagster.science.parcellation._hals import half_sweep

        b, begin, end = tile
        block = self.blocks[b]
        factor = block.W if update_W else block.H
        product = block.product(thin[b], begin, end, exact=self.exact, update_W=update_W)
        counts = np.diff(block.starts)
        gram = np.zeros(int((counts**2).sum()), dtype=factor.dtype)
        violation = np.zeros(len(self.sizes))
        alive = np.zeros(len(factor), dtype=np.bool_)
        half_sweep(
            factor, product, other_gram, block.component, block.problems, block.starts,
            self.l1, self.l2, begin, end, gram, violation, alive,
        )  # fmt: skip
        value = np.zeros((2, len(self.sizes)))
        if self.watched and self.exact and not update_W:
            value[:, block.problems] = self._objective(block, product, other_gram, begin, end)
        return b, gram, violation, alive, value

    def _objective(
        self, block: _Block, product: FloatArray, gram_W: FloatArray, begin: int, end: int
    ) -> FloatArray:
        """What a tile adds to the objective of each, less 1/2 |X|^2, and to <X, W H> in it."""
        found = np.zeros((2, len(block.problems)))
        for i, (c, first, last) in enumerate(
            zip(block.problems, block.starts[:-1], block.starts[1:], strict=True)
        ):
            rows, tile = block.component[first:last], slice(begin, end)
            W, H = block.W[first:last, tile], block.H[first:last, tile]
            fit = float((H * product[first:last]).sum(dtype=np.float64))
            size = float((H * (gram_W[c][np.ix_(rows, rows)] @ H)).sum(dtype=np.float64)) / 2
            penalty = self.l1[c] * (W.sum() + H.sum())
            penalty += self.l2[c] / 2 * (np.square(W).sum() + np.square(H).sum())
            found[:, i] = size - fit + penalty, fit
        return found

    def _drop(self, alive: Sequence[NDArray[np.bool_]]) -> None:
        """Leave out rows that can never move again."""
        for b, rows in enumerate(alive):
            # Copying what stays costs time, too: wait until a tenth is dead.
            if np.count_nonzero(rows) < 0.9 * len(rows):
                self.blocks[b] = self.blocks[b].keep(rows)

    def led_uphill(self, running: Sequence[int]) -> bool:
        """Say whether the objective rose since the last sweep with X; keep the factors if not."""
        value, least = self.value[running], self.least[running]
        collapsed = (value == 0) & (least < np.inf) & (least != 0)  # from zero nothing returns
        if collapsed.any() or not (value <= least + UPHILL * self.fit[running]).all():
            return True
        own = [replace(b, W=b.W.copy(), H=b.H.copy(), thin=None, lack=None) for b in self.blocks]
        self.least, self.in_mind = self.value, (own, self.gram_H)
        return False

    def go_back(self, running: Sequence[int]) -> None:
        """Take the factors that were kept, and go on with X itself."""
        kept, self.gram_H = self.in_mind
        self.blocks = [block.keep(np.isin(block.problem, running)) for block in kept]
        self.watched = False

    def take(self, problem: int) -> tuple[FloatArray, FloatArray]:
        """Return W transposed and H of one factorisation, in block order, and let go of it."""
        Wt = np.zeros((self.sizes[problem], self.matrix.n_kept), dtype=self.matrix.dtype)
        H = np.zeros_like(Wt)
        for b, vertices in enumerate(self.matrix.slices()):
            block = self.blocks[b]
            mine = block.problem == problem
            Wt[block.component[mine], vertices] = block.W[mine]
            H[block.component[mine], vertices] = block.H[mine]
            self.blocks[b] = block.keep(~mine)
        return Wt, H


def _share_tiles(block_sizes: IntArray, n_threads: int, width: int = 512) -> list[list[Tile]]:
    """Cut blocks into tiles and deal them to threads so that each has as much work."""
    tiles = [
        (size * (min(begin + width, size) - begin), (b, begin, min(begin + width, size)))
        for b, size in enumerate(block_sizes.tolist())
        for begin in range(0, size, width)
    ]
    shares: list[list[Tile]] = [[] for _ in range(n_threads)]
    load = [0] * n_threads
    for cost, tile in sorted(tiles, key=lambda t: -t[0]):
        lightest = load.index(min(load))
        shares[lightest].append(tile)
        load[lightest] += cost
    return [share for share in shares if share]


# --- The solve -------------------------------------------------------------------------------


def _solve_block(
    matrix: BlockMatrix,
    starts: Sequence[Factors],
    weights: Sequence[tuple[float, float]],
    config: FactorizationConfig,
    pool: Executor,
    n_threads: int,
    thin: Sequence[Compressed | None],
) -> Iterator[Solved]:
    """Solve all problems in lockstep; yield each as it finishes."""
    state: _Lockstep | TorchLockstep
    if config.device == "cpu":
        state = _Lockstep(matrix, starts, weights, pool, n_threads, thin)
    else:
        state = TorchLockstep(matrix, starts, weights, config.device)
    running = list(range(len(starts)))
    initial: FloatArray = np.zeros(len(starts))
    plain = not any(thin)
    # First the scale of the stop rule is taken with X; then sweeps go with what stands for X until
    # all are quiet. From there on a sweep with X tells what products with the stand-in lack, and
    # the next ones add that: it hardly changes, so that they lead on to the solution for X itself.
    # Should they have led uphill, X leads on from where the sweep with it before them ended.
    near, with_X, since = plain, True, 0
    for n_iter in range(1, config.max_iter + 1):
        state.near, state.exact = near, plain or with_X or n_iter == config.max_iter
        violation = state.sweep()
        if n_iter == 1:
            initial = violation
        if not plain and isinstance(state, _Lockstep) and state.exact and state.led_uphill(running):
            state.go_back(running)
            near = plain = True
            continue
        small = violation <= config.tol * initial
        quiet = bool(small[running].all())
        if near and state.exact:  # nothing else tells that a factorisation has converged
            finished = [c for c in running if small[c]]
            for problem in finished:
                yield problem, *state.take(problem), n_iter, True
            running = [c for c in running if c not in finished]
            if not running:
                break
        since = 0 if state.exact else since + 1
        with_X = quiet or (since == MOST_WITHOUT_X if near else 2 * n_iter >= config.max_iter)
        near |= with_X  # half way at last: rounding may keep the stand-in from ever being quiet
    for problem in running:
        yield problem, *state.take(problem), config.max_iter, False


def _solve_graph(
    matrix: BlockMatrix,
    starts: Sequence[Factors],
    weights: Sequence[tuple[float, float]],
    config: FactorizationConfig,
    graph: Graph,
    pool: Executor,
) -> Iterator[Solved]:
    """Solve each problem with smooth loadings; a graph joins blocks, so there is no lockstep."""

    def solve(index: int) -> Solved:
        l1, l2 = weights[index]
        found = solve_smooth(matrix, starts[index], graph, l1, l2, config.tol, config.max_iter)
        return index, *found

    yield from pool.map(solve, range(len(starts)))


def _solve_sklearn(
    matrix: BlockMatrix,
    problems: Sequence[Problem],
    starts: Sequence[Factors] | None,
    weights: Sequence[tuple[float, float]],
    config: FactorizationConfig,
) -> Iterator[Solved]:
    """Solve each problem with scikit-learn on the dense matrix, its vertices ascending."""
    from sklearn.decomposition import non_negative_factorization
    from sklearn.exceptions import ConvergenceWarning

    ascending = np.argsort(matrix.permutation)
    in_blocks, kept = np.argsort(ascending), matrix.permutation[ascending]
    X = matrix.to_dense()[np.ix_(kept, kept)]
    for index, (problem, (l1, l2)) in enumerate(zip(problems, weights, strict=True)):
        start: dict[str, Any] = {"init": "nndsvda"}
        if starts is not None:
            Wt, H = (np.ascontiguousarray(factor[:, ascending]) for factor in starts[index])
            start = {"init": "custom", "W": np.ascontiguousarray(Wt.T), "H": H}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            W, H, n_iter = non_negative_factorization(
                X,
                n_components=problem.n_components,
                solver="cd",
                alpha_W=(l1 + l2) / matrix.n_kept,
                l1_ratio=l1 / (l1 + l2) if l1 + l2 else 0.0,
                tol=config.tol,
                max_iter=config.max_iter,
                random_state=config.random_state,
                **start,
            )
        converged = not any(w.category is ConvergenceWarning for w in caught)
        yield index, W.T[:, in_blocks], H[:, in_blocks], int(n_iter), converged


# --- Public ----------------------------------------------------------------------------------


def factorize_many(
    matrix: BlockMatrix,
    problems: Sequence[Problem],
    config: FactorizationConfig | None = None,
    *,
    starts: Sequence[Factors] | None = None,
    graph: Any = None,
    n_threads: int = 1,
    pool: Executor | None = None,
) -> Iterator[tuple[int, Factorization]]:
    """Factorise one block matrix in many ways at once.

    Parameters
    ----------
    matrix : BlockMatrix
        Non-negative and symmetric.
    problems : sequence of Problem
        Numbers of components and penalties, as in scikit-learn's NMF.
    config : FactorizationConfig, optional
        Solver and stop rule.
    starts : sequence of tuple of ndarray, optional
        W0 and H0 of each problem, over all vertices; NNDSVDa if not given.
    graph : sparse array of shape (n_vertices, n_vertices), optional
        Weights of neighbouring vertices, for smoothness > 0.
    n_threads : int
        Threads in use.
    pool : concurrent.futures.Executor, optional
        Threads to use in place of own ones.

    Yields
    ------
    tuple of int and Factorization
        Index of the problem and its solution, in the order in which they converge.

    Raises
    ------
    FactorizationError
        If there are more components than vertices with signal, the matrix has negative entries,
        a start does not fit, smoothness is asked for without a graph or of solver='sklearn', or
        the device does not exist or does not know the solver.
    """
    config = config or FactorizationConfig()
    _check_problems(matrix, problems, starts)
    _check_solver(config)
    smooth = Graph.of(graph, matrix, config.smoothness) if config.smoothness > 0 else None
    weights = [penalties(matrix, p.alpha_W, p.l1_ratio, config.penalty) for p in problems]
    of_sklearn = config.solver == "sklearn"
    with (
        threadpool_limits(n_threads if of_sklearn else 1),
        nullcontext(pool) if pool is not None else ThreadPoolExecutor(n_threads) as threads,
    ):
        began = time.perf_counter()
        thin = _stand_ins(matrix, problems, config, threads)
        inner: Sequence[Factors] | None = None
        if starts is not None:
            rows, dtype = matrix.permutation, matrix.dtype
            inner = [(W0[rows].T.astype(dtype), H0[:, rows].astype(dtype)) for W0, H0 in starts]
        elif not of_sklearn:
            inner = _common_starts(matrix, [p.n_components for p in problems], threads, thin)
        if inner is None or of_sklearn:
            solved = _solve_sklearn(matrix, problems, inner, weights, config)
        elif smooth is None:
            solved = _solve_block(matrix, inner, weights, config, threads, n_threads, thin)
        else:
            solved = _solve_graph(matrix, inner, weights, config, smooth, threads)
        for found in solved:
            seconds = time.perf_counter() - began
            problem, penalty = problems[found[0]], weights[found[0]]
            yield found[0], _finished(matrix, problem, penalty, smooth, seconds, found)


def _stand_ins(
    matrix: BlockMatrix, problems: Sequence[Problem], config: FactorizationConfig, pool: Executor
) -> list[Compressed | None]:
    """Return what stands for each block in the sweeps that can do without it; None: nothing."""
    plain = config.solver == "block" and config.device == "cpu" and config.smoothness == 0
    above = config.compress_above if plain else None
    most = max((p.n_components for p in problems), default=0)
    return [
        compress(X, most, pool) if above is not None and len(X) > above else None
        for X in matrix.blocks
    ]


def _common_starts(
    matrix: BlockMatrix,
    n_components: Sequence[int],
    pool: Executor,
    known: Sequence[Compressed | None],
) -> list[Factors]:
    """Begin each problem with the first components of one start."""
    most = max(n_components)
    Wt, H = nndsvda(matrix, leading_eigenpairs(matrix, most, pool, known), most)
    return [(Wt[:k], H[:k]) for k in n_components]


def _finished(
    matrix: BlockMatrix,
    problem: Problem,
    penalty: tuple[float, float],
    graph: Graph | None,
    seconds: float,
    solved: Solved,
) -> Factorization:
    """Take factors in block order to all vertices."""
    _, Wt, H, n_iter, converged = solved
    full_W = np.zeros((matrix.n_vertices, len(Wt)), dtype=Wt.dtype)
    full_H = np.zeros((len(H), matrix.n_vertices), dtype=H.dtype)
    full_W[matrix.permutation], full_H[:, matrix.permutation] = Wt.T, H
    value = objective(matrix, full_W, full_H, *penalty)
    value += graph.energy(Wt) if graph is not None else 0.0
    return Factorization(
        problem.n_components, problem.alpha_W, problem.l1_ratio, full_W, full_H,
        n_iter, value, converged, seconds,
    )  # fmt: skip


def too_many_components(n_kept: int, n_components: int) -> FactorizationError | None:
    """Say why a matrix cannot be factorised into so many components; None if it can.

    Parameters
    ----------
    n_kept : int
        Vertices with signal.
    n_components : int
        Components wanted.

    Returns
    -------
    FactorizationError or None
    """
    if 0 < n_components <= n_kept:
        return None
    return FactorizationError(
        "n_components",
        expected=f"between 1 and the {n_kept} vertices with signal",
        found=f"{n_components}",
        remedy="Ask for fewer components, or check the mask of vertices with signal.",
    )


def _check_solver(config: FactorizationConfig) -> None:
    if config.smoothness > 0 and config.solver == "sklearn":
        raise FactorizationError(
            "smoothness",
            expected="0 with solver='sklearn', which knows no such term",
            found=f"{config.smoothness}",
            remedy="Use solver='block'.",
        )
    if config.device == "cpu":
        return
    if config.smoothness > 0 or config.solver == "sklearn":
        raise FactorizationError(
            "device",
            expected="'cpu' for solver='sklearn' and for smoothness > 0",
            found=f"'{config.device}'",
            remedy="Set device to 'cpu'.",
        )
    torch_device(config.device, FactorizationError)


def _check_problems(
    matrix: BlockMatrix,
    problems: Sequence[Problem],
    starts: Sequence[tuple[FloatArray, FloatArray]] | None,
) -> None:
    error = too_many_components(matrix.n_kept, max((p.n_components for p in problems), default=0))
    if error is not None:
        raise error
    lowest = min(float(block.min()) for block in matrix.blocks)
    if not lowest >= 0:
        raise FactorizationError(
            "block matrix",
            expected="numbers that are not negative",
            found=f"{lowest:.3g}",
            remedy="Make it with threshold_by_label, which applies ThresholdConfig.negatives.",
        )
    n = matrix.n_vertices
    for problem, (W0, H0) in zip(problems, starts or [], strict=False):
        shapes = (n, problem.n_components), (problem.n_components, n)
        if (W0.shape, H0.shape) != shapes:
            raise FactorizationError(
                "starting values",
                expected=f"W0 and H0 of shapes {shapes[0]} and {shapes[1]}",
                found=f"{W0.shape} and {H0.shape}",
                remedy="Give both over all vertices, those without signal included.",
            )
