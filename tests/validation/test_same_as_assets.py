"""Validation measures the product: for the same recording, the same labels as the assets make."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import run
from trend_dagster.project.folder import Project
from trend_dagster.project.settings import profile_names
from trend_dagster.science.evidence.simulation import SimulationConfig, simulate_cohort
from trend_dagster.validation.approaches import method_approach
from trend_dagster.validation.real import recording_of

pytestmark = pytest.mark.slow

TO_SWEEP = ["cortex", "bold", "trained_model", "embeddings", "average_correlation"]
TO_SWEEP += ["geodesic_distances", "geodesic_labels", "thresholded_matrix", "nmf_sweep"]

SETTINGS = """\
profile: {profile}
inputs: {{surface: fsaverage3}}
bold: {{detrend: true, high_pass_hz: 0.01, repetition_time: 2.0}}
autoencoder:
  {{d_model: 16, n_heads: 2, n_encoder_layers: 1, n_decoder_layers: 1, dim_feedforward: 16,
   attention_dropout: 0.0}}
training: {{n_epochs: 1, learning_rate: 1.0e-3}}
geodesic_labels: {{n_labels_per_hemisphere: [1]}}
sweep: {{n_components: [6], alpha_W: [0.0], n_clusters: [5]}}
controls: {{features: []}}
validation: {{n_nulls: 0}}
"""


@pytest.mark.parametrize("profile", profile_names())
def test_assets_and_validation_give_the_same_labels(tmp_path, surface, profile):
    config = SimulationConfig(n_subjects=3, runs_per_subject=1, n_timepoints=40, snr=1.0)
    _, runs = simulate_cohort(surface, config)
    (tmp_path / "bold").mkdir()
    drift = 30 * np.linspace(-1, 1, 40, dtype=np.float32) ** 3
    for name, bold in runs:
        changing = bold.std(axis=1) > 0
        bold[changing] += np.linspace(-1, 1, changing.sum())[:, None].astype(np.float32) * drift
        np.save(tmp_path / "bold" / f"{name}.npy", bold)
    (tmp_path / "trend.yaml").write_text(SETTINGS.format(profile=profile))
    outcomes = run(tmp_path, among=TO_SWEEP)
    assert [o.errors for o in outcomes.values() if o.errors] == []
    project = Project.open(tmp_path)
    cell = {"label_file": "surface_002", "n_components": "6"}
    made = project.store.latest("nmf_sweep", cell).read("labels")[0, 0]
    _, recording = recording_of(project)
    found = method_approach("ours", profile, project.settings).find(recording, 5, 108)
    assert len(np.unique(found)) > 3
    np.testing.assert_array_equal(found, made)
    # Without the cleaning that the settings ask for, it is another result.
    careless = project.settings.bold.model_copy(update={"detrend": False, "high_pass_hz": None})
    other = project.settings.model_copy(update={"bold": careless})
    labels = method_approach("ours", profile, other).find(recording, 5, 108)
    assert (labels != made).any()
