"""The grid is complete, cells are what single calls give, and collapse is told."""

from __future__ import annotations

import numpy as np
import pytest

from tests.science.parcellation.test_factorization import block_matrix, networks
from tests.science.solving import factorize
from trend_dagster.errors import FactorizationError
from trend_dagster.science.connectivity.thresholding import threshold_by_label
from trend_dagster.science.parcellation.clustering import cluster
from trend_dagster.science.parcellation.factorization import leading_eigenpairs
from trend_dagster.science.parcellation.settings import FactorizationConfig, SweepGrid
from trend_dagster.science.parcellation.sweep import sweep

GRID = SweepGrid(n_components=(3, 6), alpha_W=(1e-4, 1e-3), l1_ratio=(0.4,), n_clusters=(3, 5))


def test_by_default_there_are_more_components_than_clusters():
    grid = SweepGrid()
    assert min(grid.n_components) > max(grid.n_clusters)
    assert len(grid.problems()) == 1


@pytest.mark.parametrize("solver", ["block", "sklearn"])
def test_every_cell_is_there_once(solver):
    cells = list(sweep(block_matrix(60, 3, 1), GRID, FactorizationConfig(solver=solver)))
    found = sorted((c.n_components, c.alpha_W, c.l1_ratio) for c in cells)
    assert found == sorted((p.n_components, p.alpha_W, p.l1_ratio) for p in GRID.problems())
    for cell in cells:
        assert [c.n_clusters for c in cell.clusterings] == [3, 5]
        assert cell.W.shape == (60, cell.n_components)
        assert cell.H.shape == (cell.n_components, 60)
        assert cell.W.dtype == cell.H.dtype == np.float32


def test_cells_are_what_single_calls_give():
    C = networks(60, 4, 2)
    matrix = threshold_by_label(C, np.random.default_rng(2).integers(0, 3, 60))
    pairs = leading_eigenpairs(matrix, 6)
    for cell in sweep(matrix, GRID, full_correlation=C, n_threads=2):
        alone = factorize(matrix, cell.n_components, cell.alpha_W, 0.4, eigenpairs=pairs)
        assert cell.objective == pytest.approx(alone.objective, rel=1e-4)
        for ours, theirs in zip(
            cell.clusterings, cluster(matrix, cell.W, (3, 5), full_correlation=C), strict=True
        ):
            np.testing.assert_array_equal(ours.labels, theirs.labels)
            assert ours.silhouette == theirs.silhouette
            assert ours.full_within_connectivity == theirs.full_within_connectivity


def test_collapse_is_measured_and_stops_nothing():
    grid = SweepGrid(n_components=(4,), alpha_W=(1e-4, 50.0), n_clusters=(3,))
    alive, dead = sorted(sweep(block_matrix(50, 4, 3), grid), key=lambda c: c.alpha_W)
    assert alive.zero_row_share < 0.5
    assert (dead.zero_row_share, dead.dead_components, dead.distinct_rows) == (1.0, 4, 1)
    assert dead.clusterings[0].collapsed


def test_number_of_threads_changes_nothing():
    matrix = block_matrix(70, 3, 4)
    one, two = ({c.n_components: c for c in sweep(matrix, GRID, n_threads=t)} for t in (1, 2))
    for k, cell in one.items():
        np.testing.assert_array_equal(cell.W, two[k].W)
        for a, b in zip(cell.clusterings, two[k].clusterings, strict=True):
            np.testing.assert_array_equal(a.labels, b.labels)


def test_a_grid_larger_than_the_matrix_is_refused():
    with pytest.raises(FactorizationError, match="n_components"):
        list(sweep(block_matrix(8, 2, 0), SweepGrid(n_components=(9,), n_clusters=(2,))))
    with pytest.raises(FactorizationError, match="n_clusters"):
        list(sweep(block_matrix(8, 2, 0), SweepGrid(n_components=(4,), n_clusters=(9,))))
