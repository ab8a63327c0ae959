"""The Dagster instance of a project: whose settings hold, and what becomes of runs that died."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.events import EngineEventData
from dagster._core.storage.tags import GRPC_INFO_TAG
from sqlalchemy.exc import DatabaseError

from trend_dagster.errors import SettingsError, StoreError
from trend_dagster.orchestration.instance import (
    added_settings,
    end_dead_runs,
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


@pytest.mark.parametrize("text", ["a list", "retention: {weeks: 3}", "telemetry: ["])
def test_settings_that_cannot_be_used_are_named(tmp_path, text):
    (instance_home(tmp_path) / "dagster.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"dagster\.yaml"), open_instance(tmp_path):
        pass


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


ELSEWHERE = {"trend/host": "elsewhere", "trend/process": "77"}


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
