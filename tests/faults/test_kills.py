"""Processes are killed at random: nothing is lost, nothing is read torn, the end is the same."""

from __future__ import annotations

import os
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

KILLS = int(os.environ.get("TREND_KILLS", "20"))  # in each of the two tests
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
    chance, killed = seeded(), []
    while len(killed) < KILLS:
        folder = make_project(tmp_path / f"project-{len(killed)}")
        with reader(folder) as torn:
            seen: Digests = {}
            while not_current(folder) and len(killed) < KILLS:
                killed.append(start_and_kill(folder, chance))
                now = digests(folder)
                assert all(now.get(output) == seen[output] for output in seen), "lost"
                seen = now
            done = trend("run", folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not torn
        assert digests(folder) == undisturbed
        assert not not_current(folder)
        assert not shown_as_in_progress(folder)
    assert "a child of it" in killed


def start_and_kill(folder: Path, chance: random.Random) -> str:
    """Start `trend run`; once it works, kill it or a child of it; after a child, the run too."""
    with subprocess.Popen([*TREND, "run", str(folder)], stdout=subprocess.DEVNULL) as run:
        before = len(records_of(folder))
        while run.poll() is None and len(records_of(folder)) == before:
            time.sleep(0.3)
        time.sleep(chance.uniform(0, 6))
        what = "ended before"
        with suppress(psutil.NoSuchProcess):
            what = kill_some(psutil.Process(run.pid), chance)
            time.sleep(chance.uniform(0, 2))
        run.kill()
        return what


def records_of(folder: Path) -> list[str]:
    """Ids of all runs on record."""
    with open_records(folder) as records:
        return [] if records is None else [run.run_id for run in records.get_runs()]


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
    query = """{ runsOrError(filter: {statuses:
        [QUEUED, NOT_STARTED, STARTING, STARTED, CANCELING]}) { ... on Runs { results { runId } } }
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
        while len(killed) < KILLS:
            time.sleep(chance.uniform(0.5, 6))
            names = [
                "worker",
                "worker",
                "worker",
                "dagster_webserver",
                "orchestration.daemon",
                "grpc",
            ]
            name = chance.choice(names)
            with suppress(psutil.NoSuchProcess):
                if name == "worker":
                    at_work = workers(folder)
                    if at_work:
                        kill_some(chance.choice(at_work), chance)
                        killed.append(name)
                # One that is killed as it starts never comes to anything.
                elif (found := dev.part(name)) and time.time() - found.create_time() > 8:
                    found.kill()
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
