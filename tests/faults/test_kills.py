"""Processes are killed at random: nothing is lost, nothing is read torn, the end is the same."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path

import psutil
import pytest
from dagster._core.execution.backfill import BulkActionStatus

from tests.faults.workload import (
    Digests,
    digests,
    leavings,
    make_project,
    n_outputs,
    not_current,
    of_what_there_was,
    reader,
    seeded,
    shown_as_in_progress,
)
from tests.service import TREND, Dev, serving, trend, wait_until
from trend_dagster.orchestration.instance import open_records, process_of
from trend_dagster.storage.locks import is_alive

pytestmark = [pytest.mark.slow, pytest.mark.faults]

# Of `trend run` and its children.
KILLS = int(os.environ.get("TREND_KILLS", "24"))
THE_RUN, A_CHILD = "the run", "a child of it"
OF_A_PAGE = [THE_RUN, "dagster_webserver", A_CHILD, "orchestration.daemon", THE_RUN, "grpc"]
# Each costs more time, and every kind has its turn.
KILLS_OF_A_PAGE = max(KILLS // 2, len(OF_A_PAGE))
PATIENCE = 600
"""Seconds until a page must have come to rest: many times what it takes, for machines at work."""

BACKFILL = """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
NAMES = "{ assetNodes { assetKey { path } } }"


def victims(kind: str, run: psutil.Process) -> list[psutil.Process]:
    """Return the run itself, or its children if it has any."""
    with suppress(psutil.NoSuchProcess):
        return [run] if kind == THE_RUN else run.children(recursive=True) or [run]
    return []


def some_way_on(folder: Path, chance: random.Random, over: Callable[[], object]) -> None:
    """Wait for none to three more outputs, and a moment of chance within what is made next."""
    wanted, end = n_outputs(folder) + chance.choice([0, 1, 2, 3]), time.monotonic() + 60
    while n_outputs(folder) < wanted and not over() and time.monotonic() < end:
        time.sleep(0.5)
    time.sleep(chance.uniform(0, 4))


def test_trend_run_killed_again_and_again_ends_as_if_it_never_was(tmp_path, undisturbed: Digests):
    chance, killed, started = seeded(), [], 0
    while len(killed) < KILLS:
        folder = make_project(tmp_path / f"project-{len(killed)}")
        with reader(folder) as torn:
            seen: Digests = {}
            incomplete: set[tuple[str, str]] = set()
            while not_current(folder) and len(killed) < KILLS:
                kind = (THE_RUN, A_CHILD)[started % 2]
                started += 1
                killed += start_and_kill(folder, kind, chance)
                now = digests(folder)
                assert seen.keys() <= now.keys(), "lost"
                assert all(now[o] == seen[o] for o in seen if o not in incomplete), "lost"
                seen, incomplete = now, of_what_there_was(folder)
            done = trend("run", folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not torn
        assert digests(folder) == undisturbed
        assert not not_current(folder)
        assert not shown_as_in_progress(folder)


def start_and_kill(folder: Path, kind: str, chance: random.Random) -> list[str]:
    """Start `trend run`; once it works, kill it, or a child of it and after a while the run too.

    Nothing is killed of a run that ended before.
    """
    killed = []
    with subprocess.Popen([*TREND, "run", str(folder)], stdout=subprocess.DEVNULL) as run:
        before = len(records_of(folder))
        while run.poll() is None and len(records_of(folder)) == before:
            time.sleep(0.5)
        some_way_on(folder, chance, run.poll)
        if run.poll() is None and (found := victims(kind, psutil.Process(run.pid))):
            with suppress(psutil.NoSuchProcess):
                chance.choice(found).kill()
                killed.append(kind)
            time.sleep(chance.uniform(0, 2))
        if run.poll() is None:
            run.kill()
            killed.append(THE_RUN)
    print(killed, n_outputs(folder), "outputs")
    return killed


def records_of(folder: Path) -> list[str]:
    """Ids of all runs on record."""
    with open_records(folder) as records:
        return [] if records is None else [run.run_id for run in records.get_runs()]


def launch(dev: Dev, *names: str) -> None:
    """Ask for all partitions of some assets, or of all, as the button "Materialize all" does."""
    asked = [{"path": [name]} for name in names]
    selection = asked or [asset["assetKey"] for asset in dev.ask(NAMES)["assetNodes"]]
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


def given_up(folder: Path) -> list[str]:
    """Backfills that the daemon gave up, which is not the same as runs of one that fail."""
    with open_records(folder) as records:
        assert records is not None
        found = records.get_backfills()
        return [str(b.error) for b in found if b.status == BulkActionStatus.FAILED]


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


def kill_one(dev: Dev, folder: Path, kind: str, chance: random.Random) -> None:
    """Kill one process of a kind as soon as there is one; what is at rest is asked for again."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert dev.process.poll() is None, dev.said()[-3000:]
        if kind in (THE_RUN, A_CHILD):
            found = [p for worker in workers(folder) for p in victims(kind, worker)]
        else:  # one that is killed as it starts never comes to anything
            part = dev.part(kind)
            found = [part] if part and time.time() - part.create_time() > 8 else []
        with suppress(psutil.NoSuchProcess, IndexError):
            chance.choice(found).kill()
            print(kind, n_outputs(folder), "outputs")
            return
        if at_rest(dev):
            launch(dev.ready())
        time.sleep(0.5)
    raise AssertionError(f"no process to kill of this kind: {kind}")


def test_a_page_whose_processes_are_killed_makes_everything_all_the_same(
    tmp_path, undisturbed: Digests
):
    folder, chance = make_project(tmp_path / "project"), seeded()
    with reader(folder) as torn, serving(folder) as dev:
        launch(dev)
        for kind in islice(cycle(OF_A_PAGE), KILLS_OF_A_PAGE):
            some_way_on(folder, chance, lambda: at_rest(dev))
            kill_one(dev, folder, kind, chance)
        for _ in range(4):  # runs are tried again only so often
            wait_until(
                lambda: at_rest(dev), PATIENCE, f"the page comes to rest: {dev.said()[-2000:]}"
            )
            if not not_current(folder):
                break
            launch(dev.ready())
        assert not not_current(folder)
        assert not shown_as_in_progress(folder)
        assert not given_up(folder)
        assert dev.end() == 0
    assert not torn
    assert digests(folder) == undisturbed
    assert not leavings(folder) or trend("run", folder).returncode == 0
