"""The Dagster instance of a project: its settings and records, and runs that died.

What belongs here: where Dagster's records of a project are, under which settings they are opened,
one run of everything at a time, and what keeps the records true. What does not: deciding what has
to run (``running``), and the processes of the page (``service``).

See https://docs.dagster.io/deployment/oss/dagster-yaml.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from sqlalchemy import Engine, event
from sqlalchemy.exc import DatabaseError

from trend_dagster.errors import SettingsError, StoreError, cannot_write
from trend_dagster.files import replace_file
from trend_dagster.orchestration.partitions import PREFIX, PREFIX_VARIABLE, asset_key
from trend_dagster.orchestration.private import (
    BEGAN_TAG,
    GRPC_INFO_TAG,
    HOST_TAG,
    PLANNED_TAG,
    PREFIX_TAG,
    PROCESS_TAG,
    InstanceRef,
)
from trend_dagster.project.settings import resource_folder
from trend_dagster.storage.locks import TakenError, flock, hold, is_alive, is_free

HOME_VARIABLE = "DAGSTER_HOME"

UNFINISHED = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

DRIVER = "postgresql+psycopg2"

LITTLE_ROOM = 2**20  # bytes; less is taken for the cause when records cannot be written

Settings = dict[str, Any]


@contextmanager
def open_instance(
    project: Path, *, end_dead: bool = True, alone: bool = False
) -> Iterator[dg.DagsterInstance]:
    """Open the Dagster instance of a project, and end what died in it.

    Parameters
    ----------
    project : Path
        Folder of the project.
    end_dead : bool
        End runs whose process is gone (:func:`end_dead_runs`).
    alone : bool
        The place of the one run is held (:func:`only_run_here`).

    Yields
    ------
    DagsterInstance
        Its state lies in the folder `.dagster`, or where the user's DAGSTER_HOME says.

    Raises
    ------
    StoreError
        If its databases cannot be used.
    SettingsError
        If the user's `dagster.yaml` cannot be used, or the records are another project's.
    """
    home = instance_home(project)
    with _settings_in_words(home), _errors_in_words(home), _open(home, home) as instance:
        make_sure_of(instance, project)
        if end_dead:
            served = not is_free(service_lock(project))
            end_dead_runs(instance, launched=not served, alone=alone)
        share_records(instance)
        try:
            yield instance
        finally:
            share_records(instance)


@event.listens_for(Engine, "do_connect")
def _made_as_the_umask_says(
    dialect: Any, record: Any, arguments: list[Any], options: dict[str, Any]
) -> None:
    """Make the file of a new SQLite database, for SQLite itself would make it for its owner."""
    if dialect.name == "sqlite" and arguments and Path(arguments[0]).is_absolute():
        # Only what is new: to close a file that SQLite has open would end its locks.
        with suppress(OSError):
            os.close(os.open(arguments[0], os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))


def share_records(instance: dg.DagsterInstance) -> None:
    """Let the group write the records where this user's umask does, whoever made their files.

    Parameters
    ----------
    instance : DagsterInstance
        Whose files are looked at; those of other users are left alone.
    """
    mask = os.umask(0o022)
    os.umask(mask)
    if mask & stat.S_IWGRP:
        return
    root, of_the_group = Path(instance.root_directory), 0o060 & ~mask
    for where in ("history/*.db", "history/runs/*.db", "schedules/*.db"):
        with suppress(OSError):  # something may go meanwhile
            for path in root.glob(where):
                found = path.stat()
                if found.st_uid == os.geteuid() and of_the_group & ~found.st_mode:
                    path.chmod(stat.S_IMODE(found.st_mode) | of_the_group)


@contextmanager
def open_records(project: Path) -> Iterator[dg.DagsterInstance | None]:
    """Open Dagster's records to read them, also where this user may not write.

    Parameters
    ----------
    project : Path
        Folder of the project.

    Yields
    ------
    DagsterInstance or None
        None if there are no records, or none that this user may read. Where the user may not
        write, a copy of the records as they are now: SQLite writes even to read.
    """
    home = records_home(project)
    history = home / "history"
    if in_a_server(home):
        with _settings_in_words(home), _errors_in_words(home), _open(home, home) as instance:
            yield instance
    elif not os.access(history, os.R_OK | os.X_OK):
        yield None
    elif all(os.access(path, os.W_OK) for path in (home, history, *history.glob("*.db"))):
        with _settings_in_words(home), _errors_in_words(home), _open(home, home) as instance:
            yield instance
    else:
        with tempfile.TemporaryDirectory(prefix="trend-records-") as copy:
            for name in ("history", "schedules"):
                if (home / name).is_dir():
                    shutil.copytree(home / name, Path(copy, name), copy_function=shutil.copyfile)
            with (
                _settings_in_words(home),
                _errors_in_words(home),
                _open(Path(copy), home) as instance,
            ):
                yield instance


def _open(home: Path, settings: Path) -> dg.DagsterInstance:
    if not in_a_server(settings) and (wrong := re.search("[?]|%[0-9A-Fa-f]{2}", str(home))):
        raise SettingsError(
            f"Dagster's records in {home}",
            expected=f"a path without {wrong[0]}, which SQLite reads as something else",
            found=f"one with {wrong[0]}",
            remedy=f"Rename the folder, or set {HOME_VARIABLE} to another one.",
        )
    reference = InstanceRef.from_dir(
        str(home),
        # Every key of our file is in the overrides: what else that folder holds is not read.
        config_dir=str(resource_folder("dagster.yaml").parent),
        overrides=instance_settings(settings),
    )
    with _one_at_a_time(home):
        return dg.DagsterInstance.from_ref(reference)


@contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    """Wait for whoever opens the records now: two that make the tables at once hurt each other."""
    with ExitStack() as stack:
        with suppress(OSError):  # who may not write here makes no tables
            handle = os.open(home / "opening.lock", os.O_RDWR | os.O_CREAT, 0o666)
            stack.callback(os.close, handle)
            flock(handle, fcntl.LOCK_EX)
        yield


def in_a_server(home: Path) -> bool:
    """Tell whether the user's `dagster.yaml` lays the records elsewhere, in PostgreSQL mostly."""
    return "storage" in _users(home)


PROJECT_KEY = "/".join(["trend/project", *PREFIX])
"""In the records: the folder of the project that those under this prefix are of."""


def make_sure_of(instance: dg.DagsterInstance, project: Path) -> None:
    """Make sure that records which lie elsewhere than in the project's own folder are its own.

    Two projects in one instance would take each other's partitions away.

    Parameters
    ----------
    instance : DagsterInstance
        Where something is about to be recorded.
    project : Path
        Folder of the project.

    Raises
    ------
    SettingsError
        If they are of another project, which still is there.
    """
    here, own = str(project.resolve()), project.resolve() / ".dagster"
    home = Path(instance.root_directory).resolve()
    if home == own and not in_a_server(own):
        return
    known = instance.run_storage.get_cursor_values({PROJECT_KEY}).get(PROJECT_KEY)
    owner = known or _project_on_record(instance) or here
    if owner != here and Path(owner).is_dir():
        other = f"Unset {HOME_VARIABLE}, let it name another folder"
        if in_a_server(home):
            other = "Make another database (`createdb NAME`) and name that one"
        raise SettingsError(
            f"records in {home}" if home != own else f"records that {own / 'dagster.yaml'} names",
            expected="a database of this project's own",
            found=f"the records of project {owner}",
            remedy=f"{other}, or set {PREFIX_VARIABLE} to a name for this project, wherever it "
            "is opened (docs/your-dagster.md).",
        )
    if known != here:
        instance.run_storage.set_cursor_values({PROJECT_KEY: here})


def _project_on_record(instance: dg.DagsterInstance) -> str | None:
    """Project whose outputs are on record, in records that do not say yet whose they are."""
    for asset in ("bold", "average_correlation", "embeddings"):
        for record in instance.fetch_materializations(asset_key(asset), limit=1).records:
            found = record.asset_materialization and record.asset_materialization.metadata
            if found and "store" in found:
                path = Path(str(found["store"].value))
                return next((str(p.parent) for p in path.parents if p.name == "store"), None)
    return None


def lay_records_into(url: str, project: Path) -> Path:
    """Let a new project's records lie in PostgreSQL.

    Parameters
    ----------
    url : str
        ``postgresql://USER@HOST/DATABASE``, or ``env:NAME`` for what an environment variable has
        (``postgresql+psycopg2://...``, as SQLAlchemy takes it).
    project : Path
        Its folder.

    Returns
    -------
    Path
        The `dagster.yaml` that says so.

    Raises
    ------
    SettingsError
        If that is no such address, or the file is there already.
    """
    file = instance_home(project) / "dagster.yaml"
    kind, _, rest = url.partition(":")
    if kind not in ("postgresql", "postgres", "env") or not rest or file.exists():
        raise SettingsError(
            f"file {file}" if file.exists() else f"records {url!r}",
            expected="none yet" if file.exists() else "postgresql://USER@HOST/DATABASE or env:NAME",
            found="settings of yours" if file.exists() else "another address",
            remedy="Set storage.postgres.postgres_url there, as Dagster's documentation has it."
            if file.exists()
            else "Correct it.",
        )
    where = {"env": rest} if kind == "env" else url
    text = yaml.safe_dump({"storage": {"postgres": {"postgres_url": where}}}, sort_keys=False)
    replace_file(file, f"# Dagster's records of this project.\n{text}".encode())
    return file


@contextmanager
def _errors_in_words(home: Path) -> Iterator[None]:
    subject = f"Dagster's records in {home}"
    try:
        yield
    except DatabaseError as error:
        said = str(error.orig)
        if shutil.disk_usage(home).free < LITTLE_ROOM:  # SQLite calls it an I/O error
            said = f"{said} (disk full)"
        for words, expected, remedy in _SAID_BY_SQLITE:
            if words in said:
                raise StoreError(subject, expected=expected, found=said, remedy=remedy) from error
        remedy = (
            "Look at `trend doctor`. Records that are damaged can be deleted; outputs and their "
            "provenance lie in the store."
        )
        expected = "databases that can be read and written"
        raise StoreError(subject, expected=expected, found=said, remedy=remedy) from error
    except Exception as error:
        if not _is_of_postgres(error):
            raise
        raise StoreError(
            f"Dagster's records, which {home / 'dagster.yaml'} lays into PostgreSQL",
            expected="a server that lets this user in",
            found=" ".join(str(error.__cause__ or error).split()),
            remedy="Start it, or correct storage.postgres there; a password belongs into ~/.pgpass "
            "or into the variable that postgres_url: {env: NAME} names.",
        ) from error


def _is_of_postgres(error: Exception) -> bool:
    # Not imported by name: dagster-postgres need not be installed.
    return type(error).__name__ == "DagsterPostgresException"


@contextmanager
def if_records_answer() -> Iterator[None]:
    """Leave undone what records that are full, locked or away for a while do not let one do."""
    try:
        yield
    except DatabaseError:
        pass
    except Exception as error:
        if not _is_of_postgres(error):
            raise


@contextmanager
def _settings_in_words(home: Path) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("dagster_postgres", "psycopg2"):
            raise
        raise SettingsError(
            f"Dagster's settings in {home / 'dagster.yaml'}",
            expected="what is needed for records in PostgreSQL",
            found=str(error),
            remedy="pip install 'trend_dagster[cluster]'.",
        ) from error
    except dg.DagsterInvalidConfigError as error:
        raise SettingsError(
            f"Dagster's settings in {home / 'dagster.yaml'}",
            expected="settings that Dagster knows",
            found=" ".join(str(error).split()),
            remedy="Correct that file, or delete it: nothing has to stand in it.",
        ) from error


_NO_PERMISSION = (
    "permission for this user to write there",
    "Ask the owner of the project for it (a common group, and umask 002). Reading needs none: "
    "`trend status`, `trend show`, `trend export --to`, `trend dev --read-only`.",
)
_SAID_BY_SQLITE = (
    ("full", "room on the disk", "Free space, then run again: what is stored is recorded then."),
    (
        "locked",
        "databases that no other program holds for long",
        "Another program writes to them: run again when it has ended (`trend doctor` names the "
        "processes of this project). On a network file system lay them on a local disk: "
        f"{HOME_VARIABLE}=/a/local/folder.",
    ),
    ("readonly", *_NO_PERMISSION),
    ("unable to open", *_NO_PERMISSION),
)


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
    file = run_lock(project)
    _make(file.parent)
    with ExitStack() as stack:
        try:
            stack.enter_context(hold(file, {}))
        except OSError as error:
            raise cannot_write(f"project {project}", error) from error
        except TakenError as taken:
            if wait is None:
                raise StoreError(
                    f"project {project}",
                    expected="no other `trend run` at work in it",
                    found=f"one that is ({taken.holder})",
                    remedy="Wait until it ends, or stop it; nothing is lost either way.",
                ) from None
            wait(f"Another run is at work in {project} ({taken.holder}): waiting until it ends.")
            stack.enter_context(hold(file, {}, wait=True))
        yield


def run_lock(project: Path) -> Path:
    """File that stands for the place of the one run of everything."""
    return project.resolve() / ".dagster" / "run.lock"


def service_lock(project: Path) -> Path:
    """File that stands for the place of the one `trend dev`."""
    return project.resolve() / ".dagster" / "dev.lock"


def instance_home(project: Path) -> Path:
    """Folder of the instance's state, made if need be: the user's DAGSTER_HOME, else `.dagster`."""
    return _make(records_home(project))


def elsewhere(project: Path) -> str | None:
    """Say whose records are used where DAGSTER_HOME decides; None where it is not set."""
    if not os.environ.get(HOME_VARIABLE):
        return None
    prefix = f", under {'/'.join(PREFIX)}" if PREFIX else ""
    return f"Dagster's records are those in {records_home(project)} ({HOME_VARIABLE}){prefix}."


def records_home(project: Path) -> Path:
    """Folder of the instance's state, whether or not it is there."""
    named = os.environ.get(HOME_VARIABLE)
    return Path(named).expanduser().resolve() if named else project.resolve() / ".dagster"


def _make(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(f"folder {folder}", error) from error
    return folder


def instance_settings(home: Path) -> Settings:
    """Settings of the instance: ours, and over them the user's `dagster.yaml`.

    Parameters
    ----------
    home : Path
        Folder of the instance's state.

    Returns
    -------
    dict
        As `dagster.yaml` has them. The file itself is never written to.

    Raises
    ------
    SettingsError
        If the user's file is no YAML with sections.
    """
    return _with_driver(_over(_ours(), _users(home)))


def _with_driver(settings: Settings) -> Settings:
    """Name the driver that dagster-postgres is written for; SQLAlchemy would take another."""
    postgres = (settings.get("storage") or {}).get("postgres") or {}
    url = postgres.get("postgres_url")
    if isinstance(url, str):
        postgres["postgres_url"] = re.sub("^postgres(ql)?://", f"{DRIVER}://", url)
    return settings


def added_settings(home: Path) -> list[str]:
    """Name the settings that are ours because the user's `dagster.yaml` does not have them.

    Parameters
    ----------
    home : Path
        Folder of the instance's state.

    Returns
    -------
    list of str
        Section and name, as ``run_retries.max_retries``.
    """
    own = set(_names(_users(home)))
    return [name for name in _names(_ours()) if name not in own]


def _ours() -> Settings:
    return dict(yaml.safe_load(resource_folder("dagster.yaml").read_text(encoding="utf-8")))


def _users(home: Path) -> Settings:
    file = home / "dagster.yaml"
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        found = " ".join(str(error).split())
    if not isinstance(found, dict | None):
        raise SettingsError(
            f"Dagster's settings in {file}",
            expected="sections with settings below them, in YAML",
            found=str(found),
            remedy="Correct that file, or delete it: nothing has to stand in it.",
        )
    return found or {}


def _over(ours: Mapping[str, Any], users: Mapping[str, Any]) -> Settings:
    merged = dict(ours)
    for name, value in users.items():
        below = merged.get(name)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[name] = _over(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _names(settings: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _names(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


KILLED = "The process of this run was ended from outside."


def end_dead_runs(
    instance: dg.DagsterInstance,
    *,
    launched: bool = False,
    alone: bool = False,
    why: str = KILLED,
) -> list[str]:
    """End runs whose process is gone, and free what they held.

    Nobody else does: Dagster's own launcher sees only the death of runs that it launched itself.
    A run that failed so is started again by the daemon, and takes up what was finished.

    Parameters
    ----------
    instance : DagsterInstance
        Where they are on record.
    launched : bool
        No `trend dev` serves the project, so no run that one launched is at work, here or on
        another machine, even if it had no process of its own yet.
    alone : bool
        No other `trend run` works in the project, so one of another machine is over.
    why : str
        For the record.

    Returns
    -------
    list of str
        Ids of the runs that were ended.
    """
    ended = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED)):
        run = record.dagster_run
        if not _is_dead(instance, run, launched, alone):
            continue
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, why)
        else:
            instance.report_run_failed(run, why)
        ended.append(run.run_id)
    free_slots_of_ended_runs(instance)
    return ended


def free_slots_of_ended_runs(instance: dg.DagsterInstance) -> None:
    """Give back the places in concurrency pools of runs that are over: others wait for them."""
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            storage.free_concurrency_slots_for_run(run_id)


def process_of(
    instance: dg.DagsterInstance, run: dg.DagsterRun
) -> tuple[int, float, float | None] | None:
    """Find the process that a run has on this machine.

    Parameters
    ----------
    instance : DagsterInstance
        Where it is on record.
    run : DagsterRun
        Which run.

    Returns
    -------
    (int, float, float or None) or None
        Its id, a time at which it ran, and when it began, as `is_alive` takes them; None if no
        process of this machine is known.
    """
    here = run.tags.get(HOST_TAG) == socket.gethostname()
    told = int(run.tags[PROCESS_TAG]) if here else None
    began_at = float(run.tags[BEGAN_TAG]) if here and BEGAN_TAG in run.tags else None
    # A run that the page executed again has the tags of the first one, and a launcher.
    if GRPC_INFO_TAG not in run.tags and told is not None:
        record = instance.get_run_record_by_id(run.run_id)
        assert record is not None
        return told, record.create_timestamp.timestamp(), began_at
    if not _launched_here(run):
        return None
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        metadata = entry.dagster_event.engine_event_data.metadata if entry.dagster_event else {}
        if "pid" in metadata:
            pid = int(str(metadata["pid"].value))
            return pid, entry.timestamp, began_at if pid == told else None
    return None


def socket_name() -> str:
    """Name of the code server's socket: it stands in the record of each run that is launched."""
    return f"trend-{socket.gethostname()}{_OF_THE_PREFIX}.sock"


_OF_THE_PREFIX = "@" + "_".join(PREFIX) if PREFIX else ""


def _socket_of(run: dg.DagsterRun) -> str:
    """Where the code server answers that launches it; from the first moment in its origin."""
    origin = run.remote_job_origin
    location = origin.repository_origin.code_location_origin if origin else None
    return run.tags.get(GRPC_INFO_TAG) or str(getattr(location, "socket", None) or "")


def _launched_here(run: dg.DagsterRun) -> bool:
    return f"/{socket_name()}" in _socket_of(run)


def _launched_by_a_service(run: dg.DagsterRun) -> bool:
    """Whether a `trend dev` of this project launched it, here or elsewhere."""
    return (
        re.search(rf"/trend-[^/@]+{re.escape(_OF_THE_PREFIX)}\.sock", _socket_of(run)) is not None
    )


def _is_dead(instance: dg.DagsterInstance, run: dg.DagsterRun, launched: bool, alone: bool) -> bool:
    found = process_of(instance, run)
    if found is not None and (run.status != dg.DagsterRunStatus.STARTING or launched):
        return not is_alive(*found)
    if _socket_of(run):
        return launched and _launched_by_a_service(run)
    # A `trend run` elsewhere: of this project, or of another one that records here as well.
    return alone and PLANNED_TAG in run.tags and run.tags.get(PREFIX_TAG, "") == "/".join(PREFIX)
