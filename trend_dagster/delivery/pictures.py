"""Pictures of parcellations: on the surface where there is one.

What belongs here: choosing the form, and what the rows are. What does not:
drawing (``figures``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from trend_dagster.delivery.figures.matrices import sizes_figure
from trend_dagster.delivery.figures.surface import comparison_figure, parcellation_figure
from trend_dagster.errors import InputError
from trend_dagster.project.folder import BOLD_RUN, Project
from trend_dagster.science.surface import Surface
from trend_dagster.storage.space import VertexSpace
from trend_dagster.storage.stores import POINTER, Version, describe
from trend_dagster.storage.template import Target, read_template, target_of


def target_files(project: Project) -> dict[str, Path]:
    """Files that tell what the rows are: the template, or the version of one run in the store."""
    name = project.settings.inputs.template
    if name is not None:
        return {"template": project.folder / name}
    run = _any_run(project)
    if run is None:
        return {}
    return {f"current {describe('bold', run.partition)}": run.path.parent / POINTER}


def target_of_maps(project: Project, labels: NDArray[np.integer]) -> Target | None:
    """What maps are written on: what the template says, or else the files of the BOLD.

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
        arrays = {n: run.read(n) for n in ("in_data", "voxels") if n in run}
        target = target_of(VertexSpace.from_stored(run.facts["space"], arrays))
        return target if target is not None and len(target) == len(labels) else None
    target = read_template(project.folder / name)
    if len(target) != len(labels):
        raise InputError(
            f"template {name}",
            expected=f"{len(labels)} entries, one for each row of the BOLD",
            found=str(len(target)),
            remedy="Name the image that the BOLD was taken from (inputs.template), or take the "
            "line out.",
        )
    return target


def _any_run(project: Project) -> Version | None:
    """A usable run of today; all of them lie in one space, or the correlation was refused."""
    for key in project.keys(BOLD_RUN):
        run = project.store.latest("bold", {BOLD_RUN: key})
        if run is not None and run.excluded is None:
            return run
    return None


def draw_parcellation(surface: Surface | None, labels: NDArray[np.int32], title: str) -> Figure:
    """Draw a parcellation on the project's surface; without one, its cluster sizes.

    Parameters
    ----------
    surface : Surface, optional
        The mesh.
    labels : ndarray of shape (n_vertices,)
        Cluster of each vertex, -1 without signal.
    title : str
        Above the picture.

    Returns
    -------
    Figure
        Four views, or a bar chart.
    """
    if surface is None:
        return sizes_figure(labels, title=title)
    return parcellation_figure(surface, labels, title)


def draw_comparison(
    surface: Surface | None, planted: NDArray[np.int64], found: NDArray[np.int32], dice: float
) -> Figure | None:
    """Draw planted networks beside a parcellation, in matching colours.

    Parameters
    ----------
    surface : Surface, optional
        The mesh.
    planted : ndarray of shape (n_vertices,)
        Network of each vertex, -1 for none.
    found : ndarray of shape (n_vertices,)
        Cluster of each vertex, -1 without signal.
    dice : float
        Their mean Dice, for the title.

    Returns
    -------
    Figure or None
        None without a surface.
    """
    if surface is None:
        return None
    titles = ("Planted networks", f"Found from BOLD (Dice {dice:.2f})")
    return comparison_figure(surface, planted, found, titles)
