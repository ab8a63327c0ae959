"""Soft maps and voxels, beside the same computed in full."""

from __future__ import annotations

import numpy as np

from trend_dagster.science.parcellation.soft import (
    follow_networks,
    most_followed,
    network_probability,
)


def test_probabilities_are_means_of_the_whole_product(rng):
    W, H = rng.random((40, 5)), rng.random((5, 40))
    labels = rng.integers(-1, 4, 40)
    W[7] = 0  # loads on nothing
    whole = W @ H
    means = np.stack([whole[:, labels == k].mean(axis=1) for k in range(4)], axis=1)
    expected = means / np.where(means.sum(axis=1) > 0, means.sum(axis=1), 1)[:, None]
    expected[labels < 0] = 0
    found = network_probability(W, H, labels)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[7].sum() == 0
    inside = (labels >= 0) & W.any(axis=1)
    np.testing.assert_allclose(found[inside].sum(axis=1), 1, atol=1e-6)


def test_voxels_follow_networks_as_numpy_correlates_them(rng):
    labels = np.repeat([-1, 0, 1, 3], 10)  # no vertex has network 2
    signal = rng.normal(1000, 5, (40, 60)).astype(np.float32)
    voxels = rng.normal(900, 5, (6, 60))
    voxels[2] = 7.3  # constant
    found = follow_networks(voxels, signal, labels)
    for k in (0, 1, 3):
        mean = signal[labels == k].mean(axis=0, dtype=float)
        for v in (0, 1, 3, 4, 5):
            np.testing.assert_allclose(found[v, k], np.corrcoef(voxels[v], mean)[0, 1], atol=1e-9)
    assert np.isnan(found[2]).all()
    assert np.isnan(found[:, 2]).all()


def test_a_voxel_goes_to_the_network_it_follows_most_on_average_over_runs():
    nan = np.nan
    two = [[[0.9, 0.1], [0.2, 0.3], [nan, nan]], [[0.1, 0.2], [0.0, 0.7], [nan, nan]]]
    three = [[[0.1, 0.2, 0.3], [nan, nan, nan], [0.5, 0.1, nan]]] * 2
    runs = [[np.array(a), np.array(b)] for a, b in zip(two, three, strict=True)]
    labels, correlation = most_followed(runs)
    assert labels.tolist() == [[0, 1, -1], [2, -1, 0]]
    np.testing.assert_allclose(correlation[0, 0], [0.5, 0.15, nan])
    np.testing.assert_allclose(correlation[1, 2], [0.5, 0.1, nan])
