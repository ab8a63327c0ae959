"""What is a person's own is found twice, and what is not is not."""

import numpy as np
import pytest

from trend_dagster.science.bold import BoldConfig
from trend_dagster.science.evidence.simulation import (
    SimulationConfig,
    plan_networks,
    plant_networks,
    simulate_cohort,
)
from trend_dagster.science.individuals.settings import IndividualsConfig
from trend_dagster.science.surface import Surface
from trend_dagster.validation.approaches import Approach
from trend_dagster.validation.own_networks import can_be_compared, found_twice, own_networks
from trend_dagster.validation.recordings import Recording

pytestmark = pytest.mark.slow

CONFIG = IndividualsConfig(n_nulls=3)


@pytest.fixture(scope="module")
def person(surface: Surface) -> tuple[np.ndarray, np.ndarray, Recording]:
    """A person of two runs, the map it has and that of its cohort."""
    config = SimulationConfig(
        seed=3, snr=0.5, n_networks=4, n_subjects=1, runs_per_subject=4, border_variation=0.6
    )
    cohort, runs = simulate_cohort(surface, config)
    own = plant_networks(surface, config, plan_networks(surface, config), 0)
    return own, cohort, Recording(surface, dict(runs), ["sub-01"] * 4)


def test_departures_from_a_map_of_others_are_found_twice(
    person: tuple[np.ndarray, np.ndarray, Recording],
) -> None:
    own, cohort, recording = person
    approach = Approach("ours", "the cohort's map", {}, lambda *_: cohort)
    table = own_networks(recording, approach, BoldConfig(), CONFIG, 8)
    planted = (own != cohort)[own >= 0].mean()
    assert len(table) == 2
    assert len(set(table["map from"])) == 2
    np.testing.assert_allclose(table["own"], planted, atol=0.05)
    assert (table["excess"] > planted / 2).all()
    assert (table["z"] > 3).all()


def test_nothing_departs_from_a_persons_own_map(
    person: tuple[np.ndarray, np.ndarray, Recording],
) -> None:
    own, _, recording = person
    found = found_twice(recording, own, BoldConfig(), CONFIG)
    assert found["excess"] < 0.02
    assert found["own"] < 0.03
    assert found["agreement"] == pytest.approx(found["null_agreement"], abs=0.05)


def test_only_one_person_with_four_runs_is_compared(
    person: tuple[np.ndarray, np.ndarray, Recording],
) -> None:
    recording = person[2]
    assert can_be_compared(recording, CONFIG)
    assert not can_be_compared(recording.part([0, 1, 2]), CONFIG)
    recording = Recording(recording.surface, recording.runs, ["a", "a", "b", "b"])
    assert not can_be_compared(recording, CONFIG)
