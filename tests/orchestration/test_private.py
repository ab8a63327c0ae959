"""What of Dagster is not public is still there, called as we call it, and named in one module.

When the pin moves and this package can no longer be imported, nothing but this file says why:
``python -m pytest --noconftest tests/orchestration/test_private.py``. It therefore imports nothing
of ``orchestration`` before a test runs.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

PACKAGE = Path(__file__).parents[2] / "trend_dagster"
PRIVATE = PACKAGE / "orchestration" / "private.py"

STALENESS = "Dagster's staleness finds the versions of an output by this tag"
RANGES = "`trend run` makes many partitions in one run, as a range between two tags"
BACKFILLS = "a job asks the daemon for one asset backfill and follows it"
HERE = "`trend run` makes assets in its own process, as runs that the page can execute again"
ENGINES = "statements are put into SQL once for each file of records, and not each time"
ERRORS = "`trend run` says why a run failed, in the words of the innermost error"

LOGS = "Ctrl-C in a terminal ends `trend run` with one line, without a traceback of each helper"

# Every private name that private.py takes from Dagster, with what it is needed for.
NEEDED = {
    "AssetGraphSubset": BACKFILLS,
    "compute_logs": LOGS,
    "interrupts": "SIGTERM ends what a shell has started in its background, after a run as well",
    "BACKFILL_ID_TAG": "a job finds the runs of its backfill by this tag",
    "BULK_ACTION_TERMINAL_STATUSES": BACKFILLS + ": when it has ended",
    "BulkActionStatus": BACKFILLS + ", and cancels it",
    "BulkActionsFilter": "a job finds the backfill that an earlier run of it has left",
    "CODE_VERSION_TAG": STALENESS,
    "DATA_VERSION_IS_USER_PROVIDED_TAG": STALENESS,
    "DATA_VERSION_TAG": STALENESS,
    "NULL_DATA_VERSION": STALENESS + " (of an input that was never made)",
    "NULL_EVENT_POINTER": STALENESS + " (of an input that was never made)",
    "get_input_data_version_tag": STALENESS,
    "get_input_event_pointer_tag": STALENESS,
    "SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION": "each partition is recorded as it "
    "finishes, and not a second time when its run ends",
    "sqlite_event_log": ENGINES,
    "sqlite_run_storage": ENGINES,
    "sqlite_schedule_storage": ENGINES,
    "InMemoryJob": HERE,
    "create_execution_plan": HERE,
    "execute_run": HERE,
    "ManagedGrpcPythonEnvCodeLocationOrigin": HERE,
    "RemoteJobOrigin": HERE,
    "RemoteRepositoryOrigin": HERE,
    "LoadableTargetOrigin": HERE,
    "JobExecutionResult": ERRORS,
    "StepFailureData": ERRORS,
    "SerializableErrorInfo": ERRORS,
    "RunFailureReason": "a job tells code that failed from a process that was killed",
    "RUN_FAILURE_REASON_TAG": "a job tells code that failed from a process that was killed",
    "ASSET_PARTITION_RANGE_START_TAG": RANGES,
    "ASSET_PARTITION_RANGE_END_TAG": RANGES,
    "MAX_RETRIES_TAG": "runs of a job's backfill are not retried one by one: the job is",
    "RETRY_ON_ASSET_OR_OP_FAILURE_TAG": "a job whose run was killed is tried again",
    "PartitionBackfill": BACKFILLS,
    "make_new_backfill_id": BACKFILLS,
    "get_current_timestamp": BACKFILLS,
    "controller": "the backfill daemon of `trend dev` looks every few seconds in place of every 30",
    "main": "`trend dev` starts the daemon",
    "InstanceRef": "the user's settings of an instance stand over ours",
    "serialize_value": "`trend dev` hands the instance to its processes (--instance-ref)",
    "DagsterGrpcClient": "`trend dev` waits until the code server answers",
    "GRPC_INFO_TAG": "a run of the page is told from one of `trend run`, and whose server has it",
}

VALUES = {
    "BACKFILL_ID_TAG": "dagster/backfill",
    "CODE_VERSION_TAG": "dagster/code_version",
    "DATA_VERSION_TAG": "dagster/data_version",
    "DATA_VERSION_IS_USER_PROVIDED_TAG": "dagster/data_version_is_user_provided",
    "NULL_EVENT_POINTER": "NULL",
    "SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION": "__source_asset_observation__",
    "RUN_FAILURE_REASON_TAG": "dagster/failure_reason",
    "ASSET_PARTITION_RANGE_START_TAG": "dagster/asset_partition_range_start",
    "ASSET_PARTITION_RANGE_END_TAG": "dagster/asset_partition_range_end",
    "MAX_RETRIES_TAG": "dagster/max_retries",
    "GRPC_INFO_TAG": ".dagster/grpc_info",
    "RETRY_ON_ASSET_OR_OP_FAILURE_TAG": "dagster/retry_on_asset_or_op_failure",
}
"""Stored with runs and outputs of existing projects: another value would not find them."""

CALLS: dict[str, tuple[int, set[str]]] = {
    "InMemoryJob": (1, set()),
    "create_execution_plan": (1, {"run_config"}),
    "execute_run": (3, {"raise_on_error"}),
    "LoadableTargetOrigin": (0, {"module_name"}),
    "ManagedGrpcPythonEnvCodeLocationOrigin": (0, {"loadable_target_origin", "location_name"}),
    "RemoteRepositoryOrigin": (2, set()),
    "RemoteJobOrigin": (2, set()),
    "AssetGraphSubset": (0, {"partitions_subsets_by_asset_key", "non_partitioned_asset_keys"}),
    "BulkActionsFilter": (0, {"statuses"}),
    "get_input_data_version_tag": (1, set()),
    "get_input_event_pointer_tag": (1, set()),
    "make_new_backfill_id": (0, set()),
    "serialize_value": (1, set()),
    "DagsterGrpcClient": (0, {"socket"}),
    "main": (0, set()),
    "get_current_timestamp": (0, set()),
}
"""How each is called: number of arguments by position, and names of the others."""

METHODS: dict[str, tuple[type, int, set[str], str]] = {
    "create_run_for_job": (
        dg.DagsterInstance,
        0,
        {"job_def", "execution_plan", "run_config", "tags", "asset_selection", "remote_job_origin"},
        HERE,
    ),
    "resolve_implicit_global_asset_job_def": (dg.Definitions, 0, set(), HERE),
    "get_subset": (dg.JobDefinition, 0, {"asset_selection"}, HERE),
    "add_backfill": (dg.DagsterInstance, 1, set(), BACKFILLS),
    "get_backfill": (dg.DagsterInstance, 1, set(), BACKFILLS),
    "get_backfills": (dg.DagsterInstance, 0, {"filters"}, BACKFILLS),
    "update_backfill": (dg.DagsterInstance, 1, set(), BACKFILLS),
    "subset_with_partition_keys": (dg.PartitionsDefinition, 1, set(), BACKFILLS),
    "report_run_failed": (dg.DagsterInstance, 2, set(), "runs that were killed end as failed"),
    "add_run_tags": (dg.DagsterInstance, 2, set(), "a run says which process works at it"),
    "event_log_storage": (dg.DagsterInstance, -1, set(), "pools are freed of runs that died"),
}
"""Methods of public classes that Dagster's documentation does not have."""


def taken() -> dict[str, str]:
    """Names that private.py takes from private modules of Dagster, with the module."""
    return {
        alias.name: node.module
        for node in ast.walk(ast.parse(PRIVATE.read_text()))
        if isinstance(node, ast.ImportFrom) and is_private(node.module or "")
        for alias in node.names
    }


def is_private(module: str) -> bool:
    """Tell whether a module belongs to Dagster and is not public."""
    root, _, rest = module.partition(".")
    return root == "dagster_shared" or (root == "dagster" and rest.startswith("_"))


def find(name: str) -> Any:
    """What Dagster has under this name; fails with what it is needed for."""
    module, needed = taken()[name], NEEDED[name]
    try:
        found = getattr(importlib.import_module(module), name, None)
        return importlib.import_module(f"{module}.{name}") if found is None else found
    except ImportError:
        pytest.fail(f"Dagster {dg.__version__} has no {module}.{name} any more. Needed: {needed}")


def accepts(function: Any, n_positional: int, keywords: set[str], name: str, needed: str) -> None:
    """Fail unless it can be called so."""
    signature = inspect.signature(function)
    try:
        signature.bind(*[None] * n_positional, **dict.fromkeys(keywords))
    except TypeError as error:
        pytest.fail(f"{name} of Dagster {dg.__version__}: {error}; {signature}. Needed: {needed}")


def test_each_private_name_has_its_reason_here():
    assert set(taken()) == set(NEEDED)


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_it_is_there(name):
    found = find(name)
    if name in VALUES:
        assert found == VALUES[name], NEEDED[name]


@pytest.mark.parametrize("name", sorted(CALLS))
def test_it_is_called_as_we_call_it(name):
    accepts(find(name), *CALLS[name], name, NEEDED[name])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_that_are_not_documented_are_called_as_we_call_them(name):
    owner, n_positional, keywords, needed = METHODS[name]
    method = getattr(owner, name, None)
    assert method is not None, f"{owner.__name__} has no {name} any more. Needed: {needed}"
    if n_positional >= 0:
        accepts(method, n_positional + 1, keywords, f"{owner.__name__}.{name}", needed)


def test_a_backfill_is_made_of_a_subset_of_the_graph_and_can_be_cancelled():
    backfill = find("PartitionBackfill")
    names = "backfill_id backfill_timestamp tags dynamic_partitions_store asset_graph_subset title"
    keywords = {*names.split(), "description", "run_config"}
    accepts(backfill.from_asset_graph_subset, 0, keywords, "from_asset_graph_subset", BACKFILLS)
    accepts(backfill.with_status, 2, set(), "PartitionBackfill.with_status", BACKFILLS)


def test_backfills_end_in_the_states_that_we_wait_for():
    status, terminal = find("BulkActionStatus"), find("BULK_ACTION_TERMINAL_STATUSES")
    going_on = {s.value for s in status if s not in terminal}
    assert going_on == {"REQUESTED", "CANCELING", "FAILING"}, BACKFILLS
    assert "COMPLETED_SUCCESS" in {s.value for s in terminal}


def test_the_failure_of_a_step_has_its_own_reason():
    assert find("RunFailureReason").STEP_FAILURE.value == "STEP_FAILURE"


def test_a_run_that_failed_says_so_where_we_read_it():
    result = find("JobExecutionResult")
    for name in ("success", "all_events", "get_step_failure_events", "get_asset_check_evaluations"):
        assert hasattr(result, name), f"{name}: {ERRORS}"
    fields = {*inspect.signature(find("StepFailureData")).parameters}
    assert {"error", "user_failure_data"} <= fields, ERRORS
    fields = {*inspect.signature(find("SerializableErrorInfo")).parameters}
    assert {"message", "cls_name", "cause"} <= fields, ERRORS


def test_names_that_dagster_gives_to_the_repository_and_to_the_job_of_all_assets():
    from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
    from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME

    from trend_dagster.orchestration import private

    assert private.REPOSITORY == SINGLETON_REPOSITORY_NAME, HERE
    assert private.WHOLE_GRAPH_JOB == IMPLICIT_ASSET_JOB_NAME, HERE


def test_an_instance_takes_settings_over_those_of_a_file():
    keywords = {"config_dir", "overrides"}
    accepts(
        find("InstanceRef").from_dir, 1, keywords, "InstanceRef.from_dir", NEEDED["InstanceRef"]
    )
    accepts(find("DagsterGrpcClient").ping, 2, set(), "ping", NEEDED["DagsterGrpcClient"])


def test_the_backfill_daemon_reads_its_interval_where_we_set_it(monkeypatch):
    import dagster._daemon.backfill as loop

    from trend_dagster.orchestration.private import hurry_backfills

    controller = find("controller")
    monkeypatch.setattr(controller, "DEFAULT_DAEMON_INTERVAL_SECONDS", 30)
    hurry_backfills(3)
    assert controller.DEFAULT_DAEMON_INTERVAL_SECONDS == 3
    # The loop looks the name up when it starts, not when its module is imported.
    assert not hasattr(loop, "DEFAULT_DAEMON_INTERVAL_SECONDS"), NEEDED["controller"]
    assert "controller import DEFAULT_DAEMON_INTERVAL_SECONDS" in inspect.getsource(loop)


def test_everything_that_private_offers_is_there_and_used():
    from trend_dagster.orchestration import private

    elsewhere = "\n".join(p.read_text() for p in PACKAGE.rglob("*.py") if p != PRIVATE)
    own = PRIVATE.read_text()
    for name in [name for name in vars(private) if not name.startswith("_")]:
        used = name in elsewhere or len(re.findall(rf"\b{name}\b", own)) > 1
        assert used, f"nothing uses private.{name}: delete it"


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_no_other_module_imports_what_is_private():
    found = {
        path.relative_to(PACKAGE).as_posix(): private
        for path in PACKAGE.rglob("*.py")
        if path != PRIVATE and (private := [m for m in imports_of(path) if is_private(m)])
    }
    assert found == {}, "names that Dagster does not promise belong into orchestration/private.py"


def test_one_engine_serves_all_statements_to_a_file_of_records(tmp_path, monkeypatch):
    from sqlalchemy.pool import NullPool

    from trend_dagster.orchestration import private

    made = []
    real = private.create_engine
    monkeypatch.setattr(
        private, "create_engine", lambda url, **how: made.append(url) or real(url, **how)
    )
    private.keep_engines()
    try:
        with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
            instance.add_dynamic_partitions("days", ["one"])
            before = len(made)
            for day in ("two", "three"):
                instance.add_dynamic_partitions("days", [day])
            assert instance.get_dynamic_partitions("days") == ["one", "two", "three"]
            assert len(made) == before
    finally:
        monkeypatch.undo()
        private.keep_engines()
    assert made
    assert len(made) == len(set(made))
    engine = private.sqlite_event_log.create_engine("sqlite:///a.db", poolclass=NullPool)
    assert isinstance(engine.pool, NullPool)


def test_ctrl_c_passes_by_what_follows_the_output_of_steps(tmp_path):
    """Both processes hold SIGINT back, and the one that starts them does not."""
    path = tmp_path / "out"
    path.touch()

    def held_back(pid: int | str) -> bool:
        status = Path(f"/proc/{pid}/status").read_text()
        blocked = int(re.search(r"SigBlk:\s*(\w+)", status)[1], 16)
        return bool(blocked >> (signal.SIGINT - 1) & 1)

    private = importlib.import_module("trend_dagster.orchestration.private")
    with private.compute_logs.tail_to_stream(str(path), None) as pids:
        assert len(pids) == 2
        assert all(map(held_back, pids))
        assert not held_back("self")
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_sigterm_is_heard_after_a_run_where_a_shell_has_sigint_ignored():
    """As in `trend run PROJECT &` of a script."""
    code = """
import os, signal
from trend_dagster.orchestration.private import interrupts
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
with interrupts.capture_interrupts():
    pass
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
os.kill(os.getpid(), signal.SIGTERM)
signal.pause()
"""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert "KeyboardInterrupt" in ended.stderr
