"""Censoring brings back planted networks that motion hides; `experiments.censoring`, small."""

from __future__ import annotations

import pytest

from experiments.censoring import measure


def areas(snr: float) -> dict[tuple[str, str], float]:
    return {
        (str(row["way"]), str(row["weight"])): float(str(row["auc"]))
        for row in measure(snr, seed=3, n_subjects=3)
    }


@pytest.mark.slow
def test_censoring_finds_more_than_leaving_out_at_random():
    found = areas(0.5)
    censored = found["bursts, censored", "equal"]
    assert censored > found["bursts, all volumes", "equal"] + 0.02
    assert censored > found["bursts, as many left out at random", "equal"] + 0.02
    assert censored <= found["no bursts", "equal"] + 0.01
    assert found["bursts, censored", "frames"] > found["bursts, all volumes", "frames"] + 0.02
    assert found["no bursts", "frames"] == pytest.approx(found["no bursts", "equal"], abs=1e-4)


@pytest.mark.slow
def test_without_networks_nothing_is_found():
    assert all(abs(area - 0.5) < 0.1 for area in areas(0.0).values())
