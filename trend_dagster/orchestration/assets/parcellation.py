"""From thresholded matrices to parcellations: the sweep, its table, and the chosen cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_dagster.errors import CohortError, MissingUpstreamError, TrendError
from trend_dagster.figures.matrices import sizes_figure, sweep_figure
from trend_dagster.figures.png import small_png, to_png
from trend_dagster.orchestration.assets.connectivity import graph_of, loadings_are_free
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.mesh import network_finder
from trend_dagster.orchestration.pictures import draw_parcellation
from trend_dagster.orchestration.resources import LABEL_FILE, N_COMPONENTS, Project
from trend_dagster.orchestration.settings import Settings
from trend_dagster.orchestration.stored_asset import STORED_ASSETS, Cell, stored_asset
from trend_dagster.science.block_matrix import BlockMatrix
from trend_dagster.science.factorization import too_many_components
from trend_dagster.science.fanout import worker_memory
from trend_dagster.science.selection import RULE, rank_cells
from trend_dagster.science.sweep import SweepCell, sweep
from trend_dagster.storage.stores import Partition, Version, describe
from trend_dagster.storage.workbook import label_vector_name, npy_bytes, workbook_bytes

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
    settings=("sweep", "factorization", "clustering", "networks", "thresholding", "inputs"),
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
        yield from sweep_cells(cells, matrix, correlation, graph)


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


def sweep_cells(
    cells: Sequence[Cell], matrix: BlockMatrix, full_correlation: Any, graph: Any
) -> Iterator[tuple[Cell, Result]]:
    """Run the sweep for the n_components of some cells; yield each cell when it is complete."""
    by_key = {int(cell.partition[N_COMPONENTS]): cell for cell in cells}
    settings = cells[0].settings
    grid = settings.sweep.model_copy(update={"n_components": tuple(by_key)})
    wanted = len(grid.alpha_W) * len(grid.l1_ratio)
    found: dict[int, list[SweepCell]] = {k: [] for k in by_key}
    done = 0
    for part in sweep(
        matrix,
        grid,
        settings.factorization,
        settings.clustering,
        full_correlation=full_correlation,
        graph=graph,
        find=network_finder(cells[0].project, full_correlation),
    ):
        found[part.n_components].append(part)
        if len(found[part.n_components]) == wanted:
            cell = by_key[part.n_components]
            done += 1
            cell.progress(f"{done} of {len(cells)} cells", done / len(cells))
            yield cell, _result(found.pop(part.n_components))


def _result(parts: list[SweepCell]) -> Result:
    parts = sorted(parts, key=lambda p: (p.alpha_W, p.l1_ratio))
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


def sweep_arrays(parts: Sequence[SweepCell]) -> dict[str, NDArray[Any]]:
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


def tidy_rows(version: Version) -> Iterator[dict[str, Any]]:
    """One row per combination of settings and number of clusters of a stored cell."""
    arrays = {n: version.read(n) for n in version.names() if n not in {"W", "H", "labels"}}
    for i, j in np.ndindex(arrays["silhouette"].shape):
        n_clusters = int(arrays["n_clusters"][j])
        yield {
            "label_file": version.partition[LABEL_FILE],
            "n_components": int(version.partition[N_COMPONENTS]),
            "alpha_W": float(arrays["alpha_W"][i]),
            "l1_ratio": float(arrays["l1_ratio"][i]),
            "n_clusters": n_clusters,
            **{name: arrays[name][i].item() for name in PER_FACTORIZATION},
            **{name: arrays[name][i, j].item() for name in METRICS},
            "cluster_sizes": tuple(arrays["cluster_sizes"][i, j, :n_clusters].tolist()),
            "digest": version.digest,
            "version": version.path.name,
            "seconds": version.facts["factorization_seconds"][i],
        }


def sweep_table(project: Project, cells: Sequence[Version], n_labels: dict[str, int]) -> Any:
    """Put all cells of the grid into one table, the missing ones included.

    Parameters
    ----------
    project : Project
        Tells which cells there should be, and why one is missing.
    cells : sequence of Version
        Cells of the sweep that are stored.
    n_labels : dict of str to int
        Number of labels of each label file.

    Returns
    -------
    DataFrame
        Sorted by label file, n_components, alpha_W, l1_ratio, n_clusters. ``status`` is "done" or
        says why there are no figures.
    """
    rows = [{**row, "status": "done"} for cell in cells for row in tidy_rows(cell)]
    done = {tuple(cell.partition.values()) for cell in cells}
    grid = project.settings.sweep
    for label_file in project.keys(LABEL_FILE):
        for k in grid.n_components:
            if (label_file, str(k)) in done:
                continue
            partition = {LABEL_FILE: label_file, N_COMPONENTS: str(k)}
            reason = _why_missing(project, partition)
            rows += [
                {
                    "label_file": label_file,
                    "n_components": k,
                    "alpha_W": alpha_W,
                    "l1_ratio": l1_ratio,
                    "n_clusters": n_clusters,
                    "status": reason,
                }
                for alpha_W in grid.alpha_W
                for l1_ratio in grid.l1_ratio
                for n_clusters in grid.n_clusters
            ]
    table = pd.DataFrame(rows)
    table["n_labels"] = table["label_file"].map(n_labels)
    order = ["label_file", "n_components", "alpha_W", "l1_ratio", "n_clusters"]
    return table.sort_values(order, ignore_index=True)


@stored_asset(
    group="parcellation",
    settings=("sweep", "delivery", "selection"),
    incomplete=frozenset({"nmf_sweep", "thresholded_matrix"}),
)
def sweep_summary(
    cell: Cell, nmf_sweep: Sequence[Version], thresholded_matrix: Sequence[Version]
) -> Result:
    """The table of the whole sweep, and the tutorial's workbook `Complete_Clustering.xlsx`.

    The first sheet has exactly the tutorial's columns, in a fixed order of rows; the second what
    else is known of each cell. A cell that failed has its row, with the reason.
    """
    if not nmf_sweep:
        first = STORED_ASSETS["nmf_sweep"].partitions(cell.project)[0]
        raise CohortError(
            "sweep_summary",
            expected="at least one cell of nmf_sweep",
            found=f"none ({_why_missing(cell.project, first)})",
            remedy="Materialize nmf_sweep first.",
        )
    n_labels = {m.partition[LABEL_FILE]: m.facts["n_labels"] for m in thresholded_matrix}
    table = sweep_table(cell.project, nmf_sweep, n_labels)
    names = {key: file.name for key, file in cell.project.label_files.items()}
    files = {"Complete_Clustering.xlsx": workbook_bytes(table, names)}
    if cell.settings.delivery.label_vectors:
        files |= label_vectors(nmf_sweep)
    limit = cell.settings.selection.max_zero_row_share
    # Times differ from run to run; what is stored must not.
    numbers = table.drop(columns="seconds").select_dtypes("number")
    done = table["status"] == "done"
    return Result(
        arrays={name: numbers[name].to_numpy(np.float64) for name in numbers},
        facts={
            "label_files": table["label_file"].tolist(),
            "n_cells": len(table),
            "n_failed": int((~done).sum()),
            "collapsed": int((table["zero_row_share"] > limit).sum()),
        },
        tables={"sweep": _markdown(table)},
        pictures={"silhouette": small_png(sweep_figure(table[done], "silhouette"))},
        files=files,
    )


def _why_missing(project: Project, partition: Partition) -> str:
    """Say why a cell of the sweep does not exist: it failed, or what it is made from did."""
    if reason := project.store.failure("nmf_sweep", partition):
        return reason
    try:
        STORED_ASSETS["nmf_sweep"].inputs(project, partition)
    except TrendError as error:
        return str(error)
    return f"{describe('nmf_sweep', partition)} is not computed"


def label_vectors(cells: Sequence[Version]) -> dict[str, bytes]:
    """Label vector of each cell as .npy, in a folder per label file, under the tutorial's names."""
    files = {}
    for cell in cells:
        labels = cell.read("labels")
        for i, j in np.ndindex(labels.shape[:2]):
            name = label_vector_name(
                int(cell.partition[N_COMPONENTS]),
                int(cell.array("n_clusters")[j]),  # type: ignore[arg-type]
                float(cell.array("l1_ratio")[i]),  # type: ignore[arg-type]
                float(cell.array("alpha_W")[i]),  # type: ignore[arg-type]
            )
            files[f"label_vectors/{cell.partition[LABEL_FILE]}/{name}"] = npy_bytes(labels[i, j])
    return files


def _markdown(table: pd.DataFrame) -> str:
    columns = [
        "label_file",
        "n_components",
        "n_clusters",
        "silhouette",
        "davies_bouldin",
        "connectivity_ratio",
        "zero_row_share",
    ]
    return str(table[columns].head(40).round(3).to_markdown(index=False))


@stored_asset(
    group="parcellation", settings=("selection", "inputs"), incomplete=frozenset({"nmf_sweep"})
)
def selected_parcellations(
    cell: Cell, sweep_summary: Version, nmf_sweep: Sequence[Version]
) -> Result:
    """For each number of clusters the chosen cell, the ranking, and a picture.

    The rule never sees planted networks or an atlas. It does not compare metrics across label
    files, because every one of them rewards the label file itself.
    """
    table = summary_table(sweep_summary, nmf_sweep)
    ranked = rank_cells(table, cell.settings.selection)
    chosen = ranked[ranked["rank"] == 1]
    labels = np.stack([labels_of(nmf_sweep, row) for _, row in chosen.iterrows()])
    pictures, files = {}, {"ranking.csv": ranked.drop(columns="cluster_sizes").to_csv(index=False)}
    delivered: dict[str, bytes] = {name: text.encode() for name, text in files.items()}
    for row, vector in zip(chosen.to_dict("records"), labels, strict=True):
        title = (
            f"{row['n_clusters']} clusters: label file {row['label_file']}, "
            f"{row['n_components']} components"
        )
        figure = draw_parcellation(cell.project, vector, title)
        pictures[f"{row['n_clusters']} clusters"] = small_png(figure)
        delivered[f"parcellation_{row['n_clusters']}_clusters.png"] = to_png(figure, 120)
        delivered[f"parcellation_{row['n_clusters']}_clusters.npy"] = npy_bytes(vector)
    identity = ["label_file", "n_components", "alpha_W", "l1_ratio"]
    return Result(
        arrays={"n_clusters": chosen["n_clusters"].to_numpy(), "labels": labels},
        facts={
            "rule": RULE,
            "chosen": [
                {
                    "n_clusters": int(row["n_clusters"]),
                    **{name: row[name] for name in identity},
                    "alive": bool(row["alive"]),
                    "cell": row["version"],
                    "digest": row["digest"],
                }
                for row in chosen.to_dict("records")
            ],
        },
        tables={"ranking": _ranking(ranked)},
        pictures=pictures,
        files=delivered,
    )


def summary_table(sweep_summary: Version, cells: Sequence[Version]) -> pd.DataFrame:
    """Build the table of the cells that the summary lists as done."""
    if not cells:
        raise MissingUpstreamError(
            "sweep_summary",
            expected="at least one cell of nmf_sweep for today's settings",
            found="none",
            remedy="Look at why the cells failed (`trend status`), and mend that.",
        )
    table = pd.DataFrame([row for version in cells for row in tidy_rows(version)])
    n_labels = dict(
        zip(sweep_summary.facts["label_files"], sweep_summary.read("n_labels"), strict=True)
    )
    return table.assign(n_labels=table["label_file"].map(n_labels))


def labels_of(cells: Sequence[Version], row: Any) -> NDArray[np.int32]:
    """Label vector of one row of the table."""
    (version,) = (
        v
        for v in cells
        if v.partition[LABEL_FILE] == row["label_file"]
        and int(v.partition[N_COMPONENTS]) == row["n_components"]
    )
    same = (version.read("alpha_W") == row["alpha_W"]) & (
        version.read("l1_ratio") == row["l1_ratio"]
    )
    i = int(np.flatnonzero(same)[0])
    j = int(np.flatnonzero(version.read("n_clusters") == row["n_clusters"])[0])
    return np.asarray(version.array("labels")[i, j], dtype=np.int32)


def _ranking(ranked: pd.DataFrame) -> str:
    columns = [
        "n_clusters",
        "rank",
        "label_file",
        "n_labels",
        "n_components",
        "alive",
        "silhouette",
        "zero_row_share",
    ]
    return str(ranked[columns][ranked["rank"] <= 5].round(3).to_markdown(index=False))
