"""Geodesic distances and labels: accuracy against Workbench, time and memory.

    python -m benchmarks.geodesic

The finest mesh is fsaverage5 with every triangle split in four: 40,962 vertices a hemisphere, more
than the 32,492 of the surfaces that the Human Connectome Project uses.
"""

from __future__ import annotations

import json
import platform
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from trend_dagster.science.geodesic import (
    Surface,
    geodesic_distances,
    geodesic_labels,
    geodesic_neighbours,
)
from trend_dagster.storage.meshes import load_fsaverage

nib: Any = nibabel  # its annotations cover a part only
RADIUS = 24.0  # mm; three sigma of an 8 mm kernel


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


def workbench_distances(surface: Surface, sources: NDArray[np.intp]) -> NDArray[np.float32]:
    """Distances on the left hemisphere by ``wb_command``."""
    left = int((surface.hemisphere == 0).sum())
    triangles = surface.triangles[surface.triangles[:, 0] < left]
    mesh = nib.gifti.GiftiImage(
        darrays=[
            nib.gifti.GiftiDataArray(surface.coordinates[:left], "NIFTI_INTENT_POINTSET"),
            nib.gifti.GiftiDataArray(triangles, "NIFTI_INTENT_TRIANGLE"),
        ]
    )
    mesh.meta["AnatomicalStructurePrimary"] = "CortexLeft"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "left.surf.gii", Path(folder) / "out.func.gii"
        nib.save(mesh, path)
        for source in sources.tolist():
            command = ["wb_command", "-surface-geodesic-distance", str(path), str(source), str(out)]
            subprocess.run(command, check=True, capture_output=True)
            rows.append(nib.load(out).darrays[0].data)
    return np.array(rows, dtype=np.float32)


def measure(surface: Surface) -> dict[str, Any]:
    """Time every step on one mesh, and compare with Workbench where it is installed."""
    left = int((surface.hemisphere == 0).sum())
    sources = np.random.default_rng(108).integers(0, left, 5)
    row: dict[str, Any] = {"vertices_per_hemisphere": left}
    start = time.perf_counter()
    distances = geodesic_distances(surface, sources)[:, :left]
    row["seconds_per_source"] = (time.perf_counter() - start) / len(sources)
    if shutil.which("wb_command"):
        expected = workbench_distances(surface, sources)
        away = expected > 1
        error = np.abs(distances[away] / expected[away] - 1)
        row |= {"median_error": float(np.median(error)), "largest_error": float(error.max())}
    start = time.perf_counter()
    geodesic_labels(surface, 50)
    row["seconds_50_labels"] = time.perf_counter() - start
    start = time.perf_counter()
    near = geodesic_neighbours(surface, RADIUS)
    row["seconds_all_neighbours"] = time.perf_counter() - start
    row["neighbours_per_vertex"] = near.nnz / surface.n_vertices
    row["peak_memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row


def main() -> None:
    """Print one JSON object per mesh."""
    fine = load_fsaverage(10242)
    print(json.dumps({"machine": platform.processor() or platform.machine()}))
    for surface in (load_fsaverage(642), load_fsaverage(2562), fine, split_in_four(fine)):
        print(json.dumps(measure(surface)), flush=True)


if __name__ == "__main__":
    main()
