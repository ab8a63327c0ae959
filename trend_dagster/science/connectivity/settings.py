"""Settings of connectivity: correlation, geodesic labels, thresholding.

Here and not beside the functions, because those import scipy, and who only reads settings must not
wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from trend_dagster.science._device import DESCRIPTION, Device
from trend_dagster.science.identity import NO_IDENTITY, UNLESS_DEFAULT, Section, no_value_twice

MAX_LABELS = 1000  # of both hemispheres
"""With more, a label of a mesh that BOLD is sampled on has too few vertices to be factorised."""


class GeodesicLabelsConfig(Section):
    """Label files that are made from the surface, beside those of the user."""

    # Each is a partition with a key of its own, which tells the number.
    n_labels_per_hemisphere: tuple[int, ...] | None = Field(None, json_schema_extra=NO_IDENTITY)
    """Cut each hemisphere of the surface into so many connected labels of nearly equal area: each
    number gives a label file of its own. 1 keeps a hemisphere whole. Needs the mesh (inputs.surface
    or inputs.surfaces). null: 1 where a mesh is named, and none where none is.
    """

    @field_validator("n_labels_per_hemisphere")
    @classmethod
    def _sensible(cls, values: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if values is None:
            return None
        most = MAX_LABELS // 2
        if any(not 1 <= n <= most for n in values):
            raise ValueError(
                f"from 1 to {most} labels per hemisphere ({MAX_LABELS:,} in all; of more, each "
                "would have too few vertices to factorise)"
            )
        return no_value_twice(values)


class CorrelationConfig(Section):
    """How correlations are averaged over runs."""

    average: Literal["arithmetic", "fisher"] = "arithmetic"
    """'arithmetic' is the mean of the correlations. 'fisher' averages arctanh(r) and transforms
    back, which weighs strong correlations more and takes longer. The tutorial leaves the step
    empty.
    """
    weight: Literal["equal", "frames"] = Field("equal", json_schema_extra=UNLESS_DEFAULT)
    """'equal': each run counts once. 'frames': as many times as volumes were kept of it, where
    censoring leaves little of some runs.
    """
    memory_budget_gib: float = Field(4.0, gt=0, json_schema_extra=NO_IDENTITY)
    """Memory to work in, apart from the output. Less memory means that embeddings are read more
    than once.
    """
    tile: int = Field(1024, ge=1, json_schema_extra=NO_IDENTITY)
    """Vertices along a side of a tile; a multiple of the chunks of a store."""
    device: Device = Field(default="cpu", description=DESCRIPTION, json_schema_extra=NO_IDENTITY)


class Kernel(Protocol):
    """How much of a correlation is left, by the distance of its vertices along the cortex."""

    @property
    def reach_mm(self) -> float:
        """Distance beyond which hardly anything is left; distances are measured as far as this."""

    def __call__(self, distance_mm: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Weights from 0 to 1, of the shape and type of the distances; infinity weighs 0."""


@dataclass(frozen=True)
class Gaussian:
    """exp(-d^2 / 2 sigma^2).

    Parameters
    ----------
    sigma_mm : float
        Width in mm, above 0.
    """

    sigma_mm: float

    @property
    def reach_mm(self) -> float:
        """5 sigma: what is further weighs less than 4e-6."""
        return 5.0 * self.sigma_mm

    def __call__(self, distance_mm: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Weights of correlations by distance."""
        weights = np.exp(-0.5 * (distance_mm / distance_mm.dtype.type(self.sigma_mm)) ** 2)
        return np.asarray(weights)


class ThresholdConfig(Section):
    """How a correlation becomes the local, non-negative matrix that a factorisation needs."""

    # Each is a partition with a key of its own, which tells sigma.
    smooth_sigma_mm: tuple[Annotated[float, Field(gt=0, le=1000)], ...] = Field(
        (), json_schema_extra=NO_IDENTITY
    )
    """Smooth spatial encodings beside the label files: each number adds one, in which a correlation
    is weighted by exp(-d^2 / 2 sigma^2), with d the distance along the cortex within a hemisphere,
    and by zero across. No border cuts a network in two. Needs geodesic distances.
    """

    negatives: Literal["clip", "shift", "abs"] = "clip"
    """What to do with negative correlations, which a non-negative factorisation cannot take: 'clip'
    sets them to 0, 'shift' maps r to (r + 1) / 2, 'abs' drops the sign. The tutorial does not say;
    on raw BOLD a quarter to a half of all entries are negative, and their share is recorded with
    the result.
    """
    smoothing_fwhm_mm: float = Field(16.0, ge=0)
    """Smooth the correlation along the cortex, over both of its vertices, before it is thresholded:
    full width at half maximum of the Gaussian. Each vertex' correlation with itself is left out,
    else its noise would be smeared over its neighbours. 0: not at all, as the tutorial. Where no
    mesh is named (inputs.surface, inputs.surfaces), nothing is smoothed.
    """
    exclusion_mm: float = Field(0.0, ge=0)
    """Leave out the correlations of vertices up to so far apart along the cortex as well, when
    correlations are smoothed and networks are found: noise is shared there.
    """

    def kernels(self) -> dict[str, Kernel]:
        """Every smooth spatial encoding that is asked for, by its key among the label files."""
        return {f"smooth_{s:.12g}mm": Gaussian(s) for s in self.smooth_sigma_mm}
