"""Sweeps of many spatial encodings side by side, within the cores and the memory there are."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from trend_dagster.errors import FactorizationError
from trend_dagster.science.block_matrix import BlockMatrix, IntArray
from trend_dagster.science.clustering import ClusteringConfig
from trend_dagster.science.cores import usable_cores
from trend_dagster.science.factorization import FactorizationConfig
from trend_dagster.science.sweep import SweepCell, SweepGrid, sweep

_MIB = 2**20
# Python, numpy, scipy, scikit-learn and compiled code, before any data.
_IMPORTS = 320 * _MIB
_TILE_ROWS = 512


@dataclass(frozen=True, eq=False)
class Encoding:
    """One block matrix that a worker can load for itself.

    Parameters
    ----------
    block_sizes : ndarray of shape (n_blocks,)
        Vertices per block, known before the matrix is loaded.
    load : callable
        Returns the matrix; must survive a journey to another process.
    """

    block_sizes: IntArray
    load: Callable[[], BlockMatrix]


def worker_memory(block_sizes: IntArray, grid: SweepGrid, n_threads: int) -> int:
    """Return the most memory that a worker needs for one encoding, in bytes.

    Parameters
    ----------
    block_sizes : ndarray of shape (n_blocks,)
        Vertices per block.
    grid : SweepGrid
        What is solved.
    n_threads : int
        Threads of the worker.

    Returns
    -------
    int
        Imports, the matrix, its eigendecomposition, factors of the whole grid while they are
        solved and once they are results, tiles of products, and sums of distances.
    """
    n, largest = int(block_sizes.sum()), int(block_sizes.max(initial=1))
    rows = sum(problem.n_components for problem in grid.problems())
    matrix = 4 * int((block_sizes**2).sum())
    # LAPACK's eigenvectors and workspace beside the block.
    eigen = n_threads * 4 * 4 * largest**2
    factors = 2 * 2 * 4 * rows * n
    tiles = n_threads * 4 * rows * (_TILE_ROWS + largest)
    groups = 1
    for n_clusters in grid.n_clusters:
        groups = min(groups * n_clusters, n)
    distances = n_threads * 2 * 8 * n * groups
    return _IMPORTS + matrix + eigen + factors + tiles + distances


def sweep_encodings(
    encodings: Mapping[str, Encoding],
    grid: SweepGrid | None = None,
    factorization: FactorizationConfig | None = None,
    clustering: ClusteringConfig | None = None,
    *,
    memory_gib: float,
    n_cores: int | None = None,
) -> Iterator[tuple[str, tuple[SweepCell, ...]]]:
    """Sweep several encodings in processes, each with its share of the cores.

    Parameters
    ----------
    encodings : mapping of str to Encoding
        What to sweep, by name.
    grid : SweepGrid, optional
        The grid of each.
    factorization : FactorizationConfig, optional
        Solver and stop rule.
    clustering : ClusteringConfig, optional
        Seed and row scaling.
    memory_gib : float
        Memory for all workers together; as many work at a time as fit by `worker_memory`.
    n_cores : int, optional
        Cores for all workers together; all of this process by default.

    Yields
    ------
    tuple of str and tuple of SweepCell
        An encoding's name and cells, as soon as it is finished.

    Raises
    ------
    FactorizationError
        If not even one worker fits the memory; or what a worker raised.
    """
    if not encodings:
        return
    grid = grid or SweepGrid()
    n_cores = n_cores or usable_cores()
    n_workers = count_workers(encodings, grid, memory_gib, n_cores)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_workers, mp_context=context) as pool:
        run = {
            pool.submit(_work, e.load, grid, factorization, clustering, n_cores // n_workers): name
            for name, e in encodings.items()
        }
        for future in as_completed(run):
            yield run[future], future.result()


def count_workers(
    encodings: Mapping[str, Encoding], grid: SweepGrid, memory_gib: float, n_cores: int
) -> int:
    """Return how many workers fit the cores and, the largest encodings at once, the memory.

    Parameters
    ----------
    encodings : mapping of str to Encoding
        What will be swept.
    grid : SweepGrid
        The grid of each.
    memory_gib : float
        Memory for all workers together.
    n_cores : int
        Cores for all workers together.

    Returns
    -------
    int

    Raises
    ------
    FactorizationError
        If not even one worker fits the memory.
    """
    budget = memory_gib * 2**30
    for n_workers in range(min(n_cores, len(encodings)), 0, -1):
        needs = sorted(
            worker_memory(e.block_sizes, grid, n_cores // n_workers) for e in encodings.values()
        )
        if sum(needs[-n_workers:]) <= budget:
            return n_workers
    raise FactorizationError(
        "memory_gib",
        expected=f"at least {needs[-1] / 2**30:.2g} GiB for one worker",
        found=f"{memory_gib} GiB",
        remedy="Give more memory, or try fewer n_components and n_clusters at once.",
    )


def _work(
    load: Callable[[], BlockMatrix],
    grid: SweepGrid,
    factorization: FactorizationConfig | None,
    clustering: ClusteringConfig | None,
    n_threads: int,
) -> tuple[SweepCell, ...]:
    return tuple(sweep(load(), grid, factorization, clustering, n_threads=n_threads))
