"""Two spheres in place of a brain: a mesh whose distances and areas are known."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.sparse import csgraph

from trend_dagster.science.surface import Surface, edge_graph, sphere_triangles
from trend_dagster.storage.label_images import gifti_surface


def sphere(n: int, radius: float, seed: int) -> Surface:
    """Two spheres of nearly even points, one per hemisphere."""
    number = np.arange(n) + 0.5
    height, angle = 1 - 2 * number / n, number * np.pi * (1 + 5**0.5)
    jitter = np.random.default_rng(seed).normal(scale=0.1 / np.sqrt(n), size=(n, 3))
    ring = np.sqrt(1 - height**2)
    points = np.column_stack([ring * np.cos(angle), ring * np.sin(angle), height]) + jitter
    points *= radius / np.linalg.norm(points, axis=1, keepdims=True)
    triangles = sphere_triangles(points)
    return Surface(
        np.concatenate([points, points]).astype(np.float32),
        np.concatenate([triangles, triangles + n]).astype(np.int32),
        np.repeat(np.array([0, 1], dtype=np.int8), n),
    )


def brain(n: int, radius: float = 50.0, seed: int = 1) -> Surface:
    """The same, the left one on the left."""
    surface = sphere(n, radius, seed)
    surface.coordinates[:, 0] += np.where(surface.hemisphere == 0, -1.2, 1.2) * radius
    return surface


def halves(surface: Surface) -> list[tuple[np.ndarray, np.ndarray]]:
    """Coordinates and triangles of each hemisphere."""
    found = []
    for side in (0, 1):
        inside = np.flatnonzero(surface.hemisphere == side)
        own = surface.triangles[np.isin(surface.triangles[:, 0], inside)]
        found.append((surface.coordinates[inside], own - inside[0]))
    return found


def write_gifti(folder: Path, surface: Surface, kind: str = "MidThickness") -> list[Path]:
    """Write it as Workbench does."""
    paths = []
    for side, (points, triangles) in zip("LR", halves(surface), strict=True):
        path = folder / f"{side}.surf.gii"
        path.write_bytes(gifti_surface(points, triangles, side, kind))
        paths.append(path)
    return paths


def write_freesurfer(folder: Path, surface: Surface, kind: str = "pial") -> list[Path]:
    """Write it as FreeSurfer does."""
    paths = []
    for side, (points, triangles) in zip(("lh", "rh"), halves(surface), strict=True):
        path = folder / f"{side}.{kind}"
        nib.freesurfer.write_geometry(path, points, triangles)
        paths.append(path)
    return paths


def measure_distances(surface: Surface, sources: np.ndarray | None = None) -> np.ndarray:
    """Distances along the surface from some vertices to all, infinite to the other hemisphere."""
    graph = edge_graph(surface, unfold=True)
    return csgraph.dijkstra(graph, directed=False, indices=sources).astype(np.float32)
