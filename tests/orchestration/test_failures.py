"""A run that failed is told to a command or an address of the user's, and only if they ask."""

from __future__ import annotations

import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import dagster as dg
import pytest

from trend_dagster.orchestration.failures import ON_FAILURE_VARIABLE, build_failure_sensor, tell


def failed_run():
    @dg.op
    def breaks():
        raise ValueError("no such luck")

    @dg.job
    def nightly():
        breaks()

    instance = dg.DagsterInstance.ephemeral()
    result = nightly.execute_in_process(instance=instance, raise_on_error=False)
    return instance, result


def notice(monkeypatch, on_failure):
    monkeypatch.setenv(ON_FAILURE_VARIABLE, on_failure)
    instance, result = failed_run()
    sensor = build_failure_sensor()
    event = next(e for e in result.all_events if e.is_job_failure)
    context = dg.build_run_status_sensor_context(
        "run_failures", event, instance, result.dagster_run
    ).for_run_failure()
    return sensor, result.run_id, sensor(context)


def test_a_command_gets_the_message_and_what_failed(tmp_path, monkeypatch):
    file = tmp_path / "told"
    sensor, run_id, _ = notice(monkeypatch, f'(cat; echo "$TREND_JOB $TREND_RUN") > {file}')
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert file.read_text().startswith(
        f"trend: nightly failed (run {run_id})\nValueError: no such luck\n"
    )
    assert file.read_text().endswith(f"nightly {run_id}\n")


def test_without_the_variable_it_is_off_and_does_nothing(monkeypatch):
    sensor, _, said = notice(monkeypatch, "")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    assert "TREND_ON_FAILURE is not set" in said.skip_message


def test_an_address_gets_json():
    got = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Webhook) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        tell(f"http://127.0.0.1:{server.server_port}/hook", "nightly", "abc", "why")
        thread.join()
    (message,) = got
    assert message["text"] == "trend: nightly failed (run abc)\nwhy\n"
    assert (message["job"], message["run"]) == ("nightly", "abc")


def test_a_command_that_fails_is_an_error_that_dagster_shows():
    with pytest.raises(subprocess.CalledProcessError):
        tell("exit 3", "nightly", "abc", "why")


def test_the_message_names_the_project_and_the_page(tmp_path, monkeypatch):
    (tmp_path / "study2").mkdir()
    monkeypatch.setenv("TREND_PROJECT", str(tmp_path / "study2"))
    monkeypatch.setenv("TREND_PAGE_URL", "https://lab/trend/")
    tell(f"cat > {tmp_path / 'told'}", "nightly", "abc", "why")
    said = "trend: nightly of study2 failed (run abc)\nwhy\nhttps://lab/trend/runs/abc\n"
    assert (tmp_path / "told").read_text() == said
