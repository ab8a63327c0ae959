"""Runs as their files tell them: what is left out of them, and whether they are their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trend_dagster.errors import CohortError, InputError, SettingsError
from trend_dagster.project import recordings
from trend_dagster.project.folder import Project
from trend_dagster.project.foresight import foreseen
from trend_dagster.project.recordings import (
    Recording,
    check_recordings,
    copies,
    read_recording,
    recording_files,
    weights_of,
)
from trend_dagster.project.settings import Settings
from trend_dagster.science.bold import same_recordings
from trend_dagster.science.method import prepare_run
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
    unusable = read(folder, RUNS[1], **bold).unusable
    assert "name ends with _outliers.tsv, found no such file" in unusable


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


def test_volumes_that_the_censor_leaves_out_are_not_asked_for_again(folder):
    write_table(folder, RUNS[0], non_steady_state_outlier00=np.eye(N_TIMEPOINTS, dtype=int)[0])
    assert "notes" not in read(folder, censor={"column": "non_steady*", "above": 0}).facts


def test_a_pattern_may_stand_for_a_column_for_each_volume_and_for_none(folder):
    spikes = {f"motion_outlier0{i}": np.eye(N_TIMEPOINTS, dtype=int)[7 * i] for i in (1, 2, 3)}
    write_table(folder, RUNS[0], trans_x=0, **spikes)
    censor = {"column": "motion_outlier*", "above": 0}
    found = read(folder, censor=censor)
    assert np.flatnonzero(~found.sample_mask).tolist() == [7, 14, 21]
    still = read(folder, RUNS[1], censor=censor)
    assert still.unusable is None
    assert still.facts["n_volumes_censored"] == 0
    with pytest.raises(SettingsError, match="which no table has"):
        read(folder, censor={"column": "motion_outliers*", "above": 0})


def test_as_many_confounds_as_volumes_leave_nothing(folder, rng):
    write_table(folder, RUNS[0], **{f"c{i}": rng.standard_normal(N_TIMEPOINTS) for i in range(20)})
    found = read(folder, confounds=["c*"], drop_first=79)
    assert "20 confounds leave nothing of 21 volumes" in str(found.unusable)
    assert read(folder, confounds=["c*"], drop_first=78).unusable is None


def test_volumes_that_are_dropped_need_no_confounds(folder):
    moved = np.arange(N_TIMEPOINTS) / 1000
    moved[:3] = np.nan
    write_table(folder, RUNS[0], framewise_displacement=moved, trans_x=moved)
    bold = {"confounds": ["trans_x"], "censor": {"above": 0.5}}
    found = read(folder, drop_first=3, **bold)
    assert np.isfinite(found.confounds).all()
    np.testing.assert_array_equal(found.confounds[3:, 0], moved[3:])
    with pytest.raises(InputError, match="found 3 without one, first framewise_displacement"):
        read(folder, drop_first=1, **bold)


@pytest.mark.parametrize(("filters", "n"), [({}, 34), ({"high_pass_hz": None}, 19)])
def test_a_run_too_short_to_filter_is_excluded_by_name(folder, filters, n):
    bold = {"high_pass_hz": 0.01, "low_pass_hz": 0.1, **filters}
    short = read(folder, drop_first=N_TIMEPOINTS - n + 1, **bold)
    assert f"filters need {n} volumes, and {n - 1} of 100 are left" in str(short.unusable)
    enough = read(folder, drop_first=N_TIMEPOINTS - n, **bold)
    config = Settings.model_validate({"bold": bold}).bold
    prepared, _ = prepare_run(enough.raw.signal, config, 2.0, None, enough.sample_mask)
    assert prepared.shape == (N, n)
    assert np.isfinite(prepared).all()


# Masks beside where the run has no signal


def masked(folder: Path, *masks: np.ndarray) -> Recording:
    names = [f"{i}.npy" for i in range(len(masks))]
    for name, mask in zip(names, masks, strict=True):
        np.save(folder / name, mask)
    settings = Settings.model_validate({"inputs": {"cortex_mask": names}})
    found = Project(folder, settings)
    return read_recording(found, found.bold_run(RUNS[0]))


def test_a_cortex_mask_is_compared_with_the_wall_of_the_run(folder):
    left, right, other = (np.ones(N // 2, dtype=bool) for _ in range(3))
    left[:9], right[20:30], other[50:60] = False, False, False
    bold = np.load(folder / "bold" / f"{RUNS[0]}.npy")
    bold[~np.concatenate([left, right])] = 0
    np.save(folder / "bold" / f"{RUNS[0]}.npy", bold)
    assert "notes" not in masked(folder, left, right).facts
    for masks in ((right, left), (np.concatenate([right, left]),)):
        with pytest.raises(InputError, match="none the other way round: exchanged"):
            masked(folder, *masks)
    with pytest.raises(InputError, match=r"one mask for both.*the right hemisphere, where"):
        masked(folder, left, left)
    (note,) = masked(folder, left, other).facts["notes"]
    assert "100% of the vertices that the cortex mask leaves out in the right hemisphere" in note


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
    unusable = read(folder, RUNS[1], confounds=["trans_x"]).unusable
    assert "sub-02_task-rest.npy: its confounds table lacks trans_x, which other runs" in unusable
    assert read(folder, confounds=["trans_?"]).confounds.shape == (N_TIMEPOINTS, 1)


def test_a_run_without_a_table_is_excluded_and_the_others_go_on(folder):
    (folder / "bold" / f"{RUNS[1]}_desc-confounds_timeseries.tsv").unlink()
    unusable = read(folder, RUNS[1], confounds=["trans_x"]).unusable
    assert unusable.startswith(
        "sub-02_task-rest.npy: expected one table of this recording, sub-02_"
    )
    assert unusable.endswith("found no such file")
    assert read(folder, confounds=["trans_x"]).unusable is None


def test_without_any_table_it_is_one_error_in_the_same_words(folder):
    for table in folder.glob("bold/*.tsv"):
        table.unlink()
    said = set()
    for run in RUNS:
        with pytest.raises(SettingsError, match="found none beside any of 2 runs") as caught:
            read(folder, run, confounds=["trans_x"])
        said.add(str(caught.value))
    assert len(said) == 1


def test_each_table_is_read_once_however_many_runs_lack_theirs(folder, monkeypatch):
    for i in range(3, 9):
        (folder / "bold" / f"sub-0{i}_task-rest.npy").write_bytes(
            (folder / "bold" / f"{RUNS[0]}.npy").read_bytes()
        )
    read = []
    monkeypatch.setattr(recordings, "columns_of", lambda path: read.append(path) or ["trans_x"])
    found = dict(foreseen(project(folder, confounds=["trans_x"])))
    assert len(found) == 6
    assert len(read) == 2


def test_what_keeps_runs_from_being_used_is_foreseen_all_at_once(folder):
    np.save(folder / "bold" / f"{RUNS[1]}.npy", np.ones((N, 30), dtype=np.float32))
    filters = {"high_pass_hz": 0.01, "low_pass_hz": 0.1}
    found = list(foreseen(project(folder, confounds=["trans_xx"], **filters)))
    assert [key for key, _ in found] == ["", RUNS[1], RUNS[1]]
    assert "(did you mean trans_x?)" in found[0][1]
    assert found[1][1] == "filters need 34 volumes, and there are 30"
    assert "has 100 rows, and there are 30 volumes" in found[2][1]


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
    store(folder, "f", runs["c"][:, 15:45])
    found = copies(opened, "abcdef")
    assert found == [
        ("a", "d", "are the same"),
        ("c", "f", "are the same"),
        ("b", "e", "share the right hemisphere"),
    ]
    with pytest.raises(CohortError, match="BOLD runs d, f, e: expected a recording of its own"):
        check_recordings(opened, "abcdef")


def test_runs_are_compared_once_until_one_of_them_changes(folder, rng, monkeypatch):
    for name in "ab":
        store(folder, name, rng.standard_normal((N, 50)))
    compared = []

    def counted(series):
        compared.append(set(series))
        return same_recordings(series)

    monkeypatch.setattr(recordings, "same_recordings", counted)
    assert copies(project(folder), "ab") == copies(project(folder), "ab") == []
    assert compared == [{"a", "b"}] * 2  # once for each hemisphere

    store(folder, "b", project(folder).store.latest("bold", {"bold_run": "a"}).read("bold"))
    for _ in range(2):
        assert copies(project(folder), "ab") == [("a", "b", "are the same")]
    assert len(compared) == 4

    # What remembers may be anything, or gone.
    memory = folder / "store" / ".copies.json"
    for content in ("", "[]", '{"of": 3}'):
        memory.write_text(content)
        assert copies(project(folder), "ab") == [("a", "b", "are the same")]
    memory.unlink()
    memory.mkdir()
    assert copies(project(folder), "ab") == [("a", "b", "are the same")]


def test_runs_weigh_by_what_is_left_of_them(folder, rng):
    store(folder, "a", rng.standard_normal((N, 50)))
    store(folder, "b", rng.standard_normal((N, 20)))
    assert weights_of(project(folder), "ab") == [50, 20]
    with pytest.raises(CohortError, match="none of c"):
        weights_of(project(folder), "abc")
    assert weights_of(Project(folder, Settings()), "abc") is None
