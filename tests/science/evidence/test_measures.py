"""Measures against known answers and against plain definitions."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from sklearn.metrics import adjusted_rand_score, silhouette_score

from trend_dagster.errors import InputError
from trend_dagster.science.evidence.measures import (
    adjusted_rand_index,
    dice_per_network,
    distance_controlled_boundary_coefficient,
    functional_homogeneity,
    functional_silhouette,
    iou_per_network,
    match_labels,
    mean_dice,
    mean_iou,
    network_correlations,
    normalized_mutual_information,
    renumbered,
    replaced_networks,
    spatial_contiguity,
)


def plain_dice(found: np.ndarray, truth: np.ndarray) -> list[float]:
    """Dice of equal names, by the definition."""
    return [
        2 * ((found == k) & (truth == k)).sum() / max((found == k).sum() + (truth == k).sum(), 1)
        for k in np.unique(truth[truth >= 0])
    ]


@pytest.mark.parametrize("seed", range(5))
def test_matching_is_the_best_of_all_renamings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 60)
    found = np.where(rng.random(60) < 0.5, (truth + 1) % 4, rng.integers(0, 4, 60))
    best = max(np.mean(plain_dice(np.array(p)[found], truth)) for p in permutations(range(4)))
    assert mean_dice(found, truth) == pytest.approx(best)
    assert np.mean(plain_dice(match_labels(found, truth), truth)) == pytest.approx(best)


def test_renamed_networks_are_perfect() -> None:
    truth = np.random.default_rng(0).integers(0, 7, 200)
    found = np.random.default_rng(1).permutation(7)[truth] + 20
    np.testing.assert_array_equal(match_labels(found, truth), truth)
    assert mean_dice(found, truth) == mean_iou(found, truth) == 1.0
    assert adjusted_rand_index(found, truth) == pytest.approx(1.0)
    assert normalized_mutual_information(found, truth) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(3))
def test_networks_keep_the_numbers_of_those_they_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = np.where(rng.random(500) < 0.1, -1, rng.integers(0, 6, 500))
    moved = np.where(rng.random(500) < 0.2, rng.integers(0, 6, 500), before)
    shuffled = np.where(moved < 0, -1, rng.permutation(6)[moved])
    found = renumbered(shuffled, before)
    np.testing.assert_array_equal(found, moved)
    assert adjusted_rand_score(found, shuffled) == 1
    # More networks than before: the others take the numbers that are left.
    more = np.where(rng.random(500) < 0.3, 6 + rng.integers(0, 2, 500), shuffled)
    assert set(renumbered(more, before)) == set(more)
    assert adjusted_rand_score(renumbered(more, before), more) == 1


def test_known_overlap() -> None:
    truth = np.array([0, 0, 0, 0, 1, 1])
    found = np.array([5, 5, 5, 3, 3, 3])
    np.testing.assert_allclose(dice_per_network(found, truth), [6 / 7, 4 / 5])
    np.testing.assert_allclose(iou_per_network(found, truth), [3 / 4, 2 / 3])


def test_unmatched_networks_get_new_names_and_missing_ones_count_as_zero() -> None:
    truth = np.array([0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(
        match_labels(np.array([9, 9, 9, 9, 9, 4]), truth) >= 0, np.ones(6, bool)
    )
    assert sorted(dice_per_network(np.zeros(6, int), truth)) == [0, 0, pytest.approx(0.5)]
    finer = np.array([0, 1, 2, 2, 3, 4])
    matched = match_labels(finer, truth)
    assert set(matched) == {0, 1, 2, 3, 4}
    assert mean_dice(finer, truth) == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)


def test_vertices_without_signal_do_not_count() -> None:
    rng = np.random.default_rng(3)
    truth, found = rng.integers(0, 5, 100), rng.integers(0, 5, 100)
    outside = rng.random(100) < 0.2
    walled_truth, walled_found = np.where(outside, -1, truth), found.copy()
    walled_found[outside & (rng.random(100) < 0.5)] = -1
    for measure in (mean_dice, mean_iou, adjusted_rand_index, normalized_mutual_information):
        expected = measure(found[~outside], truth[~outside])
        assert measure(walled_found, walled_truth) == pytest.approx(expected)
    assert (match_labels(walled_found, walled_truth)[walled_found < 0] == -1).all()


def test_unrelated_parcellations_agree_by_chance_only() -> None:
    rng = np.random.default_rng(4)
    truth, found = rng.integers(0, 6, 5000), rng.integers(0, 6, 5000)
    assert abs(adjusted_rand_index(found, truth)) < 0.01
    assert mean_dice(found, truth) < 0.25


@pytest.mark.parametrize(
    ("found", "truth"),
    [(np.zeros(3, int), np.zeros(4, int)), (np.array([-1, 0]), np.array([0, -1]))],
)
def test_incomparable_parcellations_are_refused(found: np.ndarray, truth: np.ndarray) -> None:
    with pytest.raises(InputError, match="parcellations to compare"):
        mean_dice(found, truth)


def random_correlation(n: int, seed: int) -> np.ndarray:
    return np.corrcoef(np.random.default_rng(seed).normal(size=(n, 12)))


def test_pieces_of_networks_on_a_chain() -> None:
    chain = sp.csr_array(sp.diags_array(np.ones(9), offsets=1, shape=(10, 10)))
    labels = np.array([3, 3, 3, 0, 0, 3, -1, 3, 0, 3])
    found = spatial_contiguity(labels, sp.csr_array(chain + chain.T))
    np.testing.assert_array_equal(found.networks, [0, 3])
    np.testing.assert_array_equal(found.pieces, [2, 4])
    np.testing.assert_allclose(found.share_in_largest, [2 / 3, 3 / 6])


@pytest.mark.parametrize("seed", range(3))
def test_network_correlations_are_means_over_pairs(seed: int) -> None:
    correlation = random_correlation(40, seed)
    labels = np.random.default_rng(seed).integers(-1, 4, 40)
    found = network_correlations(correlation, labels)
    for i in range(4):
        for j in range(4):
            pairs = [
                correlation[a, b]
                for a in np.flatnonzero(labels == i)
                for b in np.flatnonzero(labels == j)
                if a != b
            ]
            assert found[i, j] == pytest.approx(np.mean(pairs))
    sizes = np.bincount(labels[labels >= 0])
    assert functional_homogeneity(correlation, labels) == pytest.approx(
        np.average(np.diag(found), weights=sizes)
    )


def test_a_network_of_one_vertex_has_no_homogeneity() -> None:
    correlation, labels = random_correlation(7, 0), np.array([0, 1, 1, 1, 2, 2, 2])
    found = network_correlations(correlation, labels)
    assert np.isnan(found[0, 0])
    expected = np.mean([found[1, 1], found[2, 2]])
    assert functional_homogeneity(correlation, labels) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_silhouette_is_scikit_learns(seed: int) -> None:
    correlation = random_correlation(60, seed)
    labels = np.random.default_rng(seed).integers(-1, 5, 60)
    labels[:1] = 9  # a network of one vertex
    inside = labels >= 0
    distance = 1 - correlation[np.ix_(inside, inside)]
    np.fill_diagonal(distance, 0)
    expected = silhouette_score(distance, labels[inside], metric="precomputed")
    assert functional_silhouette(correlation, labels) == pytest.approx(expected)


def test_boundary_coefficient_is_its_definition() -> None:
    rng = np.random.default_rng(5)
    n = 40
    correlation, labels = random_correlation(n, 5), rng.integers(-1, 3, n)
    place = rng.uniform(0, 20, size=(n, 2))
    full = np.linalg.norm(place[:, None] - place, axis=2)
    near = sp.csr_array(np.where(full <= 9.0, full, 0))
    numerator = denominator = 0.0
    for low in range(0, 9, 2):
        within, across = [], []
        for i in range(n):
            for j in range(i):
                if min(labels[i], labels[j]) >= 0 and low < full[i, j] <= min(low + 2, 9):
                    (within if labels[i] == labels[j] else across).append(correlation[i, j])
        if within and across:
            weight = 1 / (1 / len(within) + 1 / len(across))
            numerator += weight * (np.mean(within) - np.mean(across))
            denominator += weight
    found = distance_controlled_boundary_coefficient(correlation, labels, near, bin_width=2.0)
    assert found == pytest.approx(numerator / denominator)


def test_boundary_coefficient_does_not_reward_compactness() -> None:
    """On data that is smooth and nothing else, homogeneity rewards parcels, DCBC does not."""
    rng = np.random.default_rng(6)
    position = np.arange(300)
    apart = np.abs(position[:, None] - position).astype(float)
    distances = sp.csr_array(np.where(apart <= 35, apart, 0))
    kernel = np.exp(-(apart**2) / (2 * 5.0**2))
    correlation = np.corrcoef(kernel @ rng.normal(size=(300, 4000)))
    parcels = position // 30
    scattered = rng.permutation(parcels)
    gain = functional_homogeneity(correlation, parcels)
    assert gain > functional_homogeneity(correlation, scattered) + 0.2
    coefficient = distance_controlled_boundary_coefficient(correlation, parcels, distances)
    assert abs(coefficient) < 0.02
    networks = correlation + 0.3 * (parcels[:, None] == parcels)
    assert distance_controlled_boundary_coefficient(networks, parcels, distances) == pytest.approx(
        0.3 + coefficient
    )


def test_boundary_coefficient_of_one_network_is_not_a_number() -> None:
    distances = sp.csr_array(np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert np.isnan(
        distance_controlled_boundary_coefficient(np.eye(2), np.zeros(2, int), distances)
    )


def test_a_matrix_on_disk_gives_the_same(tmp_path: Path) -> None:
    correlation = random_correlation(1500, 7)  # more than one stripe
    labels = np.random.default_rng(7).integers(-1, 6, 1500)
    stored = zarr.create_array(tmp_path / "c", data=correlation, chunks=(400, 400))
    for measure in (functional_homogeneity, functional_silhouette):
        assert measure(stored, labels) == pytest.approx(measure(correlation, labels))
    inside = np.flatnonzero(labels >= 0)
    distance = 1 - correlation[np.ix_(inside, inside)]
    np.fill_diagonal(distance, 0)
    expected = silhouette_score(distance, labels[inside], metric="precomputed")
    assert functional_silhouette(stored, labels) == pytest.approx(expected)


def test_boundary_coefficient_is_the_reference_formula() -> None:
    """As the authors' toolbox computes it, from time series: mean covariance over mean variance.

    Both orders of every pair, bins of 1 mm up to 35 mm, weights normalised over bins. For
    standardised series that ratio is the mean correlation.
    """
    rng = np.random.default_rng(11)
    n = 60
    labels = rng.integers(0, 4, n)
    series = rng.normal(size=(4, 50))[labels] + 2 * rng.normal(size=(n, 50))
    series -= series.mean(axis=1, keepdims=True)
    series /= np.sqrt(np.square(series).sum(axis=1, keepdims=True) / 49)
    place = rng.uniform(0, 30, size=(n, 2))
    apart = np.linalg.norm(place[:, None] - place, axis=2)
    differences, weights = [], []
    for low in range(35):
        within, across = ([], []), ([], [])
        for i in range(n):
            for j in range(n):
                if i != j and low < apart[i, j] <= low + 1:
                    covariances, variances = within if labels[i] == labels[j] else across
                    covariances.append(series[i] @ series[j] / 49)
                    variances.append(
                        np.sqrt(series[i] @ series[i] / 49) * np.sqrt(series[j] @ series[j] / 49)
                    )
        if within[0] and across[0]:
            differences.append(
                np.mean(within[0]) / np.mean(within[1]) - np.mean(across[0]) / np.mean(across[1])
            )
            weights.append(1 / (1 / len(within[0]) + 1 / len(across[0])))
    expected = np.sum(np.array(differences) * weights / np.sum(weights))
    near = sp.csr_array(np.where(apart <= 35, apart, 0))
    found = distance_controlled_boundary_coefficient(np.corrcoef(series), labels, near)
    assert found == pytest.approx(expected)


def test_one_network_alone_has_no_silhouette(rng: np.random.Generator) -> None:
    correlation = np.corrcoef(rng.standard_normal((6, 30)))
    assert np.isnan(functional_silhouette(correlation, np.zeros(6, dtype=int)))


def test_a_name_whose_network_shares_less_than_half_stands_for_another():
    before = np.repeat([0, 1, 2, 3, -1], 10)
    found = before.copy()
    found[10:14] = 0  # a Dice of 0.75, and 0 has grown
    assert replaced_networks(before, found) == []
    found[14:18] = 0
    assert replaced_networks(before, found) == [1]
    found[before == 3] = 2
    assert replaced_networks(before, found) == [1, 3]
    assert replaced_networks(before, before) == []
