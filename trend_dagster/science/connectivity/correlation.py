"""The average over runs of the correlation between vertices, tile by tile.

With Z_r the standardised features of run r (rows of length 1), the mean correlation is
(1 / R) sum_r Z_r Z_r^T: a sum of Gram matrices. It is computed as tiles of the output, each pair
of vertices once, so that neither R correlation matrices nor one in double precision ever stand
in memory, and at the speed of the machine's matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from trend_dagster.errors import CohortError
from trend_dagster.science._device import full_float32, torch_device
from trend_dagster.science.connectivity.settings import CorrelationConfig
from trend_dagster.science.connectivity.thresholding import BoolArray, FloatArray
from trend_dagster.science.cores import usable_cores

Run = tuple[NDArray[Any], BoolArray]
Tile = tuple[int, int]

_GIB = 2**30
_CACHE_ROWS = 128
_STRIPE = 64
# arctanh is infinite at 1; float32 knows no larger correlation below 1 than this.
_FISHER_LIMIT = 1 - 2**-24


def correlate_runs(
    runs: Sequence[Run | Callable[[], Run]],
    config: CorrelationConfig | None = None,
    *,
    out: Any = None,
    done: Container[Tile] = frozenset(),
    on_tile: Callable[[Tile], None] | None = None,
    n_threads: int | None = None,
) -> Any:
    """Average the Pearson correlation between vertices over runs.

    Parameters
    ----------
    runs : sequence
        One entry per run: features of shape (n_vertices, n_features) and a mask of shape
        (n_vertices,) of the vertices with signal, or a function that reads them. n_features may
        differ between runs.
    config : CorrelationConfig, optional
        Kind of average, memory and tile size.
    out : array of shape (n_vertices, n_vertices), optional
        Receives the result by assignment to tiles: a numpy array, memory map or zarr array. A
        new float32 array, if not given.
    done : container of (int, int)
        Tiles that are in the outputs already, by their first row and column; they are passed
        over. With `on_tile`, this is how an interrupted computation goes on.
    on_tile : callable, optional
        Called with each tile once it and its mirror image are written.
    n_threads : int, optional
        Threads; all cores by default.

    Returns
    -------
    array
        `out`. A pair of vertices is averaged over the runs in which both have signal; a pair that
        no run has is 0, and so is the diagonal of a vertex without signal. Else the diagonal is 1.

    Raises
    ------
    CohortError
        If there is no run, runs differ in their number of vertices, features are not finite, or
        the device does not exist.
    """
    config = config or CorrelationConfig()
    job = _Job(runs, config)
    if out is None:
        out = np.zeros((job.n_vertices, job.n_vertices), dtype=np.float32)
    size = config.tile
    tiles = [
        (a, b)
        for a in range(0, job.n_vertices, size)
        for b in range(a, job.n_vertices, size)
        if (a, b) not in done
    ]
    n_threads = n_threads or usable_cores()
    with (
        threadpool_limits(1, user_api="blas"),
        nullcontext() if config.device == "cpu" else full_float32(),
        ThreadPoolExecutor(n_threads) as pool,
    ):
        job.run(tiles, out, on_tile, pool, n_threads)
    return out


# --- Standardised features -------------------------------------------------------------------


def standardize(features: NDArray[Any], mask: BoolArray) -> tuple[FloatArray, BoolArray]:
    """Centre rows and scale them to length 1, so that inner products are correlations.

    Parameters
    ----------
    features : ndarray of shape (n_vertices, n_features)
        One run.
    mask : ndarray of bool of shape (n_vertices,)
        Vertices with signal.

    Returns
    -------
    tuple of ndarray
        Rows in float32, zero without signal; and the mask less vertices whose features are
        constant, which correlate with nothing.
    """
    rows = np.empty(features.shape, dtype=np.float32)
    alive = np.zeros(len(rows), dtype=bool)
    # A few rows at a time, so that all steps meet them in the cache.
    for start in range(0, len(rows), _CACHE_ROWS):
        part = slice(start, start + _CACHE_ROWS)
        rows[part] = np.where(mask[part, None], features[part], 0)
        alive[part] = _standardize_rows(rows[part])
    return rows, mask & alive


def _standardize_rows(rows: FloatArray) -> BoolArray:
    """Standardise in place; return which rows vary."""
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    rows -= rows.mean(axis=1, dtype=np.float64, keepdims=True).astype(np.float32)
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    # A constant row leaves the rounding errors of its mean, not exact zeros.
    alive: BoolArray = length > np.finfo(np.float32).eps * np.sqrt(rows.shape[1]) * largest
    rows *= np.divide(1, length, out=np.zeros_like(length), where=alive)[:, None]
    return alive


# --- The pass over tiles ---------------------------------------------------------------------


Stack = list[Any]
"""Standardised features of some runs; torch tensors on a device."""


@dataclass(eq=False)
class _Sum:
    """What has been added up of one tile."""

    tile: Tile
    total: FloatArray | None = None


@dataclass(eq=False)
class _Job:
    """Reads runs in stacks that fit the budget and adds up their products."""

    runs: Sequence[Run | Callable[[], Run]]
    config: CorrelationConfig
    n_vertices: int = field(init=False)
    masks: BoolArray = field(init=False)

    def __post_init__(self) -> None:
        if not self.runs:
            raise CohortError(
                "average correlation",
                expected="at least one run",
                found="none",
                remedy="Embed a run first.",
            )
        features, _ = _read(self.runs[0])
        self.n_vertices = len(features)
        self.run_bytes = 4 * features.size
        self.masks = np.zeros((len(self.runs), self.n_vertices), dtype=bool)
        self.lock = Lock()
        self.failed = False
        device = self.config.device
        self.place = None if device == "cpu" else torch_device(device, CohortError)

    def stacks(self) -> list[list[int]]:
        """Divide runs into stacks within half of the budget."""
        half = self.config.memory_budget_gib * _GIB / 2
        most = max(1, int(half // self.run_bytes))
        members = list(range(len(self.runs)))
        return [members[i : i + most] for i in range(0, len(members), most)]

    def load(self, members: Sequence[int], pool: ThreadPoolExecutor) -> Stack:
        parts = list(pool.map(self._standardized, members))
        if self.config.average == "arithmetic":
            # Side by side, the runs' products add up within one matrix product.
            parts = [np.concatenate(parts, axis=1)] if len(parts) > 1 else parts
        return [self._placed(part) for part in parts]

    def _placed(self, rows: FloatArray) -> Any:
        if self.place is None:
            return rows
        import torch

        return torch.from_numpy(rows).to(self.place)

    def _standardized(self, run: int) -> FloatArray:
        features, mask = _read(self.runs[run])
        self._check(run, features, mask)
        rows, self.masks[run] = standardize(features, mask)
        return rows

    def run(
        self,
        tiles: Sequence[Tile],
        out: Any,
        on_tile: Callable[[Tile], None] | None,
        pool: ThreadPoolExecutor,
        n_threads: int,
    ) -> None:
        stacks = self.stacks()
        held = self._held(stacks, pool)
        for batch in self._batches(tiles, n_threads):
            sums = [_Sum(tile) for tile in batch]
            for stack in [] if held else (self.load(members, pool) for members in stacks):
                self._each(pool, partial(self._add, stacks=[stack]), sums)
            self._each(pool, partial(self._finish, stacks=held, out=out, on_tile=on_tile), sums)

    def _each(
        self, pool: ThreadPoolExecutor, work: Callable[[_Sum], None], sums: Sequence[_Sum]
    ) -> None:
        def unless_failed(one: _Sum) -> None:
            if self.failed:
                return
            try:
                work(one)
            except BaseException:
                self.failed = True
                raise

        list(pool.map(unless_failed, sums))

    def _held(self, stacks: Sequence[Sequence[int]], pool: ThreadPoolExecutor) -> list[Stack]:
        """Keep all features in memory where they fit."""
        fits = self.run_bytes * len(self.runs) <= self.config.memory_budget_gib * _GIB / 2
        return [self.load(members, pool) for members in stacks] if fits else []

    def _batches(self, tiles: Sequence[Tile], n_threads: int) -> Iterable[Sequence[Tile]]:
        """Divide tiles into batches whose sums fit the other half of the budget."""
        fit = self.config.memory_budget_gib * _GIB / 2 / (16 * self.config.tile**2)
        size = max(int(fit), n_threads)
        return [tiles[i : i + size] for i in range(0, len(tiles), size)]

    def _add(self, one: _Sum, stacks: Sequence[Stack]) -> None:
        for stack in stacks:
            product = self._product(one.tile, stack)
            if one.total is not None:
                # From the second on, in float64: a mean over many runs must not drift.
                product = np.add(one.total, product, dtype=np.float64)
            one.total = product

    def _product(self, tile: Tile, stack: Stack) -> FloatArray:
        rows, columns = self._slices(tile)
        if self.config.average == "arithmetic":
            return _gram(stack[0], rows, columns)
        total = _transformed(_gram(stack[0], rows, columns), self.config)
        for Z in stack[1:]:
            total += _transformed(_gram(Z, rows, columns), self.config)
        return total

    def _finish(
        self,
        one: _Sum,
        stacks: Sequence[Stack],
        out: Any,
        on_tile: Callable[[Tile], None] | None,
    ) -> None:
        self._add(one, stacks)
        tile = one.tile
        rows, columns = self._slices(tile)
        counts = _counts(self.masks, rows, columns)
        assert one.total is not None  # there is at least one run
        self._write(out, tile, _finished(one.total, counts, tile[0] == tile[1], self.config))
        one.total = None
        if on_tile is not None:
            with self.lock:
                on_tile(tile)

    def _write(self, target: Any, tile: Tile, values: FloatArray) -> None:
        rows, columns = self._slices(tile)
        if isinstance(target, np.ndarray):
            target[rows, columns] = values
            # Transposed in narrow stripes, whose lines stay in the cache until they are full.
            for start in range(0, len(values) if rows != columns else 0, _STRIPE):
                part = values[start : start + _STRIPE]
                target[columns, rows.start + start : rows.start + start + len(part)] = part.T
            return
        # A chunk of a store may lie under two tiles: only one thread at a time.
        with self.lock:
            target[rows, columns] = values
            if rows != columns:
                target[columns, rows] = values.T

    def _slices(self, tile: Tile) -> tuple[slice, slice]:
        a, b = tile
        size, n = self.config.tile, self.n_vertices
        return slice(a, min(a + size, n)), slice(b, min(b + size, n))

    def _check(self, run: int, features: NDArray[Any], mask: BoolArray) -> None:
        if features.ndim != 2 or len(features) != self.n_vertices or len(mask) != len(features):
            raise CohortError(
                f"run {run}",
                expected=f"features and a mask of {self.n_vertices} vertices, as in run 0",
                found=f"features of shape {features.shape} and a mask of shape {mask.shape}",
                remedy="Average only runs that were sampled on the same surface.",
            )
        if not np.isfinite(features[mask]).all():
            raise CohortError(
                f"run {run}",
                expected="finite features where the mask says that there is signal",
                found="NaN or infinity",
                remedy="Embed the run again; look at the check of its embedding.",
            )


def _read(run: Run | Callable[[], Run]) -> Run:
    features, mask = run() if callable(run) else run
    return np.asarray(features), np.asarray(mask, dtype=bool)


def _gram(Z: Any, rows: slice, columns: slice) -> FloatArray:
    """Multiply rows of an array or tensor with others of them; return an array."""
    product = Z[rows] @ Z[columns].T
    return product if isinstance(product, np.ndarray) else product.cpu().numpy()


def _counts(masks: BoolArray, rows: slice, columns: slice) -> FloatArray | float:
    """Count the runs in which both vertices of a pair have signal."""
    left, right = masks[:, rows], masks[:, columns]
    if left.all() and right.all():
        return float(len(masks))
    return left.T.astype(np.float32) @ right.astype(np.float32)


def _transformed(r: FloatArray, config: CorrelationConfig) -> FloatArray:
    if config.average == "arithmetic":
        return r
    limited: FloatArray = np.arctanh(np.clip(r, -_FISHER_LIMIT, _FISHER_LIMIT, dtype=np.float64))
    return limited


def _finished(
    total: FloatArray, counts: FloatArray | float, diagonal: bool, config: CorrelationConfig
) -> FloatArray:
    """Turn sums into means; the diagonal of a vertex with signal is exactly 1."""
    if isinstance(counts, float):
        mean = np.divide(total, counts, out=total) if counts else np.zeros_like(total)
    else:
        mean = np.divide(total, counts, out=np.zeros_like(total), where=counts > 0)
    if config.average == "fisher":
        mean = np.tanh(mean)
    np.clip(mean, -1, 1, out=mean)
    if diagonal:
        alive = np.diag(counts) > 0 if isinstance(counts, np.ndarray) else counts > 0
        np.fill_diagonal(mean, np.where(alive, 1.0, 0.0))
    return mean
