"""The average correlation of runs, computed from their features where it is asked for.

With Z_r the standardised features of run r and w_r its weight (of sum 1), let
G = sum_r w_r Z_r Z_r^T. Where all runs have all vertices the average correlation C is G. Else a
pair is averaged over the runs that have both of its vertices, and with D the diagonal matrix of
one over the weight of the runs that have a vertex,

    C = D G D - E,

where E is zero but between vertices that some run lacks: with any other vertex, a pair has
the runs of its one vertex. Smoothed by S without the pairs that are near, N, that is

    S (C - N) S^T = (S D Z) (S D Z)^T - S E S^T - S N S^T,

Z being all runs side by side: features are smoothed once, in place of a matrix from both sides, and
what is left is one product of matrices, of which only the blocks are computed that a spatial
encoding keeps, each pair of vertices once. No matrix of all vertices by all vertices is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import scipy  # loads a part of its own when it is first asked for
from threadpoolctl import threadpool_limits

from trend_dagster.errors import CohortError
from trend_dagster.science.connectivity.correlation import (
    Run,
    check_run,
    check_weights,
    read_run,
    standardize,
)
from trend_dagster.science.connectivity.settings import CorrelationConfig
from trend_dagster.science.connectivity.smoothing import Smoothing
from trend_dagster.science.connectivity.thresholding import (
    BoolArray,
    FloatArray,
    IntArray,
    empty_blocks,
)
from trend_dagster.science.cores import usable_cores
from trend_dagster.science.sparse import compact, times

_TILE = 1024
_PAIRS = 16384  # of vertices, whose features are gathered at a time


@dataclass(frozen=True, eq=False)
class RunCorrelation:
    """The average correlation of runs, of which nothing is computed before it is asked for.

    Parameters
    ----------
    runs : sequence
        As for `trend_dagster.science.connectivity.correlation.correlate_runs`; functions are called
        once for each thing that is asked for.
    config : CorrelationConfig, optional
        Memory to work in. The average is arithmetic: no product gives Fisher's.
    weights : sequence of float, optional
        How much each run counts; all the same by default.

    Raises
    ------
    CohortError
        If there is no run, they do not fit together, or the average is not arithmetic.
    """

    runs: Sequence[Run | Callable[[], Run]]
    config: CorrelationConfig = field(default_factory=CorrelationConfig)
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        """Make sure that a product gives the average."""
        check_weights(self.weights, len(self.runs))
        if not self.runs or self.config.average != "arithmetic":
            raise CohortError(
                "correlation from runs",
                expected="at least one run, and correlation.average: arithmetic",
                found=f"{len(self.runs)} runs, {self.config.average}",
                remedy="Compute the matrix (correlate_runs) where Fisher's average is asked for.",
            )

    @property
    def mask(self) -> BoolArray:
        """Vertices with signal in any run, of shape (n_vertices,)."""
        return np.asarray(self._alive.any(axis=0))

    def smoothed(self, smoothing: Smoothing | None) -> SmoothedRuns:
        """Smooth the correlation where blocks of it are asked for; None leaves it as it is."""
        return SmoothedRuns(self, smoothing)

    @cached_property
    def _alive(self) -> BoolArray:
        """Vertices that vary, of shape (n_runs, n_vertices)."""
        return np.stack([alive for _, alive in self._standardized()])

    @cached_property
    def _shares(self) -> FloatArray:
        weights = np.ones(len(self.runs)) if self.weights is None else np.array(self.weights)
        return np.asarray(weights / weights.sum())

    @cached_property
    def _sometimes(self) -> IntArray:
        """Vertices that some run has and some run lacks."""
        return np.flatnonzero(self._alive.any(axis=0) & ~self._alive.all(axis=0))

    @cached_property
    def _scale(self) -> FloatArray:
        """The diagonal of D."""
        shares = self._shares @ self._alive
        return np.divide(1, shares, out=np.zeros_like(shares), where=shares > 0)

    @cached_property
    def _excess(self) -> FloatArray:
        """E between the vertices of `_sometimes`."""
        some = self._sometimes
        if not len(some):
            return np.zeros((0, 0), dtype=np.float32)
        gram = np.zeros((len(some), len(some)))
        shares = np.zeros_like(gram)
        for (rows, alive), share in zip(self._standardized(), self._shares, strict=True):
            part = rows[some]
            gram += share * (part @ part.T)
            shares += share * np.outer(alive[some], alive[some])
        mean = np.divide(gram, shares, out=np.zeros_like(gram), where=shares > 0)
        scale = self._scale[some]
        return np.asarray(scale[:, None] * gram * scale - mean, dtype=np.float32)

    def _standardized(self) -> Iterator[tuple[FloatArray, BoolArray]]:
        n_vertices = None
        for number, run in enumerate(self.runs):
            features, mask = read_run(run)
            n_vertices = len(features) if n_vertices is None else n_vertices
            check_run(number, features, mask, n_vertices)
            yield standardize(features, mask)

    def _stacks(self) -> Iterator[FloatArray]:
        """Features side by side, as many runs as a quarter of the memory holds; their Gram is G."""
        held: list[FloatArray] = []
        for (rows, _), share in zip(self._standardized(), self._shares, strict=True):
            budget = self.config.memory_budget_gib * 2**30 / 4
            if held and sum(part.nbytes for part in held) + rows.nbytes > budget:
                full, held = _side_by_side(held), []  # not both at once while one is used
                yield full
            held.append(rows * np.float32(np.sqrt(share)))
        full, held = _side_by_side(held), []
        yield full

    def _between(self, near: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
        """The correlations of some pairs: N for pairs that are near."""
        pairs = scipy.sparse.coo_array(scipy.sparse.triu(near, k=1))
        first, second = pairs.coords
        total, shares = np.zeros(len(first)), np.zeros(len(first))
        for (rows, alive), share in zip(self._standardized(), self._shares, strict=True):
            for start in range(0, len(first), _PAIRS):
                part = slice(start, start + _PAIRS)
                total[part] += share * np.einsum("ij,ij->i", rows[first[part]], rows[second[part]])
            shares += share * (alive[first] & alive[second])
        mean = np.divide(total, shares, out=np.zeros_like(total), where=shares > 0)
        upper = scipy.sparse.coo_array((mean.astype(np.float32), (first, second)), near.shape)
        diagonal = scipy.sparse.diags_array(self.mask.astype(np.float32))
        return scipy.sparse.csr_array(upper + upper.T + diagonal)


@dataclass(frozen=True, eq=False)
class SmoothedRuns:
    """What `RunCorrelation.smoothed` returns: it gives blocks, and sums over groups of vertices.

    Parameters
    ----------
    source : RunCorrelation
        The runs.
    smoothing : Smoothing or None
        How they are smoothed.
    """

    source: RunCorrelation
    smoothing: Smoothing | None

    @property
    def shape(self) -> tuple[int, int]:
        """Vertices by vertices."""
        n = len(self.source.mask)
        return n, n

    def symmetric_blocks(self, members: Sequence[IntArray]) -> list[FloatArray]:
        """Compute the correlations within groups of vertices.

        Parameters
        ----------
        members : sequence of ndarray of shape (n_l,)
            Vertices of each group.

        Returns
        -------
        list of ndarray of shape (n_l, n_l)
            Views of one array, one after the other.
        """
        blocks = empty_blocks([len(m) for m in members])
        with (
            threadpool_limits(1, user_api="blas"),
            ThreadPoolExecutor(usable_cores()) as pool,
        ):
            work = _Work(self.source, self.smoothing, members, pool)
            first = True
            for stack in self.source._stacks():
                stack *= self.source._scale.astype(np.float32)[:, None]
                for number, block in enumerate(blocks):
                    rows = work.smooth(stack, number)
                    work.add(block, rows, rows, first=first)
                first = False
            for number, block in enumerate(blocks):
                work.correct(block, number)
        return blocks

    def group_sums(self, groups: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Add up correlations between groups of vertices: groups^T C groups, without C.

        Parameters
        ----------
        groups : ndarray of shape (n_vertices, n_groups)
            How much each vertex counts in each group.

        Returns
        -------
        tuple of ndarray of shape (n_groups, n_groups) and (n_groups,)
            Sums of correlations, and sums of their diagonal.
        """
        assert self.smoothing is None, "sums are of the correlation itself"
        source = self.source
        scaled = (groups * source._scale[:, None]).astype(np.float32)
        sums = np.zeros((groups.shape[1], groups.shape[1]))
        for stack in source._stacks():
            product = (stack.T @ scaled).astype(np.float64)
            sums += product.T @ product
        if len(some := source._sometimes):
            own = groups[some].astype(np.float64)
            sums -= own.T @ (source._excess @ own)
        return sums, source.mask.astype(np.float64) @ groups


@dataclass(eq=False)
class _Work:
    """The steps from features to blocks, on all cores."""

    source: RunCorrelation
    smoothing: Smoothing | None
    members: Sequence[IntArray]
    pool: ThreadPoolExecutor

    def __post_init__(self) -> None:
        self.kernels = []
        self.near = None
        if self.smoothing is not None:
            kernel = self.smoothing.kernel.astype(np.float32)
            self.kernels = [_sorted(kernel[vertices]) for vertices in self.members]
            self.near = self.source._between(self.smoothing.near)

    def smooth(self, stack: FloatArray, number: int) -> FloatArray:
        """Smooth features, for the vertices of one block."""
        if self.smoothing is None:
            return stack[self.members[number]]
        return times(self.kernels[number], stack)

    def add(self, block: FloatArray, left: FloatArray, right: FloatArray, *, first: bool) -> None:
        """Add left right^T to the upper triangle of a block; the first time, put it there."""

        def tile(place: tuple[slice, slice]) -> None:
            rows, columns = place
            if first:
                np.matmul(left[rows], right[columns].T, out=block[place])
            else:
                block[place] += left[rows] @ right[columns].T

        list(self.pool.map(tile, _upper_tiles(len(block))))

    def correct(self, block: FloatArray, number: int) -> None:
        """Take off what the products have too much, and mirror the upper triangle."""
        vertices, some = self.members[number], self.source._sometimes
        if self.smoothing is None:
            known = np.flatnonzero(np.isin(some, vertices))
            place = np.searchsorted(vertices, some[known])
            block[np.ix_(place, place)] -= self.source._excess[np.ix_(known, known)]
            np.fill_diagonal(block, self.source.mask[vertices])
        else:
            kernel = self.kernels[number][:, some]
            width = max(int(self.source.config.memory_budget_gib * 2**30 / 32 / len(block)), 1)
            for start in range(0, len(some), width):
                part = slice(start, start + width)
                left = -(kernel @ self.source._excess[:, part])
                self.add(block, left, kernel[:, part].toarray(), first=False)
            self._take_off_near(block, number)

        def mirror(place: tuple[slice, slice]) -> None:
            rows, columns = place
            if self.smoothing is None:
                np.clip(block[place], -1, 1, out=block[place])
            if rows == columns:
                upper = np.triu(block[place])
                block[place] = upper + np.triu(upper, 1).T
            else:
                block[columns, rows] = block[place].T

        list(self.pool.map(mirror, _upper_tiles(len(block))))

    def _take_off_near(self, block: FloatArray, number: int) -> None:
        from trend_dagster.science._sparse import subtract_product

        kernel = self.kernels[number]
        left, right = _sorted(kernel @ self.near), _sorted(kernel.T)

        def rows(start: int) -> None:
            subtract_product(
                left.indptr, left.indices, left.data, right.indptr, right.indices, right.data,
                block, start, min(start + _TILE // 4, len(block)),
            )  # fmt: skip

        list(self.pool.map(rows, range(0, len(block), _TILE // 4)))


def _side_by_side(parts: list[FloatArray]) -> FloatArray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _sorted(matrix: Any) -> scipy.sparse.csr_array:
    found = compact(scipy.sparse.csr_array(matrix))
    found.sort_indices()
    return found


def _upper_tiles(n: int) -> list[tuple[slice, slice]]:
    edges = [slice(start, min(start + _TILE, n)) for start in range(0, n, _TILE)]
    return [(edges[a], edges[b]) for a in range(len(edges)) for b in range(a, len(edges))]
