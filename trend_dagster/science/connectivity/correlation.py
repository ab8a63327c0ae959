"""The average over runs of the correlation between vertices, tile by tile.

With Z_r the standardised features of run r (rows of length 1), the mean correlation is
(1 / R) sum_r Z_r Z_r^T: a sum of Gram matrices. It is computed as tiles of the output, each pair
of vertices once, so that neither R correlation matrices nor one in double precision ever stand
in memory, and at the speed of the machine's matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
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
_STRIPE = 16
# arctanh is infinite at 1; float32 knows no larger correlation below 1 than this.
_FISHER_LIMIT = 1 - 2**-24


def correlate_runs(
    runs: Sequence[Run | Callable[[], Run]],
    config: CorrelationConfig | None = None,
    *,
    out: Any = None,
    weights: Sequence[float] | None = None,
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
    weights : sequence of float, optional
        How much each run counts; all the same by default.
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
    job = _Job(runs, config, weights)
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


def standardize(
    features: NDArray[Any],
    mask: BoolArray,
    *,
    among: BoolArray | None = None,
    out: FloatArray | None = None,
) -> tuple[FloatArray, BoolArray]:
    """Centre rows and scale them to length 1, so that inner products are correlations.

    Parameters
    ----------
    features : ndarray of shape (n_vertices, n_features)
        One run.
    mask : ndarray of bool of shape (n_vertices,)
        Vertices with signal.
    among : ndarray of bool of shape (n_vertices,), optional
        Vertices whose rows are made; all by default.
    out : ndarray of float32 of shape (n_among, n_features), optional
        Receives the rows; a new array by default.

    Returns
    -------
    tuple of ndarray
        Rows in float32, zero without signal; and the mask less vertices whose features are
        constant, which correlate with nothing.
    """
    among = np.ones(len(features), dtype=bool) if among is None else among
    rows = np.empty((among.sum(), features.shape[1]), dtype=np.float32) if out is None else out
    alive = np.zeros(len(features), dtype=bool)
    end = 0
    # A few rows at a time, so that all steps meet them in the cache.
    for start in range(0, len(features), _CACHE_ROWS):
        part = slice(start, start + _CACHE_ROWS)
        few = np.where(mask[part, None], features[part], 0).astype(np.float32, copy=False)
        alive[part] = _standardize_rows(few)
        begin, end = end, end + int(among[part].sum())
        rows[begin:end] = few if end - begin == len(few) else few[among[part]]
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


@dataclass(frozen=True, eq=False)
class _Stack:
    """Some runs, of which the vertices without signal in any of them are left out.

    Parameters
    ----------
    alive : ndarray of bool of shape (n_vertices,)
        Vertices that one of the runs has.
    parts : list of tuple
        Standardised features of those vertices, torch tensors on a device, with their weights.
    """

    alive: BoolArray
    parts: list[tuple[Any, float]]

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.alive)])

    def products(self, rows: slice, columns: slice) -> Iterator[tuple[FloatArray, float]]:
        """Products of the features of some vertices with others, and their weights."""
        one, other = (slice(*self._places[[s.start, s.stop]]) for s in (rows, columns))
        there = self.alive[rows], self.alive[columns]
        for features, weight in self.parts:
            product = features[one] @ features[other].T
            product = product if isinstance(product, np.ndarray) else product.cpu().numpy()
            yield _laid_out(product, *there), weight


def _laid_out(product: FloatArray, rows: BoolArray, columns: BoolArray) -> FloatArray:
    """Put rows and columns of zeros where there is no signal."""
    if rows.all() and columns.all():
        return product
    whole = np.zeros((len(rows), len(columns)), dtype=product.dtype)
    whole[np.ix_(rows, columns)] = product
    return whole


def check_weights(weights: Sequence[float] | None, n_runs: int) -> None:
    """Make sure that each run has a weight above 0, or none has any.

    Raises
    ------
    CohortError
        If not.
    """
    if weights is not None and (len(weights) != n_runs or min(weights) <= 0):
        raise CohortError(
            "weights of runs",
            expected=f"{n_runs} numbers above 0",
            found=str(list(weights)),
            remedy="Leave runs of which nothing is kept out.",
        )


@dataclass(eq=False)
class _Job:
    """Reads runs in stacks that fit the budget and adds up their products."""

    runs: Sequence[Run | Callable[[], Run]]
    config: CorrelationConfig
    weights: Sequence[float] | None
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
        check_weights(self.weights, len(self.runs))
        # What was read to know how large runs are is not read again.
        self.first: Run | None = read_run(self.runs[0])
        features, _ = self.first
        self.n_vertices = len(features)
        self.run_bytes = 4 * features.size
        self.masks = np.zeros((len(self.runs), self.n_vertices), dtype=bool)
        self.lock = Lock()
        self.failed = False
        device = self.config.device
        self.place = None if device == "cpu" else torch_device(device, CohortError)

    def run(
        self,
        tiles: Sequence[Tile],
        out: Any,
        on_tile: Callable[[Tile], None] | None,
        pool: ThreadPoolExecutor,
        n_threads: int,
    ) -> None:
        budget = self.config.memory_budget_gib * _GIB
        tile_bytes = 16 * self.config.tile**2  # a product, its sum in double precision, its mean
        # A quarter each for what is read, for what it is copied into, and half for sums of tiles;
        # or, if they fit, for all features beside the quarter of what is read.
        stacks = _parts(range(len(self.runs)), max(1, int(budget / 4 // self.run_bytes)))
        fits = self.run_bytes * len(self.runs) + n_threads * tile_bytes <= 3 / 4 * budget
        held = [self._load(members, pool) for members in stacks] if fits else []
        at_once = max(int(budget / 2 / tile_bytes), n_threads)
        for batch in _parts(tiles, at_once):
            sums: dict[Tile, FloatArray] = {}
            for stack in [] if held else (self._load(members, pool) for members in stacks):
                self._each(pool, partial(self._add, sums, [stack]), batch)
            self._each(pool, partial(self._finish, sums, held, out, on_tile), batch)

    def _each(
        self, pool: ThreadPoolExecutor, work: Callable[[Tile], None], tiles: Sequence[Tile]
    ) -> None:
        """Work on each tile, until one has failed."""

        def unless_failed(tile: Tile) -> None:
            if not self.failed:
                try:
                    work(tile)
                except BaseException:
                    self.failed = True
                    raise

        list(pool.map(unless_failed, tiles))

    def _load(self, members: Sequence[int], pool: ThreadPoolExecutor) -> _Stack:
        read = dict(zip(members, pool.map(self._read, members), strict=True))
        there = np.asarray(np.any([mask for _, mask in read.values()], axis=0))
        widths = [features.shape[1] for features, _ in read.values()]
        weights = [1.0 if self.weights is None else self.weights[run] for run in members]
        if self.config.average == "arithmetic":
            # Side by side, the runs' products add up within one matrix product.
            together = np.empty((there.sum(), sum(widths)), dtype=np.float32)
            parts = np.split(together, np.cumsum(widths)[:-1], axis=1)
        else:
            parts = [np.empty((there.sum(), width), dtype=np.float32) for width in widths]

        def place(run: int, part: FloatArray) -> None:
            # Not copied from an array of its own: memory that is new costs more than the sums.
            _, self.masks[run] = standardize(*read.pop(run), among=there, out=part)
            if self.weights is not None and self.config.average == "arithmetic":
                part *= np.float32(np.sqrt(self.weights[run]))  # the product then has the weight

        list(pool.map(place, members, parts))
        if self.config.average == "arithmetic":
            parts, weights = [together], [1.0]
        if self.place is None:
            return _Stack(there, list(zip(parts, weights, strict=True)))
        import torch

        placed = [torch.from_numpy(part).to(self.place) for part in parts]
        return _Stack(there, list(zip(placed, weights, strict=True)))

    def _read(self, run: int) -> Run:
        if run == 0 and self.first is not None:
            (features, mask), self.first = self.first, None
        else:
            features, mask = read_run(self.runs[run])
        check_run(run, features, mask, self.n_vertices)
        return features, mask

    def _add(self, sums: dict[Tile, FloatArray], stacks: Sequence[_Stack], tile: Tile) -> None:
        for stack in stacks:
            product = self._product(tile, stack)
            if tile in sums:
                # From the second on, in float64: a mean over many runs must not drift.
                product = np.add(sums[tile], product, dtype=np.float64)
            sums[tile] = product

    def _product(self, tile: Tile, stack: _Stack) -> FloatArray:
        products = stack.products(*self._slices(tile))
        if self.config.average == "arithmetic":
            ((product, _),) = products
            return product
        weighted = (weight * _fisher_z(product) for product, weight in products)
        total = next(weighted)
        for product in weighted:
            total += product
        return total

    def _finish(
        self,
        sums: dict[Tile, FloatArray],
        stacks: Sequence[_Stack],
        out: Any,
        on_tile: Callable[[Tile], None] | None,
        tile: Tile,
    ) -> None:
        self._add(sums, stacks, tile)
        rows, columns = self._slices(tile)
        mean = _mean(sums.pop(tile), self._counts(rows, columns), self.config)
        if rows == columns:
            np.fill_diagonal(mean, self.masks[:, rows].any(axis=0))
        self._write(out, tile, mean)
        if on_tile is not None:
            with self.lock:
                on_tile(tile)

    def _counts(self, rows: slice, columns: slice) -> FloatArray | float:
        """Count the runs in which both vertices of a pair have signal, or add up their weights."""
        left, right = self.masks[:, rows], self.masks[:, columns]
        if left.all() and right.all():
            return float(len(self.runs) if self.weights is None else sum(self.weights))
        if self.weights is None:
            return left.T.astype(np.float32) @ right.astype(np.float32)
        summed: FloatArray = left.T.astype(np.float64) @ (right * np.array(self.weights)[:, None])
        return summed

    def _write(self, target: Any, tile: Tile, values: FloatArray) -> None:
        rows, columns = self._slices(tile)
        if isinstance(target, np.ndarray):
            target[rows, columns] = values
            # Transposed in narrow stripes, whose lines stay in the cache until they are full.
            for start in range(0, len(values) if rows != columns else 0, _STRIPE):
                part = values[start : start + _STRIPE]
                target[columns, rows.start + start : rows.start + start + len(part)] = part.T
            return
        # A chunk of a store may lie under two tiles: then only one thread at a time.
        apart = getattr(target, "chunks", None) == (self.config.tile, self.config.tile)
        with nullcontext() if apart else self.lock:
            target[rows, columns] = values
            if rows != columns:
                target[columns, rows] = values.T

    def _slices(self, tile: Tile) -> tuple[slice, slice]:
        a, b = tile
        size, n = self.config.tile, self.n_vertices
        return slice(a, min(a + size, n)), slice(b, min(b + size, n))


def check_run(run: int, features: NDArray[Any], mask: BoolArray, n_vertices: int) -> None:
    """Refuse a run that does not fit the others, or is not finite where it has signal."""
    if features.ndim != 2 or len(features) != n_vertices or len(mask) != len(features):
        raise CohortError(
            f"run {run}",
            expected=f"features and a mask of {n_vertices} vertices, as in run 0",
            found=f"features of shape {features.shape} and a mask of shape {mask.shape}",
            remedy="Average only runs that were sampled on the same surface.",
        )
    parts = (slice(a, a + _CACHE_ROWS) for a in range(0, n_vertices, _CACHE_ROWS))
    if not all(np.isfinite(features[part]).all(axis=1)[mask[part]].all() for part in parts):
        raise CohortError(
            f"run {run}",
            expected="finite features where the mask says that there is signal",
            found="NaN or infinity",
            remedy="Embed the run again; look at the check of its embedding.",
        )


def read_run(run: Run | Callable[[], Run]) -> Run:
    """Read a run, if it is not there yet."""
    features, mask = run() if callable(run) else run
    return np.asarray(features), np.asarray(mask, dtype=bool)


def _fisher_z(r: FloatArray) -> FloatArray:
    z: FloatArray = np.arctanh(np.clip(r, -_FISHER_LIMIT, _FISHER_LIMIT, dtype=np.float64))
    return z


def _mean(total: FloatArray, counts: FloatArray | float, config: CorrelationConfig) -> FloatArray:
    """Divide sums by how many runs are in them; 0 where there is none."""
    if isinstance(counts, float):
        mean = np.divide(total, counts, out=total)
    else:
        mean = np.divide(total, counts, out=np.zeros_like(total), where=counts > 0)
    if config.average == "fisher":
        mean = np.tanh(mean)
    return np.clip(mean, -1, 1, out=mean)


def _parts(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
