"""What the sensor asks for, tick by tick; what the schedule asks for; what the jobs do."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import dagster as dg
import numpy as np
import pytest

from tests.conftest import N_VERTICES, run, simulate_run
from trend_dagster.definitions import build_definitions
from trend_dagster.errors import SettingsError
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.backfills import ASKED_BY_TAG, outcomes_of, plan
from trend_dagster.orchestration.instance import open_instance
from trend_dagster.orchestration.jobs import JOBS
from trend_dagster.orchestration.partitions import PARTITIONS, register_all, to_key
from trend_dagster.orchestration.private import (
    ask_for_backfill,
    cancel_backfill,
    how_backfill_ended,
    open_backfills,
)
from trend_dagster.orchestration.resources import ProjectResource
from trend_dagster.orchestration.running import Wish
from trend_dagster.orchestration.schedules import build_schedule
from trend_dagster.project.folder import Project


def put(path, array, age=60.0):
    """Write a file that has been there for a while."""
    np.save(path, array)
    settle(path, age)


def settle(path, age=60.0):
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))


class Watcher:
    """Ticks of a sensor, one after another."""

    def __init__(self, folder, sensor="new_input_files"):
        self.folder, self.sensor = folder, sensor
        self.cursor = None

    def tick(self):
        """What is requested, by job: the selected assets."""
        with open_instance(self.folder) as instance:
            context = dg.build_sensor_context(
                instance=instance,
                cursor=self.cursor,
                resources={"project": ProjectResource(self.folder)},
            )
            found = build_definitions(self.folder).resolve_sensor_def(self.sensor)(context)
        self.cursor = found.cursor or self.cursor
        self.partitions = {
            r.partitions_def_name: sorted(r.partition_keys)
            for r in found.dynamic_partitions_requests or []
        }
        self.said = str(found.skip_reason)
        self.events = {(e.asset_key.path[-1], e.check_name): e for e in found.asset_events}
        self.keys = [request.run_key for request in found.run_requests or []]
        return {r.job_name: selected(r) for r in found.run_requests or []}


def selected(request):
    ops = request.run_config.get("ops", {})
    return [asset for op in ops.values() for asset in op["config"]["select"]]


def settle_all(folder):
    for path in [*(folder / "bold").iterdir(), *(folder / "geodesic_labels").iterdir()]:
        settle(path)


@pytest.fixture
def watcher(finished):
    watcher = Watcher(finished)
    settle_all(finished)
    assert watcher.tick() == {}  # all of it is stored
    return watcher


def test_new_files_become_partitions_and_their_work_is_asked_for_in_one_tick(watcher):
    put(watcher.folder / "bold" / "sub-09_run-1.npy", simulate_run(9))
    put(watcher.folder / "geodesic_labels" / "new.npy", np.arange(N_VERTICES) // 30)
    assert watcher.tick() == {
        "embed_new_runs": ["bold", "embeddings"],
        "parcellate": ["geodesic_labels", "thresholded_matrix", "nmf_sweep"],
    }
    assert watcher.partitions == {"bold_run": ["sub-09_run-1"], "label_file": ["new"]}
    assert watcher.tick() == {}
    assert "no file is new" in watcher.said


def test_the_page_is_told_of_changed_and_removed_files_while_nothing_is_started(finished):
    lookout = Watcher(finished, "changed_input_files")
    settle_all(finished)
    assert lookout.tick() == {}
    assert all(event.passed for event in lookout.events.values())
    same = finished / "bold" / "sub-02_run-1.npy"
    put(same, np.load(same), age=30)  # written anew with what it held
    put(finished / "bold" / "sub-01_run-1.npy", simulate_run(77), age=30)
    assert lookout.tick() == {}
    (found,) = lookout.events.values()
    assert (found.check_name, found.passed) == ("up_to_date", False)
    assert "sub-01_run-1" in found.description
    assert "sub-02_run-1" not in found.description
    assert lookout.tick() == {}
    assert not lookout.events  # told once
    (finished / "bold" / "sub-03_run-2.npy").unlink()
    lookout.tick()
    assert not lookout.events["bold", "files_there"].passed


def test_a_file_that_is_still_being_written_is_left_for_the_next_tick(watcher):
    path = watcher.folder / "bold" / "sub-09_run-1.npy"
    put(path, simulate_run(9), age=0)
    assert watcher.tick() == {}
    settle(path)
    assert list(watcher.tick()) == ["embed_new_runs"]


def test_a_changed_file_is_read_again_and_no_more(watcher):
    put(watcher.folder / "bold" / "sub-01_run-1.npy", simulate_run(77), age=30)
    put(watcher.folder / "geodesic_labels" / "two.npy", np.arange(N_VERTICES) // 45, age=30)
    assert watcher.tick() == {"embed_new_runs": ["bold"], "parcellate": ["geodesic_labels"]}
    first = watcher.keys
    put(watcher.folder / "bold" / "sub-01_run-1.npy", simulate_run(78), age=20)
    watcher.tick()
    assert set(watcher.keys).isdisjoint(first)  # once more changed is once more asked for


def test_a_removed_file_is_reported_and_what_is_stored_stays(watcher):
    (watcher.folder / "bold" / "sub-03_run-2.npy").unlink()
    assert watcher.tick() == {"check_everything": []}
    definitions = build_definitions(watcher.folder)
    key = dg.AssetCheckKey(dg.AssetKey("bold"), "files_there")
    with open_instance(watcher.folder) as instance:
        result = dg.materialize(
            [*(definitions.asset_checks or [])],
            selection=dg.AssetSelection.checks(key),
            instance=instance,
            resources=definitions.resources,
        )
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert "bold[bold_run=sub-03_run-2]: its file was removed" in evaluation.description
    store = Project.open(watcher.folder).store
    assert store.latest("bold", {"bold_run": "sub-03_run-2"}) is not None


def test_without_a_model_new_runs_are_read_but_nothing_is_trained(project_folder):
    settle_all(project_folder)
    assert Watcher(project_folder).tick() == {
        "embed_new_runs": ["bold"],
        "parcellate": ["geodesic_labels"],
    }


def test_what_is_wrong_with_the_folder_is_said_and_the_cursor_stays(watcher):
    before = watcher.cursor
    for path in (watcher.folder / "bold").iterdir():
        path.unlink()
    assert watcher.tick() == {}
    assert "found nothing in it" in watcher.said
    assert watcher.cursor == before


def test_every_night_is_a_request_of_its_own(finished_once):
    schedule = build_definitions(finished_once.folder).resolve_schedule_def("nightly")
    keys = set()
    for day in (1, 2):
        at = datetime(2026, 11, day, 2, tzinfo=UTC)
        context = dg.build_schedule_context(scheduled_execution_time=at)
        (request,) = schedule.evaluate_tick(context).run_requests
        keys.add(request.run_key)
    assert len(keys) == 2


@pytest.mark.parametrize("cron", ["61 2 * * *", "0 0 30 2 *", "0 2 * * noday"])
def test_a_time_that_there_is_not_is_refused(cron):
    with pytest.raises(SettingsError, match=r"automation\.nightly"):
        build_schedule(cron)


def test_sensor_and_schedule_are_off_until_switched_on(finished_once):
    definitions = build_definitions(finished_once.folder)
    sensor = definitions.resolve_sensor_def("new_input_files")
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    schedule = definitions.resolve_schedule_def("nightly")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED


def launch(folder, job, **config):
    definitions = build_definitions(folder)
    with open_instance(folder) as instance:
        return definitions.resolve_job_def(job).execute_in_process(
            instance=instance,
            raise_on_error=False,
            run_config={"ops": {f"do_{job}": {"config": config}}},
        )


def words_of(failed):
    (failure,) = failed.get_step_failure_events()
    return failure.step_failure_data.user_failure_data.description


def planned(folder, **wish) -> dict[str, set[str]]:
    """What a job would ask for: keys by asset."""
    with open_instance(folder) as instance:
        project = Project.open(folder)
        assert list(register_all(instance, project)) == []
        wanted = plan(project, instance, Wish(**wish)).wanted
    return {name: {to_key(s.partition) for s in states} for name, states in wanted.items()}


def test_a_job_asks_for_exactly_what_is_missing_or_out_of_date(finished):
    assert planned(finished) == {}
    np.save(finished / "bold" / "sub-09_run-1.npy", simulate_run(9))
    wanted = planned(finished, among=["bold", "embeddings"])
    assert wanted == {"bold": {"sub-09_run-1"}, "embeddings": {"sub-09_run-1"}}
    everything = planned(finished)
    assert everything["bold"] == {"sub-09_run-1"}
    assert everything["average_correlation"] == {None}
    assert everything["nmf_sweep"] == {"two|4", "two|6", "six|4", "six|6"}
    assert "trained_model" not in everything  # the model there is stays in use
    assert "trained_model" in planned(finished, retrain=True)


def test_what_was_tried_and_failed_is_not_asked_for_again_and_its_table_is(finished):
    text = (finished / "trend.yaml").read_text()
    (finished / "trend.yaml").write_text(text.replace("[4, 6]", "[4, 6, 85]"))
    first = planned(finished)
    assert {"two|85", "six|85"} <= first["nmf_sweep"]
    assert first["sweep_summary"] == {None}
    run(finished, among=["nmf_sweep"])
    with open_instance(finished) as instance:
        tried = [f"nmf_sweep[label_file={f}, n_components=85]" for f in ("two", "six")]
        second = plan(Project.open(finished), instance, Wish(), tried).wanted
    assert "nmf_sweep" not in second
    assert "sweep_summary" in second


@pytest.mark.slow
def test_what_only_waits_for_something_not_asked_for_is_neither_asked_for_nor_wrong(finished):
    np.save(finished / "bold" / "sub-09_run-1.npy", simulate_run(9))
    run(finished, among=["bold", "embeddings"])  # puts the average correlation out of date
    np.save(finished / "geodesic_labels" / "new.npy", np.arange(N_VERTICES) // 30)
    select = ["geodesic_labels", "thresholded_matrix", "nmf_sweep"]
    assert planned(finished, select=select) == {
        "geodesic_labels": {"new"},
        "thresholded_matrix": {"new"},
        "nmf_sweep": {"new|4", "new|6"},
    }
    with open_instance(finished) as instance:
        project = Project.open(finished)
        asked = plan(project, instance, Wish(select=select)).wanted
        run(finished, select=["geodesic_labels"])
        run(finished, select=["thresholded_matrix"])
        before = [state for states in asked.values() for state in states]
        by_asset = {
            outcome.asset: outcome for outcome in outcomes_of(project, instance, before, {})
        }
    made = by_asset["thresholded_matrix"]
    assert (made.made, made.errors) == (1, ())
    assert "was not made" in by_asset["nmf_sweep"].errors[0]


def test_a_backfill_is_asked_for_with_these_partitions_and_can_be_taken_back(finished):
    np.save(finished / "bold" / "sub-09_run-1.npy", simulate_run(9))
    definition = PARTITIONS[("bold_run",)]
    with open_instance(finished) as instance:
        assert list(register_all(instance, Project.open(finished))) == []
        wanted = {
            dg.AssetKey("bold"): (definition, ["sub-09_run-1"]),
            dg.AssetKey("sweep_summary"): (None, []),
        }
        asked = ask_for_backfill(instance, wanted, {ASKED_BY_TAG: "test"}, "test")
        backfill = instance.get_backfill(asked)
        assert open_backfills(instance, ASKED_BY_TAG) == [asked]
        assert how_backfill_ended(instance, asked) is None
        target = backfill.asset_backfill_data.target_subset
        bold = target.get_partitions_subset(dg.AssetKey("bold"))
        assert list(bold.get_partition_keys()) == ["sub-09_run-1"]
        assert target.non_partitioned_asset_keys == {dg.AssetKey("sweep_summary")}
        cancel_backfill(instance, asked)
        assert instance.get_backfill(asked).status.value == "CANCELING"


def test_what_is_misspelt_in_the_run_config_is_named(finished):
    misspelt = launch(finished, "full_pipeline", select=["nmf_swep"])
    assert "did you mean nmf_sweep" in words_of(misspelt)
    misspelt = launch(finished, "import_file", kind="corelation", file="x")
    assert "did you mean correlation" in words_of(misspelt)


def test_an_import_from_the_page_is_that_of_the_command_line(finished, tmp_path):
    np.save(tmp_path / "average.npy", np.eye(N_VERTICES))
    given = {"kind": "correlation", "file": str(tmp_path / "average.npy")}
    assert launch(finished, "import_file", **given).success
    version = Project.open(finished).store.latest("average_correlation")
    assert version.recipe.imported_from == "average.npy"


def test_jobs_cover_every_asset_and_only_two_train():
    for name in ASSETS:
        assert any(spec.assets(name) for spec in JOBS.values())
    assert {n for n, spec in JOBS.items() if spec.assets("trained_model")} == {
        "full_pipeline",
        "train",
    }


def test_every_field_of_the_run_config_has_a_help_text(finished_once):
    definitions = build_definitions(finished_once.folder)
    for job in [*JOBS, "import_file"]:
        schema = definitions.resolve_job_def(job).run_config_schema.run_config_schema_type
        fields = schema.fields["ops"].config_type.fields[f"do_{job}"].config_type.fields["config"]
        for name, field in fields.config_type.fields.items():
            assert len(field.description or "") > 15, (job, name)


def test_assets_have_groups_descriptions_owners_and_tags(finished_once):
    for asset in build_definitions(finished_once.folder).assets or []:
        (spec,) = asset.specs
        assert spec.group_name != "default"
        assert len(spec.description) > 80
        assert spec.owners
        assert spec.tags


def test_groups_sort_as_the_method_goes_and_each_asset_names_its_page(finished_once, monkeypatch):
    monkeypatch.delenv("TREND_DOCS_URL", raising=False)
    specs = [s for a in build_definitions(finished_once.folder).assets or [] for s in a.specs]
    groups = [name.partition("_")[2] for name in sorted({spec.group_name for spec in specs})]
    assert groups == ["inputs", "features", "connectivity", "parcellation", "evidence",
                      "individuals", "delivery"]  # fmt: skip
    for spec in specs:
        page = f"reference/assets.html#{spec.key.to_user_string()}"
        assert f"site/{page};" in spec.metadata["docs"].text
