"""Making everything: once, completely, on record, and nothing twice."""

from __future__ import annotations

import contextvars
import os
from collections import Counter
from types import SimpleNamespace

import dagster as dg
import numpy as np
import openpyxl
import pytest
from dagster._core.definitions.data_version import CODE_VERSION_TAG, DATA_VERSION_TAG

from tests.conftest import (
    MEDIAL_WALL,
    N_VERTICES,
    NOTHING_TO_DO,
    planted_networks,
    run,
    simulate_run,
)
from tests.orchestration.test_instance import launched
from trend_dagster.definitions import build_definitions
from trend_dagster.errors import StoreError
from trend_dagster.orchestration import running
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.instance import only_run_here, open_instance
from trend_dagster.orchestration.lineage import Lineage, ancestry
from trend_dagster.orchestration.partitions import to_key
from trend_dagster.orchestration.private import SerializableErrorInfo
from trend_dagster.orchestration.production import PROGRESS
from trend_dagster.project.folder import Project

TO_CORRELATION = ["bold", "trained_model", "embeddings", "average_correlation"]
TO_SWEEP = [*TO_CORRELATION, "geodesic_labels", "thresholded_matrix", "nmf_sweep"]
TO_WORKBOOK = [*TO_SWEEP, "sweep_summary"]


def statuses(folder):
    project = Project.open(folder)
    return {name: {s.status for s in Lineage(project).states(a)} for name, a in ASSETS.items()}


def reasons(folder, asset):
    found = Lineage(Project.open(folder)).states(ASSETS[asset])
    return sorted({reason for state in found for reason in state.reasons})


def test_everything_is_made_without_errors(finished_once):
    assert [o.errors for o in finished_once.outcomes.values() if o.errors] == []
    outcomes = finished_once.outcomes
    made = {name: outcome.made for name, outcome in outcomes.items() if name not in NOTHING_TO_DO}
    assert made == {
        "bold": 6,
        "trained_model": 1,
        "embeddings": 6,
        "average_correlation": 1,
        "geodesic_labels": 2,
        "thresholded_matrix": 2,
        "nmf_sweep": 4,
        "sweep_summary": 1,
        "selected_parcellations": 1,
        "control_correlation": 1,
        "control_sweep": 4,
        "control_comparison": 1,
        "parcellation_images": 1,
        "report": 1,
    }
    assert all(not outcome.errors for outcome in finished_once.outcomes.values())
    for name, status in statuses(finished_once.folder).items():
        assert status == {"current"}, name


def test_every_partition_is_on_record_once_with_its_versions(finished_once):
    project = Project.open(finished_once.folder)
    with open_instance(project.folder) as instance:
        for name, asset in ASSETS.items():
            records = instance.fetch_materializations(dg.AssetKey(name), limit=100).records
            counted = Counter(record.partition_key for record in records)
            expected = [to_key(partition) for partition in asset.partitions(project)]
            assert counted == Counter(expected), name
            for record in records:
                tags = record.asset_materialization.tags
                (partition,) = (
                    p for p in asset.partitions(project) if to_key(p) == record.partition_key
                )
                assert tags[DATA_VERSION_TAG] == project.store.latest(name, partition).digest
                assert tags[CODE_VERSION_TAG] == asset.code_version
                for upstream in asset.upstream:
                    assert tags[f"dagster/input_data_version/{upstream}"]
                    assert tags[f"dagster/input_event_pointer/{upstream}"].isdigit()


def test_dagster_itself_finds_nothing_stale(finished_once):
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus

    project = Project.open(finished_once.folder)
    graph = build_definitions(project.folder).resolve_asset_graph()
    with open_instance(project.folder) as instance:
        from dagster._core.loader import LoadingContextForTest

        resolver = CachingStaleStatusResolver(
            instance, graph, loading_context=LoadingContextForTest(instance)
        )
        for name, asset in ASSETS.items():
            for partition in asset.partitions(project):
                status = resolver.get_status(dg.AssetKey(name), to_key(partition))
                assert status == StaleStatus.FRESH, (name, partition)


def test_a_second_run_makes_nothing_and_records_nothing(finished):
    with open_instance(finished) as instance:
        before = instance.get_runs_count()
    outcomes = run(finished)
    for name, o in outcomes.items():
        assert o.made == 0, name
        assert o.kept > 0, name
        assert not o.errors, name
    with open_instance(finished) as instance:
        assert instance.get_runs_count() == before


def test_all_checks_pass(finished_once):
    definitions = build_definitions(finished_once.folder)
    keys = [k for d in definitions.asset_checks or [] for k in d.check_keys]
    assert len(keys) > 20
    with open_instance(finished_once.folder) as instance:
        records = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
        failed = {
            key.to_user_string(): record.event.dagster_event.event_specific_data.description
            for key, record in records.items()
            if not record.event.dagster_event.event_specific_data.passed
        }
        assert len(records) == len(keys)
        # Whether so small a sweep collapses is not for this test to say.
        assert {name for name in failed if not name.endswith(":alive")} == set(), failed


def test_the_mask_is_obeyed_everywhere(finished_once):
    store = Project.open(finished_once.folder).store
    wall = np.zeros(N_VERTICES, dtype=bool)
    wall[MEDIAL_WALL] = True
    run_1 = {"bold_run": "sub-01_run-1"}
    assert np.array_equal(store.latest("bold", run_1).read("vertex_mask"), ~wall)
    assert not store.latest("embeddings", run_1).read("features")[wall].any()
    correlation = store.latest("average_correlation").read("correlation")
    assert not correlation[wall].any()
    assert not correlation[:, wall].any()
    assert np.allclose(correlation.diagonal()[~wall], 1, atol=1e-5)
    kept = store.latest("thresholded_matrix", {"label_file": "two"}).read("permutation")
    assert sorted(kept) == np.flatnonzero(~wall).tolist()
    cell = store.latest("nmf_sweep", {"label_file": "two", "n_components": "4"})
    assert not cell.read("W")[:, wall].any()
    for version in (cell, store.latest("selected_parcellations")):
        labels = version.read("labels")
        assert (labels[..., wall] == -1).all()
        assert (labels[..., ~wall] >= 0).all()


def test_average_correlation_equals_the_mean_of_numpy_corrcoef(finished_once):
    project = Project.open(finished_once.folder)
    kept = planted_networks() >= 0
    runs = [project.store.latest("embeddings", {"bold_run": k}) for k in project.keys("bold_run")]
    expected = np.mean([np.corrcoef(r.read("features")[kept].astype(float)) for r in runs], axis=0)
    found = project.store.latest("average_correlation").read("correlation")[np.ix_(kept, kept)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_parcellation_can_be_followed_to_its_files(finished_once):
    project = Project.open(finished_once.folder)
    lines = [line for _, line in ancestry(project, project.store.latest("selected_parcellations"))]
    text = "\n".join(lines)
    for name in (
        "trained_model",
        "average_correlation",
        "file labels",
        "file bold",
        "sub-03_run-2",
    ):
        assert name in text
    assert "since replaced" not in text
    # The report goes by what was measured of runs, too: they are no others for that.
    said = [line for _, line in ancestry(project, project.store.latest("report"))]
    assert not [line for line in said if "since replaced" in line]


@pytest.mark.slow
def test_a_changed_bold_file_puts_what_follows_out_of_date_but_keeps_the_model(finished):
    np.save(finished / "bold" / "sub-02_run-1.npy", simulate_run(99))
    assert reasons(finished, "bold") == ["input file bold has changed"]
    outcomes = run(finished, among=TO_SWEEP)
    assert outcomes["bold"].made == 1
    assert outcomes["trained_model"].made == 0
    assert "bold[bold_run=sub-02_run-1] has changed" in outcomes["trained_model"].notes[0]
    assert outcomes["embeddings"].made == 1
    assert outcomes["average_correlation"].made == 1
    assert outcomes["geodesic_labels"].made == 0
    assert outcomes["nmf_sweep"].made == 4
    assert run(finished, among=["trained_model"], retrain=True)["trained_model"].made == 1


def test_the_check_says_what_is_out_of_date_and_why(finished):
    np.save(finished / "bold" / "sub-02_run-1.npy", simulate_run(99))
    definitions = build_definitions(finished)
    key = dg.AssetCheckKey(dg.AssetKey("bold"), "up_to_date")
    with open_instance(finished) as instance:
        result = dg.materialize(
            [*(definitions.asset_checks or [])],
            selection=dg.AssetSelection.checks(key),
            instance=instance,
            resources=definitions.resources,
        )
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert "bold[bold_run=sub-02_run-1] is out of date: input file bold has changed" in (
        evaluation.description or ""
    )


@pytest.mark.slow
def test_a_changed_setting_remakes_only_what_reads_it(finished):
    settings = (finished / "trend.yaml").read_text()
    (finished / "trend.yaml").write_text(settings + "thresholding: {negatives: abs}\n")
    assert reasons(finished, "thresholded_matrix") == [
        "setting thresholding.negatives is abs, was clip"
    ]
    outcomes = run(finished, among=[*TO_WORKBOOK, "control_sweep"])
    made = {name for name, outcome in outcomes.items() if outcome.made}
    assert made >= {"thresholded_matrix", "nmf_sweep", "sweep_summary", "control_sweep"}
    assert made.isdisjoint({"bold", "trained_model", "embeddings", "average_correlation"})


def test_a_new_n_components_adds_cells_and_keeps_the_others(finished):
    settings = (finished / "trend.yaml").read_text().replace("[4, 6]", "[4, 5, 6]")
    (finished / "trend.yaml").write_text(settings)
    outcomes = run(finished, among=["nmf_sweep"])
    assert (outcomes["nmf_sweep"].made, outcomes["nmf_sweep"].kept) == (2, 4)


def test_a_removed_bold_file_is_left_out_and_its_stores_stay(finished):
    (finished / "bold" / "sub-03_run-2.npy").unlink()
    outcomes = run(finished, among=TO_CORRELATION)
    assert outcomes["average_correlation"].made == 1
    project = Project.open(finished)
    assert "sub-03_run-2" not in project.store.latest("average_correlation").facts["runs"]
    assert project.store.latest("bold", {"bold_run": "sub-03_run-2"}) is not None


def test_a_deleted_workbook_is_made_again(finished):
    (finished / "outputs" / "Complete_Clustering.xlsx").unlink()
    assert "file Complete_Clustering.xlsx is gone" in reasons(finished, "sweep_summary")
    assert run(finished, among=["sweep_summary"])["sweep_summary"].made == 1
    assert (finished / "outputs" / "Complete_Clustering.xlsx").exists()


@pytest.mark.slow
def test_an_excluded_run_says_so_and_the_rest_goes_on(project_folder):
    bold = simulate_run(1)
    bold[3, 5] = np.nan
    bold[4, 5] = np.inf
    np.save(project_folder / "bold" / "sub-01_run-1.npy", bold)
    np.save(project_folder / "bold" / "sub-01_run-2.npy", np.ones_like(bold))
    outcomes = run(project_folder, among=TO_CORRELATION)
    assert outcomes["bold"].excluded == (
        "bold[bold_run=sub-01_run-1]: sub-01_run-1.npy: NaN or infinite values in 2 of 90 vertices",
        "bold[bold_run=sub-01_run-2]: sub-01_run-2.npy: all vertices are constant over time",
    )
    assert len(outcomes["embeddings"].excluded) == 2
    store = Project.open(project_folder).store
    runs = store.latest("average_correlation").facts["runs"]
    assert runs == ["sub-02_run-1", "sub-02_run-2", "sub-03_run-1", "sub-03_run-2"]
    assert store.latest("embeddings", {"bold_run": "sub-01_run-1"}).excluded is not None
    assert all(not outcome.errors for outcome in outcomes.values())


@pytest.mark.slow
def test_a_bad_label_file_stops_only_itself(project_folder):
    np.save(project_folder / "geodesic_labels" / "wrong.npy", np.zeros(N_VERTICES + 3, dtype=int))
    outcomes = run(project_folder, among=TO_WORKBOOK)
    assert outcomes["nmf_sweep"].made == 4
    assert outcomes["nmf_sweep"].blocked == 2
    assert "wrong.npy: expected 90 labels" in outcomes["thresholded_matrix"].errors[0]
    book = openpyxl.load_workbook(project_folder / "outputs" / "Complete_Clustering.xlsx")
    rows = list(book["Sheet1"].iter_rows(min_row=2, values_only=True))
    names = [row[0] for row in rows]
    assert names == sorted(names)
    assert names.count("wrong.npy") == 4  # 2 n_components x 2 n_clusters, without figures
    status = {row[6] for row in book["Details"].iter_rows(min_row=2, values_only=True)}
    assert any("wrong" in text and "90 labels" in text for text in status)


def test_one_run_over_a_range_of_cells_records_each(finished):
    """What a backfill from the UI does: one run, a rectangle of cells."""
    definitions = build_definitions(finished)
    with open_instance(finished) as instance:
        result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey("nmf_sweep")],
            tags={
                "dagster/asset_partition_range_start": "six|4",
                "dagster/asset_partition_range_end": "two|6",
            },
            run_config={"ops": {"nmf_sweep": {"config": {"force": True}}}},
        )
        events = result.asset_materializations_for_node("nmf_sweep")
        recorded = instance.fetch_materializations(dg.AssetKey("nmf_sweep"), limit=100).records
    assert Counter(e.partition for e in events) == Counter(["six|4", "six|6", "two|4", "two|6"])
    assert len(recorded) == 8
    versions = Counter(r.asset_materialization.tags[DATA_VERSION_TAG] for r in recorded)
    assert set(versions.values()) == {2}  # made again: the same content


def test_a_value_is_loaded_lazily_through_the_io_manager(finished):
    definitions = build_definitions(finished)
    with open_instance(finished) as instance:
        correlation = definitions.load_asset_value("average_correlation", instance=instance)
        cell = definitions.load_asset_value(
            "nmf_sweep",
            partition_key=dg.MultiPartitionKey({"label_file": "two", "n_components": "4"}),
            instance=instance,
        )
    assert correlation.array("correlation").shape == (N_VERTICES, N_VERTICES)
    assert cell.partition == {"label_file": "two", "n_components": "4"}


@pytest.mark.parametrize(
    ("change", "asset", "message"),
    [
        (lambda b: np.save(b / "sub-01_run-1.npy", simulate_run(1)[:80]), "trained_model",
         "sub-01_run-1: expected 90 vertices, as most runs have, found 80"),
        (lambda b: np.save(b / "sub-01_run-1.npy", simulate_run(1, 30)), "trained_model",
         "sub-01_run-1: expected 40 timepoints, as most runs have, found 30"),
        (lambda b: (b / "sub-01_run-1.npy").write_bytes(b"no array"), "bold",
         "sub-01_run-1.npy: expected a complete .npy file"),
    ],
)  # fmt: skip
def test_a_bad_run_is_named_and_the_others_are_kept(project_folder, change, asset, message):
    change(project_folder / "bold")
    outcomes = run(project_folder, select=["bold", asset])
    assert any(message in error for error in outcomes[asset].errors), outcomes[asset].errors
    assert outcomes["bold"].made >= 5


@pytest.mark.slow
def test_runs_of_different_length_are_cropped_if_the_settings_say_so(project_folder):
    np.save(project_folder / "bold" / "sub-01_run-1.npy", simulate_run(1, 30))
    settings = (project_folder / "trend.yaml").read_text()
    (project_folder / "trend.yaml").write_text(settings + "cohort: {lengths: crop}\n")
    outcomes = run(project_folder, among=[*TO_CORRELATION, "control_correlation"])
    assert all(not outcome.errors for outcome in outcomes.values())
    assert Project.open(project_folder).store.latest("trained_model").facts["n_timepoints"] == 30


@pytest.mark.parametrize("n_usable", [0, 1])
def test_fewer_than_two_usable_runs_are_refused(project_folder, n_usable):
    for path in sorted((project_folder / "bold").iterdir())[n_usable:]:
        np.save(path, np.ones((N_VERTICES, 40), dtype=np.float32))
    outcomes = run(project_folder, select=["bold", "trained_model"])
    assert outcomes["bold"].made == 6
    (error,) = outcomes["trained_model"].errors
    assert (
        f"at least two usable runs, one to train on and one to validate, found {n_usable}" in error
    )
    assert "all vertices are constant over time" in error


@pytest.mark.parametrize(("folder", "kind"), [("bold", "run"), ("geodesic_labels", "label file")])
def test_an_empty_folder_is_named(project_folder, folder, kind):
    for path in (project_folder / folder).iterdir():
        path.unlink()
    (outcome,) = (o for o in run(project_folder).values() if o.errors)
    assert f"{project_folder / folder}: expected at least one {kind}" in outcome.errors[0]


def test_an_unwritable_store_is_named_and_nothing_is_lost(finished, monkeypatch):
    np.save(finished / "bold" / "sub-02_run-1.npy", simulate_run(99))
    before = Project.open(finished).store.latest("bold", {"bold_run": "sub-02_run-1"}).digest

    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trend_dagster.storage.stores._sync_tree", full)
    outcomes = run(finished, select=["bold"])
    assert "No space left on device" in outcomes["bold"].errors[0]
    monkeypatch.undo()
    assert (
        Project.open(finished).store.latest("bold", {"bold_run": "sub-02_run-1"}).digest == before
    )
    assert run(finished, select=["bold"])["bold"].made == 1


def test_what_follows_from_something_out_of_date_is_out_of_date_too(finished):
    settings = (finished / "trend.yaml").read_text()
    (finished / "trend.yaml").write_text(settings.replace("1.0e-3", "2.0e-3"))
    found = statuses(finished)
    current = {n for n, s in found.items() if s == {"current"}}
    assert current == {"bold", "geodesic_labels"} | NOTHING_TO_DO
    assert "trained_model is out of date" in reasons(finished, "embeddings")


def test_what_waits_for_a_failed_run_is_not_made_from_its_old_version(finished):
    (finished / "bold" / "sub-02_run-1.npy").write_bytes(b"cut short")
    before = stored_paths(finished, "average_correlation")
    outcomes = run(finished, among=TO_CORRELATION)
    assert "sub-02_run-1.npy: expected a complete .npy file" in outcomes["bold"].errors[0]
    assert outcomes["embeddings"].blocked == 1
    assert outcomes["average_correlation"].blocked == 1
    assert stored_paths(finished, "average_correlation") == before


def stored_paths(folder, asset):
    project = Project.open(folder)
    return [project.store.latest(asset, p).path for p in ASSETS[asset].partitions(project)]


def test_a_new_bad_label_file_gets_its_rows_in_a_finished_workbook(finished):
    np.save(finished / "geodesic_labels" / "bad.npy", np.zeros(10, dtype=int))
    assert run(finished, among=TO_WORKBOOK)["sweep_summary"].made == 1
    book = openpyxl.load_workbook(finished / "outputs" / "Complete_Clustering.xlsx")
    assert [row[0] for row in book["Sheet1"].values].count("bad.npy") == 4


def test_a_workbook_that_somebody_edited_is_left_alone(finished):
    path = finished / "outputs" / "Complete_Clustering.xlsx"
    book = openpyxl.load_workbook(path)
    book["Sheet1"]["A20"] = "a note"
    book.save(path)
    assert run(finished, among=["sweep_summary"])["sweep_summary"].made == 0
    assert openpyxl.load_workbook(path)["Sheet1"]["A20"].value == "a note"


@pytest.mark.slow
def test_pictures_of_what_is_no_longer_asked_for_go(finished):
    settings = (
        (finished / "trend.yaml").read_text().replace("n_clusters: [3, 4]", "n_clusters: [3]")
    )
    (finished / "trend.yaml").write_text(settings)
    run(finished, among=[*TO_WORKBOOK, "selected_parcellations"])
    names = {p.name for p in (finished / "outputs").iterdir()}
    assert "parcellation_3_clusters.png" in names
    assert "parcellation_4_clusters.png" not in names


def test_only_one_run_of_everything_at_a_time(finished):
    with (
        only_run_here(finished),
        pytest.raises(StoreError, match="no other `trend run` at work"),
        only_run_here(finished),
    ):
        pass
    with only_run_here(finished):  # free again
        pass


def test_a_link_that_leads_nowhere_is_named(finished):
    path = finished / "bold" / "sub-02_run-1.npy"
    path.unlink()
    path.symlink_to(finished / "annexed")
    outcomes = run(finished, select=["bold"])
    assert "sub-02_run-1.npy: expected a file that can be read" in outcomes["bold"].errors[0]


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_interrupt_before_the_first_step_stops_the_whole_run(wrapped):
    """Else the next asset would be made, and the signal of a scheduler would be lost."""
    error = SerializableErrorInfo("", [], "DagsterExecutionInterruptedError")
    if wrapped:
        error = SerializableErrorInfo("while it began", [], "RuntimeError", cause=error)
    event = SimpleNamespace(is_job_failure=True, job_failure_data=SimpleNamespace(error=error))
    result = SimpleNamespace(get_step_failure_events=list, all_events=[event])
    with pytest.raises(KeyboardInterrupt):
        running._failed(result, ())


def test_a_place_that_the_page_holds_is_waited_for_with_a_word(tmp_path):
    with open_instance(tmp_path) as instance:
        storage, said = instance.event_log_storage, []
        run = launched(instance, dg.DagsterRunStatus.STARTED, os.getpid())
        storage.set_concurrency_slots("training", 1)
        assert storage.claim_concurrency_slot("training", run, "trained_model").is_claimed

        def told(asset, words, share):
            said.append((asset, words))
            instance.report_run_failed(instance.get_run_by_id(run))

        context = contextvars.copy_context()
        context.run(PROGRESS.set, told)
        context.run(running._wait_for_a_place, "trained_model", "training", instance)
        assert said == [
            ("trained_model", f"waits for run {run[:8]} in pool training, see the page")
        ]
        assert not storage.get_concurrency_run_ids()


def test_what_is_made_anew_and_equal_puts_nothing_out_of_date(finished):
    assert run(finished, select=["bold", "embeddings"], force=True)["bold"].made > 1
    project = Project.open(finished)
    found = [state for asset in ASSETS.values() for state in Lineage(project).states(asset)]
    assert [(s.asset, s.reasons) for s in found if s.status != "current"] == []
