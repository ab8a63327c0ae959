"""The atlases that a project's networks are compared with and named by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.project.folder import Project
from trend_dagster.project.fsaverage import FSAVERAGE, N_FSAVERAGE5
from trend_dagster.project.mesh import labels_worked_on
from trend_dagster.science.evidence.atlases import check_atlas
from trend_dagster.science.surface import Surface
from trend_dagster.storage.label_files import LabelFile, label_file_at, read_atlas, read_networks
from trend_dagster.storage.stores import Version
from trend_dagster.storage.template import Grayordinates, Target

SHIPPED = {"schaefer7": Path(__file__).parents[1] / "atlases" / "lh.schaefer7.annot"}
"""Atlases that come along, on fsaverage5: see ``atlases/README.md``."""


@dataclass(frozen=True)
class Atlas:
    """An atlas on the rows of the data.

    Parameters
    ----------
    name : str
        Of its file.
    labels : ndarray of shape (n_rows,)
        Network of each row from 0; -1 for none.
    networks : list of str
        Their names.
    """

    name: str
    labels: NDArray[np.int64]
    networks: list[str]


def atlas_files(project: Project) -> list[LabelFile]:
    """Files of the atlases that the settings name.

    Raises
    ------
    InputError
        If one is no label file, or lacks its other hemisphere.
    """
    named = project.settings.outputs.atlases
    return [label_file_at(SHIPPED.get(name, project.folder / name)) for name in named]


def named_files(project: Project) -> Mapping[str, Path]:
    """The same, each by what it is."""
    return {
        name: path
        for i, file in enumerate(atlas_files(project), 1)
        for name, path in file.named_files(f"atlas {i}").items()
    }


def read_atlases(project: Project, n_rows: int, target: Target | None) -> list[Atlas]:
    """Read the atlases that the settings name, on the rows of the data.

    Raises
    ------
    InputError
        If one cannot be read, or lies on another mesh.
    """
    found = []
    for file in atlas_files(project):
        labels, names = read_atlas(file)
        labels = _on_rows(labels, project, n_rows, target)
        check_atlas(labels, n_rows, file.name)
        found.append(Atlas(file.key, labels, names))
    return found


def read_planted(project: Project, file: LabelFile, n_vertices: int) -> NDArray[np.int64]:
    """Read planted networks, on the mesh that is worked on.

    Raises
    ------
    InputError
        If they belong to another mesh.
    """
    check = partial(check_planted, file)
    planted = labels_worked_on(project, read_networks(file), check)
    check(planted, n_vertices)
    return planted


def check_planted(file: LabelFile, planted: NDArray[np.int64], n_vertices: int) -> None:
    """Make sure that planted networks lie on a mesh.

    Raises
    ------
    InputError
        If it has another number of vertices.
    """
    if len(planted) != n_vertices:
        raise InputError(
            f"planted networks {file.name}",
            expected=f"{n_vertices} labels, one per vertex",
            found=str(len(planted)),
            remedy="Give the file that belongs to this cohort, or take its name out of trend.yaml.",
        )


def stored_overlap(project: Project) -> Version | None:
    """Overlap of the chosen parcellations with the atlases, where the settings name any."""
    return project.store.latest("atlas_overlap") if project.settings.outputs.atlases else None


def hemisphere_of_rows(
    surface: Surface | None, target: Target | None, n_rows: int
) -> NDArray[np.int8]:
    """0 for rows of the left hemisphere, 1 for the right one's; all 0 where nothing tells."""
    if surface is not None:
        return surface.hemisphere
    return target.hemisphere if isinstance(target, Grayordinates) else np.zeros(n_rows, np.int8)


def _on_rows(
    labels: NDArray[np.int64], project: Project, n_rows: int, target: Target | None
) -> NDArray[np.int64]:
    """Take the rows of the data out of an atlas of a whole mesh that they are part of."""
    if len(labels) == n_rows:
        return labels
    if isinstance(target, Grayordinates) and len(labels) == target.n_mesh:
        return labels[target.vertices]
    n = FSAVERAGE.get(project.settings.inputs.surface or "", 0)
    if len(labels) == 2 * N_FSAVERAGE5 and n_rows == 2 * n:
        # The first vertices of fsaverage5 are the coarser meshes.
        return np.concatenate([labels[:n], labels[N_FSAVERAGE5 : N_FSAVERAGE5 + n]])
    return labels
