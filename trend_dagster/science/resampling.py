"""From a fine mesh to a coarse one on the same sphere, and labels back up.

Weights follow Workbench's ``ADAP_BARY_AREA`` for a coarser target: each fine vertex shares its area
out among the corners of the coarse triangle that it lies in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.science.surface import (
    BoolArray,
    FloatArray,
    Surface,
    hemisphere_triangles,
    sphere_triangles,
    vertex_areas,
)

_CANDIDATES = 16  # triangles, by their centres, that a point is looked for in
_NO_AREA = 1e-12  # of a triangle on the unit sphere; those of 164k vertices have some 4e-5


@dataclass(frozen=True)
class Resampling:
    """The way between a mesh and a coarser one of the same cortex.

    Attributes
    ----------
    surface : Surface
        The coarse mesh: its vertices lie on the fine surface.
    down : csr_array of shape (n_coarse, n_fine), float32
        Area of each fine vertex that belongs to each coarse one, in mm^2.
    up : csr_array of shape (n_fine, n_coarse), float32
        Barycentric weights of the coarse triangle that each fine vertex lies in.
    """

    surface: Surface
    down: scipy.sparse.csr_array
    up: scipy.sparse.csr_array

    def series_down(
        self, signal: NDArray[np.floating], mask: BoolArray
    ) -> tuple[NDArray[np.float32], BoolArray]:
        """Average a signal over the area of each coarse vertex.

        Parameters
        ----------
        signal : ndarray of shape (n_fine, n_timepoints)
        mask : ndarray of shape (n_fine,), bool
            Vertices with signal; no other is averaged.

        Returns
        -------
        series : ndarray of shape (n_coarse, n_timepoints), float32
            0 without signal.
        mask : ndarray of shape (n_coarse,), bool
            Where at least half of the area has signal.
        """
        known = self.down @ mask.astype(np.float32)
        inside = (known > 0) & (known >= 0.5 * self.down.sum(axis=1))
        weights = self.down * mask  # 0 times NaN would be NaN, so those rows are not read
        found = weights @ np.where(mask[:, None], signal, 0).astype(np.float32)
        series = np.zeros(found.shape, dtype=np.float32)
        series[inside] = found[inside] / known[inside, None]
        return series, inside

    def labels_down(self, labels: NDArray[np.integer]) -> NDArray[np.int64]:
        """Give each coarse vertex the label of most of its area; -1 where most has none."""
        return _labels_of_most(self.down, labels)

    def labels_up(self, labels: NDArray[np.integer]) -> NDArray[np.int64]:
        """Give each fine vertex the label of the corners that weigh most; -1 where none has one."""
        return _labels_of_most(self.up, labels)


def icosphere(frequency: int) -> NDArray[np.float64]:
    """Points of an icosahedron whose edges are cut into as many parts, on the unit sphere.

    Parameters
    ----------
    frequency : int
        1 for the icosahedron, 32 for 10,242 points, 57 for 32,492.

    Returns
    -------
    ndarray of shape (10 * frequency**2 + 2, 3)
        In a fixed order.
    """
    golden = (1 + 5**0.5) / 2
    corners = np.array(
        [np.roll((0, a, b * golden), turn) for turn in range(3) for a in (-1, 1) for b in (-1, 1)]
    )
    faces = sphere_triangles(corners)
    steps = np.arange(frequency + 1)
    i, j = (index.ravel() for index in np.meshgrid(steps, steps, indexing="ij"))
    shares = np.column_stack([i, j, frequency - i - j])[i + j <= frequency] / frequency
    points = np.einsum("pc,fcx->fpx", shares, corners[faces]).reshape(-1, 3)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    _, first = np.unique(points.round(9), axis=0, return_index=True)
    return np.asarray(points[np.sort(first)], dtype=np.float64)


def coarser(surface: Surface, frequency: int) -> Resampling:
    """Lay a coarse mesh over the spheres of a fine one.

    Parameters
    ----------
    surface : Surface
        With spheres.
    frequency : int
        As of `icosphere`: 32 gives 10,242 vertices a hemisphere.

    Returns
    -------
    Resampling

    Raises
    ------
    InputError
        If there are no spheres, or the mesh is no finer than what is asked for.
    """
    n_coarse = 10 * frequency**2 + 2
    n_fine = [int((surface.hemisphere == side).sum()) for side in (0, 1)]
    if surface.sphere is None:
        raise InputError(
            "inputs.resample",
            expected="the spheres of the mesh, on which a coarser one is laid over it",
            found="none",
            remedy="Name them in trend.yaml, left and right (inputs.spheres: lh.sphere or "
            "...sphere.surf.gii of the same mesh), or take inputs.resample out.",
        )
    if min(n_fine) <= n_coarse:
        raise InputError(
            "inputs.resample",
            expected=f"a mesh of more than {n_coarse} vertices a hemisphere",
            found=f"{min(n_fine)}",
            remedy="Resample to a coarser mesh, or take inputs.resample out of trend.yaml.",
        )
    sides = [_one_side(surface, side, icosphere(frequency)) for side in (0, 1)]
    triangles, onto, up = zip(*sides, strict=True)
    interpolated = scipy.sparse.block_diag(onto, format="csr")
    rising = scipy.sparse.csr_array(scipy.sparse.block_diag(up, format="csr"))
    area = vertex_areas(surface)
    down = scipy.sparse.csr_array(rising.T * area)
    # No fine vertex lies around some: these take the ones that they lie among.
    alone = scipy.sparse.diags_array((down.sum(axis=1) == 0).astype(np.float64))
    down = scipy.sparse.csr_array(down + alone @ interpolated * area)

    def at_coarse(values: NDArray[np.floating]) -> NDArray[np.float32]:
        return np.asarray(interpolated @ values, dtype=np.float32)

    inflated, sphere, depth = surface.inflated, surface.sphere, surface.sulcal_depth
    wall = surface.medial_wall
    coarse = Surface(
        coordinates=at_coarse(surface.coordinates),
        triangles=np.concatenate([triangles[0], triangles[1] + n_coarse]).astype(np.int32),
        hemisphere=np.repeat(np.array([0, 1], dtype=np.int8), n_coarse),
        medial_wall=None if wall is None else _labels_of_most(down, wall.astype(np.int64)) == 1,
        inflated=None if inflated is None else at_coarse(inflated),
        sphere=at_coarse(sphere),
        sulcal_depth=None if depth is None else at_coarse(depth),
        kind=surface.kind,
    )
    return Resampling(coarse, down.astype(np.float32), rising.astype(np.float32))


def _one_side(
    surface: Surface, side: int, points: FloatArray
) -> tuple[NDArray[np.int32], scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """Coarse triangles, weights of fine vertices at coarse ones, and of coarse ones at fine."""
    vertices, fine = hemisphere_triangles(surface, side)
    assert surface.sphere is not None
    sphere = surface.sphere[vertices].astype(np.float64)
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    triangles = sphere_triangles(points)
    return triangles, _barycentric(sphere, fine, points), _barycentric(points, triangles, sphere)


def _barycentric(
    sphere: FloatArray, triangles: NDArray[np.integer], points: FloatArray
) -> scipy.sparse.csr_array:
    """Weights of the corners of the triangle that each point of the unit sphere lies in.

    Returns
    -------
    csr_array of shape (n_points, n_vertices)
        Rows sum to 1.
    """
    # A triangle without area, as registration of spheres may leave, holds no point.
    triangles = triangles[np.abs(np.linalg.det(sphere[triangles])) > _NO_AREA]
    corners = sphere[triangles]
    centres = corners.mean(axis=1)
    n_candidates = min(_CANDIDATES, len(centres))
    _, near = scipy.spatial.KDTree(centres).query(points, k=n_candidates)
    # A point is a mixture of the corners: all weights are positive inside.
    mixing = np.linalg.inv(corners.transpose(0, 2, 1))
    found = np.einsum("pkij,pj->pki", mixing[near], points)
    found /= np.abs(found).sum(axis=2, keepdims=True)
    best = found.min(axis=2).argmax(axis=1)
    rows = np.arange(len(points))
    weights = np.maximum(found[rows, best], 0)  # on an edge, rounding leaves it just outside
    weights /= weights.sum(axis=1, keepdims=True)
    places = (np.repeat(rows, 3), triangles[near[rows, best]].ravel())
    shape = (len(points), len(sphere))
    return scipy.sparse.csr_array(scipy.sparse.coo_array((weights.ravel(), places), shape=shape))


def _labels_of_most(
    weights: scipy.sparse.csr_array, labels: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Label of each row that has the largest share of its weights; -1 if those without have."""
    values, number = np.unique(labels, return_inverse=True)
    n = len(values)
    belongs = scipy.sparse.csr_array(
        (np.ones(len(labels)), (np.arange(len(labels)), number)), shape=(len(labels), n)
    )
    shares = (weights @ belongs).tocoo()
    # By row and share: the last of each row is its largest; of equals that of the lower label.
    order = np.lexsort((-shares.col, shares.data, shares.row))
    row, column = shares.row[order], shares.col[order]
    last = np.flatnonzero(np.append(np.diff(row) > 0, True))
    most = np.full(weights.shape[0], -1, dtype=np.int64)
    most[row[last]] = values[column[last]]
    return most
