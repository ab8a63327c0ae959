"""Mesh -> distances along the surface -> labels and smooth spatial weights.

A distance here runs within the cortical sheet of one hemisphere; between hemispheres it is
infinite, because no path along the sheet joins them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy  # loads a part of its own when it is first asked for
from numpy.typing import NDArray

from trend_dagster.errors import InputError, SettingsError
from trend_dagster.science.cores import usable_cores
from trend_dagster.science.sparse import compact

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]

_STRIPE_ROWS = 256  # vertices whose distances are held in memory at a time
# Labels of fewer vertices can neither be connected and equal in area, nor serve a factorisation.
MIN_VERTICES_PER_LABEL = 4


@dataclass(frozen=True, eq=False)
class Surface:
    """Both hemispheres of a cortical mesh, the left one first.

    Attributes
    ----------
    coordinates : ndarray of shape (n_vertices, 3), float32
        Where distances are measured (midthickness or pial surface), in mm.
    triangles : ndarray of shape (n_triangles, 3), int32
        Vertices of each triangle, counter-clockwise seen from outside.
    hemisphere : ndarray of shape (n_vertices,), int8
        0 for left, 1 for right.
    medial_wall : ndarray of shape (n_vertices,), bool, optional
        True where there is no cortex.
    inflated : ndarray of shape (n_vertices, 3), float32, optional
        Coordinates to draw on, each hemisphere about its own origin.
    sphere : ndarray of shape (n_vertices, 3), float32, optional
        Coordinates on a sphere, each hemisphere about its own origin; for turning maps.
    sulcal_depth : ndarray of shape (n_vertices,), float32, optional
        Grey background of drawings; positive in sulci.
    kind : str
        What `coordinates` are: ``midthickness``, ``pial``, ``white`` or, unknown, ``anatomical``.
    """

    coordinates: NDArray[np.float32]
    triangles: NDArray[np.int32]
    hemisphere: NDArray[np.int8]
    medial_wall: BoolArray | None = None
    inflated: NDArray[np.float32] | None = None
    sphere: NDArray[np.float32] | None = None
    sulcal_depth: NDArray[np.float32] | None = None
    kind: str = "midthickness"

    @property
    def n_vertices(self) -> int:
        """Vertices of both hemispheres."""
        return len(self.coordinates)


def mirrored_coordinates(surface: Surface) -> NDArray[np.float64]:
    """Coordinates with the right hemisphere reflected onto the left one, in mm."""
    points = surface.coordinates.astype(np.float64)
    points[surface.hemisphere == 1, 0] *= -1
    return points


def hemisphere_triangles(surface: Surface, side: int) -> tuple[IntArray, IntArray]:
    """Vertices of one hemisphere, and its triangles numbered within them.

    Parameters
    ----------
    surface : Surface
        Both hemispheres.
    side : {0, 1}
        Left or right.

    Returns
    -------
    vertices : ndarray of shape (n_vertices_of_the_hemisphere,)
        Their numbers in the mesh.
    triangles : ndarray of shape (n_triangles_of_the_hemisphere, 3)
        Places in `vertices`.
    """
    vertices = np.flatnonzero(surface.hemisphere == side)
    own = np.isin(surface.triangles[:, 0], vertices)
    return vertices, np.searchsorted(vertices, surface.triangles[own])


def sphere_triangles(sphere: FloatArray) -> NDArray[np.int32]:
    """Triangles of points that lie on a sphere: the facets of their convex hull.

    The first 642 and 2562 vertices of an fsaverage5 hemisphere are fsaverage3 and fsaverage4;
    the hull of their positions on the sphere gives back the triangles that belong to them.

    Parameters
    ----------
    sphere : ndarray of shape (n_vertices, 3)
        Positions on a sphere about the origin.

    Returns
    -------
    ndarray of shape (2 * n_vertices - 4, 3), int32
        Triangles, counter-clockwise seen from outside, in a fixed order.
    """
    points = np.asarray(sphere, dtype=np.float64)
    triangles = np.sort(scipy.spatial.ConvexHull(points).simplices, axis=1)
    triangles = triangles[np.lexsort(triangles.T[::-1])]
    inward = np.einsum("ij,ij->i", _normals(points, triangles), points[triangles[:, 0]]) < 0
    triangles[inward] = triangles[inward][:, [0, 2, 1]]
    return triangles.astype(np.int32)


def _normals(points: FloatArray, triangles: NDArray[np.integer]) -> NDArray[np.float64]:
    """Vectors at right angles to triangles, twice as long as their areas are large."""
    a, b, c = np.moveaxis(points[triangles].astype(np.float64), 1, 0)
    return np.cross(b - a, c - a)


_REPAIR = "Check that this is the surface of the data, and export or repair it again."
_WHOLE = (
    "Give the whole surface, as FreeSurfer and Workbench write it; the medial wall is left out by "
    "a mask (inputs.cortex_mask), not cut out."
)


def check_hemisphere(subject: str, points: FloatArray, triangles: NDArray[np.integer]) -> None:
    """Refuse a mesh of one hemisphere on which distances or areas would be wrong.

    Parameters
    ----------
    subject : str
        What it is, for messages: the file.
    points : ndarray of shape (n_vertices, 3)
        Coordinates.
    triangles : ndarray of shape (n_triangles, 3)
        Vertices of each triangle.

    Raises
    ------
    InputError
        If coordinates are not finite; if triangles name vertices that are not there or have no
        area; if a vertex belongs to no triangle; if an edge belongs to one triangle (a hole) or to
        more than two; or if the mesh falls into pieces.
    """
    n = len(points)
    if lost := int((~np.isfinite(points)).any(axis=1).sum()):
        raise _bad_mesh(subject, "finite coordinates", f"NaN or infinity at {lost} vertices")
    if triangles.size == 0 or triangles.min() < 0 or triangles.max() >= n:
        found = f"{triangles.min()} to {triangles.max()}" if triangles.size else "no triangles"
        raise _bad_mesh(subject, f"triangles between vertices 0 to {n - 1}", found)
    area = np.linalg.norm(_normals(points, triangles), axis=1)
    sides = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    edges, uses = np.unique(sides, axis=0, return_counts=True)
    unused = np.bincount(triangles.ravel(), minlength=n) == 0
    for wrong, expected, what, remedy in (
        (area <= 0, "triangles with an area", "triangles without", _REPAIR),
        (unused, "no vertex without a triangle", "unused vertices", _REPAIR),
        (uses > 2, "two triangles at each edge", "edges with more (non-manifold)", _REPAIR),
        (uses == 1, "a closed surface", "edges of one triangle only (a hole)", _WHOLE),
    ):
        if wrong.any():
            raise _bad_mesh(subject, expected, f"{int(wrong.sum())} {what}", remedy)
    steps = scipy.sparse.coo_array((np.ones(len(edges)), tuple(edges.T)), shape=(n, n))
    pieces, _ = scipy.sparse.csgraph.connected_components(
        scipy.sparse.csr_array(steps), directed=False
    )
    if pieces > 1:
        raise _bad_mesh(subject, "one connected surface", f"{pieces} pieces")


def _bad_mesh(subject: str, expected: str, found: str, remedy: str = _REPAIR) -> InputError:
    return InputError(subject, expected=expected, found=found, remedy=remedy)


def vertex_areas(surface: Surface) -> NDArray[np.float64]:
    """Area that belongs to each vertex: a third of every triangle it is a corner of.

    Returns
    -------
    ndarray of shape (n_vertices,)
        Areas in mm^2; their sum is the area of the surface.
    """
    area = np.linalg.norm(_normals(surface.coordinates, surface.triangles), axis=1) / 6
    corners = surface.triangles.ravel()
    return np.bincount(corners, np.repeat(area, 3), surface.n_vertices).astype(np.float64)


def edge_graph(surface: Surface, *, unfold: bool = False) -> scipy.sparse.csr_array:
    """Graph of the mesh: an entry (i, j) is the length of the step from i to j in mm.

    Parameters
    ----------
    surface : Surface
        The mesh.
    unfold : bool
        Also join the two vertices that face each other across an edge, by the straight line in
        the plane into which the two triangles unfold, where that line crosses the edge.

    Returns
    -------
    csr_array of shape (n_vertices, n_vertices), float64
        Symmetric.
    """
    triangles = surface.triangles.astype(np.int64)
    points = surface.coordinates.astype(np.float64)
    sides = np.concatenate(
        [triangles[:, [0, 1, 2]], triangles[:, [1, 2, 0]], triangles[:, [2, 0, 1]]]
    )
    pairs = np.sort(sides[:, :2], axis=1)
    lengths = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    if unfold:
        across, straight = _unfolded_steps(points, pairs, sides[:, 2])
        pairs, lengths = np.concatenate([pairs, across]), np.concatenate([lengths, straight])
    return _shortest_steps(pairs, lengths, surface.n_vertices)


def _unfolded_steps(
    points: FloatArray, edges: IntArray, opposite: IntArray
) -> tuple[IntArray, FloatArray]:
    """Vertices that face each other across an edge, and the straight way between them."""
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    shared = np.flatnonzero((np.diff(edges[order], axis=0) == 0).all(axis=1))
    first, second = order[shared], order[shared + 1]
    start, end = points[edges[first, 0]], points[edges[first, 1]]
    length = np.linalg.norm(end - start, axis=1)
    axis = (end - start) / length[:, None]

    def flat(vertex: IntArray) -> tuple[FloatArray, FloatArray]:
        offset = points[vertex] - start
        along = np.einsum("ij,ij->i", offset, axis)
        return along, np.linalg.norm(offset - along[:, None] * axis, axis=1)

    (x1, y1), (x2, y2) = flat(opposite[first]), flat(opposite[second])
    crossing = x1 + (x2 - x1) * y1 / (y1 + y2)
    inside = (crossing > 0) & (crossing < length)
    pairs = np.sort(np.column_stack([opposite[first], opposite[second]]), axis=1)
    return pairs[inside], np.hypot(x1 - x2, y1 + y2)[inside]


def _shortest_steps(
    pairs: IntArray, lengths: FloatArray, n_vertices: int
) -> scipy.sparse.csr_array:
    # A pair may be named by several triangles; a sparse matrix would add its lengths up.
    order = np.lexsort((lengths, pairs[:, 1], pairs[:, 0]))
    pairs, lengths = pairs[order], lengths[order]
    new = np.ones(len(pairs), dtype=bool)
    new[1:] = (np.diff(pairs, axis=0) != 0).any(axis=1)
    upper = scipy.sparse.coo_array(
        (lengths[new], tuple(pairs[new].T)), shape=(n_vertices, n_vertices)
    )
    return scipy.sparse.csr_array(upper + upper.T)


def step_graph(surface: Surface, side: int) -> scipy.sparse.csr_array:
    """Graph of the steps that distances are made of, for one hemisphere.

    Steps run over edges and over the straight lines that cross one edge: the shortest paths are
    what Workbench computes, and to the last digit so. On fsaverage they are 2 % longer (median)
    than the exact polyhedral distance, where paths over edges alone are 10 % longer, and take a
    tenth of the time of the exact one.

    Parameters
    ----------
    surface : Surface
        The mesh.
    side : int
        0 for left, 1 for right.

    Returns
    -------
    csr_array of shape (n_vertices_of_the_hemisphere, n_vertices_of_the_hemisphere), float64
        As `edge_graph` with ``unfold``.
    """
    inside = np.flatnonzero(surface.hemisphere == side)
    return scipy.sparse.csr_array(edge_graph(surface, unfold=True)[inside][:, inside])


def distance_rows(
    steps: scipy.sparse.csr_array, start: int, stop: int, limit: float = np.inf
) -> NDArray[np.float32]:
    """Some rows of the matrix of distances: so many at a time as there is memory for.

    Parameters
    ----------
    steps : csr_array of shape (n_vertices, n_vertices)
        From `step_graph`.
    start, stop : int
        Rows to compute.
    limit : float
        Distances above are not computed, in mm.

    Returns
    -------
    ndarray of shape (stop - start, n_vertices), float32
        In mm; infinite above the limit.
    """
    return _distances_from(steps, np.arange(start, stop), limit)


def _distances_from(
    steps: scipy.sparse.csr_array, sources: IntArray, limit: float
) -> NDArray[np.float32]:
    # Every step is there both ways: looked at as directed, none is tried twice.
    found = scipy.sparse.csgraph.dijkstra(steps, directed=True, indices=sources, limit=limit)
    return np.asarray(found, dtype=np.float32)


def nearest_vertex(distances: FloatArray, n_rows: int = 64) -> float:
    """Distance of a vertex to the nearest other one: the median over some rows of a matrix."""
    some = np.linspace(0, len(distances) - 1, min(n_rows, len(distances)), dtype=int)
    rows = np.array([distances[i] for i in some], dtype=np.float64)
    return float(np.median(rows.min(axis=1, where=rows > 0, initial=np.inf)))


def geodesic_neighbours(
    surface: Surface,
    radius: float,
    sources: IntArray | None = None,
    *,
    with_itself: bool = False,
) -> scipy.sparse.csr_array:
    """Distances along the surface up to a radius, as a sparse matrix.

    Parameters
    ----------
    surface : Surface
        The mesh.
    radius : float
        Largest distance that is kept, in mm.
    sources : ndarray of shape (n_sources,), optional
        Vertices to measure from; all by default.
    with_itself : bool
        Whether the distance of each source to itself, 0, is stored.

    Returns
    -------
    csr_array of shape (n_sources, n_vertices), float32
        Symmetric where it is measured from all vertices.
    """
    # Here and not above: numba takes a while to import.
    from trend_dagster.science._geodesic import ways_within

    graph = edge_graph(surface, unfold=True)
    sources = np.arange(surface.n_vertices) if sources is None else sources

    def from_some(start: int) -> tuple[FloatArray, NDArray[np.int32], NDArray[np.int64]]:
        some = sources[start : start + _STRIPE_ROWS].astype(np.int64)
        return ways_within(graph.indptr, graph.indices, graph.data, some, radius, with_itself)

    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(from_some, range(0, len(sources), _STRIPE_ROWS)))
    distances, reached, counts = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return compact(
        scipy.sparse.csr_array(
            (distances, reached, np.concatenate([[0], counts.cumsum()])),
            shape=(len(sources), surface.n_vertices),
        )
    )


def unit_variance(weights: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Scale the rows of a smoother so that white noise of unit variance keeps its variance."""
    return scipy.sparse.csr_array(
        scipy.sparse.diags_array(1 / np.sqrt(weights.power(2).sum(axis=1))) @ weights
    )


def gaussian_weights(surface: Surface, sigma: float) -> scipy.sparse.csr_array:
    """Smooth spatial weights ``exp(-d^2 / (2 sigma^2))`` of the geodesic distance d.

    Parameters
    ----------
    surface : Surface
        The mesh.
    sigma : float
        Standard deviation in mm; weights further than three of it are zero.

    Returns
    -------
    csr_array of shape (n_vertices, n_vertices), float32
        Symmetric, ones on the diagonal, zero between hemispheres.
    """
    weights = geodesic_neighbours(surface, 3 * sigma, with_itself=True)
    np.square(weights.data, out=weights.data)
    weights.data *= np.float32(-1 / (2 * sigma**2))
    np.exp(weights.data, out=weights.data)
    return weights


def cut_into_labels(
    surface: Surface, n_labels_per_hemisphere: int, mask: BoolArray | None = None
) -> NDArray[np.int32]:
    """Cut each hemisphere into connected labels of nearly equal area.

    A region that shall hold n labels is cut in two, for n // 2 and the rest, between its two most
    distant ends: vertices are sorted by how much nearer they are to the one end than to the
    other. Both parts are connected, since the way to its own end never leaves a part.

    Parameters
    ----------
    surface : Surface
        The mesh.
    n_labels_per_hemisphere : int
        Labels of one hemisphere. One is the coarsest label file: a label per hemisphere.
    mask : ndarray of shape (n_vertices,), bool, optional
        Vertices with signal; only these are shared out. Any other vertex gets the label that is
        nearest to it, so that a label file has one non-negative label for every vertex.

    Returns
    -------
    ndarray of shape (n_vertices,), int32
        Left hemisphere 0 .. n - 1, right hemisphere n .. 2n - 1. The same for the same input.

    Raises
    ------
    SettingsError
        If a hemisphere has fewer than four connected vertices with signal for each label.
    """
    graph, area = edge_graph(surface), vertex_areas(surface)
    mask = np.ones(surface.n_vertices, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    labels = np.full(surface.n_vertices, -1, dtype=np.int32)
    for side in map(int, np.unique(surface.hemisphere)):
        region = largest_piece(graph, mask & (surface.hemisphere == side))
        most = len(region) // MIN_VERTICES_PER_LABEL
        if not 1 <= n_labels_per_hemisphere <= most:
            raise SettingsError(
                "n_labels_per_hemisphere",
                expected=f"1 to {most} ({MIN_VERTICES_PER_LABEL} vertices with signal a label)",
                found=str(n_labels_per_hemisphere),
                remedy="Ask for fewer labels or use a finer mesh.",
            )
        parts = _bisect(graph, area, region, n_labels_per_hemisphere)
        for number, part in enumerate(parts):
            labels[part] = side * n_labels_per_hemisphere + number
    return _fill_from_nearest(surface, labels)


def largest_piece(graph: scipy.sparse.csr_array, mask: BoolArray) -> IntArray:
    """Vertices of the largest connected piece of a mask."""
    inside = np.flatnonzero(mask)
    _, piece = scipy.sparse.csgraph.connected_components(graph[inside][:, inside], directed=False)
    if len(inside) == 0:
        raise InputError(
            "mask",
            expected="vertices with signal in both hemispheres",
            found="a hemisphere without any",
            remedy="Check the medial wall and the BOLD of this hemisphere.",
        )
    return np.asarray(inside[piece == np.bincount(piece).argmax()])


def pieces_touching(surface: Surface, mask: BoolArray, core: BoolArray) -> BoolArray:
    """Those connected pieces of a mask that overlap a core or lie beside it."""
    steps = edge_graph(surface) > 0
    inside = np.flatnonzero(mask)
    _, piece = scipy.sparse.csgraph.connected_components(steps[inside][:, inside], directed=False)
    touching = np.unique(piece[(core | (steps @ core))[inside]])
    found = np.zeros_like(mask)
    found[inside[np.isin(piece, touching)]] = True
    return found


def _bisect(
    graph: scipy.sparse.csr_array, area: FloatArray, region: IntArray, n: int
) -> list[IntArray]:
    if n == 1:
        return [region]
    inside = graph[region][:, region]
    # Two sweeps find a pair of ends that lie (nearly) as far apart as any two vertices.
    one = _farthest(inside, 0)
    other = _farthest(inside, one)
    to_one, to_other = scipy.sparse.csgraph.dijkstra(inside, directed=False, indices=[one, other])
    order = np.lexsort((to_one, to_one - to_other))
    share = np.cumsum(area[region[order]]) / area[region].sum()
    few = n // 2
    near_other = np.zeros(len(region), dtype=bool)
    near_other[order[np.searchsorted(share, few / n) + 1 :]] = True
    # A cape that both ways reach through one vertex is equally near to both ends throughout; a
    # cut through such a tie leaves crumbs, which go back to the part around them.
    near_other = _piece_with(inside, near_other, other)
    near_one = _piece_with(inside, ~near_other, one)
    first, second = region[near_one], region[~near_one]
    return _bisect(graph, area, first, few) + _bisect(graph, area, second, n - few)


def _piece_with(graph: scipy.sparse.csr_array, mask: BoolArray, vertex: int) -> BoolArray:
    """Mark the connected piece of a mask that holds a vertex."""
    inside = scipy.sparse.diags_array(mask.astype(float))
    _, piece = scipy.sparse.csgraph.connected_components(inside @ graph @ inside, directed=False)
    return np.asarray(piece == piece[vertex])


def _farthest(graph: scipy.sparse.csr_array, source: int) -> int:
    return int(scipy.sparse.csgraph.dijkstra(graph, directed=False, indices=source).argmax())


def _fill_from_nearest(surface: Surface, labels: NDArray[np.int32]) -> NDArray[np.int32]:
    known = np.flatnonzero(labels >= 0)
    _, _, source = scipy.sparse.csgraph.dijkstra(
        edge_graph(surface), directed=False, indices=known, min_only=True, return_predecessors=True
    )
    filled = np.where(source >= 0, labels[np.maximum(source, 0)], -1)
    for side in (0, 1):  # pieces of the mesh that no way leads to
        lost = np.flatnonzero((filled < 0) & (surface.hemisphere == side))
        own = known[surface.hemisphere[known] == side]
        if len(lost):
            _, nearest = scipy.spatial.KDTree(surface.coordinates[own]).query(
                surface.coordinates[lost]
            )
            filled[lost] = labels[own[nearest]]
    return filled.astype(np.int32)
