"""A cohort's newborns under all its parcellations: what is learned once, and each one in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from trend_dagster.science.cores import while_made
from trend_dagster.science.evidence.nulls import SurrogateMaker
from trend_dagster.science.individuals.differences import (
    Compared,
    Departure,
    Noise,
    measure_departures,
)
from trend_dagster.science.individuals.maps import (
    MOST_EXCHANGES,
    alike,
    choose_maps,
)
from trend_dagster.science.individuals.model import (
    Cortex,
    FloatArray,
    Individual,
    Labels,
    Load,
    Others,
    PreparedRun,
    Progress,
    at_sample,
    find_individual,
    kept_in_memory,
    learn_prior,
)
from trend_dagster.science.individuals.settings import IndividualsConfig
from trend_dagster.science.individuals.summary import MEASURES, network_table

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class CohortPrior:
    """Where a cohort's newborns have the networks of each parcellation.

    Attributes
    ----------
    n_clusters : tuple of int
        Number of clusters asked for in each parcellation.
    started_from : tuple of int
        Which map newborns chose: 0, the cohort's parcellation, or the first, second, ... of the
        other maps of as many clusters.
    n_exchanged : tuple of int
        Networks of that map that were exchanged for those of another one before the prior was
        learned from it.
    everyone : tuple of Others
        Of each parcellation.
    posteriors : mapping of str to sequence of ndarray of shape (n_kept, n_networks)
        Of newborns that it was learned from, one for each parcellation.
    """

    n_clusters: tuple[int, ...]
    started_from: tuple[int, ...]
    n_exchanged: tuple[int, ...]
    everyone: tuple[Others, ...]
    posteriors: Mapping[str, Sequence[FloatArray]]

    @classmethod
    def learn(
        cls,
        newborns: Mapping[str, Load],
        parcellations: Mapping[int, Labels],
        cortex: Cortex,
        config: IndividualsConfig,
        progress: Progress = lambda done, of: None,
        *,
        keep_gib: float = 0.0,
        other_maps: Mapping[int, Sequence[NDArray[np.integer[Any]]]] | None = None,
    ) -> CohortPrior:
        """Learn it; see `trend_dagster.science.individuals.model.learn_prior`.

        Where there are other maps of as many networks, newborns choose what it is learned from
        (`trend_dagster.science.individuals.maps.choose_maps`), in the numbers of the cohort's
        parcellation.

        Parameters
        ----------
        newborns : mapping of str to callable
            By subject, what gives its runs.
        parcellations : mapping of int to ndarray of shape (n_vertices,)
            The cohort's map by number of clusters; -1 without network.
        cortex : Cortex
            The mesh.
        config : IndividualsConfig
            How.
        progress : callable
            Told before each newborn of each round.
        keep_gib : float
            Memory for newborns' runs that are kept from one round to the next.
        other_maps : mapping of int to sequence of ndarray of shape (n_vertices,), optional
            Other maps of the cohort by number of clusters, in numbers of their own.
        """
        most = keep_gib * 2**30
        # One newborn alone decides nothing.
        others = (other_maps or {}) if len(newborns) > 1 else {}
        maps = [[own, *alike(others.get(n, ()), own)] for n, own in parcellations.items()]
        loads = kept_in_memory(list(newborns.values()), most)
        # At a sample of the vertices they take less memory, and are wanted more often.
        few = loads
        if cortex.sample[1] is not cortex:
            few = kept_in_memory([partial(_few, load, cortex) for load in newborns.values()], most)
        rounds = 1 + MOST_EXCHANGES if any(len(each) > 1 for each in maps) else 0
        of_all = (rounds + config.rounds) * len(loads)
        with threadpool_limits(1, user_api="blas"):
            chosen = choose_maps(few, maps, cortex, config, lambda done, _: progress(done, of_all))
            del few
            found = learn_prior(
                loads,
                [each.labels for each in chosen],
                cortex,
                config,
                lambda done, _: progress(rounds * len(loads) + done, of_all),
            )
        everyone, posteriors = zip(*found, strict=True)
        return cls(
            tuple(parcellations),
            tuple(each.started_from for each in chosen),
            tuple(each.n_exchanged for each in chosen),
            everyone,
            dict(zip(newborns, zip(*posteriors, strict=True), strict=True)),
        )

    @property
    def changed(self) -> list[bool]:
        """Whether newborns chose another map than the cohort's, or exchanged networks of it."""
        return [bool(a or b) for a, b in zip(self.started_from, self.n_exchanged, strict=True)]

    @property
    def n_networks(self) -> list[int]:
        """Networks of each parcellation."""
        return [others.map_prior.shape[1] for others in self.everyone]

    def arrays(self, cortex: Cortex) -> Arrays:
        """Lay it out for the store; zeros stand for networks that a parcellation does not have."""
        n = max(self.n_networks)
        return {
            "n_clusters": np.array(self.n_clusters),
            "started_from": np.array(self.started_from),
            "n_exchanged": np.array(self.n_exchanged),
            "labels": np.stack([cortex.whole(others.labels) for others in self.everyone]),
            "map_prior": _padded([others.map_prior for others in self.everyone], n),
            "total": _padded([others.total for others in self.everyone], n),
            "posteriors": np.stack([_padded(own, n) for own in self.posteriors.values()]),
            "vertex_mask": cortex.mask,
        }

    @classmethod
    def from_arrays(
        cls,
        arrays: Arrays,
        n_networks: Sequence[int],
        n_newborns: int,
        posteriors: Mapping[str, NDArray[np.float32]],
    ) -> CohortPrior:
        """Read what `arrays` laid out.

        Parameters
        ----------
        arrays : dict of str to ndarray
            Those of `arrays` but ``posteriors``.
        n_networks : sequence of int
            Of each parcellation.
        n_newborns : int
            That it was learned from.
        posteriors : mapping of str to ndarray of shape (n_parcellations, n_kept, n_networks)
            Of those newborns who are looked at.
        """
        everyone = tuple(
            Others(arrays["map_prior"][i, :, :k], arrays["total"][i, :, :k], n_newborns)
            for i, k in enumerate(n_networks)
        )
        own = {
            subject: [found[i, :, :k] for i, k in enumerate(n_networks)]
            for subject, found in posteriors.items()
        }
        n_clusters, started, exchanged = (
            tuple(arrays[name].tolist()) for name in ("n_clusters", "started_from", "n_exchanged")
        )
        return cls(n_clusters, started, exchanged, everyone, own)

    def without(self, subject: str) -> list[Others]:
        """Where the others of the cohort have the networks, for each parcellation."""
        if subject not in self.posteriors:
            return list(self.everyone)
        both = zip(self.everyone, self.posteriors[subject], strict=True)
        return [others.without(own) for others, own in both]


def _few(load: Load, cortex: Cortex) -> Sequence[PreparedRun]:
    return at_sample(load(), cortex)


@dataclass(frozen=True, eq=False)
class Newborn:
    """One newborn under one parcellation.

    Attributes
    ----------
    individual : Individual
        Its networks.
    departure : Departure
        How far they depart from the cohort's, beside the null.
    agreement : float
        Share of vertices with one network in both halves of the runs; NaN for a single run.
    table : DataFrame
        From `trend_dagster.science.individuals.summary.network_table`.
    cohort_labels : ndarray of shape (n_kept,)
        The network that most newborns have.
    """

    individual: Individual
    departure: Departure
    agreement: float
    table: pd.DataFrame
    cohort_labels: Labels

    @property
    def n_departing(self) -> int:
        """Vertices with another network than most newborns have."""
        return int((self.individual.labels != self.cohort_labels).sum())

    @property
    def excess_vertices(self) -> float:
        """The departure beyond its null, in vertices of mean area; 0 where it is not different."""
        beyond = self.departure.excess * len(self.cohort_labels)
        return beyond if self.departure.different else 0.0

    @property
    def departed(self) -> dict[str, float]:
        """What the store holds of its departure, by the names of `DEPARTURE`."""
        found = {**asdict(self.departure), "excess_vertices": self.excess_vertices}
        return {name: float(found[name]) for name in DEPARTURE}


def examine(
    runs: Sequence[PreparedRun],
    subject: str,
    prior: CohortPrior,
    cortex: Cortex,
    maker: SurrogateMaker,
    config: IndividualsConfig,
    progress: Progress = lambda done, of: None,
) -> list[Newborn]:
    """Find one newborn's networks under each parcellation, and what is to be said of them.

    Its departure is that from the map that most newborns have, itself included: the map of a few
    others has errors of their own, which would pass for a difference. On a mesh finer than the
    noise of the data is smooth, that is asked at a sample of its vertices (`Cortex.sample`), in the
    newborn's runs as in those of the null: at all of them the answer takes many times as long.

    Parameters
    ----------
    runs : sequence of PreparedRun
        The newborn's.
    subject : str
        Its key; chance is its own.
    prior : CohortPrior
        Of its cohort, which it may be one of.
    cortex : Cortex
        The mesh.
    maker : SurrogateMaker
        Of that mesh.
    config : IndividualsConfig
        How.
    progress : callable
        Told how many nulls are done, and how many there are.

    Returns
    -------
    list of Newborn
        One for each parcellation.
    """

    def own(others: Others) -> tuple[Individual, float, pd.DataFrame]:
        found = find_individual(runs, others, cortex, config)
        n_networks = others.map_prior.shape[1]
        table = network_table(runs, found.labels, found.confidence, cortex, n_networks)
        return found, _agreement(runs, others, cortex, config), table

    everyone = prior.without(subject)
    progress(0, config.n_nulls)
    noise = Noise.like(runs, cortex, maker)
    rng = np.random.default_rng([config.random_state, *subject.encode()])
    # Products with some tens of networks are too small to be shared among threads.
    with threadpool_limits(1, user_api="blas"):
        found = list(while_made(own, everyone))
        chosen, sample = cortex.sample
        there, individuals = runs, [individual for individual, _, _ in found]
        if sample is not cortex:
            everyone = [others.at(chosen) for others in everyone]
            there = at_sample(runs, cortex)
            individuals = list(
                while_made(lambda others: find_individual(there, others, sample, config), everyone)
            )
        compared = [
            Compared(individual, others, cohort.labels[chosen])
            for individual, others, cohort in zip(
                individuals, everyone, prior.everyone, strict=True
            )
        ]
        departures = measure_departures(there, compared, sample, config, noise, rng, progress)
    return [
        Newborn(individual, departure, agreement, table, cohort.labels)
        for (individual, agreement, table), departure, cohort in zip(
            found, departures, prior.everyone, strict=True
        )
    ]


def _agreement(
    runs: Sequence[PreparedRun], others: Others, cortex: Cortex, config: IndividualsConfig
) -> float:
    if len(runs) < 2:
        return float("nan")
    middle = len(runs) // 2
    one, other = (
        find_individual(half, others, cortex, config) for half in (runs[:middle], runs[middle:])
    )
    return float((one.labels == other.labels).mean())


DEPARTURE = ("share", "null", "null_sd", "excess", "z", "different", "excess_vertices")
"""What the store holds of a departure; `storage.schema` describes each."""


def newborn_arrays(found: Sequence[Newborn], prior: CohortPrior, cortex: Cortex) -> Arrays:
    """Lay a newborn out for the store.

    Parameters
    ----------
    found : sequence of Newborn
        From `examine`.
    prior : CohortPrior
        What they were found with.
    cortex : Cortex
        The mesh.

    Returns
    -------
    dict of str to ndarray
        By the names of the schema; a network that a parcellation does not have is 0 or NaN.
    """
    # Not from the cohort's labels: a network may be nowhere the one that most newborns have.
    n = max(prior.n_networks)
    probability = np.zeros((len(found), len(cortex.mask), n), dtype=np.float32)
    probability[:, cortex.mask] = _padded([f.individual.probability for f in found], n)
    return {
        "n_clusters": np.array(prior.n_clusters),
        "labels": np.stack([cortex.whole(f.individual.labels) for f in found]),
        "cohort_labels": np.stack([cortex.whole(others.labels) for others in prior.everyone]),
        "probability": probability,
        "confidence": probability.max(axis=2),
        "vertex_mask": cortex.mask,
        "agreement": np.array([f.agreement for f in found]),
        **{f"departure_{name}": np.array([f.departed[name] for f in found]) for name in DEPARTURE},
        **{
            f"network_{name}": np.stack(
                [f.table[name].reindex(range(n)).to_numpy(np.float64) for f in found]
            )
            for name in MEASURES
        },
    }


def _padded(values: Sequence[FloatArray], n_networks: int) -> NDArray[np.float32]:
    """Stack arrays of (vertices, networks), with zeros for networks that one does not have."""
    out = np.zeros((len(values), len(values[0]), n_networks), dtype=np.float32)
    for row, value in zip(out, values, strict=True):
        row[:, : value.shape[1]] = value
    return out


def newborn_facts(found: Sequence[Newborn], prior: CohortPrior) -> dict[str, Any]:
    """What is worth looking at of a newborn; lists are by parcellation."""
    departures = [f.departure for f in found]
    return {
        "different": [d.different for d in departures],
        "vertices_beyond_the_null": [round(f.excess_vertices, 1) for f in found],
        "z": [round(d.z, 2) for d in departures],
        "confidence": [round(float(f.individual.confidence.mean()), 4) for f in found],
        "findings": [finding(n, each) for n, each in zip(prior.n_clusters, found, strict=True)],
    }


def finding(n_clusters: int, newborn: Newborn) -> str:
    """Say in words how far a newborn departs from its cohort."""
    departure = newborn.departure
    departs = f"{n_clusters} clusters: {newborn.n_departing} vertices depart from the cohort's map"
    null = f"noise alone moves {departure.null:.1%} of the cortex, here {departure.share:.1%}"
    if not departure.different:
        return f"{departs}, no more than noise would have it ({null})"
    return f"{departs}, {newborn.excess_vertices:.0f} beyond its null ({null})"
