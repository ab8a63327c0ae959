"""The project's mesh with its medial wall, checked against the BOLD runs that lie on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.project.folder import BOLD_RUN, Project
from trend_dagster.project.mesh import (
    SIDES,
    check_density,
    cortex_mask_files,
    mesh_names,
    read_mask,
    read_mesh,
    read_named_mesh,
    resampling_of,
)
from trend_dagster.science.surface import Surface, vertex_areas
from trend_dagster.storage.space import Side
from trend_dagster.storage.stores import Version


@dataclass(frozen=True, eq=False)
class Cortex:
    """A mesh, and where on it there is cortex.

    Parameters
    ----------
    surface : Surface
        Both hemispheres.
    is_cortex : ndarray of bool of shape (n_vertices,)
        The rest is the medial wall.
    files : tuple of str
        Where the mesh comes from.
    told_by : str
        What tells where there is cortex.
    notes : tuple of str
        What a reader should know of it.
    """

    surface: Surface
    is_cortex: NDArray[np.bool_]
    files: tuple[str, ...]
    told_by: str
    notes: tuple[str, ...] = ()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is stored: the mesh, the medial wall, and the area of each vertex in mm^2."""
        named = vars(self.surface).items()
        mesh = {name: value for name, value in named if isinstance(value, np.ndarray)}
        area = vertex_areas(self.surface)
        return mesh | {"medial_wall": ~self.is_cortex, "vertex_area": area}

    def facts(self) -> dict[str, Any]:
        """What is worth looking at."""
        area, left = vertex_areas(self.surface), self.surface.hemisphere == 0
        sides = zip(SIDES, (left, ~left), strict=True)
        return {
            **({"notes": list(self.notes)} if self.notes else {}),
            "mesh_files": list(self.files),
            "kind": self.surface.kind,
            "n_vertices": self.surface.n_vertices,
            "vertices_per_hemisphere": [int(left.sum()), int((~left).sum())],
            "n_medial_wall": int((~self.is_cortex).sum()),
            "medial_wall_told_by": self.told_by,
            "area_cm2": {side: round(float(area[own].sum()) / 100, 1) for side, own in sides},
            "area_of_cortex_cm2": round(float(area[self.is_cortex].sum()) / 100, 1),
        }


def read_cortex(project: Project, runs: Sequence[Version]) -> Cortex:
    """Read the mesh of a project, and find its medial wall.

    Parameters
    ----------
    project : Project
        Names the mesh and the mask.
    runs : sequence of Version
        Usable BOLD runs: where none has signal is the medial wall.

    Raises
    ------
    InputError
        If no mesh is named, its files cannot be used, or the runs do not lie on it.
    """
    surface = read_mesh(project)
    if surface is None:
        raise InputError(
            "inputs.surface",
            expected="a mesh: geodesic_labels.n_labels_per_hemisphere asks for labels on it",
            found="none",
            remedy="Name it in trend.yaml (inputs.surface or inputs.surfaces), or take the "
            "numbers of labels out.",
        )
    files = mesh_names(project)
    for run in runs:
        _check_density(surface, files, run)
    is_cortex, told_by = _where_it_is(project, surface, runs)
    return Cortex(surface, is_cortex, files, told_by, tuple(_notes(runs)))


def _notes(runs: Sequence[Version]) -> Iterator[str]:
    taken = [run.facts["medial_wall_of"] for run in runs if "medial_wall_of" in run.facts]
    if n := taken.count("NaN"):
        yield f"{n} of {len(runs)} BOLD runs have NaN on the medial wall, which was taken out"
    if named := [of for of in taken if of != "NaN"]:
        yield (
            f"{len(named)} of {len(runs)} BOLD runs have values on the medial wall; that of "
            f"{named[0]} was taken out of them (an estimate; inputs.cortex_mask names another)"
        )


def _check_density(surface: Surface, files: Sequence[str], run: Version) -> None:
    space = run.facts.get("space") or {}
    # Of a run that was resampled the files tell another mesh, which is compared where it is read.
    resampled = "n_vertices_of_the_files" in run.facts
    check_density(
        np.bincount(surface.hemisphere, minlength=2).tolist(),
        files,
        run.partition[BOLD_RUN],
        space.get("source"),
        [] if resampled else list(space.get("n_vertices", {}).values()),
        run.facts["n_vertices"],
    )


def _where_it_is(
    project: Project, surface: Surface, runs: Sequence[Version]
) -> tuple[NDArray[np.bool_], str]:
    """Where there is cortex, and who told it."""
    if runs:
        signal = np.any([run.read("vertex_mask") for run in runs], axis=0)
        return np.asarray(signal), f"signal of {len(runs)} BOLD runs"
    if cortex_mask_files(project):
        way, fine = resampling_of(project), read_named_mesh(project)
        assert fine is not None
        left = int((fine.hemisphere == 0).sum())
        counts: dict[Side, int] = {"L": left, "R": fine.n_vertices - left}
        mask = read_mask(project, fine.n_vertices, counts)
        if way is not None:
            mask = way.labels_down(mask.astype(np.int64)) == 1
        return mask, "inputs.cortex_mask"
    if surface.medial_wall is not None:
        return ~surface.medial_wall, "an estimate: where the average cortex is thin"
    return np.ones(surface.n_vertices, dtype=bool), "nothing"
