"""BOLD as pairs of files: both count, and what was read is on record."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np

from tests.conftest import run, simulate_run
from trend_dagster.orchestration.assets import inputs
from trend_dagster.project.folder import Project
from trend_dagster.project.recordings import read_recording


def write_pairs(folder):
    for path in sorted((folder / "bold").glob("*.npy")):
        for side, part in zip(("lh", "rh"), np.split(np.load(path), [45]), strict=True):
            image = nib.MGHImage(part[:, None, None, :], np.eye(4))
            image.header["tr"] = 2000
            nib.save(image, folder / "bold" / f"{path.stem}.{side}.mgz")
        path.unlink()


def test_a_file_that_changes_while_it_is_read_is_read_again(project_folder, monkeypatch):
    file = project_folder / "bold" / "sub-01_run-1.npy"
    changed = np.load(file)[:, ::-1]

    def read_and_change(*arguments):
        run = read_recording(*arguments)
        np.save(file, changed)
        return run

    with monkeypatch.context() as patch:
        patch.setattr(inputs, "read_recording", read_and_change)
        assert run(project_folder, select=["bold"])["bold"].made == 6
    assert run(project_folder, select=["bold"])["bold"].made == 1
    assert run(project_folder, select=["bold"])["bold"].made == 0


def test_a_pair_is_one_partition_and_both_files_are_its_inputs(project_folder):
    write_pairs(project_folder)
    assert run(project_folder, select=["bold"])["bold"].made == 6
    first = {"bold_run": "sub-01_run-1"}
    version = Project.open(project_folder).store.latest("bold", first)
    assert {"file bold L", "file bold R"} <= version.recipe.inputs.keys()
    assert version.facts["space"]["n_vertices"] == {"L": 45, "R": 45}
    assert version.facts["repetition_time_s"] == 2
    assert version.facts["cleaned"] == "global signal"
    assert version.facts["repetition_time_told_by"] == "header"
    assert np.array_equal(version.read("vertex_mask"), simulate_run(0).std(axis=1) > 0)
    sidecar = project_folder / "bold" / "sub-01_run-1.rh.json"
    sidecar.write_text(json.dumps({"RepetitionTime": 0.5}))
    assert run(project_folder, select=["bold"])["bold"].made == 1
    again = Project.open(project_folder).store.latest("bold", first)
    assert again.facts["repetition_time_told_by"] == "sidecar"
