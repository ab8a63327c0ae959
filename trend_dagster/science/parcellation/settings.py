"""Settings of the parcellation: the grid of the sweep, factorisation, clustering, selection.

Here and not beside the functions, because those import scikit-learn and numba: reading settings
must not wait for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal

from pydantic import Field, field_validator

from trend_dagster.science._device import DESCRIPTION, Device
from trend_dagster.science.identity import NO_IDENTITY, UNLESS_DEFAULT, Section, no_value_twice

DENSE_UP_TO = 20
"""Up to so many rows per component a block is decomposed densely; above, by Lanczos iterations."""


@dataclass(frozen=True)
class Problem:
    """One cell of a grid: what is asked of a factorisation."""

    n_components: int
    alpha_W: float
    l1_ratio: float


class SweepGrid(Section):
    """The settings that are tried in all combinations."""

    n_components: tuple[Annotated[int, Field(ge=1)], ...] = Field((40,), min_length=1)
    """Components of W and H; more than clusters, so that no small network is lost."""
    alpha_W: tuple[Annotated[float, Field(ge=0)], ...] = Field((0.0,), min_length=1)
    """Strength of the penalty on W and H; 0: none."""
    l1_ratio: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field((0.4,), min_length=1)
    """Share of the penalty that asks for sparsity; the rest asks for small values."""
    n_clusters: tuple[Annotated[int, Field(ge=2)], ...] = Field((14, 38), min_length=1)
    """Clusters of vertices; the tutorial's 7 and 19 networks per hemisphere."""

    _no_value_twice = field_validator("*")(no_value_twice)

    def problems(self) -> list[Problem]:
        """Return the factorisations to solve; clusterings share them."""
        return [Problem(*p) for p in product(self.n_components, self.alpha_W, self.l1_ratio)]


class FactorizationConfig(Section):
    """How W and H are solved for."""

    solver: Literal["block", "sklearn"] = "block"
    """'block' uses the block structure and solves all n_components together; 'sklearn' is the
    tutorial's plain path on the dense matrix, much slower, kept as reference.
    """
    penalty: Literal["absolute", "scaled"] = "absolute"
    """'absolute' takes alpha_W as scikit-learn and the tutorial do: the same number empties W on
    weak correlations and on many labels. 'scaled' multiplies it by the size of each matrix, so that
    one alpha_W means the same for every label file.
    """
    tol: float = Field(1e-4, gt=0)
    """Stop when the projected gradient has shrunk to this share."""
    max_iter: int = Field(10000, ge=1)
    """Most sweeps before giving up."""
    compress_above: int | None = Field(8192, ge=8, json_schema_extra=UNLESS_DEFAULT)
    """In a block of more vertices (a hemisphere of more than 8,192), sweep with a factorisation of
    low rank in its place until that has converged, and with the block itself from there on: a
    fraction of the time. null: always with the block itself.
    """
    smoothness: float = Field(0.0, ge=0)
    """Lambda: how strongly neighbours on the cortex are drawn to equal loadings; needs a graph of
    neighbours. 0, the tutorial's, draws nothing. A strong prior makes its own reproducible parcels:
    judge it against the same on data without networks.
    """
    smoothness_sigma_mm: float = Field(8.0, gt=0)
    """Who neighbours are, for smoothness: vertices weigh exp(-d^2 / 2 sigma^2) at distance d along
    the cortex, up to 3 sigma. Needs geodesic distances.
    """
    random_state: int = Field(108, ge=0)
    """Seed of the randomised SVD of solver='sklearn'; 'block' needs no chance."""
    device: Device = Field(default="cpu", description=DESCRIPTION, json_schema_extra=NO_IDENTITY)


class ClusteringConfig(Section):
    """How vertices are grouped by their loadings."""

    random_state: int = Field(108, ge=0)
    """Seed of KMeans' starting centres; the tutorial's is 108."""
    scale_rows: bool = False
    """Divide each row of W by its sum before clustering, so that a vertex is known by the mixture
    of components it loads on and not by how strongly it loads. The tutorial does not.
    """


class NetworksConfig(Section):
    """How networks are made from a factorisation."""

    method: Literal["spectral", "kmeans"] = "spectral"
    """'spectral' clusters vertices by the leading eigenvectors of W H. 'kmeans' clusters the rows
    of W, as the tutorial does.
    """


class SelectionConfig(Section):
    """How one cell is chosen for each number of clusters."""

    rule: Literal["null_corrected", "conservative"] = "null_corrected"
    """'null_corrected': the cell whose stability between two halves of the cohort exceeds its null
    by most, if by more than chance (see the section validation), label files with fewer labels than
    clusters first; where none does or no stability was computed, as 'conservative'.
    'conservative': the label file with the fewest labels, and within it the highest silhouette.
    """
    max_zero_row_share: float = Field(0.05, ge=0, le=1)
    """Largest share of vertices with signal whose loadings may all be zero before a cell counts as
    collapsed: the penalty was too strong for its matrix.
    """
