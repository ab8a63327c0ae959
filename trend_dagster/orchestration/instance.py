"""The Dagster instance of a project: opening it, one run of everything at a time, runs that died.

What belongs here: where Dagster's records of a project are, and what keeps them true. What does
not: deciding what has to run (``running``).

See https://docs.dagster.io/deployment/oss/dagster-yaml.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil
from sqlalchemy.exc import DatabaseError

from trend_dagster.errors import StoreError
from trend_dagster.orchestration.private import HOST_TAG, PROCESS_TAG
from trend_dagster.project.settings import resource_folder


@contextmanager
def open_instance(project: Path) -> Iterator[dg.DagsterInstance]:
    """Open the Dagster instance of a project; its state lies in the folder `.dagster`.

    Parameters
    ----------
    project : Path
        Folder of the project.

    Yields
    ------
    DagsterInstance
        Also set as DAGSTER_HOME for what is started from here.

    Raises
    ------
    StoreError
        If its databases cannot be used.
    """
    home = instance_home(project)
    os.environ["DAGSTER_HOME"] = str(home)
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            end_dead_runs(instance)
            yield instance
    except DatabaseError as error:
        raise StoreError(
            f"Dagster's records in {home}",
            expected="databases that can be read and written, on a disk with room",
            found=str(error.orig),
            remedy="Free space, then run again: what is stored is recorded then. Records that are "
            "damaged can be deleted; outputs and their provenance lie in the store.",
        ) from error


@contextmanager
def only_run_here(project: Path, wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """Hold the place of the one run of everything that a project has at a time.

    Parameters
    ----------
    project : Path
        Folder of the project.
    wait : callable, optional
        Takes a line that says so if the place is taken; then it is waited for.

    Raises
    ------
    StoreError
        If another process holds it.
    """
    home = instance_home(project)
    handle = os.open(home, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if wait is None:
                raise StoreError(
                    f"project {project}",
                    expected="no other `trend run` at work in it",
                    found="one that is",
                    remedy="Wait until it ends, or stop it; nothing is lost either way.",
                ) from None
            wait(f"Another run is at work in {project}: waiting until it ends.")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def instance_home(project: Path) -> Path:
    """Folder of the instance's state, made if need be, with today's `dagster.yaml`."""
    home = project.resolve() / ".dagster"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(resource_folder("dagster.yaml"), home / "dagster.yaml")
    return home


def end_dead_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs of this machine whose process was killed as failed: nobody else watches them."""
    unfinished = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING],
        tags={HOST_TAG: socket.gethostname()},
    )
    for run in instance.get_runs(unfinished):
        if not psutil.pid_exists(int(run.tags[PROCESS_TAG])):
            instance.report_run_failed(run, "The process of this run was ended from outside.")
            # It took its places in the concurrency pools with it; the next run would wait for them.
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
