"""Competitors are what their names say, and find what is plainly there."""

import sys

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.cluster import AgglomerativeClustering

from trend_dagster.errors import SettingsError
from trend_dagster.science.evidence.competitors import (
    competitors,
    pca_features,
    smooth_along_surface,
    tensor_features,
    umap_features,
    ward_parcellation,
)
from trend_dagster.science.evidence.measures import mean_dice, spatial_contiguity

NAMES = [
    "KMeans",
    "PCA, KMeans",
    "Ward on the mesh",
    "PCA, Ward on the mesh",
    "Spectral",
    "NMF, largest loading",
]


def ring(n: int) -> sp.csr_array:
    step = sp.csr_array(sp.diags_array([1.0, 1.0], offsets=[1, n - 1], shape=(n, n)))
    return sp.csr_array(step + step.T)


def planted(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four networks on a ring of 120 vertices."""
    rng = np.random.default_rng(seed)
    truth = np.repeat([0, 1, 2, 3], [20, 30, 30, 40])
    signals = rng.normal(size=(4, 300))[truth]
    return np.corrcoef(signals + noise * rng.normal(size=signals.shape)), truth


@pytest.mark.parametrize("name", NAMES)
def test_every_competitor_finds_strong_networks(name: str) -> None:
    correlation, truth = planted(noise=1.0)
    found = competitors(correlation, 4, ring(120))[name]()
    assert found.dtype == np.int32
    assert mean_dice(found, truth) > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_no_competitor_finds_networks_in_noise(name: str) -> None:
    correlation = np.corrcoef(np.random.default_rng(1).normal(size=(120, 300)))
    truth = planted(noise=1.0)[1]
    assert mean_dice(competitors(correlation, 4, ring(120))[name](), truth) < 0.6


@pytest.mark.parametrize("name", NAMES)
def test_competitors_repeat_themselves(name: str) -> None:
    correlation, _ = planted(noise=3.0)
    first, second = (competitors(correlation, 4, ring(120))[name]() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_all_competitors_are_tested() -> None:
    assert list(competitors(np.eye(3), 2, ring(3))) == NAMES


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


def test_smoothing_is_symmetric_and_keeps_constants() -> None:
    correlation, _ = planted(noise=2.0)
    weights = sp.csr_array(ring(120) + sp.eye_array(120))
    smooth = smooth_along_surface(correlation, weights)
    np.testing.assert_allclose(smooth, smooth.T, atol=1e-12)
    averages = weights.toarray() / 3
    np.testing.assert_allclose(smooth, averages @ correlation @ averages.T)
    np.testing.assert_allclose(smooth_along_surface(np.full((120, 120), 0.3), weights), 0.3)


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
