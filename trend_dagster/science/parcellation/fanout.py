"""Sweeps of many spatial encodings side by side, within the cores and the memory there are."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

import numpy as np

from trend_dagster.errors import FactorizationError
from trend_dagster.science.connectivity.settings import CorrelationConfig
from trend_dagster.science.connectivity.thresholding import IntArray
from trend_dagster.science.cores import limit_cores
from trend_dagster.science.parcellation._compressed import rank_and_sketch
from trend_dagster.science.parcellation.settings import DENSE_UP_TO, SweepGrid

T = TypeVar("T")

_MIB = 2**20
# Python, numpy, scipy, scikit-learn and compiled code, before any data.
_IMPORTS = 320 * _MIB
_TILE_ROWS = 512
# Share of a mesh that a kernel of 16 mm reaches on a newborn's own cortex (350 cm^2 a hemisphere,
# of which it covers 13): 1,200 of 64,984 vertices. On an adult's cortex it is less than half.
_REACHED = 13 / 350 / 2


def worker_memory(
    block_sizes: IntArray, grid: SweepGrid, n_threads: int, compress_above: int | None = None
) -> int:
    """Return the most memory that a worker needs for one encoding, in bytes.

    Parameters
    ----------
    block_sizes : ndarray of shape (n_blocks,)
        Vertices per block.
    grid : SweepGrid
        What is solved.
    n_threads : int
        Threads of the worker.
    compress_above : int, optional
        Vertices above which a low rank stands for a block.

    Returns
    -------
    int
        Imports, the matrix and what stands for it, its eigendecomposition, factors of the whole
        grid while they are solved and once they are results, tiles of products, and sums of
        distances.
    """
    n, largest = int(block_sizes.sum()), int(block_sizes.max(initial=1))
    rows = sum(problem.n_components for problem in grid.problems())
    matrix = 4 * int((block_sizes**2).sum())
    most = max(grid.n_components)
    # LAPACK's eigenvectors and workspace beside the block; a few vectors where it is large.
    dense = largest <= DENSE_UP_TO * most
    eigen = n_threads * 4 * largest * (4 * largest if dense else 6 * most)
    large = block_sizes[block_sizes > (largest if compress_above is None else compress_above)]
    # Both factors of each; what products with W and H lack, for which W and H, and those that are
    # kept; of one block the random start, products and their decomposition.
    rank, sketch = rank_and_sketch(most)
    thin = 4 * (2 * (rank + 3 * rows) * int(large.sum()) + 4 * sketch * int(large.max(initial=0)))
    factors = 2 * 2 * 4 * rows * n
    tiles = n_threads * 4 * rows * (_TILE_ROWS + largest)
    groups = 1
    for n_clusters in grid.n_clusters:
        groups = min(groups * n_clusters, n)
    distances = n_threads * 2 * 8 * n * groups
    return _IMPORTS + matrix + thin + eigen + factors + tiles + distances


def blocks_memory(block_sizes: IntArray, n_vertices: int, config: CorrelationConfig) -> int:
    """Return the most memory that making the blocks of one encoding needs, in bytes.

    Parameters
    ----------
    block_sizes : ndarray of shape (n_blocks,)
        Vertices per block.
    n_vertices : int
        Of the mesh.
    config : CorrelationConfig
        Memory to work in.

    Returns
    -------
    int
        Imports, the blocks, what is at work beside them (half of what correlations are allowed),
        and the smoothing.
    """
    blocks = 4 * int((block_sizes.astype(np.int64) ** 2).sum())
    kernels = int(3 * 12 * _REACHED * n_vertices**2)
    return _IMPORTS + blocks + int(config.memory_budget_gib * 2**30 / 2) + kernels


def count_workers(
    needs: Callable[[int], Sequence[int]], n_tasks: int, n_cores: int, memory_gib: float
) -> int:
    """Return how many workers fit the cores and, the largest tasks at once, the memory.

    Parameters
    ----------
    needs : callable
        Takes the threads of a worker, returns the bytes that each task needs with so many.
    n_tasks : int
        How many tasks there are.
    n_cores : int
        Cores for all workers together.
    memory_gib : float
        Memory for all workers together.

    Returns
    -------
    int

    Raises
    ------
    FactorizationError
        If not even one worker fits the memory.
    """
    sizes: list[int] = [0]
    for n_workers in range(max(min(n_cores, n_tasks), 1), 0, -1):
        sizes = sorted(needs(n_cores // n_workers))
        if sum(sizes[-n_workers:]) <= memory_gib * 2**30:
            return n_workers
    raise FactorizationError(
        "compute.memory_gib",
        expected=f"at least {sizes[-1] / 2**30:.2g} GiB for one worker",
        found=f"{memory_gib} GiB",
        remedy="Give more memory, try fewer n_components and n_clusters at once, or set "
        "compute.workers to 1.",
    )


def side_by_side(
    tasks: Sequence[Callable[[], T]], n_workers: int, n_cores: int
) -> Iterator[tuple[int, T]]:
    """Run tasks in processes of their own, each with its share of the cores.

    Parameters
    ----------
    tasks : sequence of callable
        Each must survive a journey to another process, and so must what it returns.
    n_workers : int
        Processes at a time.
    n_cores : int
        Cores for all of them together.

    Yields
    ------
    tuple of int and object
        Number of the task and what it returned, as soon as it is finished.

    Raises
    ------
    Exception
        What a task raised. Tasks that are still running are ended.
    """
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        n_workers, mp_context=context, initializer=_begin, initargs=(n_cores // n_workers,)
    )
    try:
        running = {pool.submit(task): number for number, task in enumerate(tasks)}
        for future in as_completed(running):
            yield running[future], future.result()
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(n_cores: int) -> None:
    """Take some cores, and end with the process that gives the tasks.

    One that is killed cannot end its children, and each of them holds the pipe open on which all
    wait for the next task.
    """
    limit_cores(n_cores)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()
