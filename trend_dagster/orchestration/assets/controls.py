"""What every result stands beside: the untrained model and the BOLD itself, by the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_dagster.delivery.figures.matrices import sweep_figure
from trend_dagster.delivery.figures.png import small_png, to_png
from trend_dagster.delivery.pictures import draw_comparison
from trend_dagster.errors import CohortError, InputError, TrendError
from trend_dagster.orchestration.assets.connectivity import (
    graph_of,
    needs_no_distances,
    spatial_matrix,
    vertices_in_use,
)
from trend_dagster.orchestration.assets.features import signal_of
from trend_dagster.orchestration.assets.parcellation import feasible, sweep_arrays, swept
from trend_dagster.orchestration.assets.summary import summary_table
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Cell, stored_asset
from trend_dagster.project.folder import BOLD_RUN, LABEL_FILE, N_COMPONENTS, Project
from trend_dagster.project.mesh import (
    mesh_of,
    names_no_mesh,
    smoothing_of,
    thresholds_without_mesh,
)
from trend_dagster.project.recordings import check_recordings, weights_of
from trend_dagster.science.bold import check_same_vertices, common_length
from trend_dagster.science.connectivity.correlation import average_correlation
from trend_dagster.science.evidence.measures import mean_dice
from trend_dagster.storage.label_files import LabelFile, label_file_at, read_networks
from trend_dagster.storage.space import check_same_space
from trend_dagster.storage.stores import Partition, Version

Reader = Callable[[], tuple[NDArray[np.float32], NDArray[np.bool_]]]


@stored_asset(
    group="controls",
    settings=("controls", "cohort", "autoencoder", "training", "features", "correlation"),
    pool="memory",
)
def control_correlation(cell: Cell, bold: Sequence[Version]) -> Result:
    """The average correlation that there would be without the trained model.

    One matrix per control: `untrained` takes the features from the model before its first step of
    training, `bold` from the signal itself. Whatever the trained model is said to give must exceed
    what these give.
    """
    settings = cell.settings
    if not settings.controls.features:
        return Result(excluded="no controls are asked for (controls.features is empty)")
    if settings.features.source == "bold":
        return Result(excluded="the features are the BOLD itself: there is no model to control")
    runs = {run.partition[BOLD_RUN]: run for run in bold}
    if not runs:
        raise CohortError(
            "control_correlation",
            expected="at least one usable run",
            found="none: all runs are excluded",
            remedy="Look at the reasons (`trend status`), mend the files, or add others.",
        )
    check_same_vertices({name: run.facts["n_vertices"] for name, run in runs.items()})
    check_same_space({name: run.facts.get("space") for name, run in runs.items()})
    check_recordings(cell.project, list(runs))
    n_timepoints = common_length(
        {name: run.facts["n_timepoints"] for name, run in runs.items()}, settings.cohort
    )
    masks = np.stack([run.read("vertex_mask") for run in bold])
    shape = (len(settings.controls.features), masks.shape[1], masks.shape[1])
    out = cell.draft.create("correlation", shape)
    for i, control in enumerate(settings.controls.features):
        cell.progress(control, i / len(settings.controls.features))
        readers = _readers(cell, bold, control, n_timepoints)
        weights = weights_of(cell.project, list(runs))
        out[i] = average_correlation(readers, config=settings.correlation, weights=weights)
    return Result(
        arrays={"vertex_mask": np.asarray(masks.any(axis=0))},
        facts={"controls": list(settings.controls.features), "n_vertices": masks.shape[1]},
    )


def _readers(cell: Cell, runs: Sequence[Version], control: str, n_timepoints: int) -> list[Reader]:
    """Make the features of a control run by run, as they are asked for."""
    from trend_dagster.science.features.autoencoder import embed, initial_model

    settings = cell.settings
    source = settings.features.source
    model = None
    if control == "untrained":
        seed = settings.training.random_state
        model = initial_model(settings.autoencoder, n_timepoints, seed)

    def reader(run: Version) -> Reader:
        def read() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
            mask = run.read("vertex_mask")
            if model is None:
                return run.read("bold"), mask
            found = embed(model, signal_of(run, n_timepoints), source=source)
            features = np.zeros((len(mask), found.shape[1]), dtype=np.float32)
            features[mask] = found
            return features, mask

        return read

    return [reader(run) for run in runs]


@stored_asset(
    group="controls",
    dims=(LABEL_FILE, N_COMPONENTS),
    settings=("thresholding", "sweep", "factorization", "clustering", "networks"),
    together=N_COMPONENTS,
    unless={"geodesic_distances": needs_no_distances, "cortex": thresholds_without_mesh},
    pool="memory",
)
def control_sweep(
    cells: Sequence[Cell],
    control_correlation: Version,
    geodesic_labels: Version,
    geodesic_distances: Version | None,
    cortex: Version | None,
) -> Iterator[tuple[Cell, Result | TrendError]]:
    """The same sweep on the matrices of the controls: one more dimension, `control`, in front."""
    mask = control_correlation.read("vertex_mask")
    cells, errors = feasible(cells, int(vertices_in_use(geodesic_labels, mask).sum()))
    yield from errors
    if not cells:
        return
    graph = graph_of(cells[0].settings, geodesic_distances)
    smoothing = smoothing_of(cells[0].project, cortex, mask)
    by_key = {int(cell.partition[N_COMPONENTS]): cell for cell in cells}
    found: dict[int, list[dict[str, NDArray[Any]]]] = {k: [] for k in by_key}
    for i, _ in enumerate(control_correlation.facts["controls"]):
        correlation = np.asarray(control_correlation.array("correlation")[i])
        matrix = spatial_matrix(
            cells[0], correlation, mask, geodesic_labels, geodesic_distances, smoothing
        )
        for k, parts in swept(cells, matrix, correlation, graph):
            found[k].append(sweep_arrays(parts))
    axes = ("alpha_W", "l1_ratio", "n_clusters")
    for k, controls in found.items():
        stacked = {name: np.stack([c[name] for c in controls]) for name in controls[0]}
        yield (
            by_key[k],
            Result(
                arrays=stacked | {name: controls[0][name] for name in axes},
                facts={"controls": control_correlation.facts["controls"]},
            ),
        )


def _truth_files(project: Project, partition: Partition) -> dict[str, Path]:
    truth = _truth(project)
    return {} if truth is None else truth.named_files("truth")


def _truth(project: Project) -> LabelFile | None:
    name = project.settings.inputs.truth
    return None if name is None else label_file_at(project.folder / name)


@stored_asset(
    group="controls",
    settings=("controls",),
    code_version="2",
    files=_truth_files,
    incomplete=frozenset({"nmf_sweep", "control_sweep"}),
    unless={"cortex": names_no_mesh},
)
def control_comparison(
    cell: Cell,
    sweep_summary: Version,
    nmf_sweep: Sequence[Version],
    control_sweep: Sequence[Version],
    selected_parcellations: Version,
    cortex: Version | None,
) -> Result:
    """Each cell of the sweep beside the controls, and beside the planted networks if there are any.

    Dice is the mean over planted networks after optimal matching of clusters to networks. For real
    data there are no planted networks; what stands beside each other then are the silhouettes,
    which the label file itself can raise, in every column alike.
    """
    table = summary_table(sweep_summary, nmf_sweep)
    truth_file = _truth(cell.project)
    truth = None if truth_file is None else read_networks(truth_file)
    labels = {_key(row): vector for row, vector in _all_labels(nmf_sweep)}
    if truth is not None and truth_file is not None:
        _check_truth(truth, labels, truth_file.name)
        table["dice_trained"] = [mean_dice(labels[_key(row)], truth) for _, row in table.iterrows()]
    for name, control in _controls(control_sweep).items():
        silhouettes = {key: silhouette for key, (silhouette, _) in control.items()}
        table[f"silhouette_{name}"] = [silhouettes.get(_key(row)) for _, row in table.iterrows()]
        if truth is not None:
            table[f"dice_{name}"] = [
                mean_dice(control[_key(row)][1], truth) if _key(row) in control else None
                for _, row in table.iterrows()
            ]
    chosen = {_key(choice) for choice in selected_parcellations.facts["chosen"]}
    table["chosen"] = [_key(row) in chosen for _, row in table.iterrows()]
    files, pictures = {}, {}
    if truth is not None and table["chosen"].any():
        best = table[table["chosen"]].iloc[0]
        surface = mesh_of(cortex, len(truth))
        figure = draw_comparison(surface, truth, labels[_key(best)], best["dice_trained"])
        if figure is not None:
            files["planted_and_found.png"] = to_png(figure, 110)
            pictures["planted and found"] = small_png(figure)
    for metric, own in (("dice", "dice_trained"), ("silhouette", "silhouette")):
        beside = {
            TITLES[name]: f"{metric}_{name}" for name in TITLES if f"{metric}_{name}" in table
        }
        if own in table and beside:
            figure = sweep_figure(table, own, metric.capitalize(), beside)
            pictures[f"{metric} beside its controls"] = small_png(figure)
    shown = table.drop(columns=["cluster_sizes", "version", "digest", "seconds"])
    numbers = shown.select_dtypes("number")
    return Result(
        arrays={str(name): numbers[name].to_numpy(np.float64) for name in numbers},
        facts={
            "label_files": table["label_file"].tolist(),
            "chosen": table["chosen"].tolist(),
            "has_truth": truth is not None,
        },
        tables={"comparison": str(shown.head(40).round(3).to_markdown(index=False))},
        pictures=pictures,
        files=files | {"control_comparison.csv": shown.to_csv(index=False).encode()},
    )


Key = tuple[str, int, float, float, int]


def _key(row: Any) -> Key:
    return (
        str(row["label_file"]),
        int(row["n_components"]),
        float(row["alpha_W"]),
        float(row["l1_ratio"]),
        int(row["n_clusters"]),
    )


def _all_labels(cells: Sequence[Version]) -> Iterator[tuple[dict[str, Any], NDArray[np.int32]]]:
    for version in cells:
        labels = version.read("labels")
        for i, j, row in _rows(version):
            yield row, labels[i, j]


def _rows(version: Version) -> Iterator[tuple[int, int, dict[str, Any]]]:
    alpha_W, l1_ratio = version.read("alpha_W"), version.read("l1_ratio")
    for i in range(len(alpha_W)):
        for j, n_clusters in enumerate(version.read("n_clusters")):
            yield (
                i,
                j,
                {
                    **version.partition,
                    "alpha_W": alpha_W[i],
                    "l1_ratio": l1_ratio[i],
                    "n_clusters": n_clusters,
                },
            )


def _controls(
    cells: Sequence[Version],
) -> dict[str, dict[Key, tuple[float, NDArray[np.int32]]]]:
    """Silhouette and labels of every cell of every control."""
    found: dict[str, dict[Key, tuple[float, NDArray[np.int32]]]] = {}
    for version in cells:
        labels, silhouette = version.read("labels"), version.read("silhouette")
        for c, name in enumerate(version.facts["controls"]):
            for i, j, row in _rows(version):
                value = (float(silhouette[c, i, j]), labels[c, i, j])
                found.setdefault(name, {})[_key(row)] = value
    return found


def _check_truth(truth: NDArray[np.int64], labels: dict[Key, Any], name: str) -> None:
    n_vertices = len(next(iter(labels.values())))
    if len(truth) != n_vertices:
        raise InputError(
            f"planted networks {name}",
            expected=f"{n_vertices} labels, one per vertex",
            found=str(len(truth)),
            remedy="Give the file that belongs to this cohort, or take inputs.truth out.",
        )


def comparison_table(comparison: Version) -> pd.DataFrame:
    """Read the stored comparison back as a table."""
    table = pd.DataFrame({name: comparison.read(name) for name in comparison.names()})
    table.insert(0, "label_file", comparison.facts["label_files"])
    return table.assign(chosen=comparison.facts["chosen"])


def verdict(row: Mapping[Any, Any], own: str = "trained model") -> str:
    """Say whether the features of a cell were worth it.

    Parameters
    ----------
    row : mapping
        A row of the comparison.
    own : str
        What the features come from.

    Returns
    -------
    str
        A sentence; empty without controls.
    """
    metric = "dice" if "dice_trained" in row else "silhouette"
    found = row["dice_trained"] if metric == "dice" else row["silhouette"]
    controls = {
        name: float(row[f"{metric}_{name}"])
        for name in ("untrained", "bold")
        if pd.notna(row.get(f"{metric}_{name}"))
    }
    if not controls:
        return ""
    best = max(controls.values())
    cell = f"{row['n_clusters']:.0f} clusters: "
    if metric == "dice":
        says = "finds more than" if found - best > NO_DIFFERENCE else "does not find more than"
        return cell + f"the {own} (Dice {found:.3f}) {says} its best control ({best:.3f})."
    return cell + (
        f"silhouette {found:.3f} with the {own}, "
        + ", ".join(f"{value:.3f} with {TITLES[name]}" for name, value in controls.items())
        + ". The label file alone can raise it: this says nothing of truth."
    )


NO_DIFFERENCE = 0.01
"""Dice by which cohorts of one difficulty differ among themselves (docs/validation.md)."""

TITLES = {"untrained": "the untrained model", "bold": "raw BOLD"}
