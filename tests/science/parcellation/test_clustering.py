"""Every metric agrees with scikit-learn, or with the tutorial's loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import davies_bouldin_score, silhouette_score

from tests.science.parcellation.test_factorization import networks
from trend_dagster.science.connectivity.thresholding import threshold_by_label
from trend_dagster.science.parcellation.clustering import (
    cluster,
    count_distinct_rows,
    davies_bouldin,
    distance_sums,
    silhouette,
)
from trend_dagster.science.parcellation.settings import ClusteringConfig


def tutorial_within(matrix: np.ndarray, labels: np.ndarray) -> float:
    """Average, over clusters, the mean connectivity of the pairs inside; one vertex counts 0."""
    means = []
    for label in np.unique(labels):
        inside = matrix[np.ix_(labels == label, labels == label)]
        pairs = inside[np.triu_indices(len(inside), 1)]
        means.append(pairs.mean() if len(inside) > 1 else 0.0)
    return float(np.mean(means))


def tutorial_between(matrix: np.ndarray, labels: np.ndarray) -> float:
    """Average, over pairs of clusters, the mean connectivity between them."""
    unique = np.unique(labels)
    return float(
        np.mean(
            [
                matrix[np.ix_(labels == a, labels == b)].mean()
                for i, a in enumerate(unique)
                for b in unique[i + 1 :]
            ]
        )
    )


def problem(seed: int, n: int = 70, k: int = 5):
    rng = np.random.default_rng(seed)
    C = networks(n, 5, seed)
    mask = rng.random(n) > 0.15
    C = C * np.outer(mask, mask)
    matrix = threshold_by_label(C, rng.integers(0, 4, n), mask)
    W = (rng.random((n, k)) * (rng.random((n, k)) > 0.4)).astype(np.float32)
    W[~mask] = 0
    return C, matrix, W, mask


@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_metrics_agree_with_scikit_learn_and_the_tutorial(seed):
    C, matrix, W, mask = problem(seed)
    for found in cluster(matrix, W, (2, 7), full_correlation=C):
        fit = KMeans(found.n_clusters, n_init="auto", random_state=108).fit(W[mask])
        labels = found.labels[mask]
        np.testing.assert_array_equal(labels, fit.labels_)
        assert (found.labels[~mask] == -1).all()
        assert found.inertia == pytest.approx(fit.inertia_)
        assert found.silhouette == pytest.approx(silhouette_score(W[mask], labels), abs=1e-5)
        assert found.davies_bouldin == pytest.approx(davies_bouldin_score(W[mask], labels))
        np.testing.assert_array_equal(found.cluster_sizes, np.bincount(labels))
        X, full = matrix.to_dense()[np.ix_(mask, mask)], C[np.ix_(mask, mask)]
        within, between = tutorial_within(X, labels), tutorial_between(X, labels)
        assert found.within_connectivity == pytest.approx(within, rel=1e-4, abs=1e-6)
        assert found.between_connectivity == pytest.approx(between, rel=1e-4, abs=1e-6)
        assert found.connectivity_ratio == pytest.approx(within / between, rel=1e-4)
        within, between = tutorial_within(full, labels), tutorial_between(full, labels)
        assert found.full_within_connectivity == pytest.approx(within, rel=1e-4, abs=1e-6)
        assert found.full_between_connectivity == pytest.approx(between, rel=1e-4, abs=1e-6)
        assert not found.collapsed


@given(
    n=st.integers(3, 60),
    c=st.integers(2, 9),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_shared_silhouettes_agree_with_scikit_learn(n, c, dtype, seed):
    rng = np.random.default_rng(seed)
    # Coarse values, so that some points coincide.
    rows = rng.integers(0, 3, (n, 2)).astype(dtype)
    labelings = [rng.integers(0, m, n) for m in (c, 2)]
    for labels, score in zip(labelings, silhouette_scores(rows, labelings), strict=True):
        if 2 <= len(np.unique(labels)) <= n - 1:
            assert score == pytest.approx(silhouette_score(rows, labels), abs=1e-5)
        else:
            assert np.isnan(score)


def silhouette_scores(rows, labelings):
    """The silhouette of each labeling, all from one pass over the distances."""
    sums = distance_sums(rows, labelings)
    return [silhouette(s, labels) for s, labels in zip(sums, labelings, strict=True)]


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_davies_bouldin_of_one_cluster_or_of_none_together_is_not_defined(labels):
    assert np.isnan(davies_bouldin(np.eye(3), np.array(labels)))


def test_silhouette_over_many_tiles():
    rng = np.random.default_rng(0)
    rows = rng.random((1200, 9)).astype(np.float32)
    labels = rng.integers(0, 6, 1200)
    score = silhouette_scores(rows, [labels])[0]
    assert score == pytest.approx(silhouette_score(rows, labels), abs=1e-5)


def test_permuting_vertices_leaves_the_metrics_of_a_labelling():
    rng = np.random.default_rng(3)
    rows = rng.random((50, 4))
    labels = rng.integers(0, 5, 50)
    order = rng.permutation(50)
    a = silhouette_scores(rows, [labels])
    assert silhouette_scores(rows[order], [labels[order]]) == pytest.approx(a)


def test_collapse_is_named_and_stops_nothing():
    _, matrix, W, mask = problem(5)
    W[:] = 0
    W[np.flatnonzero(mask)[:3]] = np.arange(1, 4)[:, None]
    found = cluster(matrix, W, (3, 14))
    assert [f.distinct_rows for f in found] == [4, 4]
    assert [f.collapsed for f in found] == [False, True]
    assert found[1].n_found == 4
    assert found[1].cluster_sizes.sum() == mask.sum()
    assert len(found[1].cluster_sizes) == 14


def test_all_rows_alike_give_one_cluster_and_no_silhouette():
    _, matrix, W, _ = problem(6)
    found = cluster(matrix, np.zeros_like(W), (5,))[0]
    assert found.n_found == 1
    assert np.isnan([found.silhouette, found.davies_bouldin, found.between_connectivity]).all()
    assert found.collapsed


def test_more_clusters_than_vertices():
    matrix = threshold_by_label(networks(6, 2, 0), np.zeros(6))
    found = cluster(matrix, np.random.default_rng(0).random((6, 2)).astype(np.float32), (9,))[0]
    assert found.n_found == 6
    assert found.inertia == 0
    assert np.isnan(found.silhouette)


def test_nothing_between_clusters_makes_the_ratio_infinite():
    C = np.kron(np.eye(2), np.full((4, 4), 0.5)) + 0.5 * np.eye(8)
    labels = np.repeat([0, 1], 4)
    W = np.zeros((8, 2), np.float32)
    W[labels == 0, 0], W[labels == 1, 1] = 1, 1
    found = cluster(threshold_by_label(C, labels), W, (2,), full_correlation=C)[0]
    assert found.within_connectivity == pytest.approx(0.5)
    assert found.between_connectivity == 0
    assert found.connectivity_ratio == np.inf


def test_scaled_rows_cluster_by_mixture_not_by_strength():
    rng = np.random.default_rng(1)
    mixture = np.repeat(np.eye(3), 10, axis=0) + 0.01
    W = (mixture * rng.uniform(0.1, 10, (30, 1))).astype(np.float32)
    matrix = threshold_by_label(networks(30, 3, 1), np.zeros(30))
    labels = cluster(matrix, W, (3,), ClusteringConfig(scale_rows=True))[0].labels
    assert [len(np.unique(labels[i : i + 10])) for i in (0, 10, 20)] == [1, 1, 1]
    assert len(np.unique(labels)) == 3


def test_distinct_rows():
    W = np.array([[1, 2], [1, 2], [2, 1], [0, 0]], dtype=np.float32)
    assert count_distinct_rows(W) == 3
