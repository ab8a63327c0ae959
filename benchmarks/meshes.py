"""A cortex of any size without files: two icosahedra whose triangles are cut finer."""

from __future__ import annotations

import numpy as np

from trend_dagster.science.resampling import icosphere
from trend_dagster.science.surface import Surface, sphere_triangles

RADIUS_MM = 80.0  # a sphere of 80,000 mm^2, as an adult hemisphere
MEDIAL_WALL = 0.1  # of each hemisphere


def cortex(n_vertices: int) -> Surface:
    """Two spheres side by side, a tenth of each a medial wall that faces the other.

    Parameters
    ----------
    n_vertices : int
        Of both hemispheres: 2 (10 steps^2 + 2), as 1284, 5124, 20484 and 64984.

    Raises
    ------
    ValueError
        If no icosahedron can be cut into so many.
    """
    steps = round(((n_vertices / 2 - 2) / 10) ** 0.5)
    if 2 * (10 * steps**2 + 2) != n_vertices:
        raise ValueError(f"{n_vertices} vertices: only 2 * (10 n^2 + 2) make icosahedra")
    left = icosphere(steps)
    triangles = sphere_triangles(left)
    right = left * [-1, 1, 1]
    beside = np.array([1.2, 0, 0])
    return Surface(
        (RADIUS_MM * np.concatenate([left - beside, right + beside])).astype(np.float32),
        np.concatenate([triangles, triangles[:, ::-1] + len(left)]).astype(np.int32),
        np.repeat(np.array([0, 1], dtype=np.int8), len(left)),
        # A cap of a sphere has the share of its area that it has of the height.
        np.concatenate([left[:, 0], -right[:, 0]]) > 1 - 2 * MEDIAL_WALL,
        sphere=(100 * np.concatenate([left, right])).astype(np.float32),
    )
