"""What may keep a project from working on this machine: `trend doctor`.

What belongs here: looking, and saying what is found in words. What does not: mending it.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import dagster as dg
import psutil

from trend_dagster.delivery.associations import foreseen_notes
from trend_dagster.errors import TrendError
from trend_dagster.orchestration.instance import (
    HOME_VARIABLE,
    UNFINISHED,
    added_settings,
    in_a_server,
    instance_settings,
    open_records,
    process_of,
    records_home,
    run_lock,
    service_lock,
)
from trend_dagster.orchestration.service import marked
from trend_dagster.project.folder import SUBJECT, Project, participants_file
from trend_dagster.project.foresight import foreseen, misfits
from trend_dagster.project.settings import why_no_individuals
from trend_dagster.science.cores import usable_cores
from trend_dagster.storage.locks import Holder, has_locks, is_alive

Level = Literal["good", "note", "wrong"]

NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "beegfs", "gpfs", "ceph", "fuse.sshfs"}
LITTLE_BYTES = 2**30
MOST_FORESEEN = 20
LIBRARIES = ("trend_dagster", "dagster", "dagster-webserver", "torch", "numpy", "zarr")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Parameters
    ----------
    subject : str
        What was looked at.
    level : str
        ``good``, ``note`` (works, with a limit) or ``wrong``.
    words : str
        What is so, and what to do about it.
    """

    subject: str
    level: Level
    words: str


def examine(folder: Path, profile: str | None = None) -> Iterator[Finding]:
    """Look at everything that a project needs of this machine.

    Parameters
    ----------
    folder : Path
        Of the project.
    profile : str, optional
        In place of the profile that `trend.yaml` names.

    Yields
    ------
    Finding
        One or more for each subject; whatever cannot be looked at is a finding itself.
    """
    looks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("settings", lambda: _settings(folder, profile)),
        ("inputs", lambda: _inputs(folder, profile)),
        ("permissions", lambda: _permissions(folder)),
        ("file system", lambda: _file_system(folder)),
        ("space", lambda: _space(folder)),
        ("versions", _versions),
        ("runs", lambda: _runs(folder.resolve())),
        ("threads", _threads),
    )
    for subject, look in looks:
        try:
            yield from look()
        except (TrendError, OSError) as error:
            yield Finding(subject, "wrong", str(error))


def _settings(folder: Path, profile: str | None) -> Iterator[Finding]:
    project = Project.open(folder, profile)
    yield Finding("settings", "good", f"profile {project.settings.profile}, {project.folder}")
    home = records_home(project.folder)
    if named := os.environ.get(HOME_VARIABLE):
        yield Finding("settings", "note", f"Dagster's records lie in {named} ({HOME_VARIABLE})")
    instance_settings(home)
    if (home / "dagster.yaml").exists():
        ours = ", ".join(added_settings(home)) or "nothing"
        yield Finding("settings", "good", f"{home / 'dagster.yaml'} holds; added to it: {ours}")


def _inputs(folder: Path, profile: str | None) -> Iterator[Finding]:
    """Names, headers and tables of the runs, and what has to lie on their mesh.

    Their numbers are judged when they are read.
    """
    project = Project.open(folder, profile)
    runs = project.bold_runs
    found = dict.fromkeys([*foreseen(project), *(("", why) for why in misfits(project))])
    for key, why in list(found)[:MOST_FORESEEN]:
        yield Finding(
            "inputs", "note" if key else "wrong", f"{key} cannot be used: {why}" if key else why
        )
    if (more := len(found) - MOST_FORESEEN) > 0:
        yield Finding("inputs", "note", f"and {more} more like these")
    if not found:
        yield Finding("inputs", "good", f"names, headers, tables and mesh of {len(runs)} BOLD runs")
    for note in foreseen_associations(project):
        yield Finding("inputs", "note", note)


def foreseen_associations(project: Project) -> list[str]:
    """Say which associations of newborns (`individuals.associate`) will not be made, and why.

    Raises
    ------
    InputError
        If the participants table cannot be read.
    """
    config = project.settings.individuals
    if why_no_individuals(project.settings) is not None:
        return []
    return foreseen_notes(project.keys(SUBJECT), participants_file(project), config)


def _permissions(folder: Path) -> Iterator[Finding]:
    project = folder.resolve()
    for path in (project, project / "store", project / "outputs", records_home(project)):
        if not path.exists():
            continue
        owner = path.stat().st_uid
        if not os.access(path, os.R_OK | os.X_OK):
            yield Finding("permissions", "wrong", f"{path} cannot be read by this user")
        elif not os.access(path, os.W_OK):
            words = (
                f"{path} belongs to user {owner} and cannot be written to: `trend status`, `show`, "
                "`export --to` and `dev --read-only` work, `trend run` does not"
            )
            yield Finding("permissions", "note", words)
        else:
            yield Finding("permissions", "good", f"{path} can be written to")


def _file_system(folder: Path) -> Iterator[Finding]:
    project = folder.resolve()
    store = project / "store"
    path = store if store.exists() else project
    kind = file_system(path)
    if not has_locks(path):
        words = (
            f"{path} ({kind}) has no locks (flock): old versions are not collected by themselves "
            "(`trend gc` neither); let one machine at a time work on the project"
        )
        yield Finding("file system", "note", words)
    else:
        yield Finding("file system", "good", f"{path} is {kind}, with locks")
    home = records_home(project)
    if in_a_server(home):
        yield Finding("file system", "good", "Dagster's records lie in a server (dagster.yaml)")
    elif home.exists() and (kind := file_system(home)) in NETWORK:
        words = (
            f"Dagster's records ({home}) lie on {kind}, where SQLite is not safe: lay them on a "
            f"local disk, {HOME_VARIABLE}=/a/local/folder, or into PostgreSQL (docs/cluster.md)"
        )
        yield Finding("file system", "note", words)


def file_system(path: Path) -> str:
    """Kind of the file system that a path lies on, as the system names it."""
    mounts = {Path(p.mountpoint): p.fstype for p in psutil.disk_partitions(all=True)}
    at = next((above for above in (path, *path.parents) if above in mounts), None)
    return mounts.get(at, "unknown") if at else "unknown"


def _space(folder: Path) -> Iterator[Finding]:
    project = folder.resolve()
    for name, path in (("store", project), ("records", records_home(project))):
        if path.exists():
            free = shutil.disk_usage(path).free
            level: Level = "good" if free > LITTLE_BYTES else "wrong" if free < 2**20 else "note"
            words = f"{free / 2**30:.1f} GiB free for the {name} ({path})"
            yield Finding("space", level, words)


def _versions() -> Iterator[Finding]:
    found = {name: version(name) for name in LIBRARIES}
    yield Finding("versions", "good", ", ".join(f"{n} {v}" for n, v in found.items()))
    if found["dagster"] != found["dagster-webserver"]:
        words = "dagster and dagster-webserver must be of one release: install both anew"
        yield Finding("versions", "wrong", words)


def _runs(project: Path) -> Iterator[Finding]:
    for place, what in ((run_lock(project), "trend run"), (service_lock(project), "trend dev")):
        holder = Holder.read(place)
        if holder is not None:
            is_so = "is at work" if holder.alive else "was killed; the next one goes on"
            yield Finding("runs", "good", f"`{what}` {is_so} ({holder})")
        elif place == service_lock(project) and (left := marked(str(project))):
            pids = ", ".join(str(process.pid) for process in left)
            words = f"processes of a `trend dev` that was killed: {pids}; the next one ends them"
            yield Finding("runs", "note", words)
    with open_records(project) as records:
        if records is None:
            yield Finding("runs", "good", "there are no records yet")
            return
        yield from _in_records(records)


def _in_records(records: dg.DagsterInstance) -> Iterator[Finding]:
    runs = [r.dagster_run for r in records.get_run_records(dg.RunsFilter(statuses=UNFINISHED))]
    dead = 0
    for run in runs:
        process = process_of(records, run)
        dead += process is not None and not is_alive(*process)
    words = f"{len(runs) - dead} at work, {dead} of which the process is gone"
    remedy = "; the next `trend run` or `trend dev` ends them" if dead else ""
    yield Finding("runs", "note" if dead else "good", words + remedy)
    held = records.event_log_storage.get_concurrency_run_ids() - {run.run_id for run in runs}
    over = [i for i in held if (r := records.get_run_by_id(i)) is None or r.is_finished]
    if over:
        words = f"{len(over)} ended runs hold a place in a pool; the next `trend run` frees it"
        yield Finding("runs", "note", words)


def _threads() -> Iterator[Finding]:
    cores = usable_cores()
    words = f"{cores} cores to work with on {socket.gethostname()}"
    yield Finding("threads", "good", words)
    for name in THREAD_VARIABLES:
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) < cores:
            words = f"{name}={value} keeps work to fewer threads than there are cores ({cores})"
            yield Finding("threads", "note", words)
