"""The surface that the vertices lie on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.png import small_png
from trend_dagster.delivery.figures.surface import parcellation_figure
from trend_dagster.errors import InputError
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Cell, stored_asset
from trend_dagster.project.folder import BOLD_RUN, Project
from trend_dagster.project.mesh import (
    SIDES,
    cortex_mask_files,
    mesh_files,
    names_no_mesh,
    read_mask,
    read_mesh,
    wrong_density,
)
from trend_dagster.project.settings import surface_labels
from trend_dagster.science.surface import Surface, vertex_areas
from trend_dagster.storage.space import Side
from trend_dagster.storage.stores import Partition, Version


def _files(project: Project, partition: Partition) -> dict[str, Path]:
    return mesh_files(project) | cortex_mask_files(project)


@stored_asset(
    group="inputs",
    settings=("inputs",),
    files=_files,
    unless={"bold": names_no_mesh},
    incomplete=frozenset({"bold"}),
)
def cortex(cell: Cell, bold: Sequence[Version] | None) -> Result:
    """The mesh of both hemispheres that the vertices belong to, and where on it there is cortex.

    The medial wall is where no BOLD run has signal; a run has none outside `inputs.cortex_mask`.
    Without runs it is what that mask leaves out. Distances, labels and pictures are made from this.
    """
    surface = read_mesh(cell.project)
    if surface is None:
        if surface_labels(cell.settings):
            raise InputError(
                "inputs.surface",
                expected="a mesh: geodesic_labels.n_labels_per_hemisphere asks for labels on it",
                found="none",
                remedy="Name it in trend.yaml (inputs.surface or inputs.surfaces), or take the "
                "numbers of labels out.",
            )
        # Somebody materializes all there is on the page.
        return Result(excluded="the settings name no surface")
    name = cell.settings.inputs.surface
    files = list(cell.settings.inputs.surfaces) if name is None else [name]
    for run in bold or ():
        _check_density(surface, files, run)
    is_cortex, told_by = _cortex_of(cell.project, surface, bold or ())
    area = vertex_areas(surface)
    left = surface.hemisphere == 0
    arrays: dict[str, NDArray[Any]] = {
        name: value for name, value in vars(surface).items() if isinstance(value, np.ndarray)
    }
    shown = np.where(is_cortex, surface.hemisphere.astype(np.int32), -1)
    return Result(
        arrays=arrays | {"medial_wall": ~is_cortex, "vertex_area": area},
        facts={
            "mesh_files": files,
            "kind": surface.kind,
            "n_vertices": surface.n_vertices,
            "vertices_per_hemisphere": [int(left.sum()), int((~left).sum())],
            "n_medial_wall": int((~is_cortex).sum()),
            "medial_wall_told_by": told_by,
            "area_cm2": {
                side: round(float(area[own].sum()) / 100, 1)
                for side, own in zip(SIDES, (left, ~left), strict=True)
            },
            "area_of_cortex_cm2": round(float(area[is_cortex].sum()) / 100, 1),
        },
        pictures={"cortex": small_png(parcellation_figure(surface, shown, pixels_per_mm=1.2))},
    )


def _check_density(surface: Surface, files: Sequence[str], run: Version) -> None:
    space = run.facts.get("space") or {}
    if space.get("source") == "nifti":
        raise InputError(
            f"surface {', '.join(files)}",
            expected="BOLD on this surface",
            found=f"voxels of a volume in BOLD run {run.partition[BOLD_RUN]}",
            remedy="Sample the BOLD onto the surface, or leave the surface out of trend.yaml.",
        )
    counts = np.bincount(surface.hemisphere, minlength=2).tolist()
    told = list(space.get("n_vertices", {}).values())
    if told and told != counts:
        expected = " and ".join(f"{n} {side}" for n, side in zip(told, SIDES, strict=True))
        found = " and ".join(f"{n} {side}" for n, side in zip(counts, SIDES, strict=True))
        raise wrong_density(files, expected, found)
    if run.facts["n_vertices"] != surface.n_vertices:
        raise wrong_density(files, str(run.facts["n_vertices"]), surface.n_vertices)


def _cortex_of(
    project: Project, surface: Surface, runs: Sequence[Version]
) -> tuple[NDArray[np.bool_], str]:
    """Where there is cortex, and who told it."""
    if runs:
        signal = np.zeros(surface.n_vertices, dtype=bool)
        for run in runs:
            signal |= run.read("vertex_mask")
        return signal, f"signal of {len(runs)} BOLD runs"
    if cortex_mask_files(project):
        left = int((surface.hemisphere == 0).sum())
        counts: dict[Side, int] = {"L": left, "R": surface.n_vertices - left}
        return read_mask(project, surface.n_vertices, counts), "inputs.cortex_mask"
    if surface.medial_wall is not None:
        return ~surface.medial_wall, "an estimate: where the average cortex is thin"
    return np.ones(surface.n_vertices, dtype=bool), "nothing"
