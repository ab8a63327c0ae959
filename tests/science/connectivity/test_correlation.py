"""The tiled average is the plain average of np.corrcoef."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from trend_dagster.errors import CohortError
from trend_dagster.science.connectivity.correlation import (
    correlate_runs,
    standardize,
)
from trend_dagster.science.connectivity.settings import CorrelationConfig


def cohort(n: int, n_runs: int, seed: int, masked: bool = True):
    """Make runs of different lengths, with an offset as raw BOLD has, and masks of their own."""
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(n_runs):
        features = rng.standard_normal((n, int(rng.integers(5, 30)))) + rng.uniform(-50, 50, (n, 1))
        mask = rng.random(n) > 0.25 if masked else np.ones(n, bool)
        features[~mask] = 7.0
        runs.append((features.astype(np.float32), mask))
    return runs


def plain_average(runs, fisher: bool = False) -> np.ndarray:
    """Average run by run in float64."""
    n = len(runs[0][0])
    total, counts = np.zeros((n, n)), np.zeros((n, n))
    for features, mask in runs:
        pairs = np.outer(mask, mask)
        r = np.zeros((n, n))
        r[pairs] = np.corrcoef(features[mask].astype(np.float64)).reshape(-1)
        np.fill_diagonal(r, 0)
        total += np.arctanh(r) if fisher else r
        counts += pairs
    mean = np.divide(total, counts, out=np.zeros((n, n)), where=counts > 0)
    mean = np.tanh(mean) if fisher else mean
    np.fill_diagonal(mean, np.diag(counts) > 0)
    return mean


@given(
    n=st.integers(2, 40),
    n_runs=st.integers(1, 5),
    tile=st.integers(1, 50),
    budget=st.sampled_from([1e-7, 1e-5, 2.0]),
    average=st.sampled_from(["arithmetic", "fisher"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_average_equals_corrcoef(n, n_runs, tile, budget, average, seed):
    runs = cohort(n, n_runs, seed)
    config = CorrelationConfig(average=average, tile=tile, memory_budget_gib=budget)
    C = correlate_runs(runs, config, n_threads=2)
    assert C.dtype == np.float32
    np.testing.assert_allclose(C, plain_average(runs, average == "fisher"), atol=5e-5)
    np.testing.assert_array_equal(C, C.T)


def test_a_zarr_array_takes_the_tiles():
    runs = cohort(30, 3, 9)
    config = CorrelationConfig(tile=7)
    stored = zarr.create_array(store={}, shape=(30, 30), chunks=(8, 8), dtype="f4")
    correlate_runs(runs, config, out=stored, n_threads=2)
    np.testing.assert_array_equal(stored[:], correlate_runs(runs, config))


def test_vertices_without_signal_in_any_run_are_zero():
    runs = cohort(20, 3, 0, masked=False)
    for features, mask in runs:
        mask[[4, 9]] = False
        features[4] = np.nan
    C = correlate_runs(runs)
    assert not C[[4, 9]].any()
    assert not C[:, [4, 9]].any()
    assert np.diag(C).sum() == 18


def test_constant_features_correlate_with_nothing():
    rows, alive = standardize(np.full((3, 7), 1234.567, np.float32), np.array([True, True, False]))
    assert not rows.any()
    assert not alive.any()


def test_small_fluctuations_on_a_large_offset_are_signal():
    rng = np.random.default_rng(0)
    series = 10000 + rng.standard_normal((2, 50))
    rows, alive = standardize(series.astype(np.float32), np.ones(2, bool))
    assert alive.all()
    assert rows[0] @ rows[1] == pytest.approx(np.corrcoef(series)[0, 1], abs=1e-2)


def test_rows_of_some_vertices_go_where_they_are_wanted(rng):
    ((features, mask),) = cohort(300, 1, 3)
    features[5], mask[5] = 2.5, True
    rows, alive = standardize(features, mask)
    assert alive.sum() == mask.sum() - 1
    among, wide = rng.random(300) > 0.3, np.zeros((300, 2 * features.shape[1]), np.float32)
    out = wide[: among.sum(), features.shape[1] :]
    found, told = standardize(features, mask, among=among, out=out)
    assert found is out
    np.testing.assert_array_equal(told, alive)
    np.testing.assert_array_equal(wide[: among.sum(), features.shape[1] :], rows[among])
    assert not wide[among.sum() :].any()
    assert not wide[:, : features.shape[1]].any()


def test_runs_are_read_lazily_and_once_where_they_fit():
    runs = cohort(30, 3, 1)
    reads = [0, 0, 0]

    def reader(r):
        def read():
            reads[r] += 1
            return runs[r]

        return read

    C = correlate_runs([reader(r) for r in range(3)], CorrelationConfig(tile=7))
    np.testing.assert_array_equal(C, correlate_runs(runs, CorrelationConfig(tile=7)))
    assert reads == [1, 1, 1]


class SwitchedOffError(Exception):
    """The machine is switched off."""


@pytest.mark.parametrize("budget", [2.0, 1e-6])
def test_resumed_equals_uninterrupted(budget):
    runs = cohort(40, 3, 2)
    config = CorrelationConfig(tile=9, memory_budget_gib=budget)
    whole = correlate_runs(runs, config, n_threads=1)
    out = np.full((40, 40), np.nan, np.float32)
    done: set[tuple[int, int]] = set()

    def stop_after_four(tile):
        done.add(tile)
        if len(done) == 4:
            raise SwitchedOffError

    with pytest.raises(SwitchedOffError):
        correlate_runs(runs, config, out=out, on_tile=stop_after_four, n_threads=1)
    assert np.isnan(out).any()
    kept = set(done)
    again: list[tuple[int, int]] = []
    correlate_runs(runs, config, out=out, done=kept, on_tile=again.append, n_threads=1)
    np.testing.assert_array_equal(out, whole)
    assert not kept & set(again)


def test_wrong_cohorts_are_refused():
    with pytest.raises(CohortError, match="at least one run"):
        correlate_runs([])
    runs = cohort(10, 2, 4, masked=False)
    with pytest.raises(CohortError, match="run 1"):
        correlate_runs([runs[0], (runs[1][0][:-1], runs[1][1][:-1])])
    runs[1][0][0, 0] = np.nan
    with pytest.raises(CohortError, match=r"run 1.*NaN"):
        correlate_runs(runs)


@pytest.mark.parametrize("average", ["arithmetic", "fisher"])
@pytest.mark.parametrize("budget", [2.0, 1e-6])
def test_a_weight_counts_a_run_as_often(rng, average, budget):
    runs = [(rng.standard_normal((30, 50)), rng.random(30) < 0.9) for _ in range(3)]
    config = CorrelationConfig(average=average, tile=16, memory_budget_gib=budget)
    repeated = [runs[i] for i in (0, 0, 0, 1, 2, 2)]
    found = correlate_runs(runs, config, weights=[3, 1, 2])
    np.testing.assert_allclose(found, correlate_runs(repeated, config), atol=1e-5)
    np.testing.assert_allclose(
        correlate_runs(runs, config, weights=[7, 7, 7]),
        correlate_runs(runs, config),
        atol=1e-6,
    )
