"""Every approach finds networks that are plainly there, and none where nothing was planted."""

from __future__ import annotations

import json
import sys
from functools import partial

import numpy as np
import pytest

from trend_dagster import cli
from trend_dagster.errors import SettingsError
from trend_dagster.project.fsaverage import load_fsaverage
from trend_dagster.science.connectivity.thresholding import BlockMatrix
from trend_dagster.science.evidence.measures import mean_dice
from trend_dagster.science.evidence.simulation import SimulationConfig
from trend_dagster.science.method import encode
from trend_dagster.validation import approaches, simulated
from trend_dagster.validation.approaches import EncodingChoice
from trend_dagster.validation.recordings import Labels, Recording
from trend_dagster.validation.recordings import simulated as simulate

pytestmark = pytest.mark.slow

EASY = SimulationConfig(
    n_subjects=3, runs_per_subject=1, snr=0.9, distributed=0, border_variation=0, motion=0.1
)


@pytest.fixture(scope="module")
def planted() -> tuple[Labels, Recording]:
    return simulate(load_fsaverage(642), EASY)


def cleaned(name: str) -> approaches.Approach:
    return approaches.competitor("cleaned", name, 14.0, approaches.profile(approaches.PROFILE))


CASES = {
    "ours": (approaches.default_approach, 0.9),
    "tutorial": (lambda: approaches.tutorial_approach(20), 0.5),
    **{
        name: (partial(cleaned, name), least)
        for name, least in {
            "KMeans": 0.75,
            "Spectral": 0.85,
            "PCA, KMeans": 0.75,
            "NMF, largest loading": 0.75,
            "Ward on the mesh": 0.75,
            # nilearn weighs its 200 components alike, so that its KMeans finds noise.
            "nilearn Ward": 0.5,
        }.items()
    },
}


@pytest.mark.parametrize("case", CASES)
def test_plain_networks_are_found(planted: tuple[Labels, Recording], case: str) -> None:
    truth, recording = planted
    make, least = CASES[case]
    labels = make().find(recording, 14, 108)
    np.testing.assert_array_equal(labels >= 0, recording.mask)
    assert mean_dice(labels, truth) > least


def test_correlations_are_computed_once(planted: tuple[Labels, Recording]) -> None:
    _, recording = planted
    settings = approaches.profile(approaches.PROFILE)
    first = recording.correlation(settings)
    assert recording.correlation(settings) is first
    other = approaches.changed(settings, bold={"global_signal": "keep"})
    assert recording.correlation(other) is not first


def test_cleaning_is_part_of_the_method(planted: tuple[Labels, Recording]) -> None:
    _, recording = planted
    settings = approaches.profile(approaches.PROFILE)
    plain = recording.correlation(settings).matrix
    for cleaning in ({"detrend": True}, {"low_pass_hz": 0.1}):
        cleaned = recording.correlation(approaches.changed(settings, bold=cleaning)).matrix
        assert np.abs(cleaned - plain).max() > 0.01
    with pytest.raises(SettingsError, match="confounds"):
        recording.correlation(approaches.changed(settings, bold={"confounds": ["csf"]}))


def test_encodings_cut_what_they_say(planted: tuple[Labels, Recording]) -> None:
    _, recording = planted
    settings = approaches.changed(approaches.profile("tutorial"), features={"source": "bold"})
    correlation = recording.correlation(settings)

    def matrix(choice: EncodingChoice) -> BlockMatrix:
        return encode(correlation, choice.on(recording, settings), settings)

    sizes = {labels: matrix(EncodingChoice(labels)).block_sizes for labels in (None, 1, 4)}
    n = int(recording.mask.sum())
    assert {k: len(v) for k, v in sizes.items()} == {None: 1, 1: 2, 4: 8}
    assert {int(v.sum()) for v in sizes.values()} == {n}
    assert matrix(EncodingChoice(sigma_mm=30.0)).sum() < matrix(EncodingChoice()).sum()


def test_the_command_shows_tables_keeps_figures_and_goes_on(monkeypatch, capsys, tmp_path) -> None:
    calls = []

    def count(recording: Recording, n: int, seed: int) -> Labels:
        calls.append(n)
        return np.where(recording.mask, recording.surface.hemisphere, -1)

    way = approaches.Approach("ours", approaches.PROFILE, {"name": "count"}, count)
    raw = approaches.Approach("raw", "KMeans", {"name": "raw"}, count)
    monkeypatch.setattr(simulated, "COHORT", {"n_subjects": 2, "n_timepoints": 40})
    monkeypatch.setattr(approaches, "all_approaches", lambda quick: iter([way, raw]))
    words = ["trend", "validate", str(tmp_path / "v"), "--section", "simulated", "--quick"]

    def run(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", [*words, "--seed", "1", "--seed", "2", *more])
        monkeypatch.setattr(cli.app.console, "quiet", False)
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return capsys.readouterr().out

    assert "14 planted networks, SNR 0.18, 2 cohorts" in run()
    assert calls == [14] * 8
    found = json.loads(run("--json"))
    assert len(calls) == 8
    assert {row["approach"] for row in found["simulated"]} == {approaches.PROFILE, "KMeans"}
    assert found["headlines"] == [None]
    assert "38 planted networks, SNR 0.25, 2 cohorts" in run("--networks", "19")
    assert calls[8:] == [38] * 8
