"""What every result stands beside: the untrained model and the BOLD itself, by the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.pictures import comparison_markdown, draw_comparison
from trend_dagster.errors import CohortError, TrendError
from trend_dagster.orchestration.assets.connectivity import (
    graph_of,
    needs_no_distances,
    spatial_matrix,
    vertices_in_use,
)
from trend_dagster.orchestration.assets.features import signal_of
from trend_dagster.orchestration.assets.parcellation import feasible, sweep_arrays, swept
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Cell, stored_asset
from trend_dagster.project.folder import BOLD_RUN, LABEL_FILE, N_COMPONENTS, Project
from trend_dagster.project.mesh import (
    mesh_of,
    names_no_mesh,
    smoothing_of,
    thresholds_without_mesh,
)
from trend_dagster.project.tables import (
    check_truth,
    comparison,
    comparison_facts,
    labels_of,
    number_columns,
    summary_table,
)
from trend_dagster.science.bold import check_same_vertices, common_length
from trend_dagster.science.connectivity.correlation import average_correlation
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
    n_timepoints = common_length(
        {name: run.facts["n_timepoints"] for name, run in runs.items()}, settings.cohort
    )
    masks = np.stack([run.read("vertex_mask") for run in bold])
    shape = (len(settings.controls.features), masks.shape[1], masks.shape[1])
    out = cell.draft.create("correlation", shape)
    for i, control in enumerate(settings.controls.features):
        cell.progress(control, i / len(settings.controls.features))
        readers = _readers(cell, bold, control, n_timepoints)
        out[i] = average_correlation(readers, config=settings.correlation)
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
    truth = _read_truth(cell.project, nmf_sweep)
    table = summary_table(sweep_summary, nmf_sweep)
    table = comparison(table, nmf_sweep, control_sweep, selected_parcellations, truth)
    labels = [labels_of(nmf_sweep, row) for row in table[table["chosen"]].to_dict("records")]
    pictures, files = draw_comparison(table, mesh_of(cortex), truth, labels)
    return Result(
        arrays=number_columns(table),
        facts=comparison_facts(table),
        tables={"comparison": comparison_markdown(table)},
        pictures=pictures,
        files=files,
    )


def _read_truth(project: Project, cells: Sequence[Version]) -> NDArray[np.int64] | None:
    """Planted network of each vertex, if the settings name any."""
    file = _truth(project)
    if file is None or not cells:
        return None
    truth = read_networks(file)
    check_truth(truth, cells[0].array("labels").shape[-1], file.name)
    return truth
