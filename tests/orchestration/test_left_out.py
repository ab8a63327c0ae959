"""What is not taken: vertices of the medial wall, and runs that the user names."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import NOTHING_TO_DO, run
from tests.golden import write_inputs
from trend_dagster.cli.status import _reasons
from trend_dagster.errors import SettingsError
from trend_dagster.orchestration.overview import overview
from trend_dagster.project.atlases import SHIPPED
from trend_dagster.project.folder import Project
from trend_dagster.project.recordings import read_recording
from trend_dagster.project.settings import Settings
from trend_dagster.science.plausibility import doubts, outlying
from trend_dagster.science.surface import edge_graph
from trend_dagster.storage.label_files import label_file_at, read_atlas


def store_of(folder):
    return Project.open(folder).store


# The medial wall


def on_fsaverage3(folder, bold):
    (folder / "bold").mkdir(parents=True)
    np.save(folder / "bold" / "sub-01.npy", bold.astype(np.float32))
    (folder / "trend.yaml").write_text("inputs: {surface: fsaverage3}\n")
    outcomes = run(folder, among=["bold", "cortex"])
    assert [e for o in outcomes.values() for e in o.errors] == []
    return outcomes


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_values_on_the_wall_of_a_mesh_that_comes_along_are_taken_out_and_said(
    tmp_path, surface, rng, value
):
    bold = 1000 + rng.standard_normal((surface.n_vertices, 40))
    bold[surface.medial_wall] *= value
    outcomes = on_fsaverage3(tmp_path, bold)
    made = store_of(tmp_path).latest("bold", {"bold_run": "sub-01"})
    assert made.excluded is None
    np.testing.assert_array_equal(made.read("vertex_mask"), ~surface.medial_wall)
    (said,) = outcomes["cortex"].doubts
    if np.isnan(value):
        assert "1 of 1 BOLD runs have NaN on the medial wall, which was taken out" in said
    else:
        assert "1 of 1 BOLD runs have values on the medial wall; that of fsaverage3 was" in said
        assert "inputs.cortex_mask" in said


def real_wall() -> np.ndarray:
    """FreeSurfer's own on fsaverage5, as the atlas that comes along leaves it out."""
    return read_atlas(label_file_at(SHIPPED["schaefer7"]))[0] < 0


def test_the_wall_that_fmriprep_writes_as_nan_is_the_wall_and_the_run_is_used(tmp_path, rng):
    wall = real_wall()
    bold = 1000 + rng.standard_normal((len(wall), 20))
    bold[wall] = np.nan
    recording = read_on(tmp_path, "fsaverage5", bold)
    assert recording.unusable is None
    np.testing.assert_array_equal(recording.mask, ~wall)
    assert recording.facts["medial_wall_of"] == "NaN"


@pytest.mark.parametrize("where", ["a patch of cortex", "around the wall", "some timepoints"])
def test_nan_on_cortex_excludes_a_run_whose_wall_is_nan(tmp_path, surface, rng, where):
    wall, steps = surface.medial_wall, edge_graph(surface) > 0
    bold = 1000 + rng.standard_normal((surface.n_vertices, 20))
    bold[wall] = np.nan
    apart = wall.copy()
    for _ in range(3):
        apart = apart | (steps @ apart)
    if where == "a patch of cortex":
        bold[np.flatnonzero(~apart)[0]] = np.nan
    elif where == "around the wall":
        bold[apart] = np.nan
    else:
        bold[np.flatnonzero(~wall)[0], 3] = np.nan
    assert "NaN or infinite values in" in read_on(tmp_path, "fsaverage3", bold).unusable


def read_on(folder, mesh: str, bold: np.ndarray, **inputs):
    (folder / "bold").mkdir()
    np.save(folder / "bold" / "sub-01.npy", bold.astype(np.float32))
    project = Project(folder, Settings.model_validate({"inputs": {"surface": mesh, **inputs}}))
    return read_recording(project, project.bold_run("sub-01"))


def test_coverage_counts_vertices_of_the_mesh_that_is_worked_on(tmp_path, rng):
    cortex = ~real_wall()
    np.save(tmp_path / "mask.npy", cortex)
    bold = 1000 + 10 * rng.standard_normal((len(cortex), 40))
    inputs = {"resample": "3k", "cortex_mask": ["mask.npy"]}
    facts = read_on(tmp_path, "fsaverage5", bold, **inputs).facts
    n_outside = facts["n_vertices_outside_cortex_mask"]
    assert 0.05 < n_outside / facts["n_vertices"] < 0.15
    assert facts["n_vertices_without_signal"] == n_outside
    assert doubts("bold", facts) == []


def test_a_wall_of_the_files_own_is_left_as_it_is(tmp_path, surface, rng):
    bold = 1000 + rng.standard_normal((surface.n_vertices, 40))
    own = surface.medial_wall.copy()
    own[np.flatnonzero(own)[:5]] = False  # a bit smaller than the estimate
    bold[own] = 0
    outcomes = on_fsaverage3(tmp_path, bold)
    mask = store_of(tmp_path).latest("bold", {"bold_run": "sub-01"}).read("vertex_mask")
    np.testing.assert_array_equal(mask, ~own)
    assert outcomes["cortex"].doubts == ()


def test_a_named_mask_goes_before_the_wall_of_the_mesh(tmp_path, surface, rng):
    mask = np.arange(surface.n_vertices) % 10 > 0
    np.save(tmp_path / "mask.npy", mask)
    (tmp_path / "bold").mkdir()
    bold = 1000 + rng.standard_normal((surface.n_vertices, 40))
    np.save(tmp_path / "bold" / "sub-01.npy", bold.astype(np.float32))
    named = "inputs: {surface: fsaverage3, cortex_mask: [mask.npy]}\n"
    (tmp_path / "trend.yaml").write_text(named)
    run(tmp_path, among=["bold"])
    made = store_of(tmp_path).latest("bold", {"bold_run": "sub-01"})
    np.testing.assert_array_equal(made.read("vertex_mask"), mask)


# Runs


def exclude(folder, text):
    settings = folder / "trend.yaml"
    settings.write_text(settings.read_text().replace("inputs: {", f"inputs: {{exclude: {text}, "))


@pytest.mark.slow
def test_a_run_is_left_out_with_its_reason_and_is_not_read(project_folder):
    (project_folder / "bold" / "sub-02_run-1.npy").write_bytes(b"no numbers")
    exclude(project_folder, '{sub-02_*: "another scanner"}')
    outcomes = run(project_folder, among=["bold"])
    assert [e for o in outcomes.values() for e in o.errors] == []
    why = "another scanner (inputs.exclude)"
    status = {a.asset: a for a in overview(Project.open(project_folder))}["bold"]
    assert status.excluded == {
        "bold[bold_run=sub-02_run-1]": why,
        "bold[bold_run=sub-02_run-2]": why,
    }
    assert run(project_folder, among=["bold"])["bold"].made == 0
    # Taken again, only they are made anew.
    settings = project_folder / "trend.yaml"
    settings.write_text(settings.read_text().replace("sub-02_*", "sub-02_run-1"))
    assert run(project_folder, among=["bold"])["bold"].made == 1
    made = store_of(project_folder).latest("bold", {"bold_run": "sub-02_run-2"})
    assert made.excluded is None


def test_what_will_never_be_made_is_not_missing_and_each_output_counts_once(project_folder):
    exclude(project_folder, '{sub-02_*: "another scanner"}')
    project = Project.open(project_folder)
    found = {a.asset: a for a in overview(project)}
    counts = {name: {k: n for k, n in a.counts.items() if n} for name, a in found.items()}
    assert counts["bold"] == {"missing": 4, "excluded": 2}
    assert counts["embeddings"] == {"blocked": 4, "excluded": 2}
    assert len(found["embeddings"].waiting) == 4
    idle = {name for name, each in counts.items() if set(each) == {"not needed"}}
    assert idle == NOTHING_TO_DO
    assert found["cortex"].not_needed == "the settings name no surface"
    assert found["cortex"].excluded == {}
    run(project_folder, among=["bold", "cortex"])
    found = {a.asset: a for a in overview(project)}
    assert sum(found["bold"].counts.values()) == 6
    assert (found["bold"].counts["current"], found["bold"].counts["excluded"]) == (4, 2)
    assert (found["cortex"].counts["current"], found["cortex"].counts["not needed"]) == (0, 1)


def test_newborns_without_runs_are_excluded_before_anything_is_made(tmp_path):
    folder = write_inputs(tmp_path / "project")
    exclude(folder, '{sub-2_*: "another scanner"}')
    found = {a.asset: a for a in overview(Project.open(folder))}
    for name in ("individual_networks", "individual_maps", "network_series", "individual_page"):
        why = "all runs of sub-2 are excluded"
        assert found[name].excluded == {f"{name}[subject=sub-2]": why}
    said: set[str] = set()
    lines = [line for asset in found.values() for line in _reasons(asset, 3, said)]
    assert [line for line in lines if "another scanner" in line or "all runs" in line] == [
        "bold[bold_run=sub-2_run-1] is excluded: another scanner (inputs.exclude)",
        "individual_networks[subject=sub-2] is excluded: all runs of sub-2 are excluded",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{sub-9_run-1: moved}", r"'sub-9_run-1', which no run matches \(did you mean sub-"),
        ("{sub-01: moved}", r"For all runs whose key begins so write sub-01_\*"),
        ('{sub-01_run-1: ""}', "a reason for each, also for sub-01_run-1"),
    ],
)
def test_a_run_that_is_not_there_or_without_a_reason_is_refused(project_folder, text, message):
    exclude(project_folder, text)
    with pytest.raises(SettingsError, match=message):
        Project.open(project_folder).keys("bold_run")


def facts(snr: float, missing: int = 100, moved: float = 0.2) -> dict:
    return {
        "temporal_snr": snr,
        "n_vertices": 1000,
        "n_vertices_without_signal": missing,
        "mean_framewise_displacement": moved,
    }


def test_runs_that_are_worse_than_the_others_by_far_are_named(rng):
    runs = {f"sub-{i}": facts(50 + rng.normal(), 100, 0.2 + 0.01 * rng.normal()) for i in range(9)}
    assert outlying(runs) == {}
    runs |= {"noisy": facts(20), "cut": facts(50, 300), "moved": facts(50, 100, 0.9)}
    runs |= {"better": facts(90, 0, 0.0)}
    found = outlying(runs)
    assert set(found) == {"noisy", "cut", "moved"}
    assert found["noisy"][0].startswith("temporal SNR is 20, where the median of 13 runs is 5")
    assert found["cut"][0].startswith("share of vertices with signal is 0.7,")
    assert found["moved"][0].startswith("mean framewise displacement is 0.9 mm,")
    assert outlying({name: runs[name] for name in ("noisy", "sub-1", "sub-2")}) == {}


def test_motion_is_told_by_the_table_beside_a_run_and_said_beside_the_others(project_folder):
    for i, path in enumerate(sorted((project_folder / "bold").glob("*.npy"))):
        rows = ["n/a", *[str(2.0 if i == 3 else 0.1 + i / 1000)] * 39]
        table = path.with_name(f"{path.stem}_desc-confounds_timeseries.tsv")
        table.write_text("\n".join(["framewise_displacement", *rows]) + "\n")
    # What sets it apart goes before what is said of every run.
    first, _ = run(project_folder, among=["bold"])["bold"].doubts
    assert first.startswith("bold[bold_run=sub-02_run-2]: mean framewise displacement is 2 mm, whe")
    assert "the median of 6 runs" in first


def test_one_cause_is_one_error_and_what_waits_for_it_is_counted(project_folder):
    table = "trans_x\n" + "0\n" * 40
    for path in sorted((project_folder / "bold").glob("*.npy")):
        path.with_name(f"{path.stem}_desc-confounds_timeseries.tsv").write_text(table)
    with (project_folder / "trend.yaml").open("a") as file:
        file.write("bold: {confounds: [trans_y]}\n")
    outcomes = run(project_folder, among=["bold", "embeddings", "average_correlation"])
    (error,) = [e for o in outcomes.values() for e in o.errors]
    assert "'trans_y', which no table has (did you mean trans_x?)" in error
    assert [o.blocked for o in outcomes.values()] == [0, 6, 1]


def test_several_causes_are_said_once_each(project_folder):
    for path in sorted((project_folder / "bold").glob("sub-01*.npy")):
        path.write_bytes(b"no numbers")
    outcomes = run(project_folder, among=["bold", "embeddings", "average_correlation"])
    errors = [e for o in outcomes.values() for e in o.errors]
    assert len(errors) == len(set(errors)) == 2
    assert all("no numbers" not in e and e.count("sub-01_run-") for e in errors)
    assert outcomes["average_correlation"].waits_for == ("embeddings",)


@pytest.mark.slow
def test_reasons_of_exclusions_are_those_of_today(project_folder):
    path, key = project_folder / "bold" / "sub-01_run-1.npy", {"bold_run": "sub-01_run-1"}
    good = np.load(path)
    among = ["bold", "embeddings"]
    np.save(path, np.full_like(good, np.nan))
    outcome = run(project_folder, select=among)["bold"]
    assert (outcome.made, outcome.left_out) == (6, 1)
    np.save(path, np.ones_like(good))
    # What is out of date says nothing of the file as it is now.
    status = {a.asset: a for a in overview(Project.open(project_folder))}
    assert status["bold"].excluded == status["embeddings"].excluded == {}
    run(project_folder, select=among)
    for asset in among:
        why = store_of(project_folder).latest(asset, key).excluded
        assert why.endswith("all vertices are constant over time")


@pytest.mark.slow
def test_doubts_of_what_is_out_of_date_are_not_said(project_folder):
    short = np.load(project_folder / "bold" / "sub-01_run-1.npy")[:, :20]
    np.save(project_folder / "bold" / "sub-01_run-1.npy", short)
    (doubt,) = run(project_folder, among=["bold"])["bold"].doubts
    assert "number of volumes is 20" in doubt
    (project_folder / "bold" / "sub-01_run-1.npy").write_bytes(b"no numbers")
    assert run(project_folder, among=["bold"])["bold"].doubts == ()


def test_what_waits_in_a_new_project_is_counted_and_what_failed_is_said(project_folder):
    (project_folder / "geodesic_labels" / "bad.npy").write_bytes(b"no labels")
    run(project_folder, among=["geodesic_labels"])
    found = {a.asset: a for a in overview(Project.open(project_folder))}
    assert len(found["embeddings"].waiting) == 6
    assert found["sweep_summary"].waiting == ("sweep_summary",)
    lines = [line for asset in found.values() for line in _reasons(asset, 3, set())]
    assert len(lines) == 1
    assert "bad.npy" in lines[0]
