"""Networks from the spectrum of a factorisation: planted blocks come back, collapse is no error."""

import numpy as np
import pytest

from trend_dagster.science.bold import BoldConfig, prepare
from trend_dagster.science.evidence.measures import mean_dice
from trend_dagster.science.parcellation.spectral import (
    _leading_vectors,
    find_networks,
    other_networks,
)


def factors(rng: np.random.Generator, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.uniform(size=(n, k)) ** 3, rng.uniform(size=(k, n)) ** 3


@pytest.mark.parametrize("k", [3, 9])
def test_eigenvectors_are_those_of_the_whole_matrix(rng: np.random.Generator, k: int) -> None:
    W, H = factors(rng, 50, k)
    A = (W @ H + (W @ H).T) / 2
    scale = 1 / np.sqrt(A.sum(axis=1))
    values, vectors = np.linalg.eigh(scale[:, None] * A * scale)
    assert np.diff(values[-4:]).min() > 1e-3  # else vectors would not be unique
    n = min(4, k)
    expected = (vectors * scale[:, None])[:, ::-1][:, :n]
    found = _leading_vectors(W, H, 4)
    assert found.shape == (50, n)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-9)


def test_planted_blocks_come_back_from_too_many_components(rng: np.random.Generator) -> None:
    truth = np.repeat(np.arange(3), [60, 40, 20])
    bold = rng.normal(size=(3, 400))[truth] * 0.6 + rng.normal(size=(120, 400))
    correlation = np.corrcoef(bold)
    part = np.concatenate([np.arange(60) // 15, 4 + np.arange(40) // 20, 6 + np.arange(20) // 10])
    W = np.eye(8)[part] * rng.uniform(0.5, 2, size=(120, 1))
    # What parts of one network share is in H, as it is in a factorisation of their correlation.
    H = np.linalg.lstsq(W, np.clip(correlation, 0, None), rcond=None)[0]
    found = find_networks(W, H, 3)
    assert mean_dice(found, truth) == 1


def test_vertices_that_load_on_nothing_get_no_network(rng: np.random.Generator) -> None:
    W, H = factors(rng, 60, 8)
    W[:5] = 0
    found = find_networks(W, H, 3)
    assert (found[:5] == -1).all()
    assert set(found[5:]) <= {0, 1, 2}


def test_other_networks_come_from_fewer_and_more_eigenvectors(rng: np.random.Generator) -> None:
    W, H = factors(rng, 60, 16)
    W[:5] = 0
    found = other_networks(W, H, 7)
    by_number = [find_networks(W, H, 7, n_vectors=n) for n in (5, 6, 8, 9, 10, 11, 12)]
    np.testing.assert_array_equal(found, by_number)
    assert len(np.unique(found, axis=0)) > 1
    np.testing.assert_array_equal(find_networks(W, H, 7, n_vectors=7), find_networks(W, H, 7))


@pytest.mark.parametrize(("n_networks", "k", "n_others"), [(14, 16, 3), (38, 40, 3), (2, 2, 1)])
def test_there_are_no_more_eigenvectors_than_components(
    rng: np.random.Generator, n_networks: int, k: int, n_others: int
) -> None:
    assert len(other_networks(*factors(rng, 60, k), n_networks)) == n_others


@pytest.mark.parametrize("n_loaded", [0, 2, 30])
def test_a_collapsed_factorisation_gives_no_error(rng: np.random.Generator, n_loaded: int) -> None:
    W, H = np.zeros((30, 4)), rng.uniform(size=(4, 30))
    W[:n_loaded] = 1.0  # all rows alike
    found = find_networks(W, H, 3)
    for labels in (found, *other_networks(W, H, 3)):
        np.testing.assert_array_equal(labels >= 0, np.arange(30) < n_loaded)


def test_the_global_signal_is_regressed_out(rng: np.random.Generator) -> None:
    common = rng.normal(size=80)
    bold = (rng.normal(size=(30, 80)) + rng.uniform(1, 3, (30, 1)) * common).astype(np.float32)
    mask = np.ones(30, dtype=bool)
    config = BoldConfig(standardize="none", global_signal="remove")
    found = prepare(bold, mask, config).astype(np.float64)
    shared = (bold - bold.mean(axis=1, keepdims=True)).mean(axis=0)
    design = np.column_stack([np.ones(80), shared])
    fit = design @ np.linalg.lstsq(design, bold.T.astype(np.float64), rcond=None)[0]
    expected = bold - fit.T + bold.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)
