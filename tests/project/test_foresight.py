"""What is foreseen, in the words in which the work would say it hours later."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from tests.conftest import N_VERTICES, run
from tests.spheres import brain, write_gifti
from trend_dagster.errors import InputError
from trend_dagster.orchestration.examination import examine
from trend_dagster.project.atlases import read_atlases, read_planted
from trend_dagster.project.folder import Project
from trend_dagster.project.foresight import foreseen, misfits
from trend_dagster.project.mesh import check_label_file, labels_worked_on
from trend_dagster.project.recordings import read_recording
from trend_dagster.storage.label_files import label_file_at

RUN = "sub-01_run-1"


def with_settings(folder: Path, inputs: str = "", more: str = "") -> Project:
    file = folder / "trend.yaml"
    file.write_text(file.read_text().replace("inputs: {", f"inputs: {{{inputs}") + more)
    return Project.open(folder)


def errors(folder: Path, *assets: str) -> list[str]:
    outcomes = run(folder, among=assets)
    return [error for outcome in outcomes.values() for error in outcome.errors]


def wrong_of(folder: Path) -> list[str]:
    return [f.words for f in examine(folder) if f.subject == "inputs" and f.level == "wrong"]


def test_a_project_in_which_all_fits_has_none(project_folder):
    write_gifti(project_folder, brain(N_VERTICES // 2, radius=30.0))
    inputs = "surfaces: [L.surf.gii, R.surf.gii], "
    atlas = "outputs: {atlases: [planted_networks.npy]}\n"
    project = with_settings(project_folder, inputs, atlas)
    assert [*foreseen(project), *misfits(project)] == []
    assert wrong_of(project_folder) == []


def test_a_mesh_of_another_density_is_foreseen(project_folder):
    write_gifti(project_folder, brain(50, radius=30.0))
    project = with_settings(project_folder, "surfaces: [L.surf.gii, R.surf.gii], ")
    (said,) = misfits(project)
    assert "expected 90 vertices, as the BOLD has, found 100" in said
    assert wrong_of(project_folder) == [said]
    assert any(said in error for error in errors(project_folder, "bold", "cortex"))


def test_so_is_a_mesh_that_cannot_be_read(project_folder):
    project = with_settings(project_folder, "surfaces: [L.surf.gii, R.surf.gii], ")
    (said,) = misfits(project)
    assert "L.surf.gii" in said


def test_so_is_one_that_is_finer_than_the_runs_to_bring_down(project_folder):
    project = with_settings(project_folder, "surface: fsaverage5, resample: 3k, ")
    with pytest.raises(InputError) as caught:
        read_recording(project, project.bold_run(RUN))
    found = misfits(project)
    assert len(found) == len(project.bold_runs)
    assert found[0] == str(caught.value)


def test_labels_truth_and_atlases_of_another_mesh_are_all_foreseen(project_folder):
    for name in ("atlas", "planted_networks"):
        np.save(project_folder / f"{name}.npy", np.arange(80) % 3)
    np.save(project_folder / "geodesic_labels" / "six.npy", np.arange(70) % 6)
    project = with_settings(project_folder, more="outputs: {atlases: [atlas.npy]}\n")
    labels, truth, atlas = misfits(project)
    assert "geodesic label file six.npy: expected 90 labels, one per vertex" in labels
    assert "planted networks planted_networks.npy: expected 90 labels" in truth
    with pytest.raises(InputError) as caught:
        read_atlases(project, N_VERTICES, None)
    assert atlas == str(caught.value)
    assert wrong_of(project_folder) == [labels, truth, atlas]


def test_labels_are_compared_with_the_mesh_of_the_files_where_that_is_made_coarser(
    project_folder, monkeypatch
):
    for file in (project_folder / "bold").iterdir():
        file.unlink()
    np.save(project_folder / "bold" / f"{RUN}.npy", np.ones((20484, 40), np.float32))
    for file in (project_folder / "geodesic_labels").iterdir():
        np.save(file, np.arange(2562) % 6)
    project = with_settings(project_folder, "surface: fsaverage5, resample: 3k, ")
    # Nothing is brought to another mesh to know that.
    monkeypatch.setattr("trend_dagster.project.mesh._resampling", None)
    found = misfits(project)
    assert "expected 20484 labels, one per vertex of the BOLD runs, found 2562" in found[0]


def test_such_labels_are_an_error_in_the_same_words(project_folder, monkeypatch):
    way = SimpleNamespace(down=sp.eye_array(10, 100, format="csr"))
    monkeypatch.setattr("trend_dagster.project.mesh.resampling_of", lambda project: way)
    project = Project.open(project_folder)
    file = project.label_file(next(iter(project.label_files)))
    with pytest.raises(InputError, match="expected 100 labels, one per vertex of the BOLD runs"):
        labels_worked_on(project, np.arange(90), partial(check_label_file, file))
    planted = label_file_at(project_folder / "planted_networks.npy")
    with pytest.raises(InputError, match="expected 100 labels, one per vertex"):
        read_planted(project, planted, 10)


@pytest.mark.parametrize(
    "bold", ["high_pass_hz: 0.01", "drop_first: 4 s", "minimum_minutes: 0.1", "low_pass_hz: 9"]
)
def test_what_needs_a_repetition_time_is_foreseen_where_none_is_known(project_folder, bold):
    if "low" in bold:
        bold += ", repetition_time: 1.0"
    project = with_settings(project_folder, more=f"bold: {{{bold}}}\n")
    (said,) = dict.fromkeys(foreseen(project))
    assert said[0] == ""
    assert wrong_of(project_folder) == [said[1]]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its words are compared
        read_recording(project, project.bold_run(RUN)).prepared(project.settings.bold)
    assert str(caught.value) == said[1]


def test_runs_that_are_left_out_are_not_asked(project_folder):
    np.save(project_folder / "bold" / "sub-03_run-2.npy", np.ones((70, 40), np.float32))
    write_gifti(project_folder, brain(N_VERTICES // 2, radius=30.0))
    project = with_settings(project_folder, "surfaces: [L.surf.gii, R.surf.gii], ")
    assert len(misfits(project)) == 1
    project = with_settings(project_folder, "exclude: {sub-03_run-2: another mesh}, ")
    assert misfits(project) == []
