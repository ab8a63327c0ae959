"""From thresholded matrices to parcellations: the sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.matrices import sizes_figure
from trend_dagster.delivery.figures.png import small_png
from trend_dagster.errors import TrendError
from trend_dagster.orchestration.assets.connectivity import graph_of, loadings_are_free
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Cell, stored_asset
from trend_dagster.project.folder import LABEL_FILE, N_COMPONENTS
from trend_dagster.project.settings import Settings
from trend_dagster.science.connectivity.thresholding import BlockMatrix
from trend_dagster.science.parcellation.factorization import too_many_components
from trend_dagster.science.parcellation.fanout import worker_memory
from trend_dagster.science.parcellation.spectral import find_networks
from trend_dagster.science.parcellation.sweep import Solution, sweep
from trend_dagster.storage.stores import Version

METRICS = (
    "silhouette",
    "davies_bouldin",
    "inertia",
    "within_connectivity",
    "between_connectivity",
    "connectivity_ratio",
    "full_within_connectivity",
    "full_between_connectivity",
)
PER_FACTORIZATION = ("n_iter", "objective", "zero_row_share", "dead_components", "distinct_rows")


def _worker_bytes(settings: Settings, inputs: Mapping[str, list[Version]], n_threads: int) -> int:
    (matrix,), (correlation,) = inputs["thresholded_matrix"], inputs["average_correlation"]
    if "block_sizes" not in matrix.names():  # excluded, nothing is computed
        return 0
    whole = correlation.array("correlation").nbytes
    budget = int(settings.correlation.memory_budget_gib * 2**30)
    needed = worker_memory(matrix.read("block_sizes"), settings.sweep, n_threads)
    return needed + (whole if whole <= budget else 0)


@stored_asset(
    group="parcellation",
    dims=(LABEL_FILE, N_COMPONENTS),
    settings=("sweep", "factorization", "clustering", "networks", "thresholding"),
    together=N_COMPONENTS,
    unless={"geodesic_distances": loadings_are_free},
    pool="memory",
    worker_bytes=_worker_bytes,
)
def nmf_sweep(
    cells: Sequence[Cell],
    thresholded_matrix: Version,
    average_correlation: Version,
    geodesic_distances: Version | None,
) -> Iterator[tuple[Cell, Result | TrendError]]:
    """Regularised NMF and KMeans for one label file and one number of components.

    Each output holds, for every alpha_W and l1_ratio, the loadings W and profiles H, and for every
    number of clusters the label of each vertex and the metrics. Where the penalty was too strong
    for the matrix, W collapses to zero: that is measured, named, and checked.
    """
    matrix = block_matrix(thresholded_matrix)
    cells, errors = feasible(cells, matrix.n_kept)
    yield from errors
    if cells:
        correlation: Any = average_correlation.array("correlation")
        settings = cells[0].settings
        if correlation.nbytes <= settings.correlation.memory_budget_gib * 2**30:
            # Every cell reads all of it.
            correlation = average_correlation.read("correlation")
        graph = graph_of(settings, geodesic_distances)
        by_key = {int(cell.partition[N_COMPONENTS]): cell for cell in cells}
        for done, (k, parts) in enumerate(swept(cells, matrix, correlation, graph), 1):
            by_key[k].progress(f"{done} of {len(cells)} cells", done / len(cells))
            yield by_key[k], _result(parts)


def feasible(
    cells: Sequence[Cell], n_kept: int
) -> tuple[list[Cell], list[tuple[Cell, TrendError]]]:
    """Part the cells that there are vertices enough for from the others, and say why not."""
    possible: list[Cell] = []
    errors: list[tuple[Cell, TrendError]] = []
    for cell in cells:
        error = too_many_components(n_kept, int(cell.partition[N_COMPONENTS]))
        if error is None:
            possible.append(cell)
        else:
            errors.append((cell, error))
    return possible, errors


def block_matrix(thresholded_matrix: Version) -> BlockMatrix:
    """Open the stored blocks."""
    arrays = {name: thresholded_matrix.read(name) for name in thresholded_matrix.names()}
    return BlockMatrix.from_arrays(arrays, thresholded_matrix.facts["n_vertices"])


def _result(parts: list[Solution]) -> Result:
    arrays = sweep_arrays(parts)
    zero = [part.zero_row_share for part in parts]
    return Result(
        arrays=arrays | {"W": np.stack([p.W for p in parts]), "H": np.stack([p.H for p in parts])},
        facts={
            "zero_row_share_max": max(zero),
            "n_iter": [part.n_iter for part in parts],
            "silhouette": arrays["silhouette"].tolist()
            if np.isfinite(arrays["silhouette"]).all()
            else str(arrays["silhouette"].tolist()),
            "factorization_seconds": [round(part.seconds, 3) for part in parts],
        },
        pictures={
            f"cluster sizes, {c.n_clusters} clusters": small_png(sizes_figure(c.labels))
            for c in parts[0].clusterings[:2]
        },
    )


def sweep_arrays(parts: Sequence[Solution]) -> dict[str, NDArray[Any]]:
    """Lay out the cells of one n_components as arrays (all but W and H)."""
    n_clusters = [c.n_clusters for c in parts[0].clusterings]
    arrays: dict[str, NDArray[Any]] = {
        "alpha_W": np.array([p.alpha_W for p in parts]),
        "l1_ratio": np.array([p.l1_ratio for p in parts]),
        "n_clusters": np.array(n_clusters),
        "labels": np.stack([[c.labels for c in p.clusterings] for p in parts]),
    }
    for name in PER_FACTORIZATION:
        arrays[name] = np.array([getattr(p, name) for p in parts])
    for name in METRICS:
        arrays[name] = np.array([[getattr(c, name) for c in p.clusterings] for p in parts])
    sizes = np.zeros((len(parts), len(n_clusters), max(n_clusters)), dtype=np.int64)
    for i, part in enumerate(parts):
        for j, clustering in enumerate(part.clusterings):
            sizes[i, j, : len(clustering.cluster_sizes)] = clustering.cluster_sizes
    return arrays | {"cluster_sizes": sizes}


def swept(
    cells: Sequence[Cell], matrix: BlockMatrix, full_correlation: Any, graph: Any
) -> Iterator[tuple[int, list[Solution]]]:
    """Run the sweep for the n_components of some cells, all at once.

    Yields
    ------
    tuple of int and list of Solution
        An n_components when it is complete; combinations of alpha_W and l1_ratio in the order in
        which they are stored.
    """
    settings = cells[0].settings
    n_components = tuple(int(cell.partition[N_COMPONENTS]) for cell in cells)
    grid = settings.sweep.model_copy(update={"n_components": n_components})
    wanted = len(grid.alpha_W) * len(grid.l1_ratio)
    found: dict[int, list[Solution]] = {k: [] for k in n_components}
    find = partial(find_networks, random_state=settings.clustering.random_state)
    for part in sweep(
        matrix,
        grid,
        settings.factorization,
        settings.clustering,
        full_correlation=full_correlation,
        graph=graph,
        find=None if settings.networks.method == "kmeans" else find,
    ):
        parts = found[part.n_components]
        parts.append(part)
        if len(parts) == wanted:
            yield part.n_components, in_order(found.pop(part.n_components))


def in_order(parts: Sequence[Solution]) -> list[Solution]:
    """Sort the combinations of one n_components as they are stored."""
    return sorted(parts, key=lambda p: (p.alpha_W, p.l1_ratio))
