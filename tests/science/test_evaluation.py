"""Measures against known answers and against plain definitions."""

from itertools import permutations

import numpy as np
import pytest

from trend_dagster.errors import InputError
from trend_dagster.science.evaluation import (
    adjusted_rand_index,
    dice_per_network,
    iou_per_network,
    match_labels,
    mean_dice,
    mean_iou,
    normalized_mutual_information,
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
