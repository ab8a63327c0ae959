"""Networks from components: known mixtures dissolve, known twins merge, noise is left out."""

import numpy as np
import pytest
import scipy.sparse as sp

from trend_dagster.science.baselines import smooth_along_surface
from trend_dagster.science.bold import BoldConfig, prepare
from trend_dagster.science.evaluation import mean_dice
from trend_dagster.science.geodesic import Surface, gaussian_weights
from trend_dagster.science.networks import (
    Neighbourhood,
    NetworksConfig,
    SmoothedCorrelation,
    _leading_vectors,
    find_networks,
    smoother,
)
from trend_dagster.storage.meshes import load_fsaverage


@pytest.fixture(scope="module")
def surface() -> Surface:
    return load_fsaverage(642)


def test_smoothing_is_the_plain_formula_without_the_diagonal(
    surface: Surface, rng: np.random.Generator
) -> None:
    n = surface.n_vertices
    correlation = np.corrcoef(rng.normal(size=(n, 30))).astype(np.float32)
    mask = np.ones(n, dtype=bool)
    S, near = smoother(surface, mask, 24.0), Neighbourhood.of(surface, 0).near
    lazy = SmoothedCorrelation(correlation, S, near)
    hollow = correlation - np.eye(n)
    expected = smooth_along_surface(hollow, gaussian_weights(surface, 24 / 2.354820045))
    rows, columns = slice(200, 500), slice(100, 1200)
    np.testing.assert_allclose(lazy[rows, columns], expected[rows, columns], atol=1e-6)


def test_vertices_without_signal_neither_give_nor_take(surface: Surface) -> None:
    mask = np.ones(surface.n_vertices, dtype=bool)
    mask[:100] = False
    S = smoother(surface, mask, 24.0)
    assert S[:100].nnz == 0
    assert S[:, :100].nnz == 0
    np.testing.assert_allclose(S[100:].sum(axis=1), 1)


def test_near_pairs_do_not_count(surface: Surface) -> None:
    near = Neighbourhood.of(surface, 12.0).near
    n = surface.n_vertices
    only_near = near.astype(np.float32).toarray()
    smoothed = SmoothedCorrelation(only_near, sp.csr_array(sp.eye_array(n)), near)
    assert not smoothed[slice(0, n), slice(0, n)].any()


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


@pytest.mark.parametrize("border_prior", [None, 0.0, 4.0])
def test_planted_blocks_come_back_from_too_many_components(
    rng: np.random.Generator, border_prior: float | None
) -> None:
    truth = np.repeat(np.arange(3), [60, 40, 20])
    bold = rng.normal(size=(3, 400))[truth] * 0.6 + rng.normal(size=(120, 400))
    correlation = np.corrcoef(bold)
    part = np.concatenate([np.arange(60) // 15, 4 + np.arange(40) // 20, 6 + np.arange(20) // 10])
    W = np.eye(8)[part] * rng.uniform(0.5, 2, size=(120, 1))
    # What parts of one network share is in H, as it is in a factorisation of their correlation.
    H = np.linalg.lstsq(W, np.clip(correlation, 0, None), rcond=None)[0]
    config = NetworksConfig(border_prior=border_prior)
    found = find_networks(W, H, correlation, 3, Neighbourhood.unknown(120), config)
    assert mean_dice(found, truth) == 1


def test_vertices_that_load_on_nothing_get_no_network(rng: np.random.Generator) -> None:
    W, H = factors(rng, 60, 8)
    W[:5] = 0
    correlation = np.corrcoef(rng.normal(size=(60, 50)))
    found = find_networks(W, H, correlation, 3, Neighbourhood.unknown(60))
    assert (found[:5] == -1).all()
    assert set(found[5:]) <= {0, 1, 2}


@pytest.mark.parametrize("n_loaded", [0, 2, 30])
def test_a_collapsed_factorisation_gives_no_error(rng: np.random.Generator, n_loaded: int) -> None:
    W, H = np.zeros((30, 4)), rng.uniform(size=(4, 30))
    W[:n_loaded] = 1.0  # all rows alike
    correlation = np.corrcoef(rng.normal(size=(30, 50)))
    config = NetworksConfig(border_prior=4.0)
    found = find_networks(W, H, correlation, 3, Neighbourhood.unknown(30), config)
    np.testing.assert_array_equal(found >= 0, np.arange(30) < n_loaded)


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
