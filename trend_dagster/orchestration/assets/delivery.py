"""What leaves the platform: label images for other programs, and the report that people read."""

from __future__ import annotations

from typing import Any

import numpy as np

from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.maps import map_files, networks_of
from trend_dagster.orchestration.pictures import fitting_surface
from trend_dagster.orchestration.stored_asset import Cell, stored_asset
from trend_dagster.storage.label_images import keys_of, label_tsv
from trend_dagster.storage.stores import Version

MAPS = "maps"
"""Folder of the label images, below the project's outputs."""


@stored_asset(group="delivery", settings=("inputs",))
def parcellation_images(cell: Cell, selected_parcellations: Version) -> Result:
    """The chosen parcellations as files that Workbench, FreeSurfer, nilearn and others open.

    Per parcellation: GIFTI labels and a FreeSurfer annotation for each hemisphere, the label table
    as BIDS has it (.tsv), and a Workbench spec that opens surface and labels together:
    `wb_view outputs/maps/selected_14_clusters.spec`. Networks that are mirror images of each other
    share a number and a hue. 0 is where there is no signal.
    """
    files: dict[str, bytes] = {}
    tables: dict[str, str] = {}
    all_keys = []
    chosen = selected_parcellations.facts["chosen"]
    for choice, labels in zip(chosen, selected_parcellations.read("labels"), strict=True):
        surface = fitting_surface(cell.project, labels)
        networks = networks_of(labels, surface)
        name = f"selected_{choice['n_clusters']}_clusters"
        written = map_files(name, cell_title(choice), labels, networks, surface)
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
