"""Which map of a cohort its newborns follow: one of several, or one put together from them.

A cohort's map that lacks a network has another one cut in two in its place. The average over
newborns with borders of their own does not show that; the newborns do: the parts of a network have
the same series with more noise, so that nothing tells them apart, and the vertices of the one that
is lacking follow none. Other clusterings of the same average have that network and may lack others.
So newborns choose the map that they follow most closely, and then exchange its networks, one at a
time, for those of the other maps, as long as they follow the new map more closely.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from trend_dagster.science.cores import while_made
from trend_dagster.science.evidence.measures import renumbered, replaced_networks
from trend_dagster.science.individuals.model import (
    UNDECIDED,
    BoolArray,
    Cortex,
    FloatArray,
    Individual,
    Labels,
    Load,
    Others,
    PreparedRun,
    Progress,
    turns,
)
from trend_dagster.science.individuals.settings import IndividualsConfig

MOST_EXCHANGES = 4
_TURNS = 2
_ERRORS_TO_CHANGE = 1.0  # standard errors by which newborns must prefer another map
_MOST_REPLACED = 0.25  # of a map's networks: with more it is another parcellation
_TRIED = 3  # exchanges that are judged by turns, of those that promise most
_SAME = 0.01  # share of vertices in which two of them differ at least
_LOST = 0.04  # of the mean size of a network: a smaller one is none
_SCORED = 40_000  # vertices of all newborns by which exchanges are ranked, at most
_RECKONED = 1_000_000_000  # and times the exchanges: seconds of work


@dataclass(frozen=True, eq=False)
class Followed:
    """How newborns follow the networks of one map.

    Attributes
    ----------
    labels : ndarray of shape (n_vertices,)
        The map, at the vertices of `Cortex.sample`.
    prior : ndarray of shape (n_vertices, n_networks)
        What it says of newborns; 0 where a network is impossible.
    told : ndarray of shape (n_newborns,)
        Mean log probability (nats) of a vertex' own network by the evidence alone, as if each
        vertex had as many networks to be told from.
    evidence : ndarray of shape (n_newborns, n_vertices, n_networks), float16
        Nats for each network.
    """

    labels: Labels
    prior: FloatArray
    told: FloatArray
    evidence: NDArray[np.float16]


def follow_maps(
    newborns: Sequence[Load],
    maps: Sequence[Labels],
    cortex: Cortex,
    config: IndividualsConfig,
    progress: Progress = lambda done, of: None,
) -> list[Followed]:
    """Measure how well the evidence of newborns alone tells their networks, from each of some maps.

    Parameters
    ----------
    newborns : sequence of callable
        Each gives the runs of one newborn, and is called once: those of
        `trend_dagster.science.individuals.model.at_sample`.
    maps : sequence of ndarray of shape (n_vertices,)
        Maps of the cohort, on the whole mesh.
    cortex : Cortex
        The mesh, of which the sample is looked at.
    config : IndividualsConfig
        How.
    progress : callable
        Told before each newborn.

    Returns
    -------
    list of Followed
        One for each map.
    """
    chosen, sample = cortex.sample
    few = config.model_copy(update={"iterations": _TURNS})
    priors = [Others.from_map(m, cortex, config).at(chosen).prior(config) for m in maps]

    def loaded() -> Iterator[Sequence[PreparedRun]]:
        for number, load in enumerate(newborns):
            progress(number, len(newborns))
            yield load()

    def followed(runs: Sequence[PreparedRun]) -> list[tuple[float, NDArray[np.float16]]]:
        own = [turns(runs, prior, sample, few, None, UNDECIDED) for prior in priors]
        return [
            (_told(found, prior > 0), (found.weight * found.correlation).astype(np.float16))
            for found, prior in zip(own, priors, strict=True)
        ]

    of_maps = zip(*while_made(followed, loaded()), strict=True)
    return [
        Followed(labels[cortex.mask][chosen], prior, *map(np.array, zip(*each, strict=True)))
        for labels, prior, each in zip(maps, priors, of_maps, strict=True)
    ]


def _told(found: Individual, possible: BoolArray) -> float:
    by_evidence = log_softmax(np.where(possible, found.weight * found.correlation, -np.inf), axis=1)
    # The probability of what is impossible is 0, and 0 times -infinity is no number.
    own = (found.probability * np.where(possible, by_evidence, 0)).sum(axis=1)
    return float((own + _harder(possible.sum(axis=1))).mean())


def _harder(n_possible: NDArray[np.integer]) -> FloatArray:
    """Nats by which a vertex with so many possible networks is harder to tell than the mean one.

    Without them a map that gives one hemisphere a network too few seems to be told better there.
    """
    return np.asarray(np.log(n_possible / n_possible.mean()))


def best_map(told: FloatArray) -> int:
    """Choose the map whose networks the evidence of newborns tells best.

    Parameters
    ----------
    told : ndarray of shape (n_newborns, n_maps)
        `Followed.told` of each; the first is kept unless another is better by more than newborns
        differ in it.

    Returns
    -------
    int
        The one with the largest mean among the first and those that exceed it by more than the
        standard error of the newborns' differences; one newborn alone decides nothing.
    """
    gain = told - told[:, :1]
    return int(np.where(_is_gain(gain), gain.mean(axis=0), 0).argmax())


def _is_gain(gain: FloatArray) -> NDArray[np.bool_]:
    """Tell of differences (n_newborns, ...) whether newborns agree that they are larger than 0."""
    if len(gain) < 2:
        return np.zeros(gain.shape[1:], dtype=bool)
    error = gain.std(axis=0, ddof=1) / np.sqrt(len(gain))
    return np.asarray(gain.mean(axis=0) > _ERRORS_TO_CHANGE * error)


@dataclass(frozen=True)
class Chosen:
    """The map that newborns follow most closely.

    Attributes
    ----------
    labels : ndarray of shape (n_vertices,)
        In the numbers of the cohort's map.
    started_from : int
        0, the cohort's map, or the first, second, ... of the other ones.
    n_exchanged : int
        Networks that were then exchanged for one of another map.
    """

    labels: Labels
    started_from: int = 0
    n_exchanged: int = 0


def choose_maps(
    newborns: Sequence[Load],
    maps: Sequence[Sequence[Labels]],
    cortex: Cortex,
    config: IndividualsConfig,
    progress: Progress = lambda done, of: None,
) -> list[Chosen]:
    """Let newborns choose among maps of the cohort, and exchange networks between them.

    Exchanges are ranked by the evidence for the networks in the maps that they come from; those
    that promise most are judged anew, as a map is. No more than a quarter of the networks become
    others: that would be another parcellation, not the cohort's set right.

    Parameters
    ----------
    newborns : sequence of callable
        Each gives the runs of one newborn, once a round, as for `follow_maps`.
    maps : sequence of sequence of ndarray of shape (n_vertices,)
        Of each parcellation the cohort's map, and other ones with as many networks, in its numbers
        (`alike`).
    cortex, config, progress
        As for `follow_maps`; of as many newborns as there may be rounds for.

    Returns
    -------
    list of Chosen
        One for each parcellation.
    """
    found = [Chosen(each[0]) for each in maps]
    several = [i for i, each in enumerate(maps) if len(each) > 1]
    if not several:
        return found

    def followed(of_each: Mapping[int, Sequence[Labels]], number: int) -> dict[int, list[Followed]]:
        """Look at all maps of all parcellations in one round over the newborns."""

        def told(done: int, n_newborns: int) -> None:
            progress(number * n_newborns + done, (1 + MOST_EXCHANGES) * n_newborns)

        every = iter(follow_maps(newborns, [*chain(*of_each.values())], cortex, config, told))
        return {i: list(islice(every, len(each))) for i, each in of_each.items()}

    pools = followed({i: maps[i] for i in several}, 0)
    current = {}
    for i, pool in pools.items():
        best = best_map(np.stack([each.told for each in pool], axis=1))
        found[i], current[i] = Chosen(maps[i][best], best), pool[best]
    for number in range(1, 1 + MOST_EXCHANGES):
        tried = {i: _promising(current[i], pool, cortex, config) for i, pool in pools.items()}
        tried = {i: each for i, each in tried.items() if each}
        if not tried:
            break
        judged = followed(tried, number)
        pools = {i: pools[i] for i in tried}
        for i, each in judged.items():
            best = best_map(np.stack([f.told for f in (current[i], *each)], axis=1)) - 1
            if best < 0:
                del pools[i]
                continue
            current[i] = each[best]
            pools[i].append(each[best])
            labels = renumbered(tried[i][best], maps[i][0])
            found[i] = Chosen(labels, found[i].started_from, number)
    return found


def _promising(
    current: Followed, pool: Sequence[Followed], cortex: Cortex, config: IndividualsConfig
) -> list[Labels]:
    """Maps that differ in one network, and may be followed more closely."""
    chosen = pool[0].labels
    allowed = (
        each
        for each in _exchanges(current, pool, config)
        if _is_alike(renumbered(each, chosen), chosen)
    )
    return [cortex.from_sample(each) for each in islice(allowed, _TRIED)]


def alike(maps: Sequence[NDArray[np.integer]], chosen: Labels) -> list[NDArray[np.int32]]:
    """Keep maps that have most of the chosen one's networks, in its numbers.

    Parameters
    ----------
    maps : sequence of ndarray of shape (n_vertices,)
        In numbers of their own.
    chosen : ndarray of shape (n_vertices,)
        The cohort's map.

    Returns
    -------
    list of ndarray of shape (n_vertices,)
        Those in which no more than a quarter of its numbers stand for other networks: another map
        is another parcellation, not that one set right.
    """
    named = [renumbered(each, chosen) for each in maps]
    return [each for each in named if _is_alike(each, chosen)]


def _is_alike(named: Labels, chosen: Labels) -> bool:
    most = _MOST_REPLACED * (int(chosen.max(initial=-1)) + 1)
    return len(replaced_networks(chosen, named)) <= most


def _exchanges(
    current: Followed, pool: Sequence[Followed], config: IndividualsConfig
) -> Iterator[Labels]:
    """Exchange one network of a map for one of another map, those that promise most first.

    What newborns would follow is reckoned from the evidence for each network in its own map.

    Yields
    ------
    ndarray of shape (n_vertices,)
        A map, at the vertices of the sample.
    """
    n_networks = current.prior.shape[1]
    others = [each for each in pool if each is not current]
    prior = np.concatenate([each.prior for each in (current, *others)], axis=1)
    networks = [
        each.evidence[:, :, k] for each in (current, *others) for k in range(each.prior.shape[1])
    ]
    n_vertices = len(prior)
    n_exchanges = n_networks * (len(networks) - n_networks)
    of_all = min(_SCORED, _RECKONED // n_exchanges)
    n_scored = min(n_vertices, max(of_all // len(current.told), 1))
    some = np.linspace(0, n_vertices - 1, n_scored).astype(np.intp)

    # By network, newborn and vertex: parts of the sums that a map is told by.
    nats = np.stack([each[:, some] for each in networks]).astype(np.float32)
    possible = (prior[some] > 0).T
    nats -= np.where(possible[:, None], nats, -np.inf).max(axis=0)
    odds = np.where(possible[:, None], np.exp(np.minimum(nats, 0)), 0)
    posterior = odds * (prior[some].T ** config.prior_weight)[:, None]
    parts = np.stack([odds, posterior, posterior * nats])

    def score(sums: FloatArray, n_possible: NDArray[np.integer]) -> FloatArray:
        whole, own, weighted = np.maximum(sums[0], 1e-30), np.maximum(sums[1], 1e-30), sums[2]
        told = weighted / own - np.log(whole) + _harder(n_possible)
        return np.asarray(told.mean(axis=1))

    all_now = parts[:, :n_networks].sum(axis=1), possible[:n_networks].sum(axis=0)
    before, promised = score(*all_now), []
    for leaving in range(n_networks):
        # Not taken off the sum of all: what would be left is rounding where the others are small.
        staying = [k for k in range(n_networks) if k != leaving]
        rest, n_rest = parts[:, staying].sum(axis=1), possible[staying].sum(axis=0)
        for joining in range(n_networks, len(networks)):
            n_possible = n_rest + possible[joining]
            if not n_possible.all():
                continue  # no network is left in a hemisphere
            gain = score(rest + parts[:, joining], n_possible) - before
            if _is_gain(gain):
                promised.append((float(gain.mean()), leaving, joining))

    given: list[Labels] = []
    for _, leaving, joining in sorted(promised, reverse=True):
        column = [*range(n_networks)]
        column[leaving] = joining
        evidence = np.stack([networks[k] for k in column], axis=2)
        labels = _most_have(evidence, prior[:, column], config)
        sizes = np.bincount(labels, minlength=n_networks)
        if sizes.min() < _LOST * n_vertices / n_networks:
            continue
        if all((labels != one).mean() >= _SAME for one in given):
            given.append(labels)
            yield labels


def _most_have(
    evidence: NDArray[np.float16], prior: FloatArray, config: IndividualsConfig
) -> Labels:
    """Network with the largest mean probability over newborns, at each vertex."""
    with np.errstate(divide="ignore"):
        log_prior = np.where(prior > 0, config.prior_weight * np.log(prior), -np.inf)
    total = np.zeros(prior.shape)
    for own in evidence:
        logits = own + log_prior
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        total += odds / odds.sum(axis=1, keepdims=True)
    return np.asarray(total.argmax(axis=1), dtype=np.int32)
