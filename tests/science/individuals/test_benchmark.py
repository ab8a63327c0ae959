"""The benchmark's own parts: the simple methods are right where it is easy, and nothing leaks."""

import numpy as np
import pytest

from benchmarks.individuals import Cohort, Start, identified, simple_methods
from trend_dagster.science.evidence.simulation import SimulationConfig

EASY = SimulationConfig(
    seed=5, snr=3.0, motion=0, n_networks=3, n_subjects=2, n_timepoints=200, border_variation=0.3
)


@pytest.fixture(scope="module")
def easy() -> Start:
    cohort = Cohort(EASY)
    return Start(cohort, (0, 1), cohort.planted)


@pytest.mark.parametrize(("name", "method"), list(simple_methods()))
def test_simple_methods_are_right_where_it_is_easy(easy: Start, name: str, method) -> None:
    for found, planted in zip(method(easy, [0, 1]), easy.cohort.own, strict=True):
        assert (found == planted).mean() > (0.97 if name.endswith(" 0 mm") else 0.85)


def test_identification_is_the_share_of_nearest_maps() -> None:
    first = [np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]), np.array([0, 1, 0, 1])]
    assert identified(first, first) == 1
    assert identified(first, [first[1], first[0], first[2]]) == pytest.approx(1 / 3)
