"""From the cells of the sweep to the chosen ones: the table, the workbook, the ranking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_dagster.delivery.figures.matrices import sweep_figure
from trend_dagster.delivery.figures.png import small_png, to_png
from trend_dagster.delivery.pictures import draw_parcellation
from trend_dagster.errors import CohortError, MissingUpstreamError, TrendError
from trend_dagster.orchestration.assets.connectivity import thresholded_matrix
from trend_dagster.orchestration.assets.cortex import cortex
from trend_dagster.orchestration.assets.parcellation import METRICS, PER_FACTORIZATION, nmf_sweep
from trend_dagster.orchestration.assets.validation import stability, stability_rows
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Available, Optional, Task, stored, stored_asset
from trend_dagster.project.folder import LABEL_FILE, N_COMPONENTS, Project
from trend_dagster.project.mesh import mesh_of
from trend_dagster.project.settings import Settings, why_no_stability
from trend_dagster.science.evidence.stability import COLUMNS, MEASURES, MIN_NULLS_FOR_Z
from trend_dagster.science.parcellation.selection import IN_WORDS, rank_cells, rule_in_use
from trend_dagster.storage.stores import Partition, Version, describe
from trend_dagster.storage.workbook import label_vector_name, npy_bytes, workbook_bytes

sweep_cells = nmf_sweep  # parameters have that name

CELL = ["label_file", "n_components", "alpha_W", "l1_ratio", "n_clusters"]
"""Columns that tell a row of the table from all others."""


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


def sweep_table(
    project: Project,
    cells: Sequence[Version],
    n_labels: dict[str, int],
    stability: Sequence[Version] = (),
) -> pd.DataFrame:
    """Put all cells of the grid into one table, the missing ones included.

    Parameters
    ----------
    project : Project
        Tells which cells there should be, and why one is missing.
    cells : sequence of Version
        Cells of the sweep that are stored.
    n_labels : dict of str to int
        Number of labels of each label file.
    stability : sequence of Version
        Their stability beside its null, where it was computed.

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
    found = pd.DataFrame([row for version in stability for row in stability_rows(version)])
    if not found.empty:
        table = table.merge(found, how="left", on=CELL, validate="one_to_one")
    return table.sort_values(CELL, ignore_index=True)


@stored_asset(
    group="parcellation",
    inputs=[nmf_sweep, thresholded_matrix, stability],
    settings=("sweep", "delivery", "selection"),
    code_version="2",
)
def sweep_summary(
    task: Task,
    nmf_sweep: Available,
    thresholded_matrix: Available,
    stability: Available,
) -> Result:
    """The table of the whole sweep, and the tutorial's workbook `Complete_Clustering.xlsx`.

    The first sheet has exactly the tutorial's columns, in a fixed order of rows; the second what
    else is known of each cell; the third ranks them, with their stability beside its null. A cell
    that failed has its row, with the reason.
    """
    if not nmf_sweep:
        first = stored(sweep_cells).partitions(task.project)[0]
        raise CohortError(
            "sweep_summary",
            expected="at least one cell of nmf_sweep",
            found=f"none ({_why_missing(task.project, first)})",
            remedy="Materialize nmf_sweep first.",
        )
    n_labels = {m.partition[LABEL_FILE]: m.facts["n_labels"] for m in thresholded_matrix}
    table = sweep_table(task.project, nmf_sweep, n_labels, stability)
    names = {key: file.name for key, file in task.project.label_files.items()}
    done = table["status"] == "done"
    ranked = rank_cells(table[done], task.settings.selection)
    files = {"Complete_Clustering.xlsx": workbook_bytes(table, names, ranked)}
    if task.settings.delivery.label_vectors:
        files |= label_vectors(nmf_sweep)
    limit = task.settings.selection.max_zero_row_share
    # Times differ from run to run; what is stored must not.
    numbers = table.drop(columns="seconds").select_dtypes("number")
    return Result(
        arrays={str(name): numbers[name].to_numpy(np.float64) for name in numbers},
        facts={
            "label_files": table["label_file"].tolist(),
            "n_cells": len(table),
            "n_failed": int((~done).sum()),
            "collapsed": int((table["zero_row_share"] > limit).sum()),
            "no_stability": _why_no_stability(task.settings, table),
            "split_by": stability[0].facts["split_by"] if stability else None,
            "n_nulls": stability[0].facts["n_nulls"] if stability else 0,
        },
        tables={"sweep": _markdown(table)},
        pictures=_heat_maps(table[done]),
        files=files,
    )


def _why_no_stability(settings: Settings, table: pd.DataFrame) -> str | None:
    if "stability_margin" in table and table["stability_margin"].notna().any():
        return None
    few = (
        f"it takes {MIN_NULLS_FOR_Z} surrogate cohorts to tell how far noise varies, and "
        f"validation.n_nulls is {settings.validation.n_nulls}"
    )
    if settings.validation.n_nulls >= MIN_NULLS_FOR_Z:
        few = "none could be computed (`trend status` says why)"
    return why_no_stability(settings) or few


def _heat_maps(table: pd.DataFrame) -> dict[str, bytes]:
    """Draw metrics over n_components and label file, each that has a null beside it."""
    figures = {"silhouette": sweep_figure(table, "silhouette")}
    for name in MEASURES:
        if name in table:
            null = {"noise as smooth": f"{name}_null"}
            figures[f"{name} beside its null"] = sweep_figure(table, name, beside=null)
    return {title: small_png(figure) for title, figure in figures.items()}


def _why_missing(project: Project, partition: Partition) -> str:
    """Say why a cell of the sweep does not exist: it failed, or what it is made from did."""
    if reason := project.store.failure("nmf_sweep", partition):
        return reason
    try:
        stored(sweep_cells).find(project, partition)
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
        *(name for name in COLUMNS if name.startswith("stability") and name in table),
    ]
    return str(table[columns].head(40).round(3).to_markdown(index=False))


@stored_asset(
    group="parcellation",
    inputs=[sweep_summary, nmf_sweep, cortex],
    settings=("selection",),
    code_version="3",
)
def selected_parcellations(
    task: Task, sweep_summary: Version, nmf_sweep: Available, cortex: Optional
) -> Result:
    """For each number of clusters the chosen cell, the ranking, and a picture.

    The rule (`selection.rule`) never sees planted networks or an atlas. Across label files it
    compares only what exceeds the same measure on noise, because every raw metric rewards the
    label file itself; where that is not known, it takes the label file with the fewest labels.
    """
    table = summary_table(sweep_summary, nmf_sweep)
    config = task.settings.selection
    ranked, rule = rank_cells(table, config), rule_in_use(table, config)
    chosen = ranked[ranked["rank"] == 1]
    labels = np.stack([labels_of(nmf_sweep, row) for _, row in chosen.iterrows()])
    surface = mesh_of(cortex(), labels.shape[1])
    pictures, files = {}, {"ranking.csv": ranked.drop(columns="cluster_sizes").to_csv(index=False)}
    delivered: dict[str, bytes] = {name: text.encode() for name, text in files.items()}
    for row, vector in zip(chosen.to_dict("records"), labels, strict=True):
        title = (
            f"{row['n_clusters']} clusters: label file {row['label_file']}, "
            f"{row['n_components']} components"
        )
        figure = draw_parcellation(surface, vector, title)
        pictures[f"{row['n_clusters']} clusters"] = small_png(figure)
        delivered[f"parcellation_{row['n_clusters']}_clusters.png"] = to_png(figure, 120)
        delivered[f"parcellation_{row['n_clusters']}_clusters.npy"] = npy_bytes(vector)
    identity = ["label_file", "n_components", "alpha_W", "l1_ratio"]
    return Result(
        arrays={"n_clusters": chosen["n_clusters"].to_numpy(), "labels": labels},
        facts={
            "rule": IN_WORDS[rule],
            "rule_name": rule,
            "rule_asked_for": config.rule,
            **{name: sweep_summary.facts[name] for name in ("no_stability", "split_by", "n_nulls")},
            "chosen": [
                {
                    "n_clusters": int(row["n_clusters"]),
                    **{name: row[name] for name in identity},
                    "alive": bool(row["alive"]),
                    "beyond_noise": bool(row["beyond_noise"]),
                    **_beside_null(row),
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
    table = table.assign(n_labels=table["label_file"].map(n_labels))
    columns = [name for name in COLUMNS if name in sweep_summary]
    stored = pd.DataFrame({name: sweep_summary.read(name) for name in [*CELL[1:], *columns]})
    stored.insert(0, "label_file", sweep_summary.facts["label_files"])
    stored = stored.astype({"n_components": int, "n_clusters": int})
    return table.merge(stored, how="left", on=CELL, validate="one_to_one") if columns else table


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


def _beside_null(row: Mapping[Any, Any]) -> dict[str, float | None]:
    """Stability of a chosen cell and what stands beside it; None where it is not known."""
    names = [name for name in COLUMNS if name.startswith("stability") and name in row]
    return {name: None if pd.isna(row[name]) else float(row[name]) for name in names}


def _ranking(ranked: pd.DataFrame) -> str:
    columns = [
        "n_clusters",
        "rank",
        "label_file",
        "n_labels",
        "n_components",
        "alive",
        "beyond_noise",
        *(name for name in COLUMNS if name.startswith("stability") and name in ranked),
        "silhouette",
        "zero_row_share",
    ]
    return str(ranked[columns][ranked["rank"] <= 5].round(3).to_markdown(index=False))
