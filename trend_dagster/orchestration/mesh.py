"""What the project's mesh adds to a correlation: smoothing, and who is whose neighbour.

What belongs here: choosing by the settings. What does not: the mathematics (``science.networks``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.orchestration.pictures import surface_of
from trend_dagster.orchestration.resources import Project
from trend_dagster.science.geodesic import Surface
from trend_dagster.science.networks import (
    Neighbourhood,
    SmoothedCorrelation,
    find_networks,
    smoother,
)


def mesh_of(project: Project, n_vertices: int) -> Surface | None:
    """Mesh of the project, if its settings name one.

    Raises
    ------
    InputError
        If it is not the one that the data lies on.
    """
    surface = surface_of(project)
    if surface is not None and surface.n_vertices != n_vertices:
        raise InputError(
            f"surface {project.settings.inputs.surface}",
            expected=f"{n_vertices} vertices, as the BOLD runs have",
            found=str(surface.n_vertices),
            remedy="Name the surface of the data as inputs.surface, or leave it out.",
        )
    return surface


def smoothed(project: Project, correlation: Any, mask: NDArray[np.bool_]) -> Any:
    """Correlation as it is to be thresholded: smoothed, where settings and mesh allow it."""
    config = project.settings.thresholding
    surface = mesh_of(project, len(mask))
    if surface is None or config.smoothing_fwhm_mm == 0:
        return correlation
    near = Neighbourhood.of(surface, config.exclusion_mm).near
    return SmoothedCorrelation(correlation, smoother(surface, mask, config.smoothing_fwhm_mm), near)


def network_finder(
    project: Project, correlation: Any
) -> Callable[[NDArray[Any], NDArray[Any], int], NDArray[np.int64]] | None:
    """How networks are made from a factorisation; None for KMeans."""
    settings = project.settings
    if settings.networks.method == "kmeans":
        return None
    n_vertices = correlation.shape[0]
    surface = mesh_of(project, n_vertices)
    if surface is None:
        neighbourhood = Neighbourhood.unknown(n_vertices)
    else:
        neighbourhood = Neighbourhood.of(surface, settings.thresholding.exclusion_mm)

    def find(W: NDArray[Any], H: NDArray[Any], n_networks: int) -> NDArray[np.int64]:
        return find_networks(
            W,
            H,
            correlation,
            n_networks,
            neighbourhood,
            settings.networks,
            random_state=settings.clustering.random_state,
        )

    return find
