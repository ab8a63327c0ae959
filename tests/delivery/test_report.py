"""What the report says of runs, and of what was brought from elsewhere."""

from __future__ import annotations

import yaml

from tests.delivery.test_page import report
from trend_dagster.delivery.page import render
from trend_dagster.delivery.report import _features_from, _recorded, _used_settings
from trend_dagster.project.settings import load_settings


def test_settings_that_decided_nothing_are_not_listed(tmp_path):
    tutorial, default = load_settings(tmp_path, "tutorial"), load_settings(tmp_path, "default")

    def left_out(settings, imported):
        return settings.model_dump().keys() - yaml.safe_load(_used_settings(settings, imported))

    assert left_out(tutorial, {}) == set()
    assert left_out(default, {}) == {"autoencoder", "training"}
    assert left_out(tutorial, {"trained_model": "a.pth"}) == {"training"}
    emb = {"embeddings": "a.npy"}
    assert left_out(tutorial, emb) == {"training"}
    assert left_out(tutorial, {"average_correlation": "a.npy"}) == {"training"}
    assert _features_from(tutorial, {}) == "trained model"
    assert _features_from(tutorial, emb) == "what was imported"


def test_of_a_run_volumes_kept_minutes_and_motion_stand_in_the_table():
    facts = {
        "n_volumes": 300,
        "n_timepoints": 250,
        "repetition_time_s": 1.2,
        "mean_framewise_displacement": 0.1234,
    }
    row = report("x").runs[0]
    page = render(report("x", runs=[{**row, **_recorded(facts)}]))
    cells = "<td>300</td><td>250</td><td>5.000</td><td>0.123</td>"
    assert cells in page
    for title in ("Volumes", "kept", "Minutes kept", "Mean FD, mm"):
        assert f'<th scope="col">{title}</th>' in page
    assert _recorded({"n_timepoints": 100, "repetition_time_s": None}) == {
        "n_volumes": 100,
        "n_kept": 100,
        "minutes": None,
        "mean_fd": None,
    }
    assert set(_recorded({}).values()) == {None}


def test_associations_that_were_left_out_are_named_below_the_newborns():
    page = render(report("x", not_associated=["no association with age: 4 newborns"]))
    assert "<li>no association with age: 4 newborns</li>" in page
    assert "left out:" not in render(report("x", not_associated=[]))
