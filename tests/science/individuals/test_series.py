"""Series and connectivity against their plain formulas."""

import numpy as np
import pytest

from trend_dagster.errors import InputError
from trend_dagster.science.individuals.series import (
    connectivity_arrays,
    connectivity_of_newborn,
    network_connectivity,
    network_series,
    series_arrays,
)


def test_mean_and_eigenvariate_of_known_courses(rng: np.random.Generator) -> None:
    courses = rng.normal(size=(3, 200))
    courses -= courses.mean(axis=1, keepdims=True)
    labels = np.array([0] * 20 + [1] * 30 + [-1] * 5 + [2] * 5)
    gain = rng.uniform(0.5, 1.5, len(labels))
    bold = gain[:, None] * courses[labels]
    bold[50] = 3.0
    found = network_series(bold, labels, 4)
    assert found.n_vertices.tolist() == [20, 30, 5, 0]
    assert np.isnan(found.mean[:, 3]).all()
    assert np.isnan(found.eigenvariate[:, 3]).all()
    for network, course in enumerate(courses):
        own = gain[labels == network]
        np.testing.assert_allclose(found.mean[:, network], own.mean() * course)
        strength = np.sqrt(np.square(own).mean())
        np.testing.assert_allclose(found.eigenvariate[:, network], strength * course, rtol=1e-6)


def test_eigenvariate_is_the_leading_singular_vector(rng: np.random.Generator) -> None:
    bold = rng.normal(size=(40, 60)) + rng.normal(size=60)
    centred = bold - bold.mean(axis=1, keepdims=True)
    _, size, courses = np.linalg.svd(centred)
    found = network_series(bold, np.zeros(40, dtype=int), 1)
    expected = size[0] * courses[0] / np.sqrt(40)
    expected *= np.sign(expected @ found.mean[:, 0])
    np.testing.assert_allclose(found.eigenvariate[:, 0], expected, atol=1e-6)


def test_vertices_without_signal_do_not_count(rng: np.random.Generator) -> None:
    bold = rng.normal(size=(10, 30))
    bold[4] = 5.0
    found = network_series(bold, np.zeros(10, dtype=int), 1)
    np.testing.assert_allclose(found.mean[:, 0], np.delete(bold, 4, axis=0).mean(axis=0))
    alone = network_series(bold, np.where(np.arange(10) == 2, 0, -1), 1)
    np.testing.assert_allclose(alone.eigenvariate[:, 0], bold[2] - bold[2].mean())


def test_full_correlation_is_pearsons_and_z_is_fishers(rng: np.random.Generator) -> None:
    series = rng.normal(size=(150, 5)) + rng.normal(size=(150, 1))
    found = network_connectivity(series)
    expected = np.corrcoef(series.T)
    np.testing.assert_allclose(found.correlation, expected, atol=1e-8)
    off = ~np.eye(5, dtype=bool)
    np.testing.assert_allclose(found.z[off], np.arctanh(expected[off]), atol=1e-6)
    assert np.isnan(np.diag(found.z)).all()


def test_partial_correlation_sees_through_a_chain(rng: np.random.Generator) -> None:
    """Of a -> b -> c, a and c correlate, but not once b is known."""
    a = rng.normal(size=5000)
    b = a + rng.normal(size=5000)
    c = b + rng.normal(size=5000)
    found = network_connectivity(np.column_stack([a, b, c]))
    assert found.correlation[0, 2] > 0.5
    assert abs(found.partial[0, 2]) < 0.04
    assert found.partial[0, 1] == pytest.approx(0.5, abs=0.04)


def test_a_missing_network_is_missing(rng: np.random.Generator) -> None:
    series = rng.normal(size=(80, 4))
    series[:, 1] = np.nan
    found = network_connectivity(series)
    assert np.isnan(found.correlation[1]).all()
    np.testing.assert_allclose(
        found.correlation[np.ix_([0, 2], [0, 2])], np.corrcoef(series[:, [0, 2]].T), atol=1e-8
    )
    alone = network_connectivity(np.where(np.arange(4) == 0, series, np.nan))
    assert alone.correlation[0, 0] == alone.partial[0, 0] == 1
    assert np.isnan(alone.correlation).sum() == np.isnan(alone.partial).sum() == 15
    assert np.isnan(alone.z).all()
    with pytest.raises(InputError, match="as the run has"):
        network_series(series, np.zeros(3, dtype=int), 2)


def test_runs_of_a_newborn_count_by_their_length(rng: np.random.Generator) -> None:
    long, short = rng.normal(size=(300, 3)), rng.normal(size=(100, 3))
    short[:, 2] = np.nan
    runs = [network_connectivity(s) for s in (long, short)]
    found = connectivity_of_newborn(runs, [300, 100])
    z = (300 * runs[0].z[0, 1] + 100 * runs[1].z[0, 1]) / 400
    assert found.z[0, 1] == pytest.approx(z)
    assert found.correlation[0, 1] == pytest.approx(np.tanh(z))
    assert found.z[0, 2] == pytest.approx(runs[0].z[0, 2])
    np.testing.assert_allclose(np.diag(found.correlation), 1)


def test_all_runs_and_maps_are_those_of_each(rng: np.random.Generator) -> None:
    runs = [rng.normal(size=(40, n)) for n in (50, 70)]
    maps = rng.integers(-1, 3, (2, 2, 40))
    arrays = series_arrays(runs, maps, 3)
    assert arrays["n_timepoints"].tolist() == [50, 70]
    second = network_series(runs[1], maps[1, 0], 3)
    np.testing.assert_array_equal(arrays["mean"][1, 0, 50:], second.mean)
    np.testing.assert_array_equal(arrays["eigenvariate"][1, 0, 50:], second.eigenvariate)
    found = connectivity_arrays(arrays["mean"], [50, 70])
    each = [network_connectivity(network_series(run, maps[0, 1], 3).mean) for run in runs]
    np.testing.assert_allclose(found["run_partial"][0, 1, 1], each[1].partial)
    together = connectivity_of_newborn(each, [50, 70])
    np.testing.assert_allclose(found["partial_z"][0, 1], together.partial_z)
