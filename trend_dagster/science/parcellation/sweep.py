"""The grid of factorisations and clusterings of one spatial encoding."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from trend_dagster.errors import FactorizationError
from trend_dagster.science.connectivity.thresholding import BlockMatrix, FloatArray, IntArray
from trend_dagster.science.cores import usable_cores
from trend_dagster.science.parcellation.clustering import Clustering, cluster
from trend_dagster.science.parcellation.factorization import (
    Factorization,
    factorize_many,
    too_many_components,
)
from trend_dagster.science.parcellation.settings import (
    ClusteringConfig,
    FactorizationConfig,
    SweepGrid,
)

PER_FACTORIZATION = ("n_iter", "objective", "zero_row_share", "dead_components", "distinct_rows")
"""What `sweep_arrays` gives for each factorisation."""

PER_CLUSTERING = (
    "silhouette",
    "davies_bouldin",
    "inertia",
    "within_connectivity",
    "between_connectivity",
    "connectivity_ratio",
    "full_within_connectivity",
    "full_between_connectivity",
)
"""What `sweep_arrays` gives for each of its clusterings."""


@dataclass(frozen=True, eq=False)
class Solution(Factorization):
    """One factorisation of the grid, its health, and all of its clusterings.

    Parameters
    ----------
    zero_row_share : float
        Share of the vertices with signal that load on nothing. Near 1, W has collapsed.
    dead_components : int
        Components that are zero everywhere in W or in H.
    distinct_rows : int
        Distinct rows of W among vertices with signal.
    clusterings : tuple of Clustering
        One for each number of clusters.
    """

    zero_row_share: float
    dead_components: int
    distinct_rows: int
    clusterings: tuple[Clustering, ...]


def sweep(
    matrix: BlockMatrix,
    grid: SweepGrid,
    factorization: FactorizationConfig | None = None,
    clustering: ClusteringConfig | None = None,
    *,
    full_correlation: Any = None,
    graph: Any = None,
    find: Callable[[FloatArray, FloatArray, int], IntArray] | None = None,
    n_threads: int | None = None,
) -> Iterator[Solution]:
    """Solve the whole grid for one spatial encoding, yielding solutions as they finish.

    Parameters
    ----------
    matrix : BlockMatrix
        The thresholded correlation.
    grid : SweepGrid
        What is tried in all combinations.
    factorization : FactorizationConfig, optional
        Solver and stop rule.
    clustering : ClusteringConfig, optional
        Seed and row scaling.
    full_correlation : array of shape (n_vertices, n_vertices), optional
        The correlation before thresholding, for connectivity that does not see the labels.
    graph : sparse array of shape (n_vertices, n_vertices), optional
        Weights of neighbouring vertices, for `FactorizationConfig.smoothness` > 0.
    find : callable, optional
        Takes W, H and a number of clusters and returns the cluster of each vertex, in place of
        KMeans on the rows of W: see `trend_dagster.science.parcellation.spectral.find_networks`.
    n_threads : int, optional
        Threads in use; all cores of this process by default.

    Yields
    ------
    Solution
        In the order in which factorisations converge. A collapsed solution is yielded like any
        other and says so in zero_row_share, dead_components and distinct_rows.

    Raises
    ------
    FactorizationError
        If there are more components or clusters than vertices with signal.
    """
    if (most := max(grid.n_clusters)) > matrix.n_kept:
        raise FactorizationError(
            "sweep.n_clusters",
            expected=f"at most the {matrix.n_kept} vertices with signal",
            found=str(most),
            remedy="Ask for fewer clusters.",
        )

    def solution(found: Factorization) -> Solution:
        labelings = None if find is None else [find(found.W, found.H, n) for n in grid.n_clusters]
        clusterings = cluster(
            matrix,
            found.W,
            grid.n_clusters,
            clustering,
            full_correlation=full_correlation,
            labelings=labelings,
        )
        dead = ~(found.W.any(axis=0) & found.H.any(axis=1))
        return Solution(
            **vars(found),
            zero_row_share=float(np.mean(~found.W[matrix.permutation].any(axis=1))),
            dead_components=int(np.count_nonzero(dead)),
            distinct_rows=clusterings[0].distinct_rows,
            clusterings=clusterings,
        )

    n_threads = n_threads or usable_cores()
    # One pool for all work: each thread computes alone, so that cores are not oversubscribed.
    # OpenMP keeps its number of threads per thread, so that each has to be told.
    with (
        _quick_turns(),
        threadpool_limits(1),
        ThreadPoolExecutor(n_threads, initializer=threadpool_limits, initargs=(1,)) as pool,
    ):
        waiting: list[Future[Solution]] = []
        for _, found in factorize_many(
            matrix, grid.problems(), factorization, graph=graph, n_threads=n_threads, pool=pool
        ):
            waiting.append(pool.submit(solution, found))
            while waiting and waiting[0].done():
                yield waiting.pop(0).result()
        yield from (future.result() for future in waiting)


@contextmanager
def _quick_turns() -> Iterator[None]:
    """Let a thread that hands out short pieces of work wait less for one that runs Python.

    KMeans keeps the interpreter for up to the 5 ms of the default, as long as a sweep takes.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, 0.001))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


# --- Around the sweep ------------------------------------------------------------------------


def possible_components(
    n_components: Sequence[int], n_kept: int
) -> tuple[list[int], dict[int, FactorizationError]]:
    """Part numbers of components that there are vertices enough for from the others.

    Parameters
    ----------
    n_components : sequence of int
        Asked for.
    n_kept : int
        Vertices in use.

    Returns
    -------
    tuple of list of int and dict of int to FactorizationError
        Those that can be solved, and for each other why not.
    """
    errors = {k: too_many_components(n_kept, k) for k in n_components}
    impossible = {k: error for k, error in errors.items() if error is not None}
    return [k for k in n_components if k not in impossible], impossible


def grid_axes(grid: SweepGrid) -> dict[str, NDArray[Any]]:
    """Settings of each combination in the order of `sweep_arrays`, and the numbers of clusters."""
    pairs = sorted((alpha, ratio) for alpha in grid.alpha_W for ratio in grid.l1_ratio)
    return {
        "alpha_W": np.array([alpha for alpha, _ in pairs]),
        "l1_ratio": np.array([ratio for _, ratio in pairs]),
        "n_clusters": np.array(grid.n_clusters),
    }


def sweep_arrays(solutions: Sequence[Solution]) -> dict[str, NDArray[Any]]:
    """Lay out the solutions of one number of components as arrays.

    Parameters
    ----------
    solutions : sequence of Solution
        One for each combination of alpha_W and l1_ratio.

    Returns
    -------
    dict of str to ndarray
        All but W and H: ``alpha_W``, ``l1_ratio`` and `PER_FACTORIZATION` of shape (n_solutions,);
        ``n_clusters``; ``labels`` of shape (n_solutions, n_clusters, n_vertices);
        `PER_CLUSTERING` of shape (n_solutions, n_clusters); ``cluster_sizes`` of shape
        (n_solutions, n_clusters, largest n_clusters), padded with 0.
    """
    n_clusters = [c.n_clusters for c in solutions[0].clusterings]
    sizes = np.zeros((len(solutions), len(n_clusters), max(n_clusters)), dtype=np.int64)
    for i, one in enumerate(solutions):
        for j, clustering in enumerate(one.clusterings):
            sizes[i, j, : len(clustering.cluster_sizes)] = clustering.cluster_sizes
    single = ("alpha_W", "l1_ratio", *PER_FACTORIZATION)
    several = ("labels", *PER_CLUSTERING)
    return {
        **{name: np.array([getattr(one, name) for one in solutions]) for name in single},
        "n_clusters": np.array(n_clusters),
        **{
            name: np.array([[getattr(c, name) for c in one.clusterings] for one in solutions])
            for name in several
        },
        "cluster_sizes": sizes,
    }
