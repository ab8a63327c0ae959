"""The model as an output: its files, its card, training that goes on, models that users bring."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from benchmarks.tutorial_model import TutorialModel
from tests.conftest import MEDIAL_WALL, N_TIMEPOINTS, N_VERTICES, run, simulate_run
from trend_dagster.errors import InputError
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.checks import _not_collapsed
from trend_dagster.orchestration.importing import import_file, read_checkpoint
from trend_dagster.orchestration.instance import open_instance
from trend_dagster.orchestration.lineage import Lineage
from trend_dagster.orchestration.production import restore_files
from trend_dagster.project.folder import Project
from trend_dagster.science.features.autoencoder import embed, initial_model
from trend_dagster.science.features.collapse import collapse_measures
from trend_dagster.science.features.model_settings import AutoencoderConfig

CONFIG = AutoencoderConfig(
    d_model=16, n_heads=8, n_encoder_layers=2, n_decoder_layers=2, dim_feedforward=20
)
FILES = ["model.json", "model.safetensors"]


def model_of(folder):
    return Project.open(folder).store.latest("trained_model")


def change(folder, **sections):
    path = folder / "trend.yaml"
    settings = yaml.safe_load(path.read_text())
    for section, values in sections.items():
        settings[section] = {**settings.get(section, {}), **values}
    path.write_text(yaml.safe_dump(settings))


def retrain(folder):
    outcome = run(folder, select=["trained_model"], retrain=True)["trained_model"]
    assert outcome.errors == ()
    return model_of(folder)


# --- Files ----------------------------------------------------------------------------------


def test_weights_and_card_are_part_of_the_version_and_are_delivered(finished):
    version = model_of(finished)
    delivered = finished / "outputs" / "trained_model"
    assert sorted(p.name for p in delivered.iterdir()) == FILES
    for name in FILES:
        assert (delivered / name).read_bytes() == version.file(name).read_bytes()
    card = json.loads((delivered / "model.json").read_text())
    weights = load_file(delivered / "model.safetensors")
    assert sum(w.numel() for w in weights.values()) == card["n_parameters"]
    assert card["settings"]["d_model"] == 16
    assert card["history"]["n_epochs"] == 2
    assert card["history"]["best_validation_loss"] == pytest.approx(
        version.read("history_validation_loss").min()
    )
    assert sorted(card["trained_on"]["train"]) == sorted(version.facts["training_runs"])
    assert card["libraries"]["torch"] == metadata.version("torch")


def test_a_delivered_file_that_is_gone_comes_from_the_store_without_training(finished):
    """Training takes days: no loss of a copy may start it."""
    version = model_of(finished)
    weights = finished / "outputs" / "trained_model" / "model.safetensors"
    weights.unlink()
    project = Project.open(finished)
    (state,) = Lineage(project).states(ASSETS["trained_model"])
    assert state.status == "current"
    restore_files(project, version)
    assert weights.read_bytes() == version.file("model.safetensors").read_bytes()


@pytest.mark.parametrize("source", ["input_projection", "encoder", "bold"])
def test_features_that_have_become_alike_are_told(source, rng):
    model = initial_model(CONFIG, N_TIMEPOINTS, 0)
    bold = rng.standard_normal((60, N_TIMEPOINTS)).astype(np.float32)
    alike = bold[:1] + 0.01 * bold
    told = [
        list(_not_collapsed(None, SimpleNamespace(facts=asdict(collapse_measures(features)))))
        for features in (
            series if source == "bold" else embed(model, series, source=source)
            for series in (bold, alike)
        )
    ]
    assert told[0] == []
    assert "has collapsed: mean correlation between vertices 1.000" in told[1][0]


# --- Training goes on -----------------------------------------------------------------------


@pytest.mark.slow
def test_more_epochs_continue_and_other_settings_say_why_they_do_not(project_folder):
    run(project_folder, select=["bold", "trained_model"])
    change(project_folder, training={"n_epochs": 4})
    longer = retrain(project_folder)
    assert longer.facts["epochs_resumed_from"] == 2
    assert longer.facts["n_epochs"] == 4
    change(project_folder, training={"learning_rate": 2e-3})
    other = retrain(project_folder)
    assert "epochs_resumed_from" not in {k for k, v in other.facts.items() if v is not None}
    assert "learning_rate from 0.001 to 0.002" in other.facts["started_afresh_because"]
    change(project_folder, training={"learning_rate": 1e-3, "n_epochs": 5})
    assert retrain(project_folder).facts["epochs_resumed_from"] == 4


@pytest.mark.slow
def test_two_devices_train_from_the_store(project_folder):
    change(project_folder, training={"n_devices": 2, "accelerator": "cpu"})
    outcome = run(project_folder, select=["bold", "trained_model"])["trained_model"]
    assert outcome.errors == ()
    assert len(model_of(project_folder).read("history_epoch")) == 2


# --- Models that users bring ----------------------------------------------------------------


def bring(folder, n_timepoints=N_TIMEPOINTS, **changes):
    """Import a checkpoint as the notebook writes it; returns the published model as well."""
    torch.manual_seed(5)
    theirs = TutorialModel(CONFIG, n_timepoints).eval()
    content = {
        "epoch": 7,
        "model_state_dict": torch.nn.DataParallel(theirs).state_dict(),
        "optimizer_state_dict": torch.optim.Adam(theirs.parameters()).state_dict(),
        "best_val_loss": 2.5,
    }
    path = folder.parent / "best_model.pth"
    torch.save({**content, **changes}, path)
    with open_instance(folder) as instance:
        import_file(Project.open(folder), instance, path, read_checkpoint)
    return theirs, path


@pytest.mark.slow
def test_embeddings_of_an_imported_model_are_the_tutorials(project_folder):
    change(
        project_folder,
        bold={"standardize": "none", "global_signal": "keep"},
        features={"source": "input_projection"},
    )
    theirs, path = bring(project_folder)
    version = model_of(project_folder)
    assert version.recipe.imported_from == path.name
    assert version.facts["origin"]["epoch"] == 7
    assert version.facts["origin"]["confidence_trained"] is False
    (state,) = Lineage(Project.open(project_folder)).states(ASSETS["trained_model"])
    assert state.status == "current"
    outcomes = run(project_folder, select=["bold", "embeddings"])
    assert [o.errors for o in outcomes.values() if o.errors] == []
    found = Project.open(project_folder).store.latest("embeddings", {"bold_run": "sub-02_run-1"})
    kept = ~np.isin(np.arange(N_VERTICES), MEDIAL_WALL)
    x = torch.tensor(simulate_run(10)[kept])[None]
    with torch.no_grad():
        expected = theirs.embedding(x)[0].numpy()
    scale = np.abs(expected).max()
    assert np.abs(found.read("features")[kept] - expected).max() <= 1e-5 * scale
    assert not found.read("features")[~kept].any()


def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_changes(project_folder):
    with pytest.raises(InputError, match=rf"the {N_TIMEPOINTS} timepoints.*weights for 41"):
        bring(project_folder, n_timepoints=41)
    with pytest.raises(InputError, match=r"embedding\.weight"):
        bring(project_folder, model_state_dict={})
    assert model_of(project_folder) is None
