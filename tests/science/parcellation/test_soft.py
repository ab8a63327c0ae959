"""Soft maps and voxels, beside the same computed in full."""

from __future__ import annotations

import numpy as np

from trend_dagster.science.parcellation.soft import follow_networks, network_probability


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
