"""Cells of the sweep that a person asks for, as files: `trend export`.

What belongs here: finding the cells and writing their files into a folder. What does not: how the
files look (``maps``), and the chosen parcellations that every run delivers (the asset
``parcellation_images``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from trend_dagster.delivery.maps import map_files, networks_of
from trend_dagster.delivery.pictures import target_of_maps
from trend_dagster.errors import MissingUpstreamError, SettingsError
from trend_dagster.orchestration.assets.delivery import cell_title
from trend_dagster.orchestration.assets.summary import labels_of, tidy_rows
from trend_dagster.project.folder import Project
from trend_dagster.project.mesh import stored_mesh
from trend_dagster.storage.stores import Version, replace_file

IDENTITY = ("label_file", "n_components", "alpha_W", "l1_ratio", "n_clusters")


def export_cells(project: Project, wanted: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    """Write the label images of cells of the sweep.

    Parameters
    ----------
    project : Project
        Whose cells.
    wanted : mapping
        Values of ``label_file``, ``n_components``, ``alpha_W``, ``l1_ratio`` and ``n_clusters``
        that a cell must have; what is None or left out may be anything. Nothing at all means the
        chosen parcellations.
    folder : Path
        Where to; made if need be. Files of these names are replaced, others left alone.

    Yields
    ------
    Path
        The Workbench spec of each cell, or its table of labels where there is no surface; written
        last, when all the files that it names are there.

    Raises
    ------
    MissingUpstreamError
        If there is no sweep yet.
    SettingsError
        If no cell is like that.
    """
    wanted = {name: value for name, value in wanted.items() if value is not None}
    cells = _stored_cells(project)
    table = pd.DataFrame([row for cell in cells for row in tidy_rows(cell)])
    found = table if wanted else _chosen(project, table)
    for name, value in wanted.items():
        found = found[found[name] == value]
    if found.empty:
        raise _no_such_cell(table, wanted)
    several = [name for name in ("alpha_W", "l1_ratio") if len(table[name].unique()) > 1]
    for row in found.to_dict("records"):
        cell = {str(name): value for name, value in row.items()}
        labels = labels_of(cells, cell)
        surface = stored_mesh(project, len(labels))
        target = target_of_maps(project, labels)
        networks = networks_of(labels, surface, target)
        name = _name(cell, several)
        files = map_files(name, cell_title(cell), labels, networks, surface, target)
        for file, content in files.items():
            replace_file(folder / file, content)
        yield folder / next(reversed(files))


def _stored_cells(project: Project) -> list[Version]:
    from trend_dagster.orchestration.assets import ASSETS

    sweep = ASSETS["nmf_sweep"]
    found = [project.store.latest(sweep.name, p) for p in sweep.partitions(project)]
    cells = [version for version in found if version is not None and version.excluded is None]
    if not cells:
        raise MissingUpstreamError(
            f"project {project.folder}",
            expected="at least one finished cell of the sweep",
            found="none",
            remedy="`trend run` makes them.",
        )
    return cells


def _chosen(project: Project, table: pd.DataFrame) -> pd.DataFrame:
    selected = project.store.latest("selected_parcellations")
    if selected is None:
        raise MissingUpstreamError(
            f"project {project.folder}",
            expected="chosen parcellations",
            found="none yet",
            remedy="`trend run` chooses them; or name a cell: `trend export --label-file ...`.",
        )
    chosen = pd.DataFrame(selected.facts["chosen"])
    return table.merge(chosen[list(IDENTITY)], on=list(IDENTITY))


def _name(cell: Mapping[str, Any], several: list[str]) -> str:
    parts = [
        cell["label_file"],
        f"{cell['n_components']}_components",
        *(f"{name}_{cell[name]:g}" for name in several),
        f"{cell['n_clusters']}_clusters",
    ]
    return "_".join(parts)


def _no_such_cell(table: pd.DataFrame, wanted: Mapping[str, Any]) -> SettingsError:
    there = "; ".join(
        f"{name} {', '.join(map(str, sorted(table[name].unique())))}" for name in wanted
    )
    return SettingsError(
        "cell of the sweep",
        expected=f"one that exists ({there})",
        found="none with " + ", ".join(f"{name} {value}" for name, value in wanted.items()),
        remedy="Name one of these, or add it to the sweep in trend.yaml and run again.",
    )
