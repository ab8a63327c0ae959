"""What the project's maps are written on: the template, or the files of the BOLD."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.project.folder import BOLD_RUN, Project
from trend_dagster.project.mesh import mesh_of, read_named_mesh, resampling_of
from trend_dagster.project.recordings import INPUT
from trend_dagster.science.resampling import Resampling
from trend_dagster.science.surface import Surface
from trend_dagster.storage.space import VertexSpace
from trend_dagster.storage.stores import Version
from trend_dagster.storage.template import Target, read_template, target_of


@dataclass(frozen=True)
class MapSpace:
    """What maps are written on.

    Parameters
    ----------
    surface : Surface, optional
        The mesh of the files.
    target : Grayordinates or Voxels, optional
        What its rows are, where files say so.
    resampling : Resampling, optional
        The way up to that mesh, where a coarser one was worked on.
    """

    surface: Surface | None
    target: Target | None
    resampling: Resampling | None = None

    def labels(self, labels: NDArray[np.integer]) -> NDArray[np.integer]:
        """Labels of the vertices worked on, as those of the files' vertices."""
        return labels if self.resampling is None else self.resampling.labels_up(labels)

    def all_labels(self, maps: Iterable[NDArray[np.integer]]) -> NDArray[np.integer]:
        """Label vectors, (n_maps, n_vertices), as those of the files' vertices."""
        return np.stack([self.labels(labels) for labels in maps])

    def shares(self, shares: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shares at the vertices worked on, (n_vertices, n_networks), as those of the files'."""
        if self.resampling is None:
            return shares
        found = self.resampling.up @ shares
        total = found.sum(axis=1, keepdims=True)  # less than 1 at the rim of the medial wall
        return np.asarray(found / np.where(total > 0, total, 1), dtype=np.float32)


def map_space(project: Project, cortex: Version | None, n_vertices: int) -> MapSpace:
    """Find what maps are written on.

    Parameters
    ----------
    project : Project
        Whose maps.
    cortex : Version or None
        The mesh that is worked on.
    n_vertices : int
        How many were worked on.

    Raises
    ------
    InputError
        If mesh or template do not fit.
    """
    surface, way = mesh_of(cortex, n_vertices), resampling_of(project)
    if way is not None and surface is not None:
        surface = read_named_mesh(project)
        assert surface is not None
        n_vertices = surface.n_vertices
    return MapSpace(surface, stored_target(project, n_vertices), way)


def stored_space(project: Project, n_vertices: int) -> MapSpace:
    """Find what maps of something stored are written on."""
    mesh = project.store.latest("cortex") if project.settings.inputs.has_mesh else None
    return map_space(project, mesh, n_vertices)


def target_files(project: Project) -> dict[str, Path]:
    """The file that tells what the rows are: the template, if one is named."""
    name = project.settings.inputs.template
    return {} if name is None else {"template": project.folder / name}


def target_run(project: Project) -> list[Version]:
    """The run in the store that tells what the rows are, where no template is named."""
    run = None if project.settings.inputs.template else _any_run(project)
    return [] if run is None else [run]


def stored_target(project: Project, n_rows: int) -> Target | None:
    """What maps are written on: what the template says, or else the files of the BOLD.

    Parameters
    ----------
    project : Project
        Whose maps.
    n_rows : int
        Rows of the BOLD.

    Returns
    -------
    Grayordinates, Voxels or None
        None where the files do not tell.

    Raises
    ------
    InputError
        If the template cannot be read or has another number of rows.
    """
    name = project.settings.inputs.template
    if name is None:
        run = _any_run(project)
        if run is None or "space" not in run.facts:
            return None
        arrays = {
            name.removeprefix(INPUT): run.read(name)
            for name in ("in_data", "voxels", f"{INPUT}in_data")
            if name in run
        }
        target = target_of(VertexSpace.from_stored(run.facts["space"], arrays))
        return target if target is not None and len(target) == n_rows else None
    target = read_template(project.folder / name)
    if len(target) != n_rows:
        raise InputError(
            f"template {name}",
            expected=f"{n_rows} entries, one for each row of the BOLD",
            found=str(len(target)),
            remedy="Name the image that the BOLD was taken from (inputs.template), or take the "
            "line out.",
        )
    return target


def _any_run(project: Project) -> Version | None:
    """A usable run of today; all of them lie in one space, or the correlation was refused."""
    return next(project.current("bold", BOLD_RUN), None)
