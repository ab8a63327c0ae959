"""Blocks from features beside today's formula on the whole matrix, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from trend_dagster.errors import CohortError
from trend_dagster.science.connectivity.from_runs import RunCorrelation
from trend_dagster.science.connectivity.settings import (
    CorrelationConfig,
    Gaussian,
    ThresholdConfig,
)
from trend_dagster.science.connectivity.smoothing import Smoothing, near_pairs
from trend_dagster.science.connectivity.thresholding import threshold_by_label
from trend_dagster.science.method import Encoding
from trend_dagster.science.surface import Surface, gaussian_weights, geodesic_neighbours

FWHM = 24.0
SIZES = (30, 45, 21)

Run = tuple[NDArray[np.float32], NDArray[np.bool_]]


def make_runs(n_vertices: int, rng: np.random.Generator, *, lacking: bool) -> list[Run]:
    """Runs with something in common; with ``lacking`` each lacks vertices of its own."""
    always = rng.random(n_vertices) > 0.05
    shared = rng.standard_normal((n_vertices, 4))
    runs = []
    for size in SIZES:
        bold = shared @ rng.standard_normal((4, size)) + rng.standard_normal((n_vertices, size))
        mask = always & (rng.random(n_vertices) > 0.03) if lacking else always
        bold[rng.random(n_vertices) < 0.01 * lacking] = 7.0  # constant, though the mask has them
        runs.append((bold.astype(np.float32), mask))
    return runs


def plain_average(runs: list[Run], weights: tuple[float, ...]) -> NDArray[np.float64]:
    """Average each pair over the runs that have both, the diagonal 1 where there is signal."""
    n = len(runs[0][1])
    total, shares = np.zeros((n, n)), np.zeros((n, n))
    for (bold, mask), weight in zip(runs, weights, strict=True):
        signal = np.flatnonzero(mask & (np.ptp(bold, axis=1) > 0))
        total[np.ix_(signal, signal)] += weight * np.corrcoef(bold[signal].astype(np.float64))
        shares[np.ix_(signal, signal)] += weight
    return np.divide(total, shares, out=np.zeros_like(total), where=shares > 0)


def plain_smoothing(
    C: NDArray[np.float64], surface: Surface, exclusion_mm: float
) -> NDArray[np.float64]:
    """S (C - N) S^T with dense matrices."""
    inside = np.diagonal(C) > 0
    weights = gaussian_weights(surface, FWHM / np.sqrt(8 * np.log(2))).toarray().astype(np.float64)
    weights *= np.outer(inside, inside)
    S = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    near = np.eye(len(C), dtype=bool)
    if exclusion_mm:
        near |= geodesic_neighbours(surface, exclusion_mm).toarray() > 0
    return S @ np.where(near, 0, C) @ S.T


def non_negative(C: NDArray[np.float64], policy: str) -> NDArray[np.float64]:
    return {"clip": np.maximum(C, 0), "shift": (C + 1) / 2, "abs": np.abs(C)}[policy]


@pytest.fixture
def seeded() -> np.random.Generator:
    return np.random.default_rng()  # fresh input: the formula holds for any


@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("exclusion_mm", [0.0, 15.0])
@pytest.mark.parametrize("policy", ["clip", "shift", "abs"])
def test_blocks_are_those_of_the_smoothed_matrix(surface, seeded, lacking, exclusion_mm, policy):
    runs = make_runs(surface.n_vertices, seeded, lacking=lacking)
    weights = (1.0, 2.5, 0.5)
    C = plain_average(runs, weights)
    expected = non_negative(plain_smoothing(C, surface, exclusion_mm), policy)
    # So little memory that each run is a stack of its own, and few of E's columns go at a time.
    source = RunCorrelation(runs, CorrelationConfig(memory_budget_gib=1e-5), weights)
    np.testing.assert_array_equal(source.mask, np.diagonal(C) > 0)
    labels = seeded.integers(-1, 3, surface.n_vertices)
    config = ThresholdConfig(negatives=policy, smoothing_fwhm_mm=FWHM, exclusion_mm=exclusion_mm)
    found = Encoding(labels, surface=surface).apply(source, config)
    assert len(found.blocks) == 3
    for block, members in zip(found.blocks, found.members(), strict=True):
        np.testing.assert_allclose(block, expected[np.ix_(members, members)], atol=2e-6)
        np.testing.assert_array_equal(block, block.T)


def test_the_smoothed_stored_matrix_gives_the_same(surface, seeded):
    runs = make_runs(surface.n_vertices, seeded, lacking=True)
    source = RunCorrelation(runs)
    C = plain_average(runs, (1.0, 1.0, 1.0)).astype(np.float32)
    smoothing = Smoothing.along(surface, source.mask, FWHM, 10.0)
    kept = [threshold_by_label(m, surface.hemisphere, source.mask) for m in (
        smoothing(C), source.smoothed(smoothing))]  # fmt: skip
    for one, other in zip(kept[0].blocks, kept[1].blocks, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
    assert kept[0].negative_fraction == pytest.approx(kept[1].negative_fraction, abs=1e-4)


@pytest.mark.parametrize("lacking", [False, True])
def test_without_smoothing_blocks_are_the_average_itself(surface, seeded, lacking):
    runs = make_runs(surface.n_vertices, seeded, lacking=lacking)
    C = plain_average(runs, (1.0, 1.0, 1.0))
    labels = seeded.integers(0, 5, surface.n_vertices)
    source = RunCorrelation([lambda run=run: run for run in runs])
    found = threshold_by_label(source.smoothed(None), labels, source.mask)
    for block, members in zip(found.blocks, found.members(), strict=True):
        np.testing.assert_allclose(block, np.maximum(C, 0)[np.ix_(members, members)], atol=2e-6)


@pytest.mark.parametrize("lacking", [False, True])
def test_sums_over_groups_are_those_of_the_matrix(seeded, lacking):
    runs = make_runs(300, seeded, lacking=lacking)
    weights = (1.0, 2.0, 3.0)
    C = plain_average(runs, weights)
    groups = np.eye(7, dtype=np.float32)[seeded.integers(0, 7, 300)]
    sums, traces = RunCorrelation(runs, weights=weights).smoothed(None).group_sums(groups)
    np.testing.assert_allclose(sums, groups.T @ C @ groups, atol=1e-3)
    np.testing.assert_allclose(traces, np.diagonal(C) @ groups)


def test_encodings_smooth_by_distance_weigh_the_same_blocks(surface, seeded):
    runs = make_runs(surface.n_vertices, seeded, lacking=True)
    sides = [np.flatnonzero(surface.hemisphere == side) for side in (0, 1)]
    distances = [seeded.uniform(0, 90, (len(side), len(side))) for side in sides]
    distances = [np.triu(d, 1) + np.triu(d, 1).T for d in distances]
    config = ThresholdConfig(smoothing_fwhm_mm=FWHM)
    encoding = Encoding.smooth(Gaussian(40.0), distances, surface)
    source = RunCorrelation(runs)
    C = plain_smoothing(plain_average(runs, (1.0,) * 3), surface, 0)
    found = encoding.apply(source, config)
    for block, members, side, d in zip(
        found.blocks, found.members(), sides, distances, strict=True
    ):
        at = np.searchsorted(side, members)
        weight = np.exp(-0.5 * (d[np.ix_(at, at)] / 40) ** 2)
        np.testing.assert_allclose(
            block, weight * np.maximum(C[np.ix_(members, members)], 0), atol=2e-6
        )


def test_fisher_and_no_runs_are_refused(seeded):
    runs = make_runs(20, seeded, lacking=False)
    for bad in ([], runs):
        with pytest.raises(CohortError, match="arithmetic"):
            RunCorrelation(bad, CorrelationConfig(average="fisher"))
    with pytest.raises(CohortError, match="run 1: expected features and a mask of 20"):
        RunCorrelation([runs[0], (runs[1][0][:5], runs[1][1][:5])]).mask  # noqa: B018


def test_near_pairs_are_symmetric(surface):
    near = near_pairs(surface, 15.0)
    assert (near != near.T).nnz == 0
