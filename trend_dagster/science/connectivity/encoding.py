"""Where a correlation comes from, and what a factorisation is told of where vertices lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.science.connectivity.settings import Kernel, ThresholdConfig
from trend_dagster.science.connectivity.smoothing import Smoothing
from trend_dagster.science.connectivity.thresholding import (
    BlockMatrix,
    BoolArray,
    equal_labels,
    threshold_by_distance,
    threshold_by_label,
)
from trend_dagster.science.surface import Surface

NO_LABEL = -1
"""What stands for vertices without a spatial label: they are left out."""


class CorrelationSource(Protocol):
    """A correlation between vertices, wherever it is kept and whenever it is computed."""

    @property
    def mask(self) -> BoolArray:
        """Vertices with signal, of shape (n_vertices,)."""

    def smoothed(self, smoothing: Smoothing | None) -> Any:
        """Smooth the correlation, or return it as it is.

        Returns
        -------
        array of shape (n_vertices, n_vertices)
            Anything that gives a numpy array when sliced by rows and columns.
        """


@dataclass(frozen=True, eq=False)
class Correlation:
    """A correlation that was computed before, in memory or on disk.

    Parameters
    ----------
    matrix : array of shape (n_vertices, n_vertices)
        Symmetric: a numpy array, or what gives one when sliced by rows and columns (zarr).
    mask : ndarray of bool of shape (n_vertices,)
        Vertices with signal.
    """

    matrix: Any
    mask: BoolArray

    def smoothed(self, smoothing: Smoothing | None) -> Any:
        """Smooth the matrix where it is sliced; None returns it as it is."""
        return self.matrix if smoothing is None else smoothing(self.matrix)


@dataclass(frozen=True, eq=False)
class Encoding:
    """A spatial encoding: which correlations a factorisation sees, and along which mesh.

    Parameters
    ----------
    labels : ndarray of int of shape (n_vertices,)
        Correlations are kept within a label; vertices with `NO_LABEL` are left out. For an
        encoding that is smooth by distance, the hemisphere of each vertex.
    kernel : Kernel, optional
        Smooth by distance: how a correlation is weighted within a hemisphere.
    distances : sequence of array of shape (n_h, n_h)
        Distances along the cortex in mm within each hemisphere, in the order of the vertices; for
        encodings that are smooth by distance, and for smooth loadings.
    surface : Surface, optional
        Correlations are smoothed along it before they are cut; without one they are not.
    name : str
        For messages.
    """

    labels: NDArray[np.integer[Any]]
    kernel: Kernel | None = None
    distances: Sequence[Any] = ()
    surface: Surface | None = None
    name: str = "spatial labels"
    _measured: dict[Any, Smoothing] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def hemispheres(cls, surface: Surface, distances: Sequence[Any] = ()) -> Encoding:
        """Tell the hemispheres apart and nothing else, as the default settings do."""
        return cls(surface.hemisphere.astype(np.int64), None, distances, surface, "hemispheres")

    @classmethod
    def smooth(
        cls, kernel: Kernel, distances: Sequence[Any], surface: Surface | None = None
    ) -> Encoding:
        """Weight by distance, with no border within a hemisphere."""
        sides = np.repeat(np.arange(len(distances)), [d.shape[0] for d in distances])
        return cls(sides, kernel, distances, surface, f"smooth by distance, {kernel}")

    def used(self, mask: BoolArray) -> BoolArray:
        """Vertices with signal and a label.

        Raises
        ------
        InputError
            If the labels, or the surface, belong to another mesh than the mask.
        """
        if len(self.labels) != len(mask):
            raise InputError(
                self.name,
                expected=f"{len(mask)} labels, one per vertex of the BOLD runs",
                found=str(len(self.labels)),
                remedy="Make it for the same mesh as the BOLD runs, or take it out.",
            )
        if self.surface is not None and self.surface.n_vertices != len(mask):
            raise InputError(
                "surface",
                expected=f"{len(mask)} vertices, as the BOLD runs have",
                found=str(self.surface.n_vertices),
                remedy="Name the surface that the BOLD was sampled on.",
            )
        return np.asarray(mask & (self.labels != NO_LABEL))

    def smoothing(self, mask: BoolArray, config: ThresholdConfig) -> Smoothing | None:
        """How correlations are smoothed before they are cut; None where they are not.

        It is measured once for each mask: correlations that share a mask share the smoothing.
        """
        if self.surface is None or config.smoothing_fwhm_mm == 0:
            return None
        key = (mask.tobytes(), config.smoothing_fwhm_mm, config.exclusion_mm)
        if key not in self._measured:
            self._measured[key] = Smoothing.along(
                self.surface, mask, config.smoothing_fwhm_mm, config.exclusion_mm
            )
        return self._measured[key]

    def apply(self, source: CorrelationSource, config: ThresholdConfig) -> BlockMatrix:
        """Smooth a correlation and keep what the encoding lets through.

        Raises
        ------
        InputError
            If the labels belong to another mesh.
        FactorizationError
            If the correlation is not finite or not symmetric, or distances do not fit.
        """
        used = self.used(source.mask)
        matrix = source.smoothed(self.smoothing(source.mask, config))
        if self.kernel is None:
            return threshold_by_label(matrix, self.labels, used, config)
        return threshold_by_distance(matrix, self.distances, self.labels, self.kernel, used, config)

    def n_labels(self, matrix: BlockMatrix) -> int:
        """Count the labels of a matrix; of a smooth encoding, equal ones that would be as local.

        Raises
        ------
        InputError
            If every block is a single vertex: nothing is left to factorise.
        """
        if max(matrix.block_sizes, default=0) < 2:
            raise InputError(
                self.name,
                expected="labels that vertices share: correlations are kept within a label",
                found=f"a label of its own for each of the {matrix.n_kept} vertices with signal",
                remedy="Make label files with fewer, larger labels.",
            )
        if self.kernel is None:
            return len(matrix.blocks)
        return round(equal_labels(self.distances, self.kernel))
