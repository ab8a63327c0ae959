"""From thresholded matrices to parcellations: the sweep, its table, and what is chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.matrices import sizes_figure
from trend_dagster.delivery.figures.png import small_png
from trend_dagster.delivery.figures.surface import homologous_labels
from trend_dagster.delivery.pictures import (
    draw_chosen,
    heat_maps,
    ranking_markdown,
    sweep_markdown,
)
from trend_dagster.delivery.workbook import WORKBOOK, label_vectors, workbook_bytes
from trend_dagster.errors import StoreError, TrendError
from trend_dagster.orchestration.assets.connectivity import (
    average_correlation,
    geodesic_distances,
    thresholded_matrix,
)
from trend_dagster.orchestration.assets.evidence import stability
from trend_dagster.orchestration.assets.inputs import cortex
from trend_dagster.orchestration.assets.loading import (
    averaged,
    by_components,
    distances_of,
    feasible,
)
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import (
    Available,
    Optional,
    Some,
    Task,
    stored,
    stored_asset,
)
from trend_dagster.project.atlases import hemisphere_of_rows, named_files, read_atlases
from trend_dagster.project.folder import LABEL_FILE, N_COMPONENTS, Project
from trend_dagster.project.mesh import mesh_of
from trend_dagster.project.settings import Settings
from trend_dagster.project.tables import (
    Parcellations,
    choices,
    finished,
    labels_of,
    number_columns,
    numbered_like,
    rule_facts,
    summary_facts,
    summary_table,
    sweep_table,
)
from trend_dagster.project.target import map_space, target_files, target_run
from trend_dagster.science.connectivity.thresholding import BlockMatrix
from trend_dagster.science.evidence.atlases import all_overlaps
from trend_dagster.science.evidence.nulls import turns
from trend_dagster.science.method import loadings_graph, sweep_arrays, sweep_solutions
from trend_dagster.science.parcellation.fanout import worker_memory
from trend_dagster.science.parcellation.selection import rank_cells
from trend_dagster.science.surface import Surface
from trend_dagster.storage.stores import Partition, Version, describe

if TYPE_CHECKING:
    from trend_dagster.science.parcellation.sweep import Solution

SEED = 108  # of the turns


def _worker_bytes(settings: Settings, inputs: Mapping[str, list[Version]], n_threads: int) -> int:
    (matrix,) = inputs["thresholded_matrix"]
    if "block_sizes" not in matrix.names():  # excluded, nothing is computed
        return 0
    above = settings.factorization.compress_above
    return worker_memory(matrix.read("block_sizes"), settings.sweep, n_threads, above)


@stored_asset(
    group="parcellation",
    dims=(LABEL_FILE, N_COMPONENTS),
    inputs=[thresholded_matrix, average_correlation, geodesic_distances],
    settings=("sweep", "factorization", "clustering", "networks", "thresholding"),
    together=N_COMPONENTS,
    pool="memory",
    worker_bytes=_worker_bytes,
)
def nmf_sweep(
    tasks: Sequence[Task],
    thresholded_matrix: Version,
    average_correlation: Version,
    geodesic_distances: Optional,
) -> Iterator[tuple[Task, Result | TrendError]]:
    """Regularised NMF and networks for one label file and one number of components.

    Each output holds, for every alpha_W and l1_ratio, the loadings W and profiles H, and for every
    number of clusters the label of each vertex and the metrics. Where the penalty was too strong
    for the matrix, W collapses to zero: that is measured, named, and checked.
    """
    settings, matrix = tasks[0].settings, _blocks(thresholded_matrix)
    possible, errors = feasible(tasks, matrix.n_kept)
    yield from errors
    by_k = by_components(possible)
    full = averaged(tasks[0], average_correlation).smoothed(None)
    near = geodesic_distances() if settings.factorization.smoothness > 0 else None
    graph = loadings_graph(() if near is None else distances_of(near), settings)
    swept = sweep_solutions(matrix, settings, list(by_k), full_correlation=full, graph=graph)
    for done, (k, cells) in enumerate(swept if by_k else (), 1):
        by_k[k].progress(f"{done} of {len(by_k)} factorisations", done / len(by_k))
        yield by_k[k], _swept(cells)


def _blocks(thresholded_matrix: Version) -> BlockMatrix:
    arrays = {name: thresholded_matrix.read(name) for name in thresholded_matrix.names()}
    return BlockMatrix.from_arrays(arrays, thresholded_matrix.facts["n_vertices"])


def _swept(cells: Sequence[Solution]) -> Result:
    arrays = sweep_arrays(cells)
    silhouette = arrays["silhouette"].tolist()
    return Result(
        arrays=arrays | {name: np.stack([getattr(c, name) for c in cells]) for name in ("W", "H")},
        facts={
            "zero_row_share_max": max(cell.zero_row_share for cell in cells),
            "n_iter": [cell.n_iter for cell in cells],
            # JSON knows no NaN.
            "silhouette": silhouette
            if np.isfinite(arrays["silhouette"]).all()
            else str(silhouette),
            "factorization_seconds": [round(cell.seconds, 3) for cell in cells],
        },
        pictures={
            f"cluster sizes, {c.n_clusters} clusters": small_png(sizes_figure(c.labels))
            for c in cells[0].clusterings[:2]
        },
    )


SAME_NETWORKS = 0.5
"""Mean Dice with the version before, above which networks are taken for the same."""

_sweep = stored(nmf_sweep)  # below, parameters have that name


@stored_asset(
    group="parcellation",
    inputs=[nmf_sweep, thresholded_matrix, stability],
    settings=("sweep", "delivery", "selection"),
    code_version="4",
)
def sweep_summary(
    task: Task, nmf_sweep: Some, thresholded_matrix: Available, stability: Available
) -> Result:
    """The table of the whole sweep, and the tutorial's workbook `Complete_Clustering.xlsx`.

    The first sheet has exactly the tutorial's columns, in a fixed order of rows; the second what
    else is known of each cell; the third ranks them, with their stability beside its null. A cell
    that failed has its row, with the reason. The last sheet says what each column means.
    """
    settings, missing = task.settings, _missing(task, nmf_sweep)
    table = sweep_table(nmf_sweep, thresholded_matrix, stability, missing, settings.sweep)
    ranked = rank_cells(finished(table), settings.selection)
    names = {key: file.name for key, file in task.project.label_files.items()}
    vectors = label_vectors(nmf_sweep) if settings.delivery.label_vectors else {}
    return Result(
        arrays=number_columns(table),
        facts=summary_facts(table, stability, settings),
        tables={"sweep": sweep_markdown(table)},
        pictures=heat_maps(finished(table)),
        files={WORKBOOK: workbook_bytes(table, names, ranked, settings.networks.method)} | vectors,
    )


def _missing(task: Task, cells: Sequence[Version]) -> dict[tuple[str, ...], str]:
    """Cells of the sweep that are not there, by label file and n_components, with the reason."""
    done = {tuple(cell.partition.values()) for cell in cells}
    wanted = _sweep.partitions(task.project)
    missing = [partition for partition in wanted if tuple(partition.values()) not in done]
    return {tuple(partition.values()): _why_missing(task, partition) for partition in missing}


def _why_missing(task: Task, partition: Partition) -> str:
    """Say why a cell of the sweep does not exist: it failed, or what it is made from did."""
    if reason := task.project.store.failure(_sweep.name, partition):
        return reason
    try:
        _sweep.find(task.project, partition)
    except TrendError as error:
        return str(error)
    return f"{describe(_sweep.name, partition)} is not computed"


@stored_asset(
    group="parcellation",
    inputs=[sweep_summary, nmf_sweep, cortex],
    settings=("selection",),
    code_version="5",
)
def selected_parcellations(
    task: Task, sweep_summary: Version, nmf_sweep: Available, cortex: Optional
) -> Result:
    """For each number of clusters the chosen cell, the ranking, and a picture.

    The rule (`selection.rule`) never sees planted networks or an atlas. Across label files it
    compares only what exceeds the same measure on noise, because every raw metric rewards the
    label file itself; where that is not known, it takes the label file with the fewest labels.
    Networks keep the numbers, names and colours of those of the version before that they overlap
    best.
    """
    table = summary_table(sweep_summary, nmf_sweep)
    ranked = rank_cells(table, task.settings.selection)
    chosen = choices(ranked)
    labels = np.stack([labels_of(nmf_sweep, choice) for choice in chosen])
    counts, before = [c["n_clusters"] for c in chosen], _before(task)
    labels, numbered = numbered_like(before, counts, labels)
    surface = mesh_of(cortex(), labels.shape[1])
    partner_of = _mirror_images(before, counts, labels, numbered, surface)
    pictures, files = draw_chosen(surface, ranked, labels, partner_of)
    return Result(
        arrays={"n_clusters": np.array(counts), "labels": labels},
        facts=rule_facts(task.settings.selection, table, sweep_summary)
        | {"chosen": chosen, "mirror_images": {n: [*p.items()] for n, p in partner_of.items()}}
        | numbered,
        tables={"ranking": ranking_markdown(ranked)},
        pictures=pictures,
        files=files,
    )


def _mirror_images(
    before: Version | None,
    counts: Sequence[int],
    labels: NDArray[np.int32],
    numbered: Mapping[str, Any],
    surface: Surface | None,
) -> dict[str, dict[int, int]]:
    """Which networks are the same in both hemispheres: as before, where these are the same."""
    found = {}
    for n, vector in zip(counts, labels, strict=True):
        same = numbered.get("dice_with_it", {}).get(str(n), 0) > SAME_NETWORKS
        known = Parcellations.of(before).partners(n) if before is not None and same else None
        if known is None and surface is not None:
            known = homologous_labels(surface, vector)
        if known is not None:
            found[str(n)] = known
    return found


def _before(task: Task) -> Version | None:
    """The version that people have worked with until now."""
    with suppress(StoreError):  # damaged: its numbers are lost
        return task.project.store.latest(task.draft.asset, task.partition)
    return None


def _atlas_files(project: Project, partition: Partition) -> dict[str, Path]:
    return {**named_files(project), **target_files(project)}


def _no_atlas(settings: Settings) -> str | None:
    return None if settings.outputs.atlases else "outputs.atlases names no atlas"


@stored_asset(
    group="delivery",
    inputs=[selected_parcellations, cortex],
    settings=("outputs",),
    nothing_to_do=_no_atlas,
    files=_atlas_files,
    beside=target_run,
)
def atlas_overlap(task: Task, selected_parcellations: Version, cortex: Optional) -> Result:
    """What each network is most like in the atlases that `outputs.atlases` names.

    The Dice coefficient is that with the part of the atlas' network that lies in the hemispheres of
    ours; p says how often a parcellation that is turned on the sphere overlaps any network of the
    atlas as well. Maps, tables and the report name networks by the first atlas.
    """
    chosen = Parcellations.of(selected_parcellations)
    space = map_space(task.project, cortex(), chosen.labels.shape[1])
    labels, surface = space.all_labels(chosen.labels), space.surface
    atlases = read_atlases(task.project, labels.shape[1], space.target)
    sides = hemisphere_of_rows(surface, space.target, labels.shape[1])
    n_spins = task.settings.outputs.n_spins
    spins = [] if surface is None or surface.sphere is None else [*turns(surface, n_spins, SEED)]
    facts: dict[str, Any] = {"atlases": [{"name": a.name, "networks": a.networks} for a in atlases]}
    facts |= {"n_spins": len(spins)} | ({} if spins or not n_spins else {"notes": [NO_SPHERE]})
    arrays = all_overlaps(labels, [atlas.labels for atlas in atlases], sides, spins)
    arrays["n_clusters"] = np.array(chosen.n_clusters)
    return Result(arrays=arrays, facts=facts)


NO_SPHERE = "no sphere is known, so that chance overlap is not: name inputs.spheres"
