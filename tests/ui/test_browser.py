"""Daily use as a person meets it: a real page, a real daemon, a real browser.

One `trend dev` serves all tests of this file, one after another, for a daemon takes its time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from tests.browser import browser  # noqa: F401 - a fixture
from tests.conftest import N_VERTICES, NOTHING_TO_DO, Finished, simulate_run
from tests.service import wait_until
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.instance import open_instance
from trend_dagster.orchestration.lineage import Lineage
from trend_dagster.project.folder import Project
from trend_dagster.storage.stores import Version

pytestmark = pytest.mark.slow

RUN = {"bold_run": "sub-02_run-1"}

# The nightly schedule every minute, so that a test can wait for it.
AUTOMATION = 'automation: {watch_seconds: 5, nightly: "* * * * *"}\n'


@dataclass(frozen=True)
class Served:
    """A project with its page and daemon at work."""

    folder: Path
    address: str

    def latest(self, asset: str, **partition: str) -> Version | None:
        """What is stored now."""
        return Project.open(self.folder).store.latest(asset, partition)

    def statuses(self, asset: str) -> set[str]:
        """How the outputs of an asset stand."""
        return {s.status for s in Lineage(Project.open(self.folder)).states(ASSETS[asset])}

    def ended(self, job: str) -> list[dg.DagsterRun]:
        """Runs of a job that have ended."""
        with open_instance(self.folder, end_dead=False) as instance:
            return [r for r in instance.get_runs(dg.RunsFilter(job_name=job)) if r.is_finished]

    def switch_on(self, kind: str, name: str) -> None:
        """Switch on a sensor or a schedule, as its switch on the page does."""
        lower = kind.lower()
        selector = (
            '{repositoryLocationName: "trend_dagster", repositoryName: "__repository__", '
            f'{lower}Name: "{name}"}}'
        )
        query = f"mutation {{ start{kind}({lower}Selector: {selector}) {{ __typename }} }}"
        request = urllib.request.Request(
            f"{self.address}/graphql",
            data=json.dumps({"query": query}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            (said,) = json.load(answer)["data"].values()
        assert said["__typename"] in {"Sensor", "ScheduleStateResult"}, said


@pytest.fixture(scope="module")
def served(finished_once: Finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A real `trend dev` of a copy of the finished project."""
    folder = tmp_path_factory.mktemp("served") / "project"
    shutil.copytree(finished_once.folder, folder)
    with (folder / "trend.yaml").open("a") as file:
        file.write(AUTOMATION)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = "from trend_dagster.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", command, "dev", str(folder), "--port", str(port)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    ) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: _answers(address), 180, "the page answers")
            yield Served(folder, address)
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/server_info", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def page(browser):  # noqa: F811
    """A page of its own for each test."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield page
    page.close()


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures are kept to be looked at: TREND_SCREENSHOTS, or a temporary folder."""
    folder = os.environ.get("TREND_SCREENSHOTS")
    return Path(folder) if folder else tmp_path_factory.mktemp("screenshots")


@pytest.mark.browser
def test_an_asset_is_materialized_from_the_page(served, page, screenshots):
    np.save(served.folder / "bold" / "sub-02_run-1.npy", simulate_run(99))
    before = served.latest("bold", **RUN)

    page.goto(f"{served.address}/asset-groups")
    page.get_by_text("parcellation").first.wait_for(timeout=60_000)
    page.screenshot(path=screenshots / "graph.png")

    page.goto(f"{served.address}/assets/bold?view=partitions&partition=sub-02_run-1")
    page.get_by_role("button", name="Materialize").first.click(timeout=60_000)
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Launch").first.click(timeout=30_000)

    wait_until(
        lambda: served.latest("bold", **RUN).path != before.path, 120, "the asset is made anew"
    )
    after = served.latest("bold", **RUN)
    after.verify()
    assert after.digest != before.digest
    assert after.recipe.inputs != before.recipe.inputs

    page.goto(f"{served.address}/runs")
    page.get_by_text("Success").first.wait_for(timeout=120_000)
    page.goto(f"{served.address}/assets/bold?view=partitions&partition=sub-02_run-1")
    page.get_by_text("n_timepoints").first.wait_for(timeout=60_000)
    page.screenshot(path=screenshots / "asset.png")


@pytest.mark.browser
def test_a_backfill_makes_the_range_that_was_chosen_and_nothing_else(served, page, screenshots):
    settings = served.folder / "trend.yaml"
    settings.write_text(settings.read_text() + "clustering: {random_state: 7}\n")
    assert served.statuses("nmf_sweep") == {"out of date"}
    cells = [(label, k) for label in ("six", "two") for k in ("4", "6")]
    before = {c: served.latest("nmf_sweep", label_file=c[0], n_components=c[1]) for c in cells}

    page.goto(f"{served.address}/assets/nmf_sweep?view=partitions")
    page.get_by_role("button", name="Materialize").first.click(timeout=60_000)
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Select a partition").first.click(timeout=30_000)
    page.get_by_role("menuitem", name="two").first.click(timeout=30_000)
    page.keyboard.press("Escape")
    dialog.get_by_role("button", name="All").last.click()
    dialog.get_by_text("2 partitions").first.wait_for(timeout=30_000)
    page.screenshot(path=screenshots / "backfill.png")
    dialog.get_by_role("button", name="Launch").first.click(timeout=30_000)

    def made() -> dict:
        return {c: served.latest("nmf_sweep", label_file=c[0], n_components=c[1]) for c in cells}

    chosen = [("two", "4"), ("two", "6")]
    wait_until(
        lambda: all(made()[c].path != before[c].path for c in chosen), 180, "both cells are made"
    )
    after = made()
    for cell in cells:
        after[cell].verify()
        if cell in chosen:
            assert after[cell].recipe.settings["clustering"]["random_state"] == 7
            assert np.array_equal(after[cell].read("W"), before[cell].read("W"))
        else:
            assert after[cell].path == before[cell].path
    page.goto(f"{served.address}/runs?view=backfills")
    page.wait_for_timeout(2000)
    page.screenshot(path=screenshots / "backfills.png")


def test_sensor_and_schedule_keep_the_project_up_to_date(served, screenshots):
    model = served.latest("trained_model").path
    new_bold = served.folder / "bold" / "sub-09_run-1.npy"
    new_labels = served.folder / "geodesic_labels" / "new.npy"
    np.save(new_bold, simulate_run(9))
    np.save(new_labels, np.arange(N_VERTICES) // 30)
    for path in (new_bold, new_labels):
        os.utime(path, (time.time() - 60,) * 2)
    nights = len(served.ended("parcellate"))
    served.switch_on("Sensor", "new_input_files")

    wait_until(
        lambda: served.latest("embeddings", bold_run="sub-09_run-1") is not None,
        240,
        "the sensor has the new run embedded",
    )
    wait_until(
        lambda: served.latest("nmf_sweep", label_file="new", n_components="6") is not None,
        300,
        "the sensor has the new label file swept",
    )
    with open_instance(served.folder, end_dead=False) as instance:
        assert "sub-09_run-1" in instance.get_dynamic_partitions("bold_run")
        assert "new" in instance.get_dynamic_partitions("label_file")
    assert "sub-09_run-1" not in served.latest("average_correlation").facts["runs"]

    (served.folder / "bold" / "sub-03_run-2.npy").unlink()
    wait_until(lambda: served.ended("check_everything"), 120, "the removed file is reported")
    wait_until(lambda: len(served.ended("parcellate")) > nights, 300, "the sensor's run ends")
    nights = len(served.ended("parcellate"))
    served.switch_on("Schedule", "nightly")
    wait_until(lambda: len(served.ended("parcellate")) > nights, 600, "the schedule's run ends")
    for name in ASSETS:
        if name != "trained_model" and name not in NOTHING_TO_DO:
            assert served.statuses(name) == {"current"}, name
    runs = served.latest("average_correlation").facts["runs"]
    assert "sub-09_run-1" in runs
    assert "sub-03_run-2" not in runs
    assert served.latest("bold", bold_run="sub-03_run-2") is not None
    assert served.latest("trained_model").path == model
    assert {r.status for r in served.ended("parcellate")} == {dg.DagsterRunStatus.SUCCESS}
