"""Newborns who differ are called different, those who do not are not."""

from itertools import islice

import numpy as np
import pytest

from tests.science.individuals.conftest import CONFIG, Newborns
from trend_dagster.errors import SettingsError
from trend_dagster.science.evidence.nulls import SurrogateMaker
from trend_dagster.science.individuals.differences import (
    Compared,
    Departure,
    Noise,
    measure_departures,
    signal_strength,
    without_difference,
)
from trend_dagster.science.individuals.model import Cortex, find_individual, prepare_run
from trend_dagster.science.individuals.newborn import CohortPrior, examine, finding
from trend_dagster.science.surface import Surface


@pytest.fixture(scope="module")
def maker(surface: Surface) -> SurrogateMaker:
    return SurrogateMaker(surface)


def departures(cohort: Newborns, maker: SurrogateMaker) -> list[Departure]:
    found = []
    for person, (runs, posterior) in enumerate(zip(cohort.runs, cohort.posteriors, strict=True)):
        others = cohort.everyone.without(posterior)
        own = find_individual(runs, others, cohort.cortex, CONFIG)
        rng = np.random.default_rng(person)
        compared = [Compared(own, others, cohort.everyone.labels)]
        noise = Noise.like(runs, cohort.cortex, maker)
        found += measure_departures(runs, compared, cohort.cortex, CONFIG, noise, rng)
    return found


def test_newborns_with_maps_of_their_own_differ(varied: Newborns, maker: SurrogateMaker) -> None:
    for departure, own in zip(departures(varied, maker), varied.own, strict=True):
        assert departure.different
        # How far they differ is about how far they were made to.
        planted = (own != varied.everyone.labels).mean()
        assert departure.excess == pytest.approx(planted, abs=0.06)


def test_newborns_with_one_map_do_not(alike: Newborns, maker: SurrogateMaker) -> None:
    for departure in departures(alike, maker):
        assert not departure.different
        assert departure.share < 0.05


def test_a_run_without_difference_has_the_cohorts_map(
    varied: Newborns, maker: SurrogateMaker, rng: np.random.Generator
) -> None:
    cortex, run = varied.cortex, varied.runs[0][0]
    others = varied.everyone.without(varied.posteriors[0])
    individual = find_individual(varied.runs[0], others, cortex, CONFIG)
    noise = Noise.like([run], cortex, maker)
    compared = Compared(individual, others, varied.cohort)
    copies = without_difference([run], compared, cortex, noise, rng)
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
        measure_departures(
            varied.runs[0],
            [Compared(found, varied.everyone, varied.cohort)],
            varied.cortex,
            CONFIG.model_copy(update={"n_nulls": 1}),
            Noise.like(varied.runs[0], varied.cortex, maker),
            np.random.default_rng(0),
        )


def test_noise_at_some_vertices_is_that_of_all_there(
    varied: Newborns, maker: SurrogateMaker
) -> None:
    bold = np.zeros((len(varied.cortex.mask), varied.runs[0][0].n_timepoints))
    bold[varied.cortex.mask] = varied.runs[0][0].series
    like, some = maker.measure(bold), np.arange(3, len(bold), 7)
    everywhere = maker.surrogates_of(bold, like)(np.random.default_rng(5))
    there = maker.surrogates_of(bold, like, some)(np.random.default_rng(5))
    np.testing.assert_allclose(there, everywhere[some], atol=1e-5)


class TestSample:
    """Some vertices, evenly spread, stand for all of a mesh finer than its noise is smooth."""

    @pytest.fixture
    def cortex(self, varied: Newborns) -> Cortex:
        return Cortex.along(varied.surface, varied.cortex.mask, CONFIG, 7.0)

    def test_no_vertex_is_far_from_one_and_the_area_stays(self, cortex: Cortex) -> None:
        chosen, sample = cortex.sample
        assert 0.1 < len(chosen) / len(cortex.area) < 0.5
        assert sample.area.sum() == pytest.approx(cortex.area.sum(), rel=1e-5)
        assert (np.flatnonzero(cortex.mask)[chosen] == np.flatnonzero(sample.mask)).all()
        near = cortex.distances[:, chosen].tocsr()
        near.data = (near.data < 14.0).astype(np.float32)
        reached = near.sum(axis=1) > 0
        reached[chosen] = True
        assert reached.all()

    def test_a_mesh_as_coarse_as_its_noise_is_taken_whole(self, varied: Newborns) -> None:
        for noise in (0.0, 4.0):
            cortex = Cortex.along(varied.surface, varied.cortex.mask, CONFIG, noise)
            chosen, sample = cortex.sample
            assert sample is cortex
            assert (chosen == np.arange(len(cortex.area))).all()

    @pytest.mark.parametrize("name", ["varied", "alike"])
    def test_it_finds_the_same_newborns_different(
        self, name: str, maker: SurrogateMaker, request: pytest.FixtureRequest
    ) -> None:
        cohort: Newborns = request.getfixturevalue(name)
        fine = Cortex.along(cohort.surface, cohort.cortex.mask, CONFIG, 5.2)
        assert len(fine.sample[0]) < 0.5 * len(fine.area)
        at_all = departures(cohort, maker)
        prior = cohort_prior(cohort)
        for person, whole in enumerate(at_all):
            (found,) = examine(cohort.runs[person], str(person), prior, fine, maker, CONFIG)
            assert found.departure.different == whole.different == (name == "varied")
            assert found.departure.share == pytest.approx(whole.share, abs=0.06)


def cohort_prior(cohort: Newborns) -> CohortPrior:
    own = {str(i): [posterior] for i, posterior in enumerate(cohort.posteriors)}
    return CohortPrior((8,), (0,), (0,), (cohort.everyone,), own)


def test_what_is_said_of_a_newborn_is_counted_on_its_map(
    varied: Newborns, maker: SurrogateMaker
) -> None:
    told: list[tuple[int, int]] = []
    prior, cortex = cohort_prior(varied), varied.cortex
    (found,) = examine(
        varied.runs[0], "0", prior, cortex, maker, CONFIG, lambda *how: told.append(how)
    )
    assert (found.cohort_labels == varied.everyone.labels).all()
    assert found.n_departing == (found.individual.labels != varied.everyone.labels).sum()
    assert found.departure.different
    assert found.excess_vertices == pytest.approx(found.departure.excess * len(cortex.area))
    assert f"{found.n_departing} vertices depart from the cohort's map" in finding(8, found)
    assert told == [(i, 8) for i in range(9)]
