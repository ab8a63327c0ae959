"""What of Dagster is not public, in one place: each name with the reason that it is used.

Dagster is pinned to one release. When the pin moves, ``tests/orchestration/test_private.py`` says
which of these names has changed and what it was needed for.
"""

from __future__ import annotations

import os
import signal
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset

# The tags by which Dagster's own staleness finds an output's versions. `AssetMaterialization` takes
# tags but has no public names for these.
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_DATA_VERSION,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.definitions.job_base import InMemoryJob

# Metadata that tells Dagster that an output was recorded by itself: each partition as it finished.
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.events import RunFailureReason

# What follows the output of steps: see `leave_logs_to_end`.
from dagster._core.execution import compute_logs
from dagster._core.execution.api import create_execution_plan, execute_run
from dagster._core.execution.backfill import (
    BULK_ACTION_TERMINAL_STATUSES,
    BulkActionsFilter,
    BulkActionStatus,
    PartitionBackfill,
)
from dagster._core.execution.job_execution_result import JobExecutionResult
from dagster._core.execution.plan.objects import StepFailureData

# The settings of an instance put together of two files; `from_config` reads one.
from dagster._core.instance.ref import InstanceRef
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

# SQLite's engines: see `keep_engines`.
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage

# The tags of a run over a range of partitions; the public form asks for a backfill.
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    BACKFILL_ID_TAG,
    GRPC_INFO_TAG,
    MAX_RETRIES_TAG,
    RETRY_ON_ASSET_OR_OP_FAILURE_TAG,
    RUN_FAILURE_REASON_TAG,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.utils import make_new_backfill_id

# Tells whether the code server answers; `dagster code-server` has no command for it.
from dagster._grpc.client import DagsterGrpcClient
from dagster._time import get_current_timestamp

# Gives SIGTERM the handler of SIGINT after each run: see `hear_sigterm`.
from dagster._utils import interrupts
from dagster_shared.error import SerializableErrorInfo

# The form in which webserver, daemon and code server take an instance (`--instance-ref`).
from dagster_shared.serdes import serialize_value
from sqlalchemy import Engine, create_engine

from trend_dagster.storage.locks import began

RECORDED_ONE_BY_ONE = {SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}
"""Metadata of an output that tells Dagster not to record every partition a second time.

Dagster records all partitions of a run when the run's step succeeds; the ones that a killed run
had finished would be forgotten. We record each as it finishes. This key is Dagster's own way to let
an asset that did so pass; a test counts the records.
"""

# What Dagster still calls beta is pinned to one release and tested.
warnings.filterwarnings("ignore", category=dg.BetaWarning)

_KEPT_ENGINES = 64  # one for each run that is read or written, and three more


def keep_engines() -> None:
    """Let SQLAlchemy make one engine for each file of SQLite, and not one for each statement.

    What an engine knows of a statement is how it is written in SQL, which takes longer to find out
    than to execute. Connections are not kept (Dagster asks for a `NullPool`), so that locks and
    forks are as they were.
    """

    @lru_cache(_KEPT_ENGINES)
    def engine(url: str, pool: Any, options: tuple[tuple[str, Any], ...]) -> Engine:
        return create_engine(url, poolclass=pool, connect_args=dict(options))

    def kept(url: str, *, poolclass: Any, connect_args: Mapping[str, Any] | None = None) -> Engine:
        return engine(url, poolclass, tuple((connect_args or {}).items()))

    for module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        module.create_engine = kept  # type: ignore[attr-defined]


keep_engines()


def leave_logs_to_end() -> None:
    """Let Ctrl-C pass by the processes that follow the output of steps.

    A terminal sends it to all processes, and those would answer with a traceback each. The process
    of the run ends them, or they end when it is gone. The signal is held back here for as long as
    they start, and in them for good.
    """
    follow = compute_logs.execute_posix_tail

    @contextmanager
    def unheard(path: str, stream: Any) -> Iterator[Any]:
        with ExitStack() as stack:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                processes = stack.enter_context(follow(path, stream))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield processes

    compute_logs.execute_posix_tail = unheard


leave_logs_to_end()


def hear_sigterm() -> None:
    """Let SIGTERM end what a shell has started in its background, after a run as before it.

    Dagster gives it the handler of SIGINT, which such a process has ignored so that Ctrl-C passes
    by it: from the end of its first run on, `kill` would not end it, nor what it starts.
    """
    alike = interrupts.setup_interrupt_handlers

    def heard() -> None:
        alike()
        if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
            signal.signal(signal.SIGTERM, signal.default_int_handler)

    interrupts.setup_interrupt_handlers = heard


hear_sigterm()

PROCESS_TAG, HOST_TAG, BEGAN_TAG = "trend/process", "trend/host", "trend/began"
"""Tags of our own that say where a run is at work: whether it still is can then be found out."""

PLANNED_TAG = "trend/planned"
"""Tag of runs of the command line, which asks the store first what has to be made."""

PREFIX_TAG = "trend/prefix"
"""Under which prefix the project of a `trend run` records, where several share an instance."""


def this_process() -> dict[str, str]:
    """Name the process of a run in its tags."""
    pid = os.getpid()
    return {
        PROCESS_TAG: str(pid),
        HOST_TAG: socket.gethostname(),
        BEGAN_TAG: f"{began(pid):.2f}",
    }


PARTITION_TAGS = (
    "dagster/partition",
    ASSET_PARTITION_RANGE_START_TAG,
    ASSET_PARTITION_RANGE_END_TAG,
)
"""Tags of a run that say which partitions it makes."""

REPOSITORY = "__repository__"  # the name that Dagster gives to a code location's only repository
WHOLE_GRAPH_JOB = "__ASSET_JOB"


def execute_here(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    asset: dg.AssetKey,
    *,
    module: str,
    location: str,
    tags: Mapping[str, str],
    run_config: Mapping[str, Any],
) -> JobExecutionResult:
    """Run one asset in this process, as a run that the page can execute again.

    ``JobDefinition.execute_in_process`` leaves out where the code lies, and the page cannot
    re-execute or retry such a run (Dagster's issue 19458).

    Parameters
    ----------
    definitions : Definitions
        With the asset.
    instance : DagsterInstance
        Where the run is recorded.
    asset : AssetKey
        Its key.
    module, location : str
        Module and name of the code location, as ``workspace.yaml`` has them.
    tags : mapping
        Of the run.
    run_config : mapping
        Of the run.

    Returns
    -------
    JobExecutionResult
        Errors are in it, not raised.
    """
    selection = frozenset({asset})
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=selection)
    origin = ManagedGrpcPythonEnvCodeLocationOrigin(
        loadable_target_origin=LoadableTargetOrigin(module_name=module), location_name=location
    )
    in_memory = InMemoryJob(job)
    run = instance.create_run_for_job(
        job_def=job,
        execution_plan=create_execution_plan(in_memory, run_config=run_config),
        run_config=run_config,
        tags=dict(tags),
        asset_selection=selection,
        remote_job_origin=RemoteJobOrigin(
            RemoteRepositoryOrigin(origin, REPOSITORY), WHOLE_GRAPH_JOB
        ),
    )
    return execute_run(in_memory, run, instance, raise_on_error=False)


def ask_for_backfill(
    instance: dg.DagsterInstance,
    wanted: Mapping[dg.AssetKey, tuple[dg.PartitionsDefinition[str] | None, Sequence[str]]],
    tags: Mapping[str, str],
    title: str,
) -> str:
    """Ask the daemon for one asset backfill; public API has the page's button only.

    Parameters
    ----------
    instance : DagsterInstance
        Whose daemon.
    wanted : mapping of AssetKey to tuple
        For each asset its definition of partitions and the keys wanted; None and nothing where it
        has no partitions.
    tags : mapping
        Of every run of the backfill.
    title : str
        For the page.

    Returns
    -------
    str
        Id of the backfill.
    """
    backfill_id = make_new_backfill_id()
    instance.add_backfill(
        PartitionBackfill.from_asset_graph_subset(
            backfill_id=backfill_id,
            backfill_timestamp=get_current_timestamp(),
            tags=dict(tags),
            dynamic_partitions_store=instance,
            asset_graph_subset=AssetGraphSubset(  # type: ignore[call-arg]
                partitions_subsets_by_asset_key={
                    key: definition.subset_with_partition_keys(keys)
                    for key, (definition, keys) in wanted.items()
                    if definition is not None
                },
                non_partitioned_asset_keys={key for key, (d, _) in wanted.items() if d is None},
            ),
            title=title,
            description=None,
            run_config=None,
        )
    )
    return backfill_id


def how_backfill_ended(instance: dg.DagsterInstance, backfill_id: str) -> str | None:
    """Status of a backfill that has ended (COMPLETED_SUCCESS, ...); None while it goes on."""
    backfill = instance.get_backfill(backfill_id)
    if backfill is None:
        return "DELETED"
    return backfill.status.value if backfill.status in BULK_ACTION_TERMINAL_STATUSES else None


def open_backfills(instance: dg.DagsterInstance, tag: str) -> list[str]:
    """Ids of the backfills that carry a tag and have not ended."""
    unfinished = [s for s in BulkActionStatus if s not in BULK_ACTION_TERMINAL_STATUSES]
    found = instance.get_backfills(filters=BulkActionsFilter(statuses=unfinished))
    return [backfill.backfill_id for backfill in found if tag in backfill.tags]


def cancel_backfill(instance: dg.DagsterInstance, backfill_id: str) -> None:
    """Ask the daemon to cancel a backfill: no more runs of it start, and those there are end."""
    backfill = instance.get_backfill(backfill_id)
    if backfill is not None and backfill.status not in BULK_ACTION_TERMINAL_STATUSES:
        ending = backfill.with_status(BulkActionStatus.CANCELING)  # type: ignore[no-untyped-call]
        instance.update_backfill(ending)


def failed_in_a_step(run: dg.DagsterRun) -> bool:
    """Tell a run whose code failed from one whose process was ended."""
    return run.tags.get(RUN_FAILURE_REASON_TAG) == RunFailureReason.STEP_FAILURE.value


def hurry_backfills(seconds: int) -> None:
    """Let the backfill daemon of this process look every few seconds in place of every 30.

    There is no setting for it, and a chain of ten assets would wait five minutes in all.
    """
    from dagster._daemon import controller

    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = seconds


def run_daemon() -> None:
    """Run Dagster's daemon with the arguments of this process."""
    from dagster._daemon.cli import main

    main()
