"""The default settings, on BOLD whose mesh is named and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import run
from trend_dagster.project.folder import Project
from trend_dagster.project.settings import DEFAULT_PROFILE, new_settings_file
from trend_dagster.project.tables import verdict
from trend_dagster.science.evidence.measures import mean_dice
from trend_dagster.science.evidence.simulation import SimulationConfig, simulate_cohort


@pytest.mark.slow
def test_planted_networks_come_back_without_label_files_or_a_model(tmp_path, surface):
    truth, runs = simulate_cohort(surface, SimulationConfig(snr=0.4))
    (tmp_path / "bold").mkdir()
    for name, bold in runs:
        np.save(tmp_path / "bold" / f"{name}.npy", bold)
    text = new_settings_file(DEFAULT_PROFILE) + "inputs: {surface: fsaverage3}\n"
    text += "validation: {n_nulls: 1}\n"
    (tmp_path / "trend.yaml").write_text(text)

    outcomes = run(tmp_path)

    assert [outcome.errors for outcome in outcomes.values() if outcome.errors] == []
    store = Project.open(tmp_path).store
    assert store.latest("trained_model").excluded is not None
    chosen = store.latest("selected_parcellations")
    assert {c["label_file"] for c in chosen.facts["chosen"]} == {"surface_002"}
    found = dict(zip(chosen.read("n_clusters").tolist(), chosen.read("labels"), strict=True))
    assert mean_dice(found[14], truth) > 0.9
    controls = store.latest("control_correlation")
    assert "no model to control" in controls.excluded
    # Several parcellations: the table of each has its own networks and no more.
    for n in found:
        for table in (tmp_path / "outputs" / "individuals").rglob(f"*seg-own{n}_*.tsv"):
            assert table.read_text().splitlines()[0].count("network_") == n
    people = np.genfromtxt(tmp_path / "outputs" / "individuals.csv", delimiter=",", names=True)
    assert set(people["n_clusters"].astype(int)) == set(found)


@pytest.mark.parametrize(
    ("found", "untrained", "bold", "says"),
    [
        (0.94, 0.934, 0.937, "does not find more than its best control (0.937)"),
        (0.94, 0.90, 0.91, "finds more than its best control (0.910)"),
        (0.80, 0.70, 0.91, "does not find more than its best control (0.910)"),
    ],
)
def test_a_model_is_said_to_find_more_only_if_it_does(found, untrained, bold, says):
    row = {"n_clusters": 14, "dice_trained": found, "dice_untrained": untrained, "dice_bold": bold}
    assert says in verdict(row)
