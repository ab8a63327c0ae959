"""What leaves the platform: label images for other programs, and the report that people read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from trend_dagster.delivery.maps import map_files, networks_of
from trend_dagster.delivery.page import render
from trend_dagster.delivery.pictures import target_files, target_of_maps
from trend_dagster.delivery.report import gather, shown_files
from trend_dagster.orchestration.assets.controls import control_comparison
from trend_dagster.orchestration.assets.cortex import cortex
from trend_dagster.orchestration.assets.parcellation import nmf_sweep
from trend_dagster.orchestration.assets.summary import selected_parcellations, sweep_summary
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Available, Optional, Task, stored_asset
from trend_dagster.project.folder import Project
from trend_dagster.project.mesh import mesh_of
from trend_dagster.storage.label_images import keys_of, label_tsv
from trend_dagster.storage.stores import Partition, Version

MAPS = "maps"
"""Folder of the label images, below the project's outputs."""


def _target(project: Project, partition: Partition) -> dict[str, Path]:
    return target_files(project)


@stored_asset(group="delivery", inputs=[selected_parcellations, cortex], files=_target)
def parcellation_images(task: Task, selected_parcellations: Version, cortex: Optional) -> Result:
    """The chosen parcellations as files that Workbench, FreeSurfer, nilearn and others open.

    Per parcellation: GIFTI labels and a FreeSurfer annotation for each hemisphere, the label table
    as BIDS has it (.tsv), CIFTI or NIfTI where the BOLD was, and a
    Workbench spec that opens surface and labels together:
    `wb_view outputs/maps/selected_14_clusters.spec`. Networks that are mirror images of each other
    share a number and a hue. 0 is where there is no signal.
    """
    files: dict[str, bytes] = {}
    tables: dict[str, str] = {}
    all_keys = []
    chosen = selected_parcellations.facts["chosen"]
    all_labels = selected_parcellations.read("labels")
    surface = mesh_of(cortex(), all_labels.shape[1])
    target = target_of_maps(task.project, all_labels[0])
    for choice, labels in zip(chosen, all_labels, strict=True):
        networks = networks_of(labels, surface, target)
        name = f"selected_{choice['n_clusters']}_clusters"
        written = map_files(name, cell_title(choice), labels, networks, surface, target)
        files |= {f"{MAPS}/{file}": content for file, content in written.items()}
        tables[f"networks, {choice['n_clusters']} clusters"] = _markdown(label_tsv(networks))
        all_keys.append(keys_of(labels))
    return Result(
        arrays={
            "n_clusters": selected_parcellations.read("n_clusters"),
            "keys": np.stack(all_keys),
        },
        facts={"n_files": len(files)},
        tables=tables,
        files=files,
    )


@stored_asset(
    group="delivery",
    inputs=[sweep_summary, nmf_sweep, selected_parcellations, control_comparison, cortex],
    settings=("selection",),
    files=shown_files,
)
def report(
    task: Task,
    sweep_summary: Version,
    nmf_sweep: Available,
    selected_parcellations: Version,
    control_comparison: Version,
    cortex: Optional,
) -> Result:
    """Everything a reader asks of a run, in one HTML file that works offline.

    What went in and what was excluded, settings, training, the sweep with its controls, the chosen
    parcellations and why, on a surface that can be turned, provenance, and how to cite.
    """
    project = task.project
    surface = mesh_of(cortex())
    said = gather(
        project, nmf_sweep, sweep_summary, selected_parcellations, control_comparison, surface
    )
    page = render(said).encode()
    pictures = {f"{c.n_clusters} clusters, sorted correlation": c.correlation for c in said.chosen}
    return Result(
        arrays={"sha256": np.frombuffer(hashlib.sha256(page).digest(), dtype=np.uint8)},
        facts={"megabytes": round(len(page) / 1e6, 2), "cells_on_the_surface": len(said.shown)},
        pictures=pictures,
        files={"report.html": page},
    )


def cell_title(cell: dict[str, Any]) -> str:
    """Name a cell of the sweep as maps and pictures do."""
    return (
        f"{cell['n_clusters']} clusters: label file {cell['label_file']}, "
        f"{cell['n_components']} components"
    )


def _markdown(tsv: bytes) -> str:
    header, *rows = (line.split("\t") for line in tsv.decode().splitlines())
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
