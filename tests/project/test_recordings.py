"""Runs as their files tell them: what is left out of them, and whether they are their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trend_dagster.errors import CohortError, InputError, SettingsError
from trend_dagster.project.folder import Project
from trend_dagster.project.recordings import (
    check_recordings,
    copies,
    read_recording,
    recording_files,
    weights_of,
)
from trend_dagster.project.settings import Settings
from trend_dagster.storage.stores import Recipe

N, N_TIMEPOINTS = 200, 100
RUNS = ("sub-01_task-rest", "sub-02_task-rest")


@pytest.fixture
def folder(tmp_path: Path, rng) -> Path:
    (tmp_path / "bold").mkdir()
    for run in RUNS:
        bold = 1000 + 10 * rng.standard_normal((N, N_TIMEPOINTS))
        np.save(tmp_path / "bold" / f"{run}.npy", bold.astype(np.float32))
        write_table(tmp_path, run, framewise_displacement=np.arange(N_TIMEPOINTS) / 100, trans_x=0)
    return tmp_path


def write_table(folder: Path, run: str, ending: str = "_desc-confounds_timeseries.tsv", **columns):
    values = [np.broadcast_to(column, N_TIMEPOINTS) for column in columns.values()]
    lines = ["\t".join(columns), *("\t".join(map(str, row)) for row in zip(*values, strict=True))]
    (folder / "bold" / f"{run}{ending}").write_text("\n".join(lines) + "\n")


def project(folder: Path, **bold) -> Project:
    settings = {"bold": {"repetition_time": 2.0, **bold}, "correlation": {"weight": "frames"}}
    return Project(folder, Settings.model_validate(settings))


def read(folder: Path, run: str = RUNS[0], **bold):
    found = project(folder, **bold)
    return read_recording(found, found.bold_run(run))


def test_nothing_is_left_out_unless_it_is_asked_for(folder):
    found = read(folder)
    assert found.sample_mask is None
    assert found.facts["n_timepoints"] == N_TIMEPOINTS
    assert "n_volumes" not in found.facts


@pytest.mark.parametrize("drop", [5, "10 s"])
def test_what_is_dropped_and_censored_is_recorded(folder, drop):
    censor = {"column": "framewise_displacement", "above": 0.5}
    found = read(folder, drop_first=drop, censor=censor)
    assert np.flatnonzero(found.sample_mask).tolist() == list(range(5, 51))
    facts = {name: found.facts[name] for name in ("n_volumes", "n_timepoints", "minutes_kept")}
    assert facts == {"n_volumes": 100, "n_timepoints": 46, "minutes_kept": 1.53}
    assert found.facts["n_volumes_dropped"] == 5
    assert found.facts["n_volumes_censored"] == 49


def test_volumes_marked_in_another_table(folder):
    marks = (np.arange(N_TIMEPOINTS) % 10 == 3).astype(int)
    write_table(folder, RUNS[0], "_outliers.tsv", framewise_displacement=marks)
    bold = {"censor": {"file": "_outliers.tsv"}}
    found = project(folder, **bold)
    assert "censored" in recording_files(found, found.bold_run(RUNS[0]))
    assert np.array_equal(read(folder, **bold).sample_mask, marks == 0)
    with pytest.raises(InputError, match=r"name ends with _outliers\.tsv, found no such file"):
        read(folder, RUNS[1], **bold)


def test_a_run_of_which_too_little_is_left_is_excluded_by_name(folder):
    found = read(folder, censor={"above": 0.5}, minimum_minutes=2)
    assert found.unusable is not None
    assert found.unusable.startswith("sub-01_task-rest.npy: 1.7 minutes are left (51 of 100")
    assert read(folder, censor={"above": 0.5}, minimum_minutes=1.5).unusable is None
    assert "1 of 100 volumes are left" in str(read(folder, censor={"above": 0.001}).unusable)


def test_volumes_before_the_steady_state_are_said(folder):
    flags = {f"non_steady_state_outlier0{i}": np.eye(N_TIMEPOINTS, dtype=int)[i] for i in range(3)}
    write_table(folder, RUNS[0], **flags)
    (note,) = read(folder).facts["notes"]
    assert "first 3 volumes are not in steady state" in note
    assert "notes" not in read(folder, drop_first=3).facts
    assert "notes" not in read(folder, confounds=["non_steady_state_outlier*"]).facts


def test_a_name_that_no_table_has_is_one_error_in_the_same_words(folder):
    said = set()
    for run in RUNS:
        with pytest.raises(SettingsError) as caught:
            read(folder, run, confounds=["trans_xx"])
        said.add(str(caught.value))
    assert len(said) == 1
    assert "(did you mean trans_x?)" in said.pop()


def test_a_column_that_one_run_lacks_names_the_run_and_the_column(folder):
    write_table(folder, RUNS[1], framewise_displacement=0)
    with pytest.raises(InputError, match=r"sub-02_task-rest: expected the column trans_x"):
        read(folder, RUNS[1], confounds=["trans_x"])
    assert read(folder, confounds=["trans_?"]).confounds.shape == (N_TIMEPOINTS, 1)


# Recordings of their own


def store(folder: Path, run: str, bold: np.ndarray) -> None:
    kept = project(folder).store
    key = {"bold_run": run}
    with kept.draft("bold", key) as draft:
        draft.write("bold", bold.astype(np.float32))
        draft.write("vertex_mask", np.ones(len(bold), dtype=bool))
        kept.publish(draft, key, Recipe("bold", "1"), facts={"n_timepoints": bold.shape[1]})


def test_copies_are_found_whole_or_by_hemisphere(folder, rng):
    runs = {name: rng.standard_normal((N, 50)) for name in "abc"}
    for name, bold in runs.items():
        store(folder, name, bold)
    opened = project(folder)
    assert copies(opened, "abc") == []
    check_recordings(opened, "abc")
    store(folder, "d", 2 * runs["a"][:, :40] - 1)
    half = np.concatenate([rng.standard_normal((N // 2, 50)), runs["b"][N // 2 :]])
    store(folder, "e", half)
    found = copies(opened, "abcde")
    assert found == [("a", "d", "are the same"), ("b", "e", "share the right hemisphere")]
    with pytest.raises(CohortError, match="BOLD runs d, e: expected a recording of its own"):
        check_recordings(opened, "abcde")


def test_runs_weigh_by_what_is_left_of_them(folder, rng):
    store(folder, "a", rng.standard_normal((N, 50)))
    store(folder, "b", rng.standard_normal((N, 20)))
    assert weights_of(project(folder), "ab") == [50, 20]
    with pytest.raises(CohortError, match="none of c"):
        weights_of(project(folder), "abc")
    assert weights_of(Project(folder, Settings()), "abc") is None
