"""Censoring brings back planted networks that motion hides.

Cohorts with planted networks get bursts of motion: volumes in which a pattern that is smooth along
the cortex, another one in each burst, is added. Runs differ in the share of volumes that bursts
take. Measured is how well the average correlation tells pairs of vertices of one planted network
from pairs of two, on one side of the brain: the area under the ROC curve. Controls: the same
cohort without bursts, and with as many volumes left out at random. Null: no networks planted
(SNR 0), where 0.5 is chance.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from trend_dagster.project.fsaverage import load_fsaverage
from trend_dagster.science.bold import BoldConfig, signal_mask, usable_series
from trend_dagster.science.connectivity.correlation import correlate_runs
from trend_dagster.science.evidence.simulation import SimulationConfig, simulate_cohort

SHARES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)  # of volumes in bursts, run by run in turn
BURST = 4  # volumes
SIZE = 4.0  # of a burst, in standard deviations of the signal


def with_bursts(
    bold: NDArray[np.float32],
    places: NDArray[np.float32],
    share: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Add bursts to a run; which volumes they left alone."""
    mask = signal_mask(bold)
    n_timepoints = bold.shape[1]
    still = np.ones(n_timepoints, dtype=bool)
    moved = bold.copy()
    for _ in range(round(share * n_timepoints / BURST)):
        start = int(rng.choice(np.flatnonzero(still)))
        volumes = slice(start, start + BURST)
        still[volumes] = False
        tilt = places @ rng.standard_normal(3)
        pattern = SIZE * bold[mask].std() * tilt / tilt.std()
        moved[:, volumes] += np.where(mask, pattern, 0)[:, None]
    return moved.astype(np.float32), still


def auc(correlation: NDArray[np.float32], truth: NDArray[np.int32], n_left: int) -> float:
    """How well pairs of one network are told from others, within each hemisphere."""
    found = []
    for side in (slice(0, n_left), slice(n_left, None)):
        labels, matrix = truth[side], correlation[side, side]
        known = labels >= 0
        upper = np.triu(np.ones_like(matrix, dtype=bool)[np.ix_(known, known)], k=1)
        same = labels[known][:, None] == labels[known][None]
        found.append(roc_auc_score(same[upper], matrix[np.ix_(known, known)][upper]))
    return float(np.mean(found))


def measure(snr: float, seed: int, n_subjects: int) -> Iterator[dict[str, object]]:
    """Every way to treat one cohort."""
    surface = load_fsaverage(642)
    # Networks are planted whatever the signal is: at 0 only the labels say where.
    config = SimulationConfig(snr=snr, seed=seed, n_subjects=n_subjects)
    truth, runs = simulate_cohort(surface, config)
    rng = np.random.default_rng(seed)
    series: dict[str, list[tuple[NDArray[np.float32], NDArray[np.bool_]]]] = {}
    prepare = BoldConfig()
    for number, (_, bold) in enumerate(runs):
        mask = signal_mask(bold)
        share = SHARES[number % len(SHARES)]
        moved, still = with_bursts(bold, surface.coordinates, share, rng)
        at_random = rng.permutation(still)
        for way, signal, kept in (
            ("no bursts", bold, None),
            ("bursts, all volumes", moved, None),
            ("bursts, as many left out at random", moved, at_random),
            ("bursts, censored", moved, still),
        ):
            usable = usable_series(signal, mask, prepare, 2.0, None, kept)
            series.setdefault(way, []).append((usable, mask))
    for way, cohort in series.items():
        for weight in ("equal", "frames"):
            weights = None if weight == "equal" else [one.shape[1] for one, _ in cohort]
            found = correlate_runs(cohort, weights=weights)
            area = auc(found, truth, 642)
            yield {"snr": snr, "seed": seed, "way": way, "weight": weight, "auc": area}


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
