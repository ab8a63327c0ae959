"""Processes are killed at random: nothing is lost, nothing is read torn, the end is the same."""

from __future__ import annotations

import random
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.faults.workload import (
    Digests,
    digests,
    leavings,
    make_project,
    not_current,
    reader,
    seeded,
    shown_as_in_progress,
)
from tests.service import TREND, Dev, serving, trend, wait_until
from trend_dagster.orchestration.instance import open_records, process_of
from trend_dagster.storage.locks import is_alive

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1100)]

KILLS_OF_RUN, KILLS_OF_PAGE = 22, 22
BACKFILL = """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
ASSETS = "{ assetNodes { assetKey { path } isPartitioned } }"


def kill_some(process: psutil.Process, chance: random.Random) -> str:
    """Kill the process, or one of its children."""
    victims = [process, *process.children(recursive=True)]
    victim = chance.choice(victims)
    victim.kill()
    return "the run" if victim == process else "a child of it"


def test_trend_run_killed_again_and_again_ends_as_if_it_never_was(tmp_path, undisturbed: Digests):
    folder, chance = make_project(tmp_path / "project"), seeded()
    killed: list[str] = []
    seen: Digests = {}
    with reader(folder) as torn:
        while len(killed) < KILLS_OF_RUN:
            with subprocess.Popen([*TREND, "run", str(folder)], stdout=subprocess.DEVNULL) as run:
                # Imports take a while, in which there is nothing to disturb.
                for _ in range(100):
                    if (folder / ".dagster" / "run.lock").exists():
                        break
                    time.sleep(0.1)
                time.sleep(chance.uniform(1, 12))
                with suppress(psutil.NoSuchProcess):
                    killed.append(kill_some(psutil.Process(run.pid), chance))
                if run.poll() is None and chance.random() < 0.8:
                    run.kill()  # after a child died, often the run too
                run.wait(300)
            now = digests(folder)
            assert all(now.get(output) == digest for output, digest in seen.items()), "lost"
            seen = now
            if not not_current(folder):  # all is made: make some of it anew
                trend("run", folder, "--force", "--select", "nmf_sweep")
        done = trend("run", folder)
        assert done.returncode == 0, done.stdout + done.stderr
    assert not torn
    assert digests(folder) == undisturbed
    assert not not_current(folder)
    assert not shown_as_in_progress(folder)
    assert "a child of it" in killed


def launch_all(dev: Dev) -> None:
    """Ask for everything, as the button "Materialize all" does."""
    assets = dev.ask(ASSETS)["assetNodes"]
    selection = [asset["assetKey"] for asset in assets]
    parameters = {"assetSelection": selection, "allPartitions": True}
    said = dev.ask(BACKFILL, p=parameters)["launchPartitionBackfill"]
    assert said["__typename"] == "LaunchBackfillSuccess", said


def workers(folder: Path) -> list[psutil.Process]:
    """Processes of the runs at work."""
    found = []
    with open_records(folder) as records:
        for run in shown_as_in_progress(folder):
            place = process_of(records, records.get_run_by_id(run))
            if place is not None and is_alive(*place):
                found.append(psutil.Process(place[0]))
    return found


def at_rest(dev: Dev) -> bool:
    """Whether nothing is at work, nor waits to be."""
    query = """{ runsOrError(filter: {statuses: [QUEUED, NOT_STARTED, STARTING, STARTED, CANCELING]})
        { ... on Runs { results { runId } } }
        partitionBackfillsOrError(status: REQUESTED) { ... on PartitionBackfills
        { results { id } } } }"""
    with suppress(OSError, KeyError):
        found = dev.ask(query)
        return not any(part["results"] for part in found.values())
    return False


def test_a_page_whose_processes_are_killed_makes_everything_all_the_same(
    tmp_path, undisturbed: Digests
):
    folder, chance = make_project(tmp_path / "project"), seeded()
    killed: list[str] = []
    with reader(folder) as torn, serving(folder) as dev:
        launch_all(dev)
        while len(killed) < KILLS_OF_PAGE:
            time.sleep(chance.uniform(0.5, 6))
            names = ["worker", "worker", "worker", "dagster_webserver", "dagster._daemon", "grpc"]
            name = chance.choice(names)
            with suppress(psutil.NoSuchProcess):
                if name == "worker":
                    at_work = workers(folder)
                    if at_work:
                        kill_some(chance.choice(at_work), chance)
                        killed.append(name)
                elif (process := dev.part(name)) is not None:
                    if time.time() - process.create_time() > 8:  # else it never comes to anything
                        process.kill()
                        killed.append(name)
            if at_rest(dev):
                dev.ready()
                launch_all(dev)
        for _ in range(4):  # runs are tried again only so often
            wait_until(lambda: at_rest(dev), 300, f"the page comes to rest: {dev.said()[-2000:]}")
            if not not_current(folder):
                break
            launch_all(dev.ready())
        assert not not_current(folder)
        assert not shown_as_in_progress(folder)
        assert dev.end() == 0
    assert not torn
    assert digests(folder) == undisturbed
    assert {"worker"} < set(killed)
    assert not leavings(folder) or trend("run", folder).returncode == 0
