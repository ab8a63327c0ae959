"""Stability stands beside its null: halves, agreement, and what exceeds noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from tests.science.evidence.label_file_choice import (
    beside_surrogates,
    choices,
    cohort,
    label_files_of,
)
from tests.science.parcellation.test_factorization import networks
from trend_dagster.errors import InputError
from trend_dagster.science.connectivity.thresholding import threshold_by_label
from trend_dagster.science.evidence.nulls import SurrogateMaker
from trend_dagster.science.evidence.stability import (
    BESIDE,
    MEASURES,
    beside_null,
    measure_halves,
    split_halves,
    timepoints_of,
)
from trend_dagster.science.parcellation.sweep import Solution, SweepGrid, sweep
from trend_dagster.science.surface import Surface

# Halves


@given(st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=20), st.integers(0, 5))
def test_every_run_is_in_one_half_and_no_subject_in_both(subjects, seed):
    halves = split_halves(subjects, seed)
    first, second = halves.runs
    assert sorted((*first, *second)) == list(range(len(subjects)))
    if len(set(subjects)) > 1:
        assert halves.by == "subject"
        people = [{subjects[r] for r in runs} for runs in halves.runs]
        assert not people[0] & people[1]
        assert len(people[0]) - len(people[1]) in {0, 1}
    else:
        assert halves.by == "run"
        assert len(first) - len(second) in {0, 1}
    assert timepoints_of(1, halves.by, 10) == slice(0, 10)
    assert split_halves(subjects, seed) == halves


def test_one_run_is_cut_in_time():
    halves = split_halves(["a"], 0)
    assert (halves.by, halves.runs) == ("time", ((0,), (0,)))
    course = np.arange(11)
    parts = [course[timepoints_of(half, halves.by, 11)] for half in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(parts), course)
    assert [len(part) for part in parts] == [5, 6]


def test_which_subjects_go_together_is_chance_not_order():
    subjects = [f"{i:02d}" for i in range(20)]
    found = {split_halves(subjects, seed).runs for seed in range(10)}
    assert len(found) == 10
    assert tuple(range(10)) not in {first for first, _ in found}


def test_no_runs_cannot_be_cut():
    with pytest.raises(InputError, match="at least one run"):
        split_halves([], 0)


# Agreement


def cells(seed: int, other: np.ndarray, alpha: tuple[float, ...] = (1e-4,)) -> list[Solution]:
    """Sweep a small matrix with networks; homogeneity is asked of another."""
    C = networks(60, 4, seed)
    grid = SweepGrid(n_components=(5,), alpha_W=alpha, n_clusters=(3, 4))
    matrix = threshold_by_label(C, np.arange(60) // 30)
    return sorted(sweep(matrix, grid, full_correlation=other), key=lambda c: c.alpha_W)


def test_a_matrix_agrees_with_itself_perfectly():
    same = cells(1, networks(60, 4, 1))
    found = measure_halves(same, same)
    assert set(found) == set(MEASURES)
    np.testing.assert_array_equal(found["stability"], [[1.0, 1.0]])


def test_measures_are_those_of_scikit_learn_and_numpy():
    C, D = networks(60, 4, 1), networks(60, 4, 2)
    one, other = cells(1, D), cells(2, C)
    found = measure_halves(one, other)
    for j in (0, 1):
        a, b = one[0].clusterings[j], other[0].clusterings[j]
        loaded = one[0].W.any(axis=1) & other[0].W.any(axis=1)
        expected = adjusted_rand_score(a.labels[loaded], b.labels[loaded])
        assert found["stability"][0, j] == pytest.approx(expected)
        assert found["half_silhouette"][0, j] == pytest.approx((a.silhouette + b.silhouette) / 2)
        within = [
            np.mean(
                [
                    matrix[np.ix_(labels == k, labels == k)][
                        ~np.eye((labels == k).sum(), dtype=bool)
                    ].mean()
                    if (labels == k).sum() > 1
                    else 0.0
                    for k in np.unique(labels)
                ]
            )
            for labels, matrix in ((a.labels, D), (b.labels, C))
        ]
        assert found["homogeneity"][0, j] == pytest.approx(np.mean(within), rel=1e-4)


def test_where_loadings_have_collapsed_there_is_no_figure_rather_than_a_perfect_one():
    C = networks(60, 4, 1)
    collapsed = cells(1, C, alpha=(1e-4, 50.0))
    found = measure_halves(collapsed, collapsed)
    for values in found.values():
        assert np.isfinite(values[0]).all()
        assert np.isnan(values[1]).all()


# Beside the null


def test_what_stands_beside_a_measure_is_numpys(rng):
    values, nulls = rng.random((2, 3)), rng.random((5, 2, 3))
    found = beside_null(values, nulls)
    assert set(found) == {*BESIDE, "p"}
    np.testing.assert_allclose(found["null"], nulls.mean(axis=0))
    np.testing.assert_allclose(found["null_sd"], nulls.std(axis=0, ddof=1))
    np.testing.assert_allclose(found["excess"], values - nulls.mean(axis=0))
    np.testing.assert_allclose(found["z"], found["excess"] / nulls.std(axis=0, ddof=1))


def test_p_counts_the_value_itself_and_one_surrogate_at_least_is_needed():
    nulls = np.array([0.1, 0.2, 0.3])
    assert beside_null(np.float64(0.5), nulls)["p"] == 1 / 4
    assert beside_null(np.float64(0.2), nulls)["p"] == 3 / 4
    with pytest.raises(InputError, match="null distribution"):
        beside_null(np.float64(0.5), np.array([]))


def test_the_margin_is_what_one_more_surrogate_exceeds_once_in_twenty(rng):
    # Fresh draws from the law that the surrogates come from, which the bound does not know.
    draws = rng.normal(0.4, 0.1, size=(4, 100_000))
    found = beside_null(draws[3], draws[:3])
    assert (found["excess"] > found["margin"]).mean() == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("n_nulls", [1, 2])
def test_with_fewer_than_three_surrogates_there_is_no_z(rng, n_nulls):
    found = beside_null(rng.random((2, 3)), rng.random((n_nulls, 2, 3)))
    assert np.isfinite(found["excess"]).all()
    assert np.isnan(found["z"]).all()
    assert np.isnan(found["margin"]).all()
    assert np.isnan(found["null_sd"]).all() == (n_nulls == 1)


def test_a_surrogate_without_a_figure_does_not_count(rng):
    values, nulls = rng.random((1, 3)), rng.random((4, 1, 3))
    nulls[0, 0, 0] = nulls[:2, 0, 1] = nulls[:, 0, 2] = np.nan
    found = beside_null(values, nulls)
    np.testing.assert_allclose(
        found["null"][0, :2], [nulls[1:, 0, 0].mean(), nulls[2:, 0, 1].mean()]
    )
    assert np.isfinite(found["z"]).tolist() == [[True, False, False]]
    assert np.isnan(found["excess"]).tolist() == [[False, False, True]]


def test_surrogates_that_are_all_alike_are_not_believed_to_be():
    found = beside_null(np.array([[0.9]]), np.ones((3, 1, 1)))
    assert found["excess"] == pytest.approx(-0.1)
    assert found["z"] == pytest.approx(-10)
    assert found["margin"] > 0.03


# Planted networks and noise, on a real mesh


@pytest.fixture(scope="module")
def maker(surface: Surface) -> SurrogateMaker:
    return SurrogateMaker(surface)


@pytest.mark.slow
def test_planted_networks_exceed_their_null(surface, maker):
    runs = cohort(surface, snr=0.6, seed=7)
    table = beside_surrogates(runs, maker, label_files_of(surface), n_nulls=3)
    whole = table.set_index("n_labels").loc[2]
    assert whole["stability_excess"] > max(0.2, whole["stability_margin"])
    assert whole["stability_z"] > 5
    assert whole["homogeneity_excess"] > 0.02
    assert choices(table)["the rule"] == choices(table)["plain excess"] == "L02"


@pytest.mark.slow
def test_noise_does_not_exceed_its_null_and_no_label_file_is_preferred(surface, maker):
    n_cohorts, label_files = 5, label_files_of(surface)
    chosen, tables = [], []
    for seed in range(n_cohorts):
        runs = cohort(surface, snr=0, seed=seed)
        tables.append(beside_surrogates(runs, maker, label_files, n_nulls=3))
        chosen.append(choices(tables[-1]))
    mean = pd.concat(tables).groupby("n_labels")[["stability", "stability_excess"]].mean()
    # The label file makes its own agreement where it has a label for every cluster ...
    assert mean["stability"][14] > 0.7
    assert sum(c["raw stability"] == "L14" for c in chosen) > n_cohorts / 2
    # ... and the same agreement under the null.
    assert mean["stability_excess"].abs().max() < 0.1
    assert sum(c["the rule"] == "L14" for c in chosen) <= n_cohorts / 3, chosen
