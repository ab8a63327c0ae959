"""Make all that is missing or out of date, asset by asset, in this process.

What belongs here: deciding from the store what has to run, and running it in a Dagster instance so
that the UI shows the same runs, records and checks. What does not: terminal output (``cli``).

See https://docs.dagster.io/guides/test/running-assets-in-process (``materialize``).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.execution.plan.objects import StepFailureData
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
)
from dagster_shared.error import SerializableErrorInfo

from trend_dagster.errors import TrendError
from trend_dagster.orchestration.instance import HOST_TAG, PROCESS_TAG
from trend_dagster.orchestration.io_managers import PLANNED_TAG
from trend_dagster.orchestration.lineage import State, states
from trend_dagster.orchestration.overview import doubts_about
from trend_dagster.orchestration.partitions import register, to_key
from trend_dagster.orchestration.production import STORED_ASSETS, StoredAsset, restore_files
from trend_dagster.project.folder import BOLD_RUN, LABEL_FILE, Project
from trend_dagster.storage.stores import describe

NAMED_ELSEWHERE = {
    "up_to_date",
    "usable",
    "plausible",
}  # checks whose findings are outcomes by themselves


@dataclass(frozen=True)
class Outcome:
    """What became of one asset in a run of everything.

    Parameters
    ----------
    asset : str
        Its name.
    made : int
        Partitions that were computed.
    kept : int
        Partitions that were current.
    excluded : tuple of str
        Why partitions are exclusions.
    errors : tuple of str
        Why partitions could not be made; for those that wait for others, the first reason.
    blocked : int
        Partitions that wait for others.
    notes : tuple of str
        What else should be known.
    doubts : tuple of str
        What is odd about what is stored: quantities out of their plausible range, and the like.
    traces : tuple of str
        Where in the code errors arose that no user can mend.
    """

    asset: str
    made: int
    kept: int
    excluded: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    blocked: int = 0
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()


def run_all(
    project: Project,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    *,
    select: Sequence[str] = (),
    among: Sequence[str] = (),
    force: bool = False,
    retrain: bool = False,
) -> Iterator[Outcome]:
    """Make what is missing or out of date, in the order of computation.

    Parameters
    ----------
    project : Project
        Where.
    definitions : Definitions
        Of that project.
    instance : DagsterInstance
        Where runs are recorded.
    select : sequence of str
        Only these assets, whatever else they wait for; all by default.
    among : sequence of str
        Only these assets, as in a run of everything; all by default.
    force : bool
        Make them even if they are current.
    retrain : bool
        Train anew if runs were added or changed. Otherwise the model there is stays in use.

    Yields
    ------
    Outcome
        For each asset, when it is done.
    """
    for dimension in (BOLD_RUN, LABEL_FILE):
        try:
            register(instance, dimension, project.keys(dimension))
        except TrendError as error:
            yield Outcome(dimension, 0, 0, errors=(str(error),))
            return
    made, all_current = 0, True
    for asset in STORED_ASSETS.values():
        if (not select or asset.name in select) and (not among or asset.name in among):
            outcome = _run(
                asset,
                project,
                definitions,
                instance,
                force=force,
                retrain=retrain or bool(select),
                selected=bool(select),
            )
            made += outcome.made
            all_current = all_current and not (outcome.errors or outcome.notes)
            yield outcome
    if made or not all_current:
        _check_up_to_date(definitions, instance)


def _run(
    asset: StoredAsset,
    project: Project,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    *,
    force: bool,
    retrain: bool,
    selected: bool,
) -> Outcome:
    before = states(project, asset)
    for state in before:
        if state.version is not None:
            restore_files(project, state.version)
    # Only who names an asset can mean to give up what was imported for it.
    force = force and (selected or not any(s.version and s.version.imported for s in before))
    keep = asset.keep_when_inputs_change and not (retrain or force)
    kept_as_is = [s for s in before if keep and s.only_inputs_changed]
    # In a run of everything, what is made from something that could not be made waits for it.
    waiting = [
        s
        for s in before
        if s not in kept_as_is
        and (
            s.status == "blocked"
            or (s.status == "damaged" and not (force and selected))
            or (s.waits_for and not selected)
        )
    ]
    blocked = [(*s.waits_for, *s.reasons)[0] for s in waiting]
    notes = tuple(
        f"{s.asset} is used as it is ({'; '.join(s.reasons)}); to train anew: --retrain"
        for s in kept_as_is
    )
    unrecorded = _unrecorded(instance, asset, before)
    todo = [
        s
        for s in before
        if s not in waiting
        and s not in kept_as_is
        and (selected or s.status != "not needed")
        and (force or s.status != "current" or s in unrecorded)
    ]
    launched = Launched()
    if todo:
        launched = _launch(asset, todo, project, definitions, instance, force=force)
    after = states(project, asset)
    return Outcome(
        asset=asset.name,
        made=sum(_changed(a, b) for a, b in zip(before, after, strict=True)),
        kept=sum(
            not _changed(a, b) and b.status == "current" for a, b in zip(before, after, strict=True)
        ),
        excluded=tuple(
            f"{describe(s.asset, s.partition)}: {s.version.excluded}"
            for s in after
            if s.version is not None and s.version.excluded
        ),
        errors=tuple(dict.fromkeys((*launched.errors, *blocked[:1]))),
        blocked=len(blocked),
        notes=notes + launched.warnings,
        doubts=tuple(
            f"{name}: {doubt}"
            for name, said in doubts_about(project, asset, after).items()
            for doubt in said
        ),
        traces=launched.traces,
    )


def _changed(before: State, after: State) -> bool:
    if after.version is None:
        return False
    return before.version is None or before.version.path != after.version.path


def _unrecorded(
    instance: dg.DagsterInstance, asset: StoredAsset, found: Sequence[State]
) -> list[State]:
    """Stored outputs that Dagster does not know of: a run died between storing and recording."""
    key = dg.AssetKey(asset.name)
    if asset.dims:
        tags = instance.event_log_storage.get_latest_tags_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
        )
        recorded = {k: t.get(DATA_VERSION_TAG) for k, t in tags.items()}
    else:
        records = instance.fetch_materializations(key, limit=1).records
        latest = records[0].asset_materialization if records else None
        recorded = {None: (latest.tags or {}).get(DATA_VERSION_TAG)} if latest else {}  # type: ignore[dict-item]
    return [
        s
        for s in found
        if s.version is not None and recorded.get(to_key(s.partition)) != s.version.digest  # type: ignore[arg-type]
    ]


@dataclass(frozen=True)
class Launched:
    """What Dagster said of one run."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()


def _launch(
    asset: StoredAsset,
    todo: Sequence[State],
    project: Project,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    *,
    force: bool,
) -> Launched:
    """Run the smallest range of partitions that holds all that has to be made."""
    tags = {PLANNED_TAG: "true", PROCESS_TAG: str(os.getpid()), HOST_TAG: socket.gethostname()}
    if asset.dims:
        first, last = _range(asset, todo, project, instance)
        tags |= {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
    job = definitions.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(asset.name)],
        tags=tags,
        raise_on_error=False,
        run_config={
            "ops": {asset.name: {"config": {"force": force}}},
            # The event log keeps everything; the terminal is for people.
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
    )
    warnings = tuple(
        f"check {found.check_name}: {(found.description or '').splitlines()[0]}"
        for found in result.get_asset_check_evaluations()
        if not found.passed and found.check_name not in NAMED_ELSEWHERE
    )
    if result.success:
        return Launched(warnings=warnings)
    failures = [event.step_failure_data for event in result.get_step_failure_events()]
    if any(f.error and f.error.cls_name == "DagsterExecutionInterruptedError" for f in failures):
        raise KeyboardInterrupt
    if not failures:  # it failed before its first step
        causes = [e.job_failure_data.error for e in result.all_events if e.is_job_failure]
        return Launched(
            tuple(_innermost(error) for error in causes if error) or ("failed without an error",),
            warnings,
            tuple(error.to_string() for error in causes if error),
        )
    return Launched(
        tuple(_message(failure) for failure in failures),
        warnings,
        tuple(f.error.to_string() for f in failures if f.error and f.user_failure_data is None),
    )


def _check_up_to_date(definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
    """Ask of every asset whether it is up to date, also of those that this run left alone."""
    checks = [c for c in definitions.asset_checks or [] if isinstance(c, dg.AssetChecksDefinition)]
    keys = [k for c in checks for k in c.check_keys if k.name == "up_to_date"]
    dg.materialize(
        checks,
        selection=dg.AssetSelection.checks(*keys),
        instance=instance,
        resources=definitions.resources,
        tags={PLANNED_TAG: "true", PROCESS_TAG: str(os.getpid()), HOST_TAG: socket.gethostname()},
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    )


def _message(failure: StepFailureData) -> str:
    """What a user reads: our own words where we have them, else the error's."""
    if failure.user_failure_data is not None:
        return failure.user_failure_data.description or "failed without a word"
    return _innermost(failure.error) if failure.error else "failed without an error"


def _innermost(error: SerializableErrorInfo) -> str:
    """Words of the error that caused the others, without the trace."""
    while error.cause is not None:
        error = error.cause
    return " ".join(error.message.split())


def _range(
    asset: StoredAsset, todo: Sequence[State], project: Project, instance: dg.DagsterInstance
) -> tuple[str, str]:
    """First and last key, in Dagster's order, of the range that spans all of them."""
    ends: list[dict[str, str]] = [{}, {}]
    for dim in asset.dims:
        wanted = {s.partition[dim] for s in todo}
        if dim in (BOLD_RUN, LABEL_FILE):
            order = list(instance.get_dynamic_partitions(dim))
        else:
            order = project.keys(dim)
        inside = [key for key in order if key in wanted]
        ends[0][dim], ends[1][dim] = inside[0], inside[-1]
    return str(to_key(ends[0])), str(to_key(ends[1]))
