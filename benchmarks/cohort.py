"""A simulated cohort with networks, and the correlations of real BOLD, for the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.science.connectivity.correlation import standardize

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Correlation:
    """The correlation of standardised features, computed where it is sliced."""

    rows: FloatArray

    @property
    def shape(self) -> tuple[int, int]:
        """Vertices by vertices."""
        return len(self.rows), len(self.rows)

    def __getitem__(self, key: tuple[slice, slice]) -> FloatArray:
        part: FloatArray = self.rows[key[0]] @ self.rows[key[1]].T
        return part


def hemispheres(n_vertices: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Spread points evenly over two spheres; return positions and hemisphere numbers."""
    side = np.arange(n_vertices) * 2 // n_vertices
    points = np.empty((n_vertices, 3))
    for number in (0, 1):
        inside = np.flatnonzero(side == number)
        n = len(inside)
        height = 1 - (2 * np.arange(n) + 1) / n
        angle = np.pi * (3 - np.sqrt(5)) * np.arange(n)
        radius = np.sqrt(1 - height**2)
        points[inside] = np.column_stack([radius * np.cos(angle), radius * np.sin(angle), height])
    return points, side


def patches(
    points: FloatArray, side: NDArray[np.int64], n_patches: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Cut each hemisphere into patches around random centres; number them through."""
    labels = np.empty(len(points), dtype=np.int64)
    for number in (0, 1):
        inside = np.flatnonzero(side == number)
        n = max(n_patches // 2, 1)
        centres = points[rng.choice(inside, n, replace=False)]
        # Lloyd's algorithm on the sphere: patches of like, but not equal, size.
        for _ in range(10):
            nearest = (points[inside] @ centres.T).argmax(axis=1)
            sums = np.eye(n)[nearest].T @ points[inside]
            centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
        labels[inside] = number * n + (points[inside] @ centres.T).argmax(axis=1)
    return labels


def simulate(
    n_vertices: int, n_labels: int, *, n_networks: int = 17, n_timepoints: int = 400, seed: int = 0
) -> tuple[Correlation, NDArray[np.int64]]:
    """Simulate BOLD of networks scattered over both hemispheres; return correlation and labels.

    Every network has several patches, signal of a strength that differs from vertex to vertex,
    and neighbours share local noise, as on a real cortex.
    """
    rng = np.random.default_rng(seed)
    points, side = hemispheres(n_vertices)
    parcel = patches(points, side, 6 * n_networks, rng)
    network = rng.permutation(np.arange(parcel.max() + 1) % n_networks)[parcel]
    strength = rng.uniform(0.3, 1.2, (n_vertices, 1))
    signal = rng.standard_normal((n_networks, n_timepoints))[network]
    local = rng.standard_normal((n_labels * 40, n_timepoints))[
        patches(points, side, min(n_labels * 40, n_vertices // 4), rng)
    ]
    common = rng.standard_normal(n_timepoints)
    noise = rng.standard_normal((n_vertices, n_timepoints))
    bold = strength * signal + 0.4 * local + 0.5 * common + noise
    rows, _ = standardize(bold.astype(np.float32), np.ones(n_vertices, dtype=bool))
    return Correlation(rows), patches(points, side, n_labels, rng)


def from_bold(path: Path, n_labels: int) -> tuple[Correlation, NDArray[np.int64]]:
    """Read real BOLD, (vertices, timepoints) in .npy, left hemisphere first."""
    bold = np.load(path)
    rows, mask = standardize(bold, np.isfinite(bold).all(axis=1))
    points, side = hemispheres(len(bold))
    labels = patches(points, side, n_labels, np.random.default_rng(0))
    return Correlation(rows[mask]), labels[mask]
