"""A newborn's own map comes back, and every part of the model is held to its formula."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import signal

from tests.science.individuals.conftest import CONFIG, Newborns, agreement, newborns
from tests.spheres import measure_distances
from trend_dagster.errors import InputError
from trend_dagster.science.individuals.model import (
    Cortex,
    Others,
    PreparedRun,
    area_of_places,
    correlation_with_networks,
    find_individual,
    independent_timepoints,
    kept_in_memory,
    learn_prior,
    places,
    possible_networks,
    prepare_run,
    weight_of_evidence,
)
from trend_dagster.science.sparse import times
from trend_dagster.science.surface import Surface


def test_a_newborns_own_map_comes_back_better_than_the_cohorts(varied: Newborns) -> None:
    for runs, planted, posterior in zip(varied.runs, varied.own, varied.posteriors, strict=True):
        others = varied.everyone.without(posterior)
        found = find_individual(runs, others, varied.cortex, CONFIG)
        np.testing.assert_allclose(found.probability.sum(axis=1), 1, rtol=1e-5)
        assert agreement(found.labels, planted) > 0.93
        assert agreement(found.labels, planted) > agreement(varied.cohort, planted) + 0.05


def test_a_newborn_unlike_its_cohort_is_found_though_the_prior_speaks_against_it(
    surface: Surface,
) -> None:
    unlike = newborns(surface, 1.0)
    cohort = Others.from_map(unlike.cortex.whole(unlike.cohort), unlike.cortex, CONFIG)
    for runs, planted in zip(unlike.runs, unlike.own, strict=True):
        assert agreement(unlike.cohort, planted) < 0.85
        found = find_individual(runs, cohort, unlike.cortex, CONFIG)
        # By all of prior and support from the beginning, one of them ends at 0.94.
        assert agreement(found.labels, planted) > 0.97


def test_networks_keep_their_numbers(varied: Newborns) -> None:
    order = np.random.default_rng(0).permutation(8)
    renamed = varied.cortex.whole(order[varied.cohort])
    cortex, runs = varied.cortex, varied.runs[0]
    original = Others.from_map(cortex.whole(varied.cohort), cortex, CONFIG)
    found = find_individual(runs, original, cortex, CONFIG)
    again = find_individual(runs, Others.from_map(renamed, cortex, CONFIG), cortex, CONFIG)
    np.testing.assert_allclose(again.probability[:, order], found.probability, atol=1e-3)


def test_a_network_of_one_hemisphere_is_impossible_in_the_other(varied: Newborns) -> None:
    possible = possible_networks(varied.cohort, varied.cortex.hemisphere)
    assert possible.sum(axis=1).tolist() == [4] * len(possible)
    assert not varied.posteriors[0][~possible].any()


def test_without_signal_the_prior_speaks(varied: Newborns, rng: np.random.Generator) -> None:
    cortex = varied.cortex
    noise = prepare_run(rng.normal(size=(len(cortex.mask), 120)), cortex)
    found = find_individual([noise], varied.everyone, cortex, CONFIG)
    heard = find_individual(varied.runs[0], varied.everyone, cortex, CONFIG)
    assert found.weight < 0.1 * heard.weight
    # But for borders, which support straightens.
    assert agreement(found.labels, varied.everyone.labels) > 0.9


def test_more_data_weighs_more(varied: Newborns) -> None:
    pair = varied.runs[0]
    one, two = (
        find_individual(runs, varied.everyone, varied.cortex, CONFIG) for runs in (pair[:1], pair)
    )
    assert two.weight == pytest.approx(2 * one.weight, rel=0.25)


def test_a_newborn_can_be_taken_out_of_the_prior_again(varied: Newborns) -> None:
    everyone = varied.everyone
    for posterior in varied.posteriors:
        everyone = everyone.without(posterior)
    assert everyone.n_newborns == 0
    np.testing.assert_allclose(everyone.total, 0, atol=1e-5)


def test_maps_learned_together_are_those_learned_alone(varied: Newborns) -> None:
    pairs, loaded = varied.runs, []
    loads = [lambda p=p: loaded.append(len(p)) or p for p in pairs]
    fine = varied.cortex.whole(varied.cohort)
    coarse = np.where(fine >= 0, fine // 2, -1)
    told: list[tuple[int, int]] = []
    together = learn_prior(
        loads, [fine, coarse], varied.cortex, CONFIG, lambda *of: told.append(of)
    )
    n_looks = CONFIG.rounds * len(pairs)
    assert len(loaded) == n_looks  # and not for each map
    assert told == [(done, n_looks) for done in range(n_looks)]
    for labels, (everyone, posteriors) in zip([fine, coarse], together, strict=True):
        ((alone, each),) = learn_prior(loads, [labels], varied.cortex, CONFIG)
        np.testing.assert_array_equal(everyone.total, alone.total)
        np.testing.assert_array_equal(posteriors, each)


def test_newborns_are_prepared_once_as_far_as_memory_goes(varied: Newborns) -> None:
    sizes = [sum(run.n_bytes for run in runs) for runs in varied.runs]
    arrays = sum(run.series.nbytes + run.smoothed.nbytes for run in varied.runs[0])
    assert arrays < sizes[0] < 4 * arrays
    for room, times_loaded in ((0, [3, 3, 3, 3]), (2.5 * sizes[0], [1, 1, 3, 3]), (1e9, [1] * 4)):
        loaded = [0] * 4

        def load(i: int, loaded: list[int] = loaded) -> list[PreparedRun]:
            loaded[i] += 1
            return varied.runs[i]

        loads = kept_in_memory([partial(load, i) for i in range(4)], room)
        for _ in range(3):
            assert [one() for one in loads] == varied.runs
        assert loaded == times_loaded


@pytest.mark.parametrize("spacing", [0.0, 4.0, 12.0])
def test_places_are_evenly_spread_and_have_the_area_of_all(
    varied: Newborns, spacing: float
) -> None:
    cortex = varied.cortex
    spaced = area_of_places(places(cortex.distances, spacing), cortex.area)
    assert spaced.sum() == pytest.approx(cortex.area.sum(), rel=1e-5)
    chosen = np.flatnonzero(spaced)
    between = cortex.distances[chosen]
    assert (between[:, chosen].data >= spacing).all()
    if spacing == 0:
        np.testing.assert_array_equal(spaced, cortex.area)
        return
    between.data = np.where(between.data < spacing, 1, 0)
    reached = between.sum(axis=0) > 0
    reached[chosen] = True
    assert reached.all()


def test_on_a_fine_mesh_few_places_give_the_ring_that_all_vertices_give(surface: Surface) -> None:
    """On a mesh of a quarter of the width the ring's own spread is many vertices wide."""
    mask = np.ones(surface.n_vertices, dtype=bool)
    fine = replace(surface, coordinates=surface.coordinates / 4)
    few = Cortex.along(fine, mask, CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trend_dagster.science.individuals.model._SPACING", 0.0)
        every = Cortex.along(fine, mask, CONFIG)
    assert few.around.nnz < 0.6 * every.around.nnz
    field = np.column_stack([np.sin(fine.coordinates / 8), np.ones(len(mask))])
    expected = every.around @ field
    np.testing.assert_allclose(times(few.around, field), expected, atol=0.05)
    assert np.corrcoef(times(few.around, field)[:, 0], expected[:, 0])[0, 1] > 0.999


def test_a_speck_narrower_than_the_spacing_still_has_a_ring() -> None:
    triangle = np.array([[0.0, 0, 0], [1.2, 0, 0], [0, 1.3, 0]], dtype=np.float32)
    surface = Surface(
        np.concatenate([triangle, triangle + 100]),
        np.array([[0, 1, 2], [3, 4, 5]], dtype=np.int32),
        np.repeat(np.arange(2, dtype=np.int8), 3),
    )
    cortex = Cortex.along(surface, np.ones(6, dtype=bool), CONFIG)
    np.testing.assert_allclose(cortex.around.sum(axis=1), 1, rtol=1e-5)


def test_correlation_leaves_out_what_is_near(varied: Newborns, rng: np.random.Generator) -> None:
    """Against the plain formula in double precision: one vertex after the other."""
    run, cortex = varied.runs[0][0], varied.cortex
    probability = varied.posteriors[0]
    for near, tolerance in (
        (sp.eye_array(len(cortex.area), dtype=np.float32, format="csr"), 2e-6),
        (cortex.near, 0.01),
    ):
        bold = np.zeros((len(cortex.mask), run.n_timepoints))
        bold[cortex.mask] = run.series
        apart = prepare_run(bold, replace(cortex, near=near))
        found = correlation_with_networks([apart], probability, near)
        for v in rng.choice(len(probability), 20, replace=False):
            far = np.ones(len(probability))
            far[near[[v]].indices] = 0
            series = (probability * far[:, None]).T.astype(np.float64) @ run.series
            expected = series @ run.smoothed[v] / np.linalg.norm(series, axis=1)
            np.testing.assert_allclose(found[v], expected, atol=tolerance)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_independent_timepoints_tell_how_far_correlations_scatter(
    varied: Newborns, rng: np.random.Generator, rho: float
) -> None:
    """Series of nothing in common correlate with a variance of 1 / n, and n is Bartlett's."""
    shape = (len(varied.cortex.mask), 300)
    noise = signal.lfilter([1.0], [1.0, -rho], rng.normal(size=shape), axis=1)
    run = prepare_run(noise, varied.cortex)
    n = independent_timepoints([run], varied.posteriors[0])
    assert n == pytest.approx(300 * (1 - rho**2) / (1 + rho**2), rel=0.12)
    scatter = correlation_with_networks([run], varied.posteriors[0], varied.cortex.near)
    assert 1 / np.square(scatter).mean() == pytest.approx(n, rel=0.15)


def test_weight_is_the_slope_of_the_log_likelihood_ratio(rng: np.random.Generator) -> None:
    """Of correlations that scatter around rho with the own network and around 0 with the other."""
    n, rho, size = 80.0, 0.3, 40000
    own = rng.integers(0, 2, size)
    spread = np.sqrt((1 - rho**2) / n)
    correlation = rho * np.eye(2)[own] + rng.normal(scale=spread, size=(size, 2))
    weight = weight_of_evidence(correlation, np.eye(2)[own], n)
    difference = correlation[:, 1] - correlation[:, 0]
    near = np.abs(difference - 0.05) < 0.02
    odds = own[near].mean() / (1 - own[near].mean())
    assert np.log(odds) == pytest.approx(weight * difference[near].mean(), abs=0.15)


def test_widths_are_in_mm(surface: Surface) -> None:
    mask = np.ones(surface.n_vertices, dtype=bool)
    mask[::7] = False
    cortex = Cortex.along(surface, mask, CONFIG)
    d = measure_distances(surface)[mask][:, mask]
    np.testing.assert_array_equal(cortex.near.toarray() > 0, d <= 10)
    for means in (cortex.smoother, cortex.around):
        np.testing.assert_allclose(means.sum(axis=1), 1, rtol=1e-5)
    assert not cortex.around.diagonal().any()
    reach = d[10]
    ring = cortex.around[[10]].toarray()[0] / cortex.area
    assert 10 < reach[ring.argmax()] < 18
    sigma = 12 / np.sqrt(8 * np.log(2))
    weights = np.where(d <= 3 * sigma, np.exp(-(d**2) / (2 * sigma**2)), 0)
    weights *= cortex.area
    expected = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(cortex.smoother.toarray(), expected, atol=1e-5)
    wide = Cortex.along(surface, mask, CONFIG, noise_mm=5.6)
    np.testing.assert_array_equal(wide.near.toarray() > 0, d <= 14)


def test_a_vertex_that_is_constant_in_one_run_is_found_from_the_others(varied: Newborns) -> None:
    cortex = varied.cortex
    bold = np.zeros((len(cortex.mask), 120))
    bold[cortex.mask] = varied.runs[0][0].series
    bold[np.flatnonzero(cortex.mask)[:50]] = 7.0
    run = prepare_run(bold, cortex)
    assert not run.series[:50].any()
    found = find_individual([run, varied.runs[0][1]], varied.everyone, cortex, CONFIG)
    assert np.isfinite(found.probability).all()


def test_what_does_not_fit_is_refused(varied: Newborns) -> None:
    with pytest.raises(InputError, match="newborn: expected at least one run"):
        find_individual([], varied.everyone, varied.cortex, CONFIG)
    with pytest.raises(InputError, match="as the cohort's map has, found 10"):
        prepare_run(np.ones((10, 5)), varied.cortex)
    with pytest.raises(InputError, match="cohort's map"):
        Others.from_map(np.full(len(varied.cortex.mask), -1), varied.cortex, CONFIG)
