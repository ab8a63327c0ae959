"""The tutorial's sweep with scikit-learn against the engine.

``python -m benchmarks.sweep`` prints a table and, as its last line, one JSON object.

The reference does what the tutorial does, cell by cell: NMF for every pair of n_components and
n_clusters, KMeans, silhouette, Davies-Bouldin, connectivity by loops, with as many workers as
threads are given to the engine. It is timed on an even sample of n_components, and scaled.

With fewer components than labels, a penalty of any size leaves labels without a component, since
a component ends in one label. The default grid of 20 labels therefore has no penalty, where all
rows of W live; with 2 labels alpha_W is 1e-4.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF
from sklearn.metrics import adjusted_rand_score, davies_bouldin_score, silhouette_score
from threadpoolctl import threadpool_limits

from benchmarks.cohort import Correlation, from_bold, simulate
from benchmarks.measure import Measured, in_process, report
from trend_dagster.science.block_matrix import BlockMatrix, threshold_by_label
from trend_dagster.science.clustering import cluster
from trend_dagster.science.factorization import (
    Problem,
    factorize_many,
    leading_eigenpairs,
    nndsvda,
    objective,
    penalties,
)
from trend_dagster.science.sweep import SweepCell, SweepGrid, sweep

Array = NDArray[Any]
L1_RATIO = 0.4
N_CLUSTERS = (14, 38)
SAMPLE = (10, 16, 22, 28, 34, 40)
RESULTS = Path(__file__).parent / "results"
console = Console(width=100)


@dataclass(frozen=True)
class Case:
    """One matrix and grid."""

    n_vertices: int
    n_labels: int
    alpha_W: float
    n_threads: int
    bold: Path | None = None

    def source(self) -> tuple[Correlation, Array]:
        """Return the correlation, computed where it is sliced, and the labels."""
        if self.bold is not None:
            return from_bold(self.bold, self.n_labels)
        return simulate(self.n_vertices, self.n_labels)

    @property
    def grid(self) -> SweepGrid:
        """Return the tutorial's grid at this penalty."""
        return SweepGrid(alpha_W=(self.alpha_W,), l1_ratio=(L1_RATIO,), n_clusters=N_CLUSTERS)


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


def reference_cell(
    path: Path, k: int, n_clusters: int, alpha_W: float, random_state: int
) -> Array:
    """Fit and describe one cell on one thread; return the labels."""
    with threadpool_limits(1):
        return describe_cell(np.load(path, mmap_mode="r"), k, n_clusters, alpha_W, random_state)


def describe_cell(X: Array, k: int, n_clusters: int, alpha_W: float, random_state: int) -> Array:
    """Do what the tutorial does for one row of its table."""
    W = sklearn_nmf(k, alpha_W, random_state=random_state, init="nndsvda").fit_transform(X)
    means = KMeans(n_clusters, n_init="auto", random_state=random_state).fit(W)
    silhouette_score(W, means.labels_)
    davies_bouldin_score(W, means.labels_)
    mean_within(X, means.labels_)
    mean_between(X, means.labels_)
    labels: Array = means.labels_
    return labels


def sklearn_nmf(k: int, alpha_W: float, **settings: Any) -> NMF:
    """Return scikit-learn's NMF with the tutorial's settings."""
    return NMF(
        k, solver="cd", tol=1e-4, max_iter=10000, alpha_W=alpha_W, l1_ratio=L1_RATIO, **settings
    )


def reference_grid(
    path: Path, case: Case, random_state: int
) -> tuple[float, dict[tuple[int, int], Array]]:
    """Run the sampled cells in workers of one thread each; return wall time and labels."""
    cells = list(product(reversed(SAMPLE), reversed(N_CLUSTERS)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(case.n_threads, mp_context=context) as pool:
        # Workers import before the clock starts.
        list(pool.map(reference_cell, *zip(*[(path, 1, 2, 0.0, 0)] * case.n_threads, strict=True)))
        began = time.perf_counter()
        run = [pool.submit(reference_cell, path, k, c, case.alpha_W, random_state) for k, c in cells]
        labels = [future.result() for future in run]
        seconds = time.perf_counter() - began
    return seconds, dict(zip(cells, labels, strict=True))


def reference_worker(prepared: tuple[Array, Array, Case]) -> None:
    """Threshold, and do the largest cell: the memory of a single worker."""
    correlation, labels, case = prepared
    X = dense_threshold(correlation, labels)
    np.maximum(X, 0, out=X)
    describe_cell(X, max(SAMPLE), max(N_CLUSTERS), case.alpha_W, 108)


# --- The engine ------------------------------------------------------------------------------


def load_dense(folder: Path, case: Case) -> tuple[Array, Array, Case]:
    """Load the input of both sides, and compile the engine."""
    list(sweep(small_matrix(), SweepGrid(n_components=(2,), n_clusters=(2,))))
    return np.load(folder / "correlation.npy"), np.load(folder / "labels.npy"), case


def load_lazy(case: Case) -> tuple[Correlation, Array, Case]:
    """Make the input where the dense correlation would not fit, and compile the engine."""
    list(sweep(small_matrix(), SweepGrid(n_components=(2,), n_clusters=(2,))))
    return *case.source(), case


def small_matrix() -> BlockMatrix:
    """Return a matrix that is just large enough to run everything once."""
    return threshold_by_label(np.eye(6, dtype=np.float32) + 1, np.zeros(6))


def engine(prepared: tuple[Any, Array, Case]) -> list[SweepCell]:
    """Threshold and sweep."""
    correlation, labels, case = prepared
    matrix = threshold_by_label(correlation, labels)
    return list(sweep(matrix, case.grid, n_threads=case.n_threads))


def engine_alone(prepared: tuple[Any, Array, Case]) -> tuple[float, int]:
    """Threshold and sweep, letting go of each cell; return zero_rows_max and sweeps done."""
    correlation, labels, case = prepared
    matrix = threshold_by_label(correlation, labels)
    cells = [
        (cell.zero_row_share, cell.n_iter)
        for cell in sweep(matrix, case.grid, n_threads=case.n_threads)
    ]
    return max(share for share, _ in cells), sum(n for _, n in cells)


# --- Comparison ------------------------------------------------------------------------------


def same_start(matrix: BlockMatrix, X: Array, case: Case) -> tuple[float, float]:
    """Start both sides from one W0, H0; return the worst objective ratio and the worst ARI."""
    pairs = leading_eigenpairs(matrix, max(SAMPLE))
    problems = [Problem(k, case.alpha_W, L1_RATIO) for k in SAMPLE]
    starts = []
    for k in SAMPLE:
        Wt, H = nndsvda(matrix, pairs, k)
        W0, H0 = np.zeros((matrix.n_vertices, k), np.float32), np.zeros_like(H)
        W0[matrix.permutation], H0[:, matrix.permutation] = Wt.T, H
        starts.append((W0, H0))
    l1, l2 = penalties(matrix, case.alpha_W, L1_RATIO)
    ratios, agreement = [], []
    for i, ours in factorize_many(matrix, problems, starts=starts, n_threads=case.n_threads):
        model = sklearn_nmf(SAMPLE[i], case.alpha_W, init="custom")
        W = model.fit_transform(X, W=starts[i][0].copy(), H=starts[i][1].copy())
        ratios.append(ours.objective / objective(matrix, W, model.components_, l1, l2))
        theirs = [KMeans(c, n_init="auto", random_state=108).fit(W).labels_ for c in N_CLUSTERS]
        for found, labels in zip(cluster(matrix, ours.W, N_CLUSTERS), theirs, strict=True):
            agreement.append(adjusted_rand_score(found.labels, labels))
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
        ours = [measured_engine(folder, case)]
        sample_seconds, first = reference_grid(folder / "X.npy", case, 108)
        ours.append(measured_engine(folder, case))
        _, second = reference_grid(folder / "X.npy", case, 109)
        ours.append(measured_engine(folder, case))
        theirs = in_process(load_dense, reference_worker, folder, case, n_threads=case.n_threads)
    matrix = threshold_by_label(C, labels)
    with threadpool_limits(case.n_threads):
        ratio, ari = same_start(matrix, X, case)
    n_all, n_sample = len(case.grid.problems()) * len(N_CLUSTERS), len(first)
    reference_seconds = threshold_seconds + sample_seconds * n_all / n_sample
    seconds = float(np.median([m.seconds for m in ours]))
    engine_labels = {
        (cell.n_components, c.n_clusters): c.labels
        for cell in ours[0].value
        for c in cell.clusterings
    }
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
        "ari_median_end_to_end": median_ari(first, engine_labels),
        "sklearn_ari_median_between_seeds": median_ari(first, second),
        "zero_rows_max": max(cell.zero_row_share for cell in ours[0].value),
        "reference_increment_mib": theirs.increment_mib,
        "engine_increment_mib": max(m.increment_mib for m in ours),
        "memory_ratio": max(m.increment_mib for m in ours) / theirs.increment_mib,
    }


def measured_engine(folder: Path, case: Case) -> Measured:
    """Run the engine in a process of its own."""
    return in_process(load_dense, engine, folder, case, n_threads=case.n_threads)


def median_ari(a: dict[tuple[int, int], Array], b: dict[tuple[int, int], Array]) -> float:
    """Return the median agreement over the cells of a."""
    return float(np.median([adjusted_rand_score(a[cell], b[cell]) for cell in a]))


def alone(case: Case) -> dict[str, Any]:
    """Run the engine without a reference; return the figures."""
    found = in_process(load_lazy, engine_alone, case, n_threads=case.n_threads)
    zero_rows, n_iter = found.value
    return {
        "n_vertices": case.n_vertices,
        "n_labels": case.n_labels,
        "alpha_W": case.alpha_W,
        "engine_seconds": found.seconds,
        "peak_rss_gib": found.peak_mib / 1024,
        "engine_increment_mib": found.increment_mib,
        "sweeps": n_iter,
        "zero_rows_max": zero_rows,
    }


GROWTH = ((1284, 20), (2562, 20), (5124, 20), (10242, 20), (20484, 20))
GROWTH_LABELS = ((5124, 2), (5124, 5), (5124, 10), (5124, 50), (5124, 100))


def growth(n_threads: int) -> dict[str, Any]:
    """Time the engine over V and L; return the fitted exponents."""
    sizes = [Case(v, n, 0.0, n_threads) for v, n in (*GROWTH, *GROWTH_LABELS)]
    rows = [alone(case) for case in sizes]
    show(rows)
    over_v = [row for row in rows if row["n_labels"] == 20]
    over_l = sorted((r for r in rows if r["n_vertices"] == 5124), key=lambda r: r["n_labels"])
    return {
        "rows": rows,
        "seconds_exponent_in_vertices": exponent(over_v, "n_vertices", "engine_seconds"),
        "memory_exponent_in_vertices": exponent(over_v, "n_vertices", "engine_increment_mib"),
        "seconds_exponent_in_labels": exponent(over_l, "n_labels", "engine_seconds"),
    }


def exponent(rows: Sequence[dict[str, Any]], x: str, y: str) -> float:
    """Fit y as a power of x."""
    return float(np.polyfit(np.log([r[x] for r in rows]), np.log([r[y] for r in rows]), 1)[0])


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print figures as a table."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    console.print(table)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vertices", type=int, default=5124)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--alpha", type=float, help="alpha_W; by default one where all rows live")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bold", type=Path, help="real BOLD, (vertices, timepoints) in .npy")
    parser.add_argument("--growth", action="store_true", help="the engine over V and L")
    parser.add_argument("--alone", action="store_true", help="no reference; so beyond 10242")
    parser.add_argument("--keep", action="store_true", help="write figures to benchmarks/results")
    args = parser.parse_args()
    alpha = args.alpha if args.alpha is not None else (1e-4 if args.labels <= 10 else 0.0)
    case = Case(args.vertices, args.labels, alpha, args.threads, args.bold)
    if args.growth:
        name, figures = "sweep_growth", growth(args.threads)
    elif args.alone or args.vertices > 10242:
        name, figures = f"sweep_V{args.vertices}_L{args.labels}", alone(case)
    else:
        name, figures = f"sweep_V{args.vertices}_L{args.labels}", compare(case)
    if figures.get("zero_rows_max", 0) > 0.05:
        raise SystemExit(
            f"{figures['zero_rows_max']:.0%} of the rows of W are zero: solvers agree about "
            "nothing there. Choose a smaller --alpha."
        )
    if not args.growth:
        table = Table("figure", "value")
        for key, value in figures.items():
            table.add_row(key, f"{value:.5g}" if isinstance(value, float) else str(value))
        console.print(table)
    report(figures, RESULTS / f"{name}.json" if args.keep else None)


if __name__ == "__main__":
    main()
