"""The tutorial's sweep with scikit-learn against the engine.

``python -m benchmarks.sweep`` prints a table and, as its last line, one JSON object.

The reference does what the tutorial does, cell by cell: NMF for every pair of n_components and
n_clusters, KMeans, silhouette, Davies-Bouldin, connectivity by loops, with as many workers as
threads are given to the engine. It is timed on an even sample of n_components, and scaled.

``zero_rows_max`` is the largest share of zero rows of W among cells with k >= L components for L
labels (null where the grid has none). With k < L the rows of L - k labels are empty whatever the
solver and the matrix, since the penalty leaves a component in one label only: a share of
(L - k) / L for labels of one size, which says nothing about health. Such cells belong to the
tutorial's grid, and are solved, compared and timed; ``zero_rows_max_fewer_components`` tells their
share, and ``zero_rows_excess_max`` what goes beyond max(0, (L - k) / L) in any cell. Where the
excess is over 5 % the factorisation has collapsed: nothing is reported, and the exit code is 1. In
the table of growth such a case is named and left out of the fits.

How far clusterings differ by chance depends on the seed of KMeans more than on anything else, and
a single seed is a toss. So every factorisation is clustered from several seeds:
``ari_median_end_to_end`` is between engine and scikit-learn with equal seeds,
``sklearn_ari_median_between_seeds`` between scikit-learn and itself with another random_state.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF
from sklearn.metrics import adjusted_rand_score, davies_bouldin_score, silhouette_score
from threadpoolctl import threadpool_limits

from benchmarks.cohort import Correlation, from_bold, simulate
from benchmarks.measure import Measured, in_process, report, result_path, show
from trend_dagster.science._device import Device
from trend_dagster.science.connectivity.thresholding import BlockMatrix, threshold_by_label
from trend_dagster.science.parcellation.clustering import cluster
from trend_dagster.science.parcellation.factorization import (
    factorize_many,
    leading_eigenpairs,
    nndsvda,
    objective,
    penalties,
)
from trend_dagster.science.parcellation.settings import FactorizationConfig, Problem, SweepGrid
from trend_dagster.science.parcellation.sweep import Solution, sweep

Array = NDArray[Any]
L1_RATIO = 0.4
ALPHA = 2e-4
"""alpha_W times the number of labels: where W collapses, alpha_W falls about as 1 / L."""
N_CLUSTERS = (14, 38)
N_COMPONENTS = tuple(range(10, 41, 2))
"""The tutorial's, whatever the default of the settings is."""
SAMPLE = (10, 16, 22, 28, 34, 40)
KMEANS_SEEDS = range(108, 113)
COLLAPSE = 0.05


@dataclass(frozen=True)
class Case:
    """One matrix and grid."""

    n_vertices: int
    n_labels: int
    alpha_W: float
    n_threads: int
    bold: Path | None = None
    n_components: tuple[int, ...] = N_COMPONENTS
    sample: tuple[int, ...] = SAMPLE
    device: Device = "cpu"

    def __post_init__(self) -> None:
        if not set(self.sample) <= set(self.n_components):
            raise SystemExit("--sample: some of --components, so that both sides have them")

    def source(self) -> tuple[Correlation, Array]:
        """Return the correlation, computed where it is sliced, and the labels."""
        if self.bold is not None:
            return from_bold(self.bold, self.n_labels)
        return simulate(self.n_vertices, self.n_labels)

    @property
    def grid(self) -> SweepGrid:
        """Return the tutorial's grid at this penalty."""
        return SweepGrid(
            n_components=self.n_components,
            alpha_W=(self.alpha_W,),
            l1_ratio=(L1_RATIO,),
            n_clusters=N_CLUSTERS,
        )

    @property
    def config(self) -> FactorizationConfig:
        """Return the engine's settings."""
        return FactorizationConfig(tol=1e-4, max_iter=10000, device=self.device)


# --- The tutorial's way ----------------------------------------------------------------------


def dense_threshold(matrix: Array, labels: Array) -> Array:
    """Keep entries within a label, row by row, in a matrix of full size."""
    kept = np.zeros_like(matrix)
    for row, label in enumerate(labels):
        same = labels == label
        kept[row, same] = matrix[row, same]
    return kept


def mean_within(matrix: Array, labels: Array) -> float:
    """Average correlation inside clusters, cluster by cluster."""
    means = []
    for label in np.unique(labels):
        members = np.where(labels == label)[0]
        inside = matrix[np.ix_(members, members)]
        pairs = inside[np.triu_indices(len(members), 1)]
        means.append(pairs.mean() if len(members) > 1 else 0.0)
    return float(np.mean(means))


def mean_between(matrix: Array, labels: Array) -> float:
    """Average correlation between clusters, pair by pair."""
    members = [np.where(labels == label)[0] for label in np.unique(labels)]
    pairs = [(a, b) for i, a in enumerate(members) for b in members[i + 1 :]]
    return float(np.mean([matrix[np.ix_(a, b)].mean() for a, b in pairs]))


def reference_cell(path: Path, k: int, n_clusters: int, alpha_W: float, random_state: int) -> Array:
    """Fit and describe one cell on one thread; return W."""
    with threadpool_limits(1):
        return describe_cell(np.load(path, mmap_mode="r"), k, n_clusters, alpha_W, random_state)


def describe_cell(X: Array, k: int, n_clusters: int, alpha_W: float, random_state: int) -> Array:
    """Do what the tutorial does for one row of its table."""
    W: Array = sklearn_nmf(k, alpha_W, random_state=random_state, init="nndsvda").fit_transform(X)
    means = KMeans(n_clusters, n_init="auto", random_state=random_state).fit(W)
    silhouette_score(W, means.labels_)
    davies_bouldin_score(W, means.labels_)
    mean_within(X, means.labels_)
    mean_between(X, means.labels_)
    return W


def sklearn_nmf(k: int, alpha_W: float, **settings: Any) -> NMF:
    """Return scikit-learn's NMF with the tutorial's settings."""
    return NMF(
        k, solver="cd", tol=1e-4, max_iter=10000, alpha_W=alpha_W, l1_ratio=L1_RATIO, **settings
    )


def reference_grid(
    path: Path, case: Case, random_state: int, n_clusters: tuple[int, ...] = N_CLUSTERS
) -> tuple[float, dict[int, Array]]:
    """Run the sampled cells in workers of one thread each; return wall time and W by k."""
    cells = list(product(reversed(case.sample), reversed(n_clusters)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(case.n_threads, mp_context=context) as pool:
        # Workers import before the clock starts.
        list(pool.map(reference_cell, *zip(*[(path, 1, 2, 0.0, 0)] * case.n_threads, strict=True)))
        began = time.perf_counter()
        run = [
            pool.submit(reference_cell, path, k, c, case.alpha_W, random_state) for k, c in cells
        ]
        found = [future.result() for future in run]
        seconds = time.perf_counter() - began
    return seconds, {k: W for (k, _), W in zip(cells, found, strict=True)}


def reference_worker(prepared: tuple[Array, Array, Case]) -> None:
    """Threshold, and do the largest cell: the memory of a single worker."""
    correlation, labels, case = prepared
    X = dense_threshold(correlation, labels)
    np.maximum(X, 0, out=X)
    describe_cell(X, max(case.sample), max(N_CLUSTERS), case.alpha_W, 108)


# --- The engine ------------------------------------------------------------------------------


def load_dense(folder: Path, case: Case) -> tuple[Array, Array, Case]:
    """Load the input of both sides, and compile the engine."""
    warm_up(case)
    return np.load(folder / "correlation.npy"), np.load(folder / "labels.npy"), case


def load_lazy(case: Case) -> tuple[Correlation, Array, Case]:
    """Make the input where the dense correlation would not fit, and compile the engine."""
    warm_up(case)
    return *case.source(), case


def warm_up(case: Case) -> None:
    """Run everything once, so that nothing is compiled or started within the clock."""
    matrix = threshold_by_label(np.eye(6, dtype=np.float32) + 1, np.zeros(6))
    list(sweep(matrix, SweepGrid(n_components=(2,), n_clusters=(2,)), case.config))


def engine(prepared: tuple[Any, Array, Case]) -> list[Solution]:
    """Threshold and sweep."""
    correlation, labels, case = prepared
    matrix = threshold_by_label(correlation, labels)
    return list(sweep(matrix, case.grid, case.config, n_threads=case.n_threads))


def engine_alone(prepared: tuple[Any, Array, Case]) -> tuple[dict[int, float], int]:
    """Threshold and sweep, letting go of each cell; return shares of zero rows, and sweeps."""
    correlation, labels, case = prepared
    matrix = threshold_by_label(correlation, labels)
    cells = [
        (cell.n_components, cell.zero_row_share, cell.n_iter)
        for cell in sweep(matrix, case.grid, case.config, n_threads=case.n_threads)
    ]
    return {k: share for k, share, _ in cells}, sum(n for _, _, n in cells)


# --- Comparison ------------------------------------------------------------------------------


def same_start(matrix: BlockMatrix, X: Array, case: Case) -> tuple[float, float]:
    """Start both sides from one W0, H0; return the worst objective ratio and the worst ARI."""
    pairs = leading_eigenpairs(matrix, max(case.sample))
    problems = [Problem(k, case.alpha_W, L1_RATIO) for k in case.sample]
    starts = []
    for k in case.sample:
        Wt, H = nndsvda(matrix, pairs, k)
        W0, H0 = np.zeros((matrix.n_vertices, k), np.float32), np.zeros_like(H)
        W0[matrix.permutation], H0[:, matrix.permutation] = Wt.T, H
        starts.append((W0, H0))
    l1, l2 = penalties(matrix, case.alpha_W, L1_RATIO)
    ratios, agreement = [], []
    found = factorize_many(matrix, problems, case.config, starts=starts, n_threads=case.n_threads)
    for i, ours in found:
        model = sklearn_nmf(case.sample[i], case.alpha_W, init="custom")
        W = model.fit_transform(X, W=starts[i][0].copy(), H=starts[i][1].copy())
        ratios.append(ours.objective / objective(matrix, W, model.components_, l1, l2))
        theirs = [KMeans(c, n_init="auto", random_state=108).fit(W).labels_ for c in N_CLUSTERS]
        for mine, labels in zip(cluster(matrix, ours.W, N_CLUSTERS), theirs, strict=True):
            agreement.append(adjusted_rand_score(mine.labels, labels))
    return max(ratios), min(agreement)


def compare(case: Case) -> dict[str, Any]:
    """Run both sides on one matrix; return the figures."""
    correlation, labels = case.source()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        C = correlation[:, :]
        np.save(folder / "correlation.npy", C)
        np.save(folder / "labels.npy", labels)
        began = time.perf_counter()
        X = dense_threshold(C, labels)
        np.maximum(X, 0, out=X)
        threshold_seconds = time.perf_counter() - began
        np.save(folder / "X.npy", X)
        run = partial(in_process, load_dense, engine, folder, case, n_threads=case.n_threads)
        ours: list[Measured] = [run()]
        sample_seconds, first = reference_grid(folder / "X.npy", case, 108)
        ours.append(run())
        _, second = reference_grid(folder / "X.npy", case, 109, N_CLUSTERS[:1])
        ours.append(run())
        theirs = in_process(load_dense, reference_worker, folder, case, n_threads=case.n_threads)
    matrix = threshold_by_label(C, labels)
    with threadpool_limits(case.n_threads):
        ratio, ari = same_start(matrix, X, case)
    n_all, n_sample = len(case.grid.problems()) * len(N_CLUSTERS), len(first) * len(N_CLUSTERS)
    reference_seconds = threshold_seconds + sample_seconds * n_all / n_sample
    seconds = float(np.median([m.seconds for m in ours]))
    loadings = {cell.n_components: cell.W for cell in ours[0].value}
    enough = len(matrix.blocks)
    return {
        "n_vertices": matrix.n_vertices,
        "n_labels": len(matrix.blocks),
        "alpha_W": case.alpha_W,
        "cells": n_all,
        "reference_cells_timed": n_sample,
        "reference_seconds": reference_seconds,
        "engine_seconds": seconds,
        "speedup": reference_seconds / seconds,
        "objective_ratio_max": ratio,
        "ari_min_same_start": ari,
        "ari_median_end_to_end": median_ari(first, loadings, same_seed=True),
        "sklearn_ari_median_between_seeds": median_ari(first, second, same_seed=False),
        **zero_rows({c.n_components: c.zero_row_share for c in ours[0].value}, enough),
        "reference_increment_mib": theirs.increment_mib,
        "engine_increment_mib": max(m.increment_mib for m in ours),
        "memory_ratio": max(m.increment_mib for m in ours) / theirs.increment_mib,
    }


def median_ari(a: dict[int, Array], b: dict[int, Array], *, same_seed: bool) -> float:
    """Return the median agreement over cells and pairs of equal, or of different, seeds."""
    scores = [
        adjusted_rand_score(first[i], second[j])
        for k, c in product(a, N_CLUSTERS)
        for first, second in [(labelings(a[k], c), labelings(b[k], c))]
        for i, j in product(range(len(first)), repeat=2)
        if (i == j) == same_seed
    ]
    return float(np.median(scores))


def labelings(W: Array, n_clusters: int) -> list[Array]:
    """Cluster the rows of W once from each seed."""
    return [
        KMeans(n_clusters, n_init="auto", random_state=seed).fit(W).labels_ for seed in KMEANS_SEEDS
    ]


def zero_rows(shares: dict[int, float], n_labels: int) -> dict[str, float | None]:
    """Return the largest shares of zero rows; the keys are explained at the top."""
    enough = [share for k, share in shares.items() if k >= n_labels]
    fewer = [share for k, share in shares.items() if k < n_labels]
    excess = [share - max(0.0, 1 - k / n_labels) for k, share in shares.items()]
    return {
        "zero_rows_max": max(enough, default=None),
        "zero_rows_max_fewer_components": max(fewer, default=None),
        "zero_rows_excess_max": max(excess),
    }


def collapsed(figures: dict[str, Any]) -> bool:
    """Tell whether solvers agree about nothing, as W is empty where it need not be."""
    return bool(figures["zero_rows_excess_max"] > COLLAPSE)


def alone(case: Case) -> dict[str, Any]:
    """Run the engine without a reference; return the figures."""
    found = in_process(load_lazy, engine_alone, case, n_threads=case.n_threads)
    shares, n_iter = found.value
    return {
        "n_vertices": case.n_vertices,
        "n_labels": case.n_labels,
        "alpha_W": case.alpha_W,
        "engine_seconds": found.seconds,
        "peak_rss_gib": found.peak_mib / 1024,
        "engine_increment_mib": found.increment_mib,
        "sweeps": n_iter,
        **zero_rows(shares, case.n_labels),
    }


GROWTH = ((1284, 20), (2562, 20), (5124, 20), (10242, 20), (20484, 20))
GROWTH_LABELS = ((5124, 2), (5124, 5), (5124, 10), (5124, 50), (5124, 100))

COLUMNS = (
    "n_vertices", "n_labels", "engine_seconds", "engine_increment_mib", "sweeps", "collapsed",
)  # fmt: skip


def growth(n_threads: int, device: Device) -> dict[str, Any]:
    """Time the engine over V and L; return the fitted exponents."""
    rows = []
    for n_vertices, n_labels in (*GROWTH, *GROWTH_LABELS):
        row = alone(Case(n_vertices, n_labels, 1e-5, n_threads, device=device))
        rows.append({**row, "collapsed": collapsed(row)})
        # Each as it is found: whoever interrupts the table keeps what there is.
        print({k: row[k] for k in ("n_vertices", "n_labels", "engine_seconds")}, flush=True)
    print(pd.DataFrame(rows)[list(COLUMNS)].to_string(index=False))
    alive = [row for row in rows if not row["collapsed"]]
    over_v = [row for row in alive if row["n_labels"] == 20]
    over_l = sorted((r for r in alive if r["n_vertices"] == 5124), key=lambda r: r["n_labels"])
    return {
        "rows": rows,
        "rows_collapsed": len(rows) - len(alive),
        "seconds_exponent_in_vertices": exponent(over_v, "n_vertices", "engine_seconds"),
        "memory_exponent_in_vertices": exponent(over_v, "n_vertices", "engine_increment_mib"),
        "seconds_exponent_in_labels": exponent(over_l, "n_labels", "engine_seconds"),
        "memory_exponent_in_labels": exponent(over_l, "n_labels", "engine_increment_mib"),
    }


def exponent(rows: Sequence[dict[str, Any]], x: str, y: str) -> float | None:
    """Fit y as a power of x, where there are points to fit."""
    if len({row[x] for row in rows}) < 2:
        return None
    return float(np.polyfit(np.log([r[x] for r in rows]), np.log([r[y] for r in rows]), 1)[0])


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vertices", type=int, default=5124)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--alpha", type=float, help="alpha_W; 2e-4 / labels by default")
    parser.add_argument("--components", type=int, nargs="+", default=N_COMPONENTS, help="the grid")
    parser.add_argument("--sample", type=int, nargs="+", default=SAMPLE, help="k of the reference")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=get_args(Device), default="cpu", help="of the engine")
    parser.add_argument("--bold", type=Path, help="real BOLD, (vertices, timepoints) in .npy")
    parser.add_argument("--growth", action="store_true", help="the engine over V and L")
    parser.add_argument("--alone", action="store_true", help="no reference; so beyond 10242")
    parser.add_argument("--keep", action="store_true", help="write figures to benchmarks/results")
    args = parser.parse_args()
    alpha_W = ALPHA / args.labels if args.alpha is None else args.alpha
    case = Case(
        args.vertices, args.labels, alpha_W, args.threads, args.bold, tuple(args.components),
        tuple(args.sample), args.device,
    )  # fmt: skip
    if args.growth:
        name, figures = "sweep_growth", growth(args.threads, args.device)
    elif args.alone or args.vertices > 10242:
        name, figures = f"sweep_V{args.vertices}_L{args.labels}", alone(case)
    else:
        name, figures = f"sweep_V{args.vertices}_L{args.labels}", compare(case)
    if not args.growth and collapsed(figures):
        raise SystemExit(
            f"{figures['zero_rows_excess_max']:.0%} of the rows of W are zero beyond those of "
            "labels without a component: solvers agree about nothing there. Choose a smaller "
            "--alpha."
        )
    if not args.growth:
        show(figures)
    report(figures, result_path(name, args.device) if args.keep else None, args.device)


if __name__ == "__main__":
    main()
