"""Geodesic distances: libraries compared by accuracy and speed, against Workbench and exact ones.

    python -m benchmarks.geodesic

Every method measures distances from the same random vertices of the left hemisphere. The reference
is ``wb_command -surface-geodesic-distance``; beside it stands the exact polyhedral distance
(Mitchell, Mount and Papadimitriou 1987, doi 10.1137/0216045). Libraries that are not installed are
left out: ``pip install '.[geodesics]'`` installs them.

The finest mesh is fsaverage5 with every triangle split in four: 40,962 vertices a hemisphere, more
than the 32,492 of the surfaces that the Human Connectome Project uses.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csgraph

from benchmarks.measure import machine, report
from trend_dagster.project.fsaverage import load_fsaverage
from trend_dagster.science.surface import (
    Surface,
    cut_into_labels,
    distance_rows,
    edge_graph,
    geodesic_neighbours,
    step_graph,
)
from trend_dagster.storage.label_images import gifti_surface

nib: Any = nibabel  # its annotations cover a part only
RADIUS = 24.0  # mm; three sigma of an 8 mm kernel
REACH = 62.5  # mm; five sigma of a smooth encoding of 12.5 mm
ROWS = 256  # that the asset computes at a time
N_SOURCES = 5
PLATFORM = "edges and unfolded pairs (scipy)"
WORKBENCH = "wb_command"

Measure = Callable[[int], NDArray[Any]]
"""Takes a vertex, returns its distance to every vertex."""


def split_in_four(surface: Surface) -> Surface:
    """Split every triangle at the middles of its edges."""
    n, triangles = surface.n_vertices, surface.triangles
    sides = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    edges, middle = np.unique(sides, axis=0, return_inverse=True)
    (a, b, c), (ab, bc, ca) = triangles.T, (n + middle.reshape(-1, 3)).T
    corners = ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))
    four = np.concatenate([np.column_stack(one) for one in corners])
    coordinates = np.concatenate([surface.coordinates, surface.coordinates[edges].mean(axis=1)])
    hemisphere = np.concatenate([surface.hemisphere, surface.hemisphere[edges[:, 0]]])
    left_first = hemisphere.argsort(kind="stable")
    place = left_first.argsort()
    return Surface(coordinates[left_first], place[four].astype(np.int32), hemisphere[left_first])


def left_hemisphere(surface: Surface) -> Surface:
    """Take the left hemisphere alone."""
    n = int((surface.hemisphere == 0).sum())
    own = surface.triangles[:, 0] < n
    return Surface(surface.coordinates[:n], surface.triangles[own], surface.hemisphere[:n])


# What is compared


def along_edges(surface: Surface) -> Measure:
    """Shortest path over the edges of the mesh."""
    graph = edge_graph(surface)
    return lambda source: csgraph.dijkstra(graph, directed=False, indices=source)


def across_edges(surface: Surface) -> Measure:
    """What the platform uses: edges, and straight lines across one edge."""
    steps = step_graph(surface, 0)
    return lambda source: distance_rows(steps, source, source + 1)[0]


def heat(surface: Surface) -> Measure:
    """Heat method (Crane et al. 2013, doi 10.1145/2516971.2516977) of potpourri3d."""
    solver = import_module("potpourri3d").MeshHeatMethodDistanceSolver(*_mesh(surface))
    return lambda source: np.asarray(solver.compute_distance(source))


def fast_marching(surface: Surface) -> Measure:
    """Fast marching (Kimmel and Sethian 1998, doi 10.1073/pnas.95.15.8431) of potpourri3d."""
    solver = import_module("potpourri3d").MeshFastMarchingDistanceSolver(*_mesh(surface))
    return lambda source: np.asarray(solver.compute_distance([[(source, [])]]))


def exact_pygeodesic(surface: Surface) -> Measure:
    """Exact polyhedral distance of pygeodesic."""
    solver = import_module("pygeodesic.geodesic").PyGeodesicAlgorithmExact(*_mesh(surface))
    return lambda source: np.asarray(solver.geodesicDistances(np.array([source]), None)[0])


def exact_gdist(surface: Surface) -> Measure:
    """Exact polyhedral distance of tvb-gdist."""
    compute, mesh = import_module("gdist").compute_gdist, _mesh(surface)
    return lambda source: np.asarray(
        compute(*mesh, source_indices=np.array([source], dtype=np.int32))
    )


METHODS: dict[str, tuple[str, Callable[[Surface], Measure]]] = {
    "edges only (scipy)": ("scipy", along_edges),
    PLATFORM: ("scipy", across_edges),
    "heat method (potpourri3d)": ("potpourri3d", heat),
    "fast marching (potpourri3d)": ("potpourri3d", fast_marching),
    "exact (pygeodesic)": ("pygeodesic", exact_pygeodesic),
    "exact (tvb-gdist)": ("gdist", exact_gdist),
}
EXACT = ("exact (pygeodesic)", "exact (tvb-gdist)")


def _mesh(surface: Surface) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    return surface.coordinates.astype(np.float64), surface.triangles


def workbench_distances(surface: Surface, sources: NDArray[np.intp]) -> NDArray[np.float32]:
    """Distances on one hemisphere by ``wb_command``."""
    mesh = gifti_surface(surface.coordinates, surface.triangles, "L", "MidThickness")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "left.surf.gii", Path(folder) / "out.func.gii"
        path.write_bytes(mesh)
        for source in sources.tolist():
            command = [WORKBENCH, "-surface-geodesic-distance", str(path), str(source), str(out)]
            subprocess.run(command, check=True, capture_output=True)
            rows.append(nib.load(out).darrays[0].data)
    return np.array(rows, dtype=np.float32)


def compare(surface: Surface, sources: NDArray[np.intp]) -> Iterator[dict[str, Any]]:
    """Measure every method on one hemisphere; yield a row for each."""
    found: dict[str, NDArray[np.float64]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, (library, prepare) in METHODS.items():
        if find_spec(library) is None:
            continue
        start = time.process_time()
        measure = prepare(surface)
        prepared = time.process_time()
        found[name] = np.array([measure(source) for source in sources.tolist()], dtype=np.float64)
        rows[name] = {
            "method": name,
            "vertices": surface.n_vertices,
            "seconds_to_prepare": round(prepared - start, 4),
            "seconds_per_source": round((time.process_time() - prepared) / len(sources), 4),
        }
    references: dict[str, NDArray[Any]] = {}
    if shutil.which(WORKBENCH):
        references["workbench"] = workbench_distances(surface, sources)
    exact = [found[name] for name in EXACT if name in found]
    if exact:
        references["exact"] = exact[0]
    for name, row in rows.items():
        for reference, expected in references.items():
            row |= _error(found[name], expected, reference)
        yield row
    if exact and "workbench" in references:
        row = {"method": "Workbench itself", "vertices": surface.n_vertices}
        yield row | _error(references["workbench"], references["exact"], "exact")


def _error(found: NDArray[Any], expected: NDArray[Any], against: str) -> dict[str, float]:
    away = expected > 1  # mm
    ratio = found[away] / expected[away] - 1
    return {
        f"median_error_{against}": round(float(np.median(np.abs(ratio))), 5),
        f"median_bias_{against}": round(float(np.median(ratio)), 5),
        f"error_95_{against}": round(float(np.quantile(np.abs(ratio), 0.95)), 5),
    }


def measure_platform(surface: Surface) -> dict[str, Any]:
    """Measure what the platform makes of a mesh: rows of distances, labels, neighbours."""
    steps = step_graph(surface, 0)
    row: dict[str, Any] = {"vertices": steps.shape[0]}
    for name, reach in (("ms_per_row", np.inf), (f"ms_per_row_to_{REACH:g}_mm", REACH)):
        start = time.process_time()
        distance_rows(steps, 0, ROWS, reach)
        row[name] = round(1e3 * (time.process_time() - start) / ROWS, 2)
    row["peak_memory_of_rows_gib"] = _peak_memory_gib()
    start = time.process_time()
    cut_into_labels(surface, 50)
    row["seconds_50_labels"] = round(time.process_time() - start, 2)
    start = time.process_time()
    near = geodesic_neighbours(surface, RADIUS)
    row["seconds_all_neighbours"] = round(time.process_time() - start, 1)
    return row | {
        "neighbours_per_vertex": round(near.nnz / surface.n_vertices),
        "peak_memory_gib": _peak_memory_gib(),
    }


def _peak_memory_gib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def main() -> None:
    """Print the table, then one JSON object: the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--vertices", type=int, nargs="+", default=[642, 2562, 10242, 40962])
    options = parser.parse_args()
    meshes = [
        split_in_four(load_fsaverage(10242)) if n == 40962 else load_fsaverage(n)
        for n in options.vertices
    ]
    # The platform first: what it needs is not yet hidden by what the libraries need.
    own = [measure_platform(surface) for surface in meshes]
    rows = []
    for surface in meshes:
        left = left_hemisphere(surface)
        sources = np.random.default_rng(108).integers(0, left.n_vertices, N_SOURCES)
        rows += list(compare(left, sources))
    print(pd.DataFrame(rows).to_string(index=False))
    report({"machine": machine()["cpu"], "distances": rows, "platform": own}, None)


if __name__ == "__main__":
    main()
