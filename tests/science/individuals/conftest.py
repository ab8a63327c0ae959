"""A small cohort whose newborns have maps of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from trend_dagster.science.bold import BoldConfig, prepare
from trend_dagster.science.evidence.simulation import (
    SimulationConfig,
    plan_networks,
    plant_networks,
    simulate_cohort,
)
from trend_dagster.science.individuals.model import (
    Cortex,
    Others,
    PreparedRun,
    learn_prior,
    prepare_run,
)
from trend_dagster.science.individuals.settings import IndividualsConfig
from trend_dagster.science.surface import Surface

CONFIG = IndividualsConfig()


@dataclass(frozen=True)
class Newborns:
    """Runs, what was planted, and what the cohort says; vertices with signal only."""

    surface: Surface
    cortex: Cortex
    cohort: np.ndarray
    own: list[np.ndarray]
    runs: list[list[PreparedRun]]
    everyone: Others
    posteriors: list[np.ndarray]


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Share of vertices with one label in both."""
    return float((one == other).mean())


def newborns(surface: Surface, border_variation: float) -> Newborns:
    config = SimulationConfig(
        seed=3, snr=0.25, n_networks=4, n_subjects=4, border_variation=border_variation
    )
    truth, named = simulate_cohort(surface, config)
    mask = truth >= 0
    cortex = Cortex.along(surface, mask, CONFIG)
    runs = [prepare_run(prepare(run, mask, BoldConfig()), cortex) for _, run in named]
    pairs = [runs[i : i + 2] for i in range(0, len(runs), 2)]
    ((everyone, posteriors),) = learn_prior([lambda p=p: p for p in pairs], [truth], cortex, CONFIG)
    plan = plan_networks(surface, config)
    own = [plant_networks(surface, config, plan, person)[mask] for person in range(4)]
    return Newborns(surface, cortex, truth[mask], own, pairs, everyone, posteriors)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """As the assets compute: products here are too small to be shared among threads."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="package")
def varied(surface: Surface) -> Newborns:
    return newborns(surface, 0.6)


@pytest.fixture(scope="package")
def alike(surface: Surface) -> Newborns:
    return newborns(surface, 0.0)
