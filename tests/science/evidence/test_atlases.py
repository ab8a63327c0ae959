"""Networks beside an atlas: compared by a plain count, and with parcellations turned at random."""

from __future__ import annotations

import numpy as np
import pytest

from trend_dagster.science.evidence.atlases import all_overlaps, best_overlaps
from trend_dagster.science.evidence.nulls import turned, turns
from trend_dagster.science.surface import cut_into_labels


def counted(found, atlas, hemisphere, network):
    """Dice of one network with each of the atlas, by sets of vertices."""
    own = set(np.flatnonzero(found == network))
    sides = {int(hemisphere[v]) for v in own}
    shares = {side: np.mean([hemisphere[v] == side for v in own]) for side in sides}
    if max(shares.values(), default=0) > 0.9:
        sides = {max(shares, key=shares.get)}
    inside = {v for v in range(len(found)) if hemisphere[v] in sides and found[v] >= 0}
    own &= inside
    theirs = [set(np.flatnonzero(atlas == a)) & inside for a in range(atlas.max() + 1)]
    return [2 * len(own & t) / (len(own) + len(t)) if own or t else 0.0 for t in theirs]


def test_the_best_overlap_is_that_of_a_plain_count(rng):
    hemisphere = np.repeat([0, 1], [70, 50])
    for _ in range(5):
        found = rng.integers(-1, 6, 120)
        found[(found == 2) & (hemisphere == 1)] = -1  # one of one hemisphere
        found[np.flatnonzero(hemisphere == 1)[0]] = 2  # but for a stray vertex
        atlas = rng.integers(-1, 4, 120)
        overlaps = best_overlaps(found, atlas, hemisphere)
        for network in range(6):
            dice = counted(found, atlas, hemisphere, network)
            assert overlaps.dice[network] == pytest.approx(max(dice))
            assert dice[overlaps.best[network]] == pytest.approx(max(dice))
        assert np.isnan(overlaps.p).all()


def test_half_of_a_network_of_both_hemispheres_overlaps_it_wholly(surface):
    atlas = cut_into_labels(surface, 4) % 4
    found = atlas + 4 * surface.hemisphere
    overlaps = best_overlaps(found, atlas, surface.hemisphere, turns(surface, 39, 1))
    assert overlaps.best.tolist() == [0, 1, 2, 3] * 2
    np.testing.assert_allclose(overlaps.dice, 1)
    np.testing.assert_allclose(overlaps.p, 1 / 40)


def test_a_network_elsewhere_overlaps_by_chance(surface):
    atlas = cut_into_labels(surface, 6)
    spun = [turned(atlas, next(turns(surface, 1, seed))) for seed in range(6)]
    p = [best_overlaps(s, atlas, surface.hemisphere, turns(surface, 19, 2)).p for s in spun]
    assert 0.3 < np.mean(p) < 0.7  # as likely as any other


def test_parcellations_of_other_sizes_stand_in_one_array(rng):
    hemisphere, atlas = np.repeat([0, 1], 20), rng.integers(0, 3, 40)
    found = [np.r_[rng.integers(0, n, 39), n - 1] for n in (3, 5)]
    arrays = all_overlaps(found, [atlas], hemisphere)
    assert arrays["best"].shape == (2, 1, 5)
    assert (arrays["best"][0, 0, 3:] == -1).all()
    assert np.isnan(arrays["dice"][0, 0, 3:]).all()
    alone = best_overlaps(found[1], atlas, hemisphere)
    np.testing.assert_array_equal(arrays["dice"][1, 0], alone.dice)
