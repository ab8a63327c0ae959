"""Competitors are what their names say, and find what is plainly there."""

import sys

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.cluster import AgglomerativeClustering

from trend_dagster.errors import SettingsError
from trend_dagster.science.evidence.competitors import (
    FAST_COMPETITORS,
    CompetitorInput,
    competitor_input,
    pca_features,
    tensor_features,
    umap_features,
    ward_parcellation,
)
from trend_dagster.science.evidence.measures import mean_dice, spatial_contiguity
from trend_dagster.science.surface import gaussian_weights

NAMES = list(FAST_COMPETITORS)


def ring(n: int) -> sp.csr_array:
    step = sp.csr_array(sp.diags_array([1.0, 1.0], offsets=[1, n - 1], shape=(n, n)))
    return sp.csr_array(step + step.T)


def planted(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four networks on a ring of 120 vertices."""
    rng = np.random.default_rng(seed)
    truth = np.repeat([0, 1, 2, 3], [20, 30, 30, 40])
    signals = rng.normal(size=(4, 300))[truth]
    return np.corrcoef(signals + noise * rng.normal(size=signals.shape)), truth


def labels_of(name: str, correlation: np.ndarray) -> np.ndarray:
    everywhere = np.ones(len(correlation), dtype=bool)
    given = CompetitorInput(correlation, ring(120), None, everywhere, list, list)
    return FAST_COMPETITORS[name](given, 4, 108)


@pytest.mark.parametrize("name", NAMES)
def test_every_competitor_finds_strong_networks(name: str) -> None:
    correlation, truth = planted(noise=1.0)
    found = labels_of(name, correlation)
    assert found.dtype == np.int32
    assert mean_dice(found, truth) > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_no_competitor_finds_networks_in_noise(name: str) -> None:
    correlation = np.corrcoef(np.random.default_rng(1).normal(size=(120, 300)))
    truth = planted(noise=1.0)[1]
    assert mean_dice(labels_of(name, correlation), truth) < 0.6


@pytest.mark.parametrize("name", NAMES)
def test_competitors_repeat_themselves(name: str) -> None:
    correlation, _ = planted(noise=3.0)
    first, second = (labels_of(name, correlation) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_ward_makes_connected_networks_even_of_noise() -> None:
    graph = sp.csr_array(sp.block_diag([ring(60), ring(60)]))  # two hemispheres
    found = ward_parcellation(np.random.default_rng(2).normal(size=(120, 10)), 9, graph)
    assert len(np.unique(found)) == 9
    assert (spatial_contiguity(found, graph).pieces == 1).all()


def test_ward_is_scikit_learns_on_a_mesh_in_one_piece() -> None:
    features = np.random.default_rng(8).normal(size=(80, 4))
    model = AgglomerativeClustering(6, linkage="ward", connectivity=ring(80)).fit(features)
    assert mean_dice(ward_parcellation(features, 6, ring(80)), model.labels_) == 1.0


def test_ward_needs_a_network_for_every_hemisphere() -> None:
    graph = sp.csr_array(sp.block_diag([ring(10), ring(10)]))
    with pytest.raises(SettingsError, match="n_clusters"):
        ward_parcellation(np.eye(20), 1, graph)


def test_principal_components_reproduce_a_matrix_of_low_rank() -> None:
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 50))
    scores = pca_features(matrix, 3)
    centred = matrix - matrix.mean(axis=0)
    np.testing.assert_allclose(scores @ scores.T, centred @ centred.T, atol=1e-8)


def test_what_a_competitor_gets_is_smoothed_and_as_clean_as_our_matrix(surface, rng) -> None:
    mask = ~surface.medial_wall
    correlation = np.corrcoef(rng.normal(size=(surface.n_vertices, 40)))
    raw, cleaned = (
        competitor_input(correlation, mask, surface, 14.0, cleaned=c, runs=lambda: [correlation])
        for c in (False, True)
    )
    weights = gaussian_weights(surface, 14 / np.sqrt(8 * np.log(2))).toarray()[np.ix_(mask, mask)]
    averages = weights / weights.sum(axis=1, keepdims=True)
    inside = correlation[np.ix_(mask, mask)]
    np.testing.assert_allclose(raw.matrix, averages @ inside @ averages.T, atol=1e-5)
    hollow = averages @ (inside - np.diag(np.diag(inside))) @ averages.T
    side = surface.hemisphere[mask]
    expected = np.where(side[:, None] == side, hollow, 0)
    np.testing.assert_allclose(cleaned.matrix, expected, atol=1e-5)
    assert raw.runs()[0].shape == correlation.shape


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(SettingsError, match="pip install umap-learn"):
        umap_features(np.eye(20), 2)


@pytest.mark.slow  # compiles for seconds
def test_umap_separates_strong_networks() -> None:
    pytest.importorskip("umap", reason="umap-learn is not installed")
    correlation, truth = planted(noise=0.5)
    features = umap_features(correlation, 2)
    centres = np.array([features[truth == k].mean(axis=0) for k in range(4)])
    nearest = np.linalg.norm(features[:, None] - centres, axis=2).argmin(axis=1)
    assert mean_dice(nearest, truth) > 0.95


def test_tensor_loadings_span_an_exact_decomposition() -> None:
    pytest.importorskip("tensorly", reason="tensorly is not installed")
    rng = np.random.default_rng(4)
    a, c = rng.random((30, 3)), rng.random((5, 3))
    loadings = tensor_features(np.einsum("ir,jr,kr->ijk", a, a, c), 3, max_iterations=500)
    fit = a @ np.linalg.lstsq(a, loadings, rcond=None)[0]
    np.testing.assert_allclose(fit, loadings, atol=0.02 * np.abs(loadings).max())
