"""Newborns who differ are called different, those who do not are not."""

from itertools import islice

import numpy as np
import pytest

from tests.science.individuals.conftest import CONFIG, Newborns
from trend_dagster.errors import SettingsError
from trend_dagster.science.evidence.nulls import SurrogateMaker
from trend_dagster.science.individuals.differences import (
    Departure,
    Noise,
    measure_departure,
    signal_strength,
    without_difference,
)
from trend_dagster.science.individuals.model import find_individual, prepare_run
from trend_dagster.science.surface import Surface


@pytest.fixture(scope="module")
def maker(surface: Surface) -> SurrogateMaker:
    return SurrogateMaker(surface)


def departures(cohort: Newborns, maker: SurrogateMaker) -> list[Departure]:
    found = []
    for person, (runs, posterior) in enumerate(zip(cohort.runs, cohort.posteriors, strict=True)):
        others = cohort.everyone.without(posterior)
        individual = find_individual(runs, others, cohort.cortex, CONFIG)
        rng = np.random.default_rng(person)
        labels, noise = cohort.everyone.labels, Noise.like(runs, cohort.cortex, maker)
        found.append(
            measure_departure(runs, individual, others, labels, cohort.cortex, CONFIG, noise, rng)
        )
    return found


def test_newborns_with_maps_of_their_own_differ(varied: Newborns, maker: SurrogateMaker) -> None:
    for departure, own in zip(departures(varied, maker), varied.own, strict=True):
        assert departure.different
        # How far they differ is about how far they were made to.
        planted = (own != varied.everyone.labels).mean()
        assert departure.excess == pytest.approx(planted, abs=0.06)
        assert departure.excess_vertices == pytest.approx(departure.excess * len(own))


def test_newborns_with_one_map_do_not(alike: Newborns, maker: SurrogateMaker) -> None:
    for departure in departures(alike, maker):
        assert not departure.different
        assert departure.excess_vertices == 0
        assert departure.share < 0.05


def test_a_run_without_difference_has_the_cohorts_map(
    varied: Newborns, maker: SurrogateMaker, rng: np.random.Generator
) -> None:
    cortex, run = varied.cortex, varied.runs[0][0]
    others = varied.everyone.without(varied.posteriors[0])
    individual = find_individual(varied.runs[0], others, cortex, CONFIG)
    noise = Noise.like([run], cortex, maker)
    copies = without_difference([run], individual, varied.cohort, cortex, noise, rng)
    made = [copy for (copy,) in islice(copies, 3)]
    found = find_individual(made, others, cortex, CONFIG).labels
    assert (found == varied.cohort).mean() > 0.9 > (individual.labels == varied.cohort).mean()
    member = np.eye(8)[individual.labels]
    planted = np.eye(8)[varied.cohort]
    for copy in made:
        alike = [
            np.corrcoef(a, b)[0, 1]
            for a, b in zip(member.T @ run.series, planted.T @ copy.series, strict=True)
        ]
        assert min(alike) > 0.7


def test_strength_is_that_of_the_signal(varied: Newborns, rng: np.random.Generator) -> None:
    """Signal of a known strength in white noise: its correlation with what was planted."""
    cortex = varied.cortex
    for strength in (0.15, 0.4):
        series = rng.normal(size=(8, 400))
        bold = np.zeros((len(cortex.mask), 400))
        noise = rng.normal(size=(len(varied.cohort), 400))
        bold[cortex.mask] = strength * series[varied.cohort] + np.sqrt(1 - strength**2) * noise
        run = prepare_run(bold, cortex)
        found = signal_strength(run, np.eye(8)[varied.cohort], cortex)
        assert found.mean() == pytest.approx(strength, abs=0.02)


def test_one_null_tells_nothing(varied: Newborns, maker: SurrogateMaker) -> None:
    found = find_individual(varied.runs[0], varied.everyone, varied.cortex, CONFIG)
    with pytest.raises(SettingsError, match="n_nulls"):
        measure_departure(
            varied.runs[0],
            found,
            varied.everyone,
            varied.cohort,
            varied.cortex,
            CONFIG.model_copy(update={"n_nulls": 1}),
            Noise.like(varied.runs[0], varied.cortex, maker),
            np.random.default_rng(0),
        )
