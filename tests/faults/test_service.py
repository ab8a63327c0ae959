"""`trend dev` is a service: it ends whole, is the only one, and survives its processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import dagster as dg
import psutil
import pytest

from tests.conftest import write_project
from tests.orchestration.test_instance import a_dead_process, launched
from tests.service import Dev, port_is_free, serving, trend, wait_until
from trend_dagster.orchestration.instance import open_instance
from trend_dagster.orchestration.service import MOST_SHORT_LIVES, Part, Service

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_project(tmp_path_factory.mktemp("served") / "project")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_all_its_processes_and_frees_its_port(folder, number):
    with serving(folder) as dev:
        processes = dev.parts()
        assert len(processes) >= 4  # code server and the one inside it, webserver, daemon
        assert dev.end(number) == 0
        assert not [p for p in processes if p.is_running()]
        assert not dev.parts()
        assert port_is_free(dev.port)
        assert "Traceback" not in dev.said()
        assert "DEBUG" not in dev.said()


def test_a_second_one_is_refused_and_told_of_the_first(folder):
    with serving(folder) as dev:
        second = Dev(folder)
        assert second.process.wait(60) == 1
        assert f"http://127.0.0.1:{dev.port} (process {dev.process.pid} on " in second.said()
        assert dev.end() == 0


def test_each_of_its_processes_comes_back(folder):
    with serving(folder) as dev:
        for name in ("dagster_webserver", "orchestration.daemon", "code-server", "grpc"):
            process = wait_until(lambda n=name: dev.part(n), 60, name)
            process.kill()

            def back(process=process, name=name):
                found = dev.part(name)
                return found is not None and found.pid != process.pid

            wait_until(back, 120, f"{name} comes back: {dev.said()}")
        dev.ready()
        assert "The webserver has ended (by SIGKILL): it is started again." in dev.said()
        assert dev.end() == 0


def test_what_was_at_work_in_a_power_cut_is_ended_by_the_next_start(folder):
    with serving(folder) as dev:
        dev.power_cut()
    with open_instance(folder) as instance:
        before = instance.event_log_storage
        dead = launched(instance, dg.DagsterRunStatus.STARTED, a_dead_process())
        starting = launched(instance, dg.DagsterRunStatus.STARTING)
        before.set_concurrency_slots("training", 1)
        before.claim_concurrency_slot("training", dead, "step")
    assert trend("doctor", folder).returncode == 0
    with serving(folder) as dev:
        with open_instance(folder) as instance:
            for run in (dead, starting):
                assert instance.get_run_by_id(run).status == dg.DagsterRunStatus.FAILURE
            assert not instance.event_log_storage.get_concurrency_run_ids()
        assert "2 runs were at work when `trend dev` was last ended" in dev.said()
        assert dev.end() == 0


def test_processes_that_a_killed_one_left_are_ended(folder):
    with serving(folder) as dev:
        os.kill(dev.process.pid, signal.SIGKILL)
        left = dev.parts()
        wait_until(lambda: not psutil.wait_procs(left, 0.1)[1], 60, f"{left} end by themselves")


def test_what_cannot_be_kept_alive_ends_it_with_a_word(folder, monkeypatch):
    said = []
    monkeypatch.setattr("trend_dagster.orchestration.service.SHORT_LIFE_SECONDS", 1000)
    monkeypatch.setattr("trend_dagster.orchestration.service.time.sleep", lambda s: None)
    with open_instance(folder) as instance:
        service = Service(instance, folder, 1, os.environ, said.append)
        part = Part("webserver", ["-c", "raise SystemExit(3)"])
        service.parts = [part]
        service._start_part(part)
        part.short_lives = MOST_SHORT_LIVES - 1
        with pytest.raises(Exception, match=r"webserver .* at last with status 3"):
            service._watch()


def test_a_read_only_page_shows_and_refuses(folder):
    with open_instance(folder):
        pass
    with serving(folder, "--read-only") as dev:
        answer = dev.ask("mutation { wipeAssets(assetPartitionRanges: []) { __typename } }")
        assert answer["wipeAssets"]["__typename"] == "UnauthorizedError"
        assert dev.part("orchestration.daemon") is None
        assert dev.end() == 0
