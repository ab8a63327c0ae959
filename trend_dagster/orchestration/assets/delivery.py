"""What leaves the platform: the comparison with controls, label images, the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.maps import chosen_maps
from trend_dagster.delivery.page import render
from trend_dagster.delivery.pictures import comparison_markdown, draw_comparison
from trend_dagster.delivery.report import gather
from trend_dagster.orchestration.assets.connectivity import average_correlation, geodesic_labels
from trend_dagster.orchestration.assets.evidence import control_sweep
from trend_dagster.orchestration.assets.features import embeddings, trained_model
from trend_dagster.orchestration.assets.individuals import individuals
from trend_dagster.orchestration.assets.inputs import bold, cortex
from trend_dagster.orchestration.assets.loading import (
    named_by_atlas,
    named_networks,
    overlap_of,
    page_result,
    signal,
    template_files,
)
from trend_dagster.orchestration.assets.parcellation import (
    atlas_overlap,
    nmf_sweep,
    selected_parcellations,
    sweep_summary,
)
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import (
    Available,
    Optional,
    Task,
    removed,
    stored,
    stored_asset,
)
from trend_dagster.project.atlases import read_planted
from trend_dagster.project.folder import BOLD_RUN, Project
from trend_dagster.project.mesh import mesh_of
from trend_dagster.project.recordings import read_voxels
from trend_dagster.project.settings import Settings
from trend_dagster.project.tables import (
    Parcellations,
    comparison,
    comparison_facts,
    factors_of,
    labels_of,
    number_columns,
    summary_table,
)
from trend_dagster.project.target import MapSpace, map_space, target_run
from trend_dagster.science.parcellation.soft import (
    follow_networks,
    most_followed,
    network_probability,
)
from trend_dagster.storage.label_files import LabelFile, label_file_at
from trend_dagster.storage.label_images import keys_of
from trend_dagster.storage.space import same_voxels
from trend_dagster.storage.stores import Partition, Version


def _truth(project: Project) -> LabelFile | None:
    name = project.settings.inputs.truth
    return None if name is None else label_file_at(project.folder / name)


def _truth_files(project: Project, partition: Partition) -> dict[str, Path]:
    truth = _truth(project)
    return {} if truth is None else truth.named_files("truth")


@stored_asset(
    group="delivery",
    inputs=[sweep_summary, nmf_sweep, control_sweep, selected_parcellations, cortex],
    settings=("controls",),
    code_version="2",
    files=_truth_files,
)
def control_comparison(
    task: Task,
    sweep_summary: Version,
    nmf_sweep: Available,
    control_sweep: Available,
    selected_parcellations: Version,
    cortex: Optional,
) -> Result:
    """Each cell of the sweep beside the controls, and beside the planted networks if there are any.

    Dice is the mean over planted networks after optimal matching of clusters to networks. For real
    data there are no planted networks; what stands beside each other then are the silhouettes,
    which the label file itself can raise, in every column alike.
    """
    truth = _read_truth(task.project, nmf_sweep)
    table = summary_table(sweep_summary, nmf_sweep)
    table = comparison(table, nmf_sweep, control_sweep, selected_parcellations, truth)
    labels = [labels_of(nmf_sweep, row) for row in table[table["chosen"]].to_dict("records")]
    pictures, files = draw_comparison(table, mesh_of(cortex()), truth, labels)
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
    return read_planted(project, file, cells[0].array("labels").shape[-1])


def _cifti_runs(project: Project, partition: Partition) -> dict[str, Path]:
    """The runs themselves: what ``bold`` keeps of them is the cortex."""
    runs = project.bold_runs.items()
    return {f"bold {key}": run.files[0] for key, run in runs if run.source == "cifti"}


def _no_subcortex(settings: Settings) -> str | None:
    asked = settings.parcellation_images.subcortex
    return None if asked else "parcellation_images.subcortex is off"


@stored_asset(
    group="delivery",
    inputs=[selected_parcellations, bold],
    settings=("bold",),
    nothing_to_do=_no_subcortex,
    files=_cifti_runs,
)
def subcortical_networks(task: Task, selected_parcellations: Version, bold: Available) -> Result:
    """The network whose mean series each voxel of CIFTI runs follows most, and how sure that is.

    The mean over runs of the correlation with each network's mean series; the largest names the
    network. Voxels are cleaned as vertices are.
    """
    chosen, where, followed = Parcellations.of(selected_parcellations), {}, []
    for run in task.each(bold, "run"):
        if (read := read_voxels(task.project, run)) is not None:
            voxels, where[run.partition[BOLD_RUN]] = read
            series = signal(run)[0]
            followed.append([follow_networks(voxels, series, each) for each in chosen.labels])
    if not where:
        return Result(excluded="no run is a CIFTI file with voxels outside the cortex")
    subcortex, (labels, correlation) = same_voxels(where), most_followed(followed)
    highest, n_clusters = correlation[labels >= 0], np.array(chosen.n_clusters)
    mean = float(np.nanmax(highest, axis=1).mean()) if len(highest) else None
    found = {"n_clusters": n_clusters, "labels": labels, "correlation": correlation}
    told = {"runs": list(where), "n_voxels": len(subcortex.voxels), "mean_correlation": mean}
    return Result(arrays=found | subcortex.arrays(), facts=subcortex.facts() | told)


@stored_asset(
    group="delivery",
    inputs=[selected_parcellations, nmf_sweep, cortex, atlas_overlap, subcortical_networks],
    settings=("parcellation_images", named_by_atlas),
    code_version="3",
    files=template_files,
    beside=target_run,
)
def parcellation_images(
    task: Task,
    selected_parcellations: Version,
    nmf_sweep: Available,
    cortex: Optional,
    atlas_overlap: Optional,
    subcortical_networks: Optional,
) -> Result:
    """The chosen parcellations as files that Workbench, FreeSurfer, nilearn and others open.

    Per parcellation: GIFTI labels and a FreeSurfer annotation for each hemisphere, the label table
    as BIDS has it (.tsv), CIFTI or NIfTI where the BOLD was, and a
    Workbench spec that opens surface and labels together; and the probability of each network at
    each vertex (.func.gii, .dscalar.nii):
    `wb_view outputs/maps/selected_14_clusters.spec`. Networks that are mirror images of each other
    share a number and a hue. 0 is where there is no signal.
    """
    wanted, overlap = task.settings.parcellation_images, overlap_of(task, atlas_overlap)
    chosen = Parcellations.of(selected_parcellations)
    space = map_space(task.project, cortex(), chosen.labels.shape[1])
    on_files = space.all_labels(chosen.labels)
    soft = _probabilities(chosen, nmf_sweep, space) if wanted.soft else ()
    voxels = subcortical_networks() if wanted.subcortex else None
    files, tables = chosen_maps(chosen, space, overlap, soft, voxels)
    arrays = {"n_clusters": np.array(chosen.n_clusters), "keys": keys_of(on_files)}
    return Result(arrays=arrays, facts={"n_files": len(files)}, tables=tables, files=files)


def _probabilities(
    chosen: Parcellations, cells: Sequence[Version], space: MapSpace
) -> list[NDArray[np.float32]]:
    """How much of each network there is at each vertex, for each chosen parcellation."""
    found = []
    for choice, labels in zip(chosen.choices, chosen.labels, strict=True):
        W, H = factors_of(cells, choice)
        found.append(space.shares(network_probability(W, H, labels)))
    return found


_SHOWN_BESIDE = tuple(
    map(stored, (bold, trained_model, embeddings, average_correlation, geodesic_labels))
)
"""Assets that the report shows if they are there; a brought correlation needs none of them."""


def _shown_beside(project: Project) -> Iterator[tuple[str, Partition]]:
    """Outputs of these assets that are stored and whose input is still there."""
    for asset in _SHOWN_BESIDE:
        if asset.idle(project.settings) is None:
            gone = removed(project, asset)
            found = project.store.stored(asset.name, asset.dims)
            yield from ((asset.name, p) for p in found if p not in gone)


def _beside(project: Project) -> list[Version]:
    return [*_versions_beside(project), *target_run(project)]


def _newborns(settings: Settings) -> dict[str, dict[str, Any]]:
    """Whether there are pages to link to, and the associations that may be left out."""
    config = settings.individuals
    asked = {"associate": config.associate, "covariates": config.covariates}
    return {"individuals": {"pages": config.pages} | (asked if config.associate else {})}


def _versions_beside(project: Project) -> list[Version]:
    found = (project.store.latest(name, key) for name, key in _shown_beside(project))
    return [version for version in found if version is not None]


@stored_asset(
    group="delivery",
    inputs=[
        sweep_summary,
        nmf_sweep,
        selected_parcellations,
        control_comparison,
        cortex,
        individuals,
        atlas_overlap,
    ],
    settings=("selection", named_by_atlas, _newborns),
    code_version="5",
    files=template_files,
    beside=_beside,
)
def report(
    task: Task,
    sweep_summary: Version,
    nmf_sweep: Available,
    selected_parcellations: Version,
    control_comparison: Version,
    cortex: Optional,
    individuals: Optional,
    atlas_overlap: Optional,
) -> Result:
    """Everything a reader asks of a run, in one HTML file that works offline.

    What went in and what was excluded, settings, training, the sweep with its controls, the chosen
    parcellations and why, on a surface that can be turned, provenance, and how to cite.
    """
    made_from = [*nmf_sweep, sweep_summary, selected_parcellations, control_comparison]
    versions = [*_versions_beside(task.project), *made_from]
    surface, name = mesh_of(cortex()), task.project.folder.name
    chosen = Parcellations.of(selected_parcellations)
    space = map_space(task.project, cortex(), chosen.labels.shape[1])
    networks = named_networks(task, chosen, space, atlas_overlap)
    said = gather(name, task.settings, versions, surface, individuals(), networks)
    pictures = {f"{c.n_clusters} clusters, sorted correlation": c.correlation for c in said.chosen}
    facts = {"cells_on_the_surface": len(said.shown)}
    return page_result("report.html", render(said).encode(), facts, pictures=pictures)
