"""What leaves the platform: label images for other programs, and the report that people read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from trend_dagster.delivery.maps import chosen_maps
from trend_dagster.delivery.page import render
from trend_dagster.delivery.report import gather
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.overview import removed
from trend_dagster.orchestration.production import STORED_ASSETS, Cell, stored_asset
from trend_dagster.project.folder import Project
from trend_dagster.project.mesh import mesh_of, names_no_mesh
from trend_dagster.project.target import stored_target, target_files
from trend_dagster.storage.label_images import keys_of
from trend_dagster.storage.stores import POINTER, Partition, Version, describe


def _target(project: Project, partition: Partition) -> dict[str, Path]:
    return target_files(project)


@stored_asset(group="delivery", files=_target, unless={"cortex": names_no_mesh})
def parcellation_images(
    cell: Cell, selected_parcellations: Version, cortex: Version | None
) -> Result:
    """The chosen parcellations as files that Workbench, FreeSurfer, nilearn and others open.

    Per parcellation: GIFTI labels and a FreeSurfer annotation for each hemisphere, the label table
    as BIDS has it (.tsv), CIFTI or NIfTI where the BOLD was, and a
    Workbench spec that opens surface and labels together:
    `wb_view outputs/maps/selected_14_clusters.spec`. Networks that are mirror images of each other
    share a number and a hue. 0 is where there is no signal.
    """
    labels = selected_parcellations.read("labels")
    surface = mesh_of(cortex, labels.shape[1])
    target = stored_target(cell.project, labels.shape[1])
    files, tables = chosen_maps(selected_parcellations, surface, target)
    return Result(
        arrays={"n_clusters": selected_parcellations.read("n_clusters"), "keys": keys_of(labels)},
        facts={"n_files": len(files)},
        tables=tables,
        files=files,
    )


SHOWN_BESIDE = ("bold", "trained_model", "embeddings", "average_correlation", "geodesic_labels")
"""Assets that the report shows if they are there; a brought correlation needs none of them."""


def _shown_beside(project: Project) -> Iterator[tuple[str, Partition]]:
    """Outputs of these assets that are stored and whose input is still there."""
    for name in SHOWN_BESIDE:
        asset = STORED_ASSETS[name]
        gone = removed(project, asset)
        yield from ((name, p) for p in project.store.stored(name, asset.dims) if p not in gone)


def _pointers(project: Project, partition: Partition) -> dict[str, Path]:
    """Pointers to what is shown: one changes exactly when another version becomes current."""
    return {
        f"current {describe(asset, key)}": project.store.folder(asset, key) / POINTER
        for asset, key in _shown_beside(project)
    }


def _versions_beside(project: Project) -> dict[str, Sequence[Version]]:
    found: dict[str, list[Version]] = {}
    for name, key in _shown_beside(project):
        if (version := project.store.latest(name, key)) is not None:
            found.setdefault(name, []).append(version)
    return {**found}


@stored_asset(
    group="delivery",
    settings=("selection",),
    files=_pointers,
    incomplete=frozenset({"nmf_sweep"}),
    unless={"cortex": names_no_mesh},
)
def report(
    cell: Cell,
    sweep_summary: Version,
    nmf_sweep: Sequence[Version],
    selected_parcellations: Version,
    control_comparison: Version,
    cortex: Version | None,
) -> Result:
    """Everything a reader asks of a run, in one HTML file that works offline.

    What went in and what was excluded, settings, training, the sweep with its controls, the chosen
    parcellations and why, on a surface that can be turned, provenance, and how to cite.
    """
    shown = {
        "nmf_sweep": nmf_sweep,
        "sweep_summary": [sweep_summary],
        "selected_parcellations": [selected_parcellations],
        "control_comparison": [control_comparison],
    }
    versions = _versions_beside(cell.project) | shown
    said = gather(cell.project.folder.name, cell.settings, versions, mesh_of(cortex))
    page = render(said).encode()
    pictures = {f"{c.n_clusters} clusters, sorted correlation": c.correlation for c in said.chosen}
    return Result(
        arrays={"sha256": np.frombuffer(hashlib.sha256(page).digest(), dtype=np.uint8)},
        facts={"megabytes": round(len(page) / 1e6, 2), "cells_on_the_surface": len(said.shown)},
        pictures=pictures,
        files={"report.html": page},
    )
