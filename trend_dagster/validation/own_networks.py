"""One person's own networks in two runs: whether what differs from a map is found twice.

The map comes from other runs, so that neither run made it. Truth is not known: that both runs
depart from the map alike, more often than runs in which nothing departs, is all that can be said.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_dagster.science.bold import BoldConfig
from trend_dagster.science.evidence.nulls import SurrogateMaker
from trend_dagster.science.evidence.stability import beside_null
from trend_dagster.science.individuals.differences import Compared, Noise, without_difference
from trend_dagster.science.individuals.model import (
    Cortex,
    Others,
    PreparedRun,
    find_individual,
    prepare_run,
)
from trend_dagster.science.individuals.settings import IndividualsConfig
from trend_dagster.validation.approaches import Approach
from trend_dagster.validation.recordings import Labels, Recording, halves
from trend_dagster.validation.simulated import RANDOM_STATE

LEAST_RUNS = 4


def can_be_compared(recording: Recording, config: IndividualsConfig) -> bool:
    """Tell whether a recording is of one person, with two runs beside those of the map."""
    one_person = len(set(recording.subjects)) == 1
    return one_person and len(recording.runs) >= LEAST_RUNS and config.n_nulls > 0


def own_networks(
    recording: Recording,
    approach: Approach,
    bold: BoldConfig,
    config: IndividualsConfig,
    n_networks: int,
) -> pd.DataFrame:
    """Find the networks of half of a person's runs, and from them those of two other runs.

    Parameters
    ----------
    recording : Recording
        One person; see `can_be_compared`.
    approach : Approach
        Finds the map.
    bold : BoldConfig
        How runs are cleaned.
    config : IndividualsConfig
        How a person's own networks are found, and how many nulls there are.
    n_networks : int
        Networks.

    Returns
    -------
    DataFrame
        A row for each half that gives the map, with what `found_twice` says.
    """
    _, *parts = halves(recording, RANDOM_STATE)
    rows = []
    for given, seen in (parts, parts[::-1]):
        labels = approach.labels(given, n_networks, RANDOM_STATE)
        rows.append({"map from": " ".join(given.runs), **found_twice(seen, labels, bold, config)})
    return pd.DataFrame(rows)


def found_twice(
    recording: Recording, labels: Labels, bold: BoldConfig, config: IndividualsConfig
) -> dict[str, float]:
    """Compare a person's own networks in its first two runs.

    Parameters
    ----------
    recording : Recording
        The runs.
    labels : ndarray of shape (n_vertices,)
        A map that was not made from them.
    bold, config
        As for `own_networks`.

    Returns
    -------
    dict of str to float
        ``agreement``, the share of vertices with one network in both runs; ``own``, the share at
        which both depart from the map to one network. Each with its mean on runs of this person
        that have the map and its noise (``null_...``); ``excess`` and ``z`` are those of ``own``.
    """
    surface, prepared = recording.surface, list(recording.prepared(bold).values())[:2]
    mask = np.any([mask for _, mask in prepared], axis=0) & (labels >= 0)
    maker = SurrogateMaker(surface)
    sigma = float(np.mean([maker.measure(signal).sigma for signal, _ in prepared]))
    cortex = Cortex.along(surface, mask, config, sigma)
    runs = [prepare_run(signal, cortex) for signal, _ in prepared]
    others, own = Others.from_map(labels.astype(np.int32), cortex, config), labels[mask]

    def alike(pair: tuple[PreparedRun, ...]) -> NDArray[np.float64]:
        one, other = (find_individual([run], others, cortex, config).labels for run in pair)
        same = one == other
        return np.array([same.mean(), (same & (one != own)).mean()])

    person, rng = find_individual(runs, others, cortex, config), np.random.default_rng(RANDOM_STATE)
    compared, noise = Compared(person, others, own), Noise.like(runs, cortex, maker)
    copies = without_difference(runs, compared, cortex, noise, rng)
    nulls = [alike(pair) for pair in islice(copies, config.n_nulls)]
    found = alike(tuple(runs))
    beside = beside_null(found, np.array(nulls))
    return {
        "agreement": float(found[0]),
        "null_agreement": float(beside["null"][0]),
        "own": float(found[1]),
        "null_own": float(beside["null"][1]),
        "excess": float(beside["excess"][1]),
        "z": float(beside["z"][1]),
    }
