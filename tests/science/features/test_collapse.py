"""Measures of collapse against those of the whole correlation matrix."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models import fresh_seed
from trend_dagster.errors import InputError
from trend_dagster.science.features.collapse import collapse_measures


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(fresh_seed())


@pytest.mark.parametrize("shape", [(50, 8), (20, 60)])
def test_collapse_measures_are_those_of_the_correlation_matrix(rng, shape):
    features = rng.standard_normal(shape) + rng.standard_normal(shape[1])
    got = collapse_measures(features)
    r = np.corrcoef(features)
    assert got.mean_correlation == pytest.approx(r[~np.eye(len(r), dtype=bool)].mean(), abs=1e-10)
    shares = np.clip(np.linalg.eigvalsh(r), 1e-300, None) / len(r)
    assert got.effective_rank == pytest.approx(np.exp(-np.sum(shares * np.log(shares))), rel=1e-8)


def test_collapse_is_seen(rng):
    direction = rng.standard_normal(16)
    collapsed = direction + 1e-4 * rng.standard_normal((100, 16))
    got = collapse_measures(collapsed)
    assert got.mean_correlation > 0.999
    assert got.effective_rank < 1.01
    alive = collapse_measures(rng.standard_normal((400, 16)))
    assert abs(alive.mean_correlation) < 0.05
    assert 13 < alive.effective_rank <= 15  # one of 16 dimensions goes to the mean


def test_constant_rows_are_left_out_of_collapse(rng):
    features = rng.standard_normal((30, 9))
    with_constant = np.vstack([features, np.full((2, 9), 3.0)])
    assert collapse_measures(with_constant).effective_rank == pytest.approx(
        collapse_measures(features).effective_rank
    )
    with pytest.raises(InputError, match="at least two"):
        collapse_measures(np.ones((4, 9)))
