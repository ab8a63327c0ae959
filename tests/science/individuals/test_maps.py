"""Newborns choose their cohort's map, and exchange the networks that it lacks."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.special import logsumexp

from tests.science.individuals.conftest import CONFIG, Newborns, agreement
from trend_dagster.science.evidence.measures import mean_dice, renumbered, replaced_networks
from trend_dagster.science.individuals.maps import (
    MOST_EXCHANGES,
    Followed,
    _exchanges,
    best_map,
    choose_maps,
    follow_maps,
)
from trend_dagster.science.individuals.model import (
    UNDECIDED,
    Cortex,
    Load,
    Others,
    at_sample,
    possible_networks,
    turns,
)
from trend_dagster.science.individuals.newborn import CohortPrior


def loads_of(varied: Newborns) -> list[Load]:
    return [lambda runs=runs: runs for runs in varied.runs]


def lacking_a_network(labels: np.ndarray, gone: int, cut: int, cortex: Cortex) -> np.ndarray:
    """Give a network's vertices to the one beside it, and its number to a half of another one."""
    found, rows = labels.copy(), np.flatnonzero(labels == gone)
    distances = cortex.distances.toarray()
    distances = np.where(distances > 0, distances, np.inf)
    distances[:, rows] = np.inf
    found[rows] = labels[distances[rows].argmin(axis=1)]
    members = np.flatnonzero(labels == cut)
    x = np.asarray(cortex.smoother @ np.arange(len(labels)))[members]
    found[members[x > np.median(x)]] = gone
    return found


def lacking(labels: np.ndarray, right: np.ndarray) -> list[int]:
    """Networks that a map does not have, whatever their numbers."""
    return replaced_networks(right, renumbered(labels, right))


def small_and_large(labels: np.ndarray, sides: Sequence[int]) -> tuple[int, int]:
    """The smallest network of one hemisphere (0 to 3 lie in the left one), the largest of one."""
    sizes = np.bincount(labels).reshape(2, 4)
    small, large = sizes[sides[0]].argmin(), sizes[sides[1]].argmax()
    return int(4 * sides[0] + small), int(4 * sides[1] + large)


def test_newborns_tell_that_a_map_lacks_a_network(varied: Newborns) -> None:
    cortex, right = varied.cortex, varied.cohort
    gone, cut = small_and_large(right, (0, 0))
    wrong = lacking_a_network(right, gone, cut, cortex)
    assert (wrong != right).mean() > 0.05
    order = np.random.default_rng(0).permutation(8)  # other maps have numbers of their own
    newborns = dict(zip("0123", loads_of(varied), strict=True))

    def learn(chosen: np.ndarray, other: np.ndarray, several: bool = True) -> CohortPrior:
        others = {8: [cortex.whole(other)]} if several else {}
        chosen = cortex.whole(chosen)
        return CohortPrior.learn(newborns, {8: chosen}, cortex, CONFIG, other_maps=others)

    misled, led = learn(wrong, order[right], several=False), learn(wrong, order[right])
    assert (misled.started_from, led.started_from) == ((0,), (1,))
    assert (misled.changed, led.changed) == ([False], [True])
    unchanged = learn(right, wrong)
    assert (unchanged.started_from, unchanged.n_exchanged) == ((0,), (0,))
    # What both maps have keeps its number; of the others each has that which it overlaps most.
    kept = np.isin(right, [k for k in range(8) if k not in (gone, cut)])
    assert agreement(led.everyone[0].labels[kept], right[kept]) > 0.85
    dice = [mean_dice(prior.everyone[0].labels, right) for prior in (misled, led)]
    assert dice[1] > dice[0]
    alone = learn(renumbered(order[right], wrong), wrong, several=False)
    np.testing.assert_array_equal(led.everyone[0].total, alone.everyone[0].total)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, 0), (1, 1)),  # each map lacks a network in another hemisphere
        ((0, 1), (1, 0)),  # and gives its number to the other one, which then has five
    ],
)
def test_networks_of_two_maps_that_lack_one_each_are_put_together(
    varied: Newborns, first: tuple[int, int], second: tuple[int, int]
) -> None:
    cortex, right = varied.cortex, varied.cohort
    order = np.random.default_rng(0).permutation(8)
    one = lacking_a_network(right, *small_and_large(right, first), cortex)
    other = order[lacking_a_network(right, *small_and_large(right, second), cortex)]
    maps = [cortex.whole(one), renumbered(cortex.whole(other), cortex.whole(one))]
    told: list[tuple[int, int]] = []
    loaded: list[int] = []

    def load(i: int) -> Load:
        return lambda: loaded.append(i) or varied.runs[i]

    newborns = [load(i) for i in range(4)]
    (found,) = choose_maps(newborns, [maps], cortex, CONFIG, lambda *of: told.append(of))
    assert len(lacking(one, right)) == len(lacking(other, right)) == 1
    assert not lacking(found.labels[cortex.mask], right)
    before = max(mean_dice(each, right) for each in (one, other))
    assert mean_dice(found.labels[cortex.mask], right) > before + 0.02
    assert found.n_exchanged >= 1
    possible = possible_networks(found.labels[cortex.mask], cortex.hemisphere)
    assert np.unique(possible.sum(axis=1)).tolist() == [4]
    # Each newborn is wanted once for the maps, and once for what is tried in their place.
    rounds = len(loaded) // 4
    assert found.n_exchanged < rounds <= 1 + MOST_EXCHANGES
    assert loaded == [0, 1, 2, 3] * rounds
    assert told == [(done, 4 * (1 + MOST_EXCHANGES)) for done in range(4 * rounds)]


def test_exchanges_are_ranked_by_what_newborns_would_tell(varied: Newborns) -> None:
    cortex, right = varied.cortex, varied.cohort
    one = lacking_a_network(right, *small_and_large(right, (0, 1)), cortex)
    other = lacking_a_network(right, *small_and_large(right, (1, 0)), cortex)
    maps = [cortex.whole(one), cortex.whole(other)]
    current, donor = follow_maps(loads_of(varied), maps, cortex, CONFIG)

    def told(networks: list[tuple[Followed, int]]) -> tuple[np.ndarray, np.ndarray]:
        prior = np.stack([f.prior[:, k] for f, k in networks], axis=1).astype(np.float64)
        n_possible = (prior > 0).sum(axis=1)
        each, own = [], np.zeros(prior.shape)
        for person in range(len(varied.runs)):
            nats = np.stack([f.evidence[person, :, k] for f, k in networks], axis=1)
            nats = np.where(prior > 0, nats.astype(np.float64), -np.inf)
            alone = nats - logsumexp(nats, axis=1, keepdims=True)
            with np.errstate(divide="ignore"):
                both = nats + CONFIG.prior_weight * np.log(prior)
            both = np.exp(both - logsumexp(both, axis=1, keepdims=True))
            own += both
            value = (both * np.where(prior > 0, alone, 0)).sum(axis=1)
            each.append((value + np.log(n_possible / n_possible.mean())).mean())
        return np.array(each), own.argmax(axis=1)

    before, _ = told([(current, k) for k in range(8)])
    expected = []
    for leaving in range(8):
        for joining in range(8):
            networks = [(current, k) for k in range(8)]
            networks[leaving] = donor, joining
            after, labels = told(networks)
            gain = after - before
            if gain.mean() > gain.std(ddof=1) / 2:
                expected.append((gain.mean(), labels))
    expected.sort(key=lambda found: -found[0])
    found = list(_exchanges(current, [current, donor], CONFIG))
    assert 2 <= len(found) <= len(expected)  # those that are nearly the same are given once
    np.testing.assert_array_equal(found[0], expected[0][1])


def test_no_more_than_a_quarter_of_the_networks_become_others(
    varied: Newborns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map lacks three of eight; each of three others has one of them."""
    cortex, right = varied.cortex, varied.cohort
    pairs = [small_and_large(right, sides) for sides in ((0, 0), (1, 1))]
    sizes = np.bincount(right)
    left = [k for k in range(4) if k not in pairs[0]]
    pairs.append((min(left, key=sizes.__getitem__), max(left, key=sizes.__getitem__)))

    def without(some: list[tuple[int, int]]) -> np.ndarray:
        labels = right
        for gone, cut in some:
            labels = lacking_a_network(labels, gone, cut, cortex)
        return cortex.whole(labels)

    maps = [without(pairs), *(without(pairs[:i] + pairs[i + 1 :]) for i in range(3))]

    def replaced() -> int:
        (found,) = choose_maps(loads_of(varied), [maps], cortex, CONFIG)
        return len(replaced_networks(maps[0], found.labels))

    assert replaced() == 2
    monkeypatch.setattr("trend_dagster.science.individuals.maps._MOST_REPLACED", 1.0)
    assert replaced() == 3


def test_a_map_of_other_networks_is_not_looked_at(varied: Newborns) -> None:
    cortex, right = varied.cortex, varied.cohort
    turned = (right + np.arange(len(right))) % 8  # nothing of it is right
    newborns = dict(zip("0123", loads_of(varied), strict=True))
    told: list[tuple[int, int]] = []
    prior = CohortPrior.learn(
        newborns,
        {8: cortex.whole(turned)},
        cortex,
        CONFIG,
        lambda done, of: told.append((done, of)),
        other_maps={8: [cortex.whole(right)]},
    )
    assert (prior.started_from, prior.changed) == ((0,), [False])
    assert told[-1] == (11, 12)  # and not a fourth round over the four


def test_one_newborn_alone_does_not_choose_a_map(varied: Newborns) -> None:
    assert best_map(np.array([[0.1, 0.3]])) == 0
    assert best_map(np.array([[0.1, 0.3], [0.1, 0.2]])) == 1
    assert best_map(np.array([[0.1, 0.3], [0.2, 0.1]])) == 0  # they do not agree
    assert best_map(np.array([[0.2, 0.1, 0.3, 0.4], [0.2, 0.1, 0.3, 0.4]])) == 3
    assert best_map(np.array([[0.2, 0.2], [0.3, 0.3]])) == 0
    cortex, right = varied.cortex, varied.cohort
    wrong = lacking_a_network(right, *small_and_large(right, (0, 0)), cortex)
    maps = [cortex.whole(wrong), cortex.whole(right)]
    (found,) = choose_maps(loads_of(varied)[:1], [maps], cortex, CONFIG)
    assert (found.started_from, found.n_exchanged) == (0, 0)
    np.testing.assert_array_equal(found.labels, maps[0])


def test_maps_are_compared_by_what_the_evidence_alone_tells(varied: Newborns) -> None:
    cortex, runs = varied.cortex, varied.runs[:2]
    five = varied.cohort.copy()  # networks in the right hemisphere, and three in the left one
    five[five == 0] = 1
    x = np.asarray(cortex.smoother @ np.arange(len(five)))
    five[(five == 7) & (x > np.median(x[five == 7]))] = 0
    maps = [cortex.whole(varied.cohort), cortex.whole(five)]
    told: list[tuple[int, int]] = []
    loads = [lambda r=r: r for r in runs]
    found = follow_maps(loads, maps, cortex, CONFIG, lambda *of: told.append(of))
    assert told == [(0, 2), (1, 2)]
    few = CONFIG.model_copy(update={"iterations": 2})
    for labels, followed in zip(maps, found, strict=True):
        possible = possible_networks(labels[cortex.mask], cortex.hemisphere)
        np.testing.assert_array_equal(followed.prior > 0, possible)
        for pair, value, evidence in zip(runs, followed.told, followed.evidence, strict=True):
            others = Others.from_map(labels, cortex, CONFIG)
            one = turns(pair, others.prior(few), cortex, few, None, UNDECIDED)
            nats = one.weight * one.correlation
            np.testing.assert_allclose(evidence[possible], nats[possible], rtol=1e-3, atol=1e-3)
            expected = 0.0
            for p, r, can in zip(one.probability, one.correlation, possible, strict=True):
                logits = one.weight * r[can].astype(np.float64)
                own = p[can] @ (logits - logsumexp(logits))
                expected += (own + np.log(can.sum() / possible.sum(axis=1).mean())) / len(possible)
            assert value == pytest.approx(expected, rel=1e-4)
    assert np.unique((found[1].prior > 0).sum(axis=1)).tolist() == [3, 5]


def test_on_a_fine_mesh_some_vertices_choose_for_all(varied: Newborns) -> None:
    fine, right = Cortex.along(varied.surface, varied.cortex.mask, CONFIG, 5.2), varied.cohort
    chosen, _ = fine.sample
    assert len(chosen) < 0.5 * len(right)
    np.testing.assert_array_equal(fine.from_sample(right[chosen])[fine.mask][chosen], right[chosen])
    assert agreement(fine.from_sample(right[chosen])[fine.mask], right) > 0.9
    one, other = (
        lacking_a_network(right, *small_and_large(right, sides), varied.cortex)
        for sides in ((0, 0), (1, 1))
    )
    maps = [fine.whole(one), fine.whole(other)]
    sampled = [at_sample(runs, fine) for runs in varied.runs]
    assert [len(run.series) for run in sampled[0]] == [len(chosen)] * 2
    (found,) = choose_maps([lambda r=r: r for r in sampled], [maps], fine, CONFIG)
    assert not lacking(found.labels[fine.mask], right)


def test_on_a_coarse_mesh_all_vertices_are_the_sample(varied: Newborns) -> None:
    cortex = varied.cortex
    assert at_sample(varied.runs[0], cortex) is varied.runs[0]
    np.testing.assert_array_equal(cortex.from_sample(varied.cohort), cortex.whole(varied.cohort))
