"""Cortical meshes that travel with nilearn: no download, the same on every machine."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import SettingsError
from trend_dagster.science.surface import Surface, edge_graph, largest_piece, sphere_triangles

FSAVERAGE = {"fsaverage3": 642, "fsaverage4": 2562, "fsaverage5": 10242}
"""Vertices of a hemisphere, by name."""

N_FSAVERAGE5 = FSAVERAGE["fsaverage5"]
SIDES = ("left", "right")


# Reading and joining the files takes half a second, and every picture asks for the mesh.
@cache
def load_fsaverage(n_vertices_per_hemisphere: int = 642) -> Surface:
    """Fsaverage3, 4 or 5, from the fsaverage5 files inside the nilearn package.

    Distances are measured on the midthickness surface, halfway between white and pial. The medial
    wall is an estimate, since nilearn carries none: where the average cortical thickness nearly
    vanishes (on fsaverage5 it agrees with FreeSurfer's at a Dice of 0.87).

    Parameters
    ----------
    n_vertices_per_hemisphere : {642, 2562, 10242}
        How fine the mesh is.

    Returns
    -------
    Surface
        Both hemispheres, with inflated coordinates and sulcal depth for drawing.

    Raises
    ------
    SettingsError
        For any other number of vertices.
    """
    if n_vertices_per_hemisphere not in FSAVERAGE.values():
        raise SettingsError(
            "n_vertices_per_hemisphere",
            expected="642 (fsaverage3), 2562 (fsaverage4) or 10242 (fsaverage5)",
            found=str(n_vertices_per_hemisphere),
            remedy="Choose one of the three, or give your own surface.",
        )
    # nilearn takes more than a second to import; so it is imported when a mesh is asked for.
    from nilearn.datasets import load_fsaverage as load_nilearn
    from nilearn.datasets import load_fsaverage_data

    meshes = load_nilearn("fsaverage5")
    thickness = _both(load_fsaverage_data("fsaverage5", data_type="thickness").data.parts)
    sulcal = _both(load_fsaverage_data("fsaverage5", data_type="sulcal").data.parts)
    fine = _surface(meshes, sulcal)
    fine = replace(fine, medial_wall=_closed(fine, thickness <= 1.2))
    return _first_vertices(fine, n_vertices_per_hemisphere)


def _surface(meshes: dict[str, Any], sulcal_depth: NDArray[np.float32]) -> Surface:
    faces = [meshes["sphere"].parts[side].faces for side in SIDES]
    return Surface(
        coordinates=np.mean(
            [_coordinates(meshes["pial"]), _coordinates(meshes["white_matter"])], axis=0
        ),
        triangles=np.concatenate([faces[0], faces[1] + N_FSAVERAGE5]).astype(np.int32),
        hemisphere=np.repeat(np.array([0, 1], dtype=np.int8), N_FSAVERAGE5),
        inflated=_coordinates(meshes["inflated"]),
        sphere=_coordinates(meshes["sphere"]),
        sulcal_depth=sulcal_depth,
    )


def _both(parts: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([np.asarray(parts[side], dtype=np.float32) for side in SIDES])


def _coordinates(mesh: Any) -> NDArray[np.float32]:
    return _both({side: mesh.parts[side].coordinates for side in SIDES})


def _closed(surface: Surface, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # Thin cortex is found in specks around one large patch. Growing by four steps of the mesh
    # and shrinking by three makes it whole; the step that is left over covers the patch's rim.
    step = edge_graph(surface) > 0
    for grow in (True, True, True, True, False, False, False):
        mask = mask | (step @ mask) if grow else mask & ~(step @ ~mask)
    pieces = [largest_piece(step, mask & (surface.hemisphere == side)) for side in (0, 1)]
    return np.isin(np.arange(len(mask)), np.concatenate(pieces))


def _first_vertices(fine: Surface, n: int) -> Surface:
    """Keep the first n vertices of each hemisphere, which are a coarser fsaverage."""
    if n == N_FSAVERAGE5:
        return fine
    keep = np.concatenate([np.arange(n), N_FSAVERAGE5 + np.arange(n)])
    own = vars(fine).items()
    vertex_wise = {name: value[keep] for name, value in own if name not in {"triangles", "kind"}}
    left, right = np.split(vertex_wise["sphere"], 2)
    triangles = np.concatenate([sphere_triangles(left), sphere_triangles(right) + np.int32(n)])
    return Surface(triangles=triangles, **vertex_wise)
