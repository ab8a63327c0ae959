"""The Dagster instance of a project: whose settings hold, and what becomes of runs that died."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.events import EngineEventData
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._daemon.types import DaemonHeartbeat
from sqlalchemy.exc import DatabaseError

from tests.conftest import write_project
from trend_dagster.errors import ServerError, SettingsError, StoreError
from trend_dagster.orchestration import service
from trend_dagster.orchestration.instance import (
    added_settings,
    end_dead_runs,
    if_records_answer,
    instance_home,
    open_instance,
    open_records,
    socket_name,
)
from trend_dagster.orchestration.private import this_process
from trend_dagster.orchestration.service import only_service


@pytest.fixture(autouse=True)
def _no_home_of_the_user(monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def test_the_users_file_holds_is_completed_and_stays_as_it_is(tmp_path):
    file = instance_home(tmp_path) / "dagster.yaml"
    file.write_text("concurrency: {runs: {max_concurrent_runs: 7}}\n# mine\n")
    with open_instance(tmp_path) as instance:
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 7
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] > 0
        assert not instance.telemetry_enabled
    assert file.read_text() == "concurrency: {runs: {max_concurrent_runs: 7}}\n# mine\n"
    added = added_settings(file.parent)
    assert "telemetry.enabled" in added
    assert "concurrency.runs.max_concurrent_runs" not in added


def test_a_project_without_such_a_file_gets_none(tmp_path):
    with open_instance(tmp_path):
        pass
    assert not (tmp_path / ".dagster" / "dagster.yaml").exists()


def test_many_may_open_new_records_at_once(tmp_path):
    together = threading.Barrier(6)

    def open_one(_: int) -> None:
        together.wait()
        with open_instance(tmp_path):
            pass

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(open_one, range(6)))


def test_the_users_home_of_dagster_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "lab"))
    with open_instance(tmp_path / "project"):
        pass
    assert (tmp_path / "lab" / "history").is_dir()
    assert not (tmp_path / "project").exists()


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Path:
    """A home of Dagster that several projects could use, and a project that is about to."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "lab"))
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def test_records_that_another_project_has_are_refused(lab):
    with open_instance(lab):
        pass
    with (
        pytest.raises(SettingsError, match=r"the records of project .*mine(.|\n)*TREND_KEY_PREFIX"),
        open_instance(lab.with_name("theirs")),
    ):
        pass
    lab.rename(lab.with_name("moved"))  # a project that was moved keeps its records
    with open_instance(lab.with_name("moved")):
        pass


def test_records_of_a_deployment_that_never_said_whose_they_are_tell_it(lab):
    version = lab.with_name("study2") / "store" / "bold" / "bold_run=sub-01" / "2026"
    version.mkdir(parents=True)
    record = dg.AssetMaterialization("bold", metadata={"store": dg.MetadataValue.path(version)})
    with dg.DagsterInstance.from_config(str(_made(lab.with_name("lab")))) as deployed:
        deployed.report_runless_asset_event(record)
    with (
        pytest.raises(SettingsError, match=r"the records of project .*study2"),
        open_instance(lab),
    ):
        pass


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return folder


def test_no_second_daemon_is_started_on_the_records_of_one_that_lives(lab, monkeypatch):
    monkeypatch.setattr(service, "BEAT_SECONDS", 2.0)
    said: list[str] = []
    with open_instance(lab) as instance:
        service.make_sure_no_daemon(instance, said.append)
        assert not said

        def beat() -> None:
            instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "one", []))

        beat()
        service.make_sure_no_daemon(instance, said.append)  # it was ended a moment ago
        assert "moment ago" in said[0]
        beat()
        later = threading.Timer(0.5, beat)
        later.start()
        with pytest.raises(ServerError, match="no other daemon at work"):
            service.make_sure_no_daemon(instance, said.append)
        later.join()


@pytest.mark.parametrize("text", ["a list", "retention: {weeks: 3}", "telemetry: ["])
def test_settings_that_cannot_be_used_are_named(tmp_path, text):
    (instance_home(tmp_path) / "dagster.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"dagster\.yaml"), open_instance(tmp_path):
        pass


@pytest.mark.parametrize(("mask", "shared"), [(0o002, True), (0o022, False)])
def test_a_group_may_write_the_records_where_the_umask_says_so(tmp_path, mask, shared):
    before = os.umask(mask)
    try:
        with open_instance(tmp_path) as instance:
            run = at_work(instance, **this_process())
            message, data = "At work.", EngineEventData.in_process
            instance.report_engine_event(message, instance.get_run_by_id(run), data(1))
        found = list(instance_home(tmp_path).rglob("*.db"))
        assert len(found) > 3
        assert all(bool(path.stat().st_mode & 0o020) == shared for path in found)
    finally:
        os.umask(before)


def a_dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def launched(instance, status, process=None):
    """A run as the daemon's launcher leaves it, at work in a process of this machine."""
    tags = {GRPC_INFO_TAG: f'{{"socket": "/tmp/x/{socket_name()}"}}'}
    run = dg.DagsterRun("job", dg._core.utils.make_new_run_id(), status=status, tags=tags)
    instance.add_run(run)
    if process is not None:
        message, data = f"Started process for run (pid: {process}).", EngineEventData.in_process
        instance.report_engine_event(message, run, data(process))
    return run.run_id


def test_a_run_of_the_daemon_whose_process_is_gone_is_ended_and_one_that_works_is_not(tmp_path):
    status = dg.DagsterRunStatus
    with open_instance(tmp_path) as instance:
        at_work = launched(instance, status.STARTED, os.getpid())
        dead = launched(instance, status.STARTED, a_dead_process())
        canceling = launched(instance, status.CANCELING, a_dead_process())
        starting = launched(instance, status.STARTING)
        assert set(end_dead_runs(instance)) == {dead, canceling}
        assert instance.get_run_by_id(dead).status == status.FAILURE
        assert instance.get_run_by_id(canceling).status == status.CANCELED
        # Nothing launches any more: what had no process yet will never have one.
        assert end_dead_runs(instance, launched=True) == [starting]
        assert instance.get_run_by_id(at_work).status == status.STARTED


def at_work(instance, **tags):
    """A run of these tags, as the record of one that is at work."""
    run = dg.DagsterRun("job", dg._core.utils.make_new_run_id(), tags=tags)
    instance.add_run(run.with_status(dg.DagsterRunStatus.STARTED))
    return run.run_id


ELSEWHERE = {"trend/host": "elsewhere", "trend/process": "77", "trend/planned": "true"}


def test_a_run_of_another_machine_is_left_alone_while_its_place_may_be_held(tmp_path):
    with open_instance(tmp_path) as instance:
        run = at_work(instance, **ELSEWHERE)
        assert end_dead_runs(instance, launched=True) == []
        # Who holds the place of the one `trend run` knows that no other machine is at work.
        assert end_dead_runs(instance, alone=True) == [run]


def test_a_run_that_another_machine_has_launched_ends_with_its_page(tmp_path):
    with open_instance(tmp_path) as instance:
        run = at_work(instance, **ELSEWHERE, **{GRPC_INFO_TAG: '{"socket": "/t/trend-there.sock"}'})
        assert end_dead_runs(instance, alone=True) == []
        with only_service(tmp_path, 1), open_instance(tmp_path, alone=True):
            assert instance.get_run_by_id(run).status == dg.DagsterRunStatus.STARTED
        with open_instance(tmp_path):
            assert instance.get_run_by_id(run).status == dg.DagsterRunStatus.FAILURE


def test_runs_of_a_dagster_of_the_users_own_and_of_other_projects_are_left_alone(tmp_path):
    with open_instance(tmp_path) as instance:
        at_work(instance, **{GRPC_INFO_TAG: '{"host": "localhost", "port": 4000}'})
        at_work(instance, **{GRPC_INFO_TAG: '{"socket": "/tmp/tmp8x1"}'})
        at_work(instance, **{GRPC_INFO_TAG: '{"socket": "/tmp/x/trend-there@another.sock"}'})
        at_work(instance, **ELSEWHERE, **{"trend/prefix": "another"})
        at_work(instance, **{"trend/host": "a-pod", "trend/process": "1"})
        assert end_dead_runs(instance, launched=True, alone=True) == []


def test_records_that_are_away_for_a_while_end_nothing():
    away = type("DagsterPostgresException", (Exception,), {})
    for error in (away("no server"), DatabaseError("", None, Exception())):
        with if_records_answer():
            raise error
    with pytest.raises(ValueError, match="other"), if_records_answer():
        raise ValueError("other")


def test_a_clock_that_is_set_does_not_end_a_run_at_work(tmp_path, monkeypatch):
    with open_instance(tmp_path) as instance:
        own = at_work(instance, **this_process())
        dead = at_work(instance, **this_process() | {"trend/began": "-100.00"})
        page = launched(instance, dg.DagsterRunStatus.STARTED, os.getpid())
        instance.add_run_tags(page, this_process())
        begin, boot = psutil.Process.create_time, psutil.boot_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: begin(self) + 3600)
        monkeypatch.setattr(psutil, "boot_time", lambda: boot() + 3600)
        assert end_dead_runs(instance, alone=True) == [dead]
        assert {instance.get_run_by_id(run).status for run in (own, page)} == {
            dg.DagsterRunStatus.STARTED
        }


def test_a_home_of_dagster_is_of_one_project(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "lab"))
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    with open_instance(one):
        pass
    with pytest.raises(SettingsError, match=f"the records of project {one}"), open_instance(two):
        pass
    one.rename(two)
    with open_instance(two):
        pass


@pytest.mark.parametrize("name", ["what?", "a%20b"])
def test_a_path_that_sqlite_does_not_take_is_named(tmp_path, name):
    with pytest.raises(SettingsError, match="Rename the folder"), open_instance(tmp_path / name):
        pass


def test_an_ended_run_gives_back_its_place_in_a_pool(tmp_path):
    with open_instance(tmp_path) as instance:
        dead = launched(instance, dg.DagsterRunStatus.STARTED, a_dead_process())
        storage = instance.event_log_storage
        storage.set_concurrency_slots("training", 1)
        assert storage.claim_concurrency_slot("training", dead, "step").is_claimed
        end_dead_runs(instance)
        other = launched(instance, dg.DagsterRunStatus.STARTED, os.getpid())
        assert storage.claim_concurrency_slot("training", other, "step").is_claimed


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("database is locked", "no other program holds .* run again when it has ended"),
        ("attempt to write a readonly database", "permission for this user .* Ask the owner"),
        ("database or disk is full", "room on the disk.* Free space"),
        ("database disk image is malformed", "can be deleted"),
    ],
)
def test_what_sqlite_says_is_told_with_what_mends_it(tmp_path, said, words):
    with pytest.raises(StoreError, match=words), open_instance(tmp_path):
        raise DatabaseError("", {}, sqlite3.OperationalError(said))


def test_records_that_cannot_be_written_are_read_from_a_copy(tmp_path, monkeypatch):
    with open_instance(tmp_path) as instance:
        run = launched(instance, dg.DagsterRunStatus.STARTED, a_dead_process())
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with open_records(tmp_path) as records:
        assert records.get_run_by_id(run).status == dg.DagsterRunStatus.STARTED
        assert Path(records.root_directory) != tmp_path / ".dagster"
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_where_there_are_no_records_none_are_made(tmp_path):
    with open_records(tmp_path) as records:
        assert records is None
    assert not list(tmp_path.iterdir())
    shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_projects_with_prefixes_of_their_own_share_an_instance(tmp_path):
    known = {}
    for name, removed in (("first", None), ("second", "sub-03_run-2.npy")):
        folder = write_project(tmp_path / name)
        if removed:
            (folder / "bold" / removed).unlink()
        environment = os.environ | {
            "DAGSTER_HOME": str(tmp_path / "lab"),
            "TREND_KEY_PREFIX": name,
            "COLUMNS": "200",
        }
        command = [Path(sys.executable).with_name("trend"), "run", folder, "--select", "bold"]
        said = subprocess.run(command, env=environment, text=True, capture_output=True, check=True)
        assert f"{tmp_path / 'lab'} (DAGSTER_HOME), under {name}" in said.stdout
        known[name] = len(list((folder / "bold").glob("*.npy")))
    _made(tmp_path / "lab")
    with dg.DagsterInstance.from_config(str(tmp_path / "lab")) as shared:
        for name, count in known.items():
            assert len(shared.get_dynamic_partitions(f"{name}_bold_run")) == count
            made = shared.get_materialized_partitions(dg.AssetKey([name, "bold"]))
            assert len(made) == count
        assert not shared.get_dynamic_partitions("bold_run")
