"""Make all that is missing or out of date: what has to run, and running it in this process.

What belongs here: deciding from the store what has to be made, and `trend run`, which makes it
asset by asset in a Dagster instance so that the page shows the same runs, records and checks. What
does not: asking the daemon for it (``backfills``) and terminal output (``cli``).

See https://docs.dagster.io/guides/test/running-assets-in-process.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import dagster as dg

from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.connections import kept_open
from trend_dagster.orchestration.instance import end_dead_runs
from trend_dagster.orchestration.lineage import Lineage, State
from trend_dagster.orchestration.overview import doubts_about
from trend_dagster.orchestration.partitions import (
    PREFIX,
    asset_key,
    known_keys,
    make_known,
    register_all,
    to_key,
)
from trend_dagster.orchestration.private import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    DATA_VERSION_TAG,
    PLANNED_TAG,
    PREFIX_TAG,
    JobExecutionResult,
    SerializableErrorInfo,
    StepFailureData,
    execute_here,
    this_process,
)
from trend_dagster.orchestration.production import PROGRESS, StoredAsset, restore_files
from trend_dagster.project.folder import Project

MODULE, LOCATION = "trend_dagster.definitions", "trend_dagster"  # as workspace.yaml names them

NAMED_ELSEWHERE = {
    "up_to_date",
    "usable",
    "plausible",
}  # checks whose findings are outcomes by themselves


@dataclass(frozen=True)
class Wish:
    """What is asked for.

    Parameters
    ----------
    select : collection of str
        Only these assets, whatever else they wait for; all by default.
    named : collection of str, optional
        Those of them that were called by name; others were only reached (``+asset``), so what is
        not needed, was imported or is used as it is stays as it is. All by default.
    among : collection of str
        Only these assets, as in a run of everything; all by default.
    force : bool
        Make them even if they are current.
    retrain : bool
        Make a model anew of which only inputs have changed.
    """

    select: Collection[str] = ()
    named: Collection[str] | None = None
    among: Collection[str] = ()
    force: bool = False
    retrain: bool = False

    def names(self, asset: StoredAsset) -> bool:
        """Tell whether an asset was called by its name."""
        return asset.name in (self.select if self.named is None else self.named)

    def assets(self) -> list[StoredAsset]:
        """Assets that are meant, in the order of computation."""
        return [
            asset
            for name, asset in ASSETS.items()
            if (not self.select or name in self.select) and (not self.among or name in self.among)
        ]


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
        Why partitions could not be made; for those that wait for others the first reason, unless
        an asset before has said it.
    blocked : int
        Partitions that wait for others.
    notes : tuple of str
        What else should be known.
    doubts : tuple of str
        What is odd about what is stored: quantities out of their plausible range, and the like.
    traces : tuple of str
        Where in the code errors arose that no user can mend.
    nothing_to_do : str or None
        Why the asset has nothing to do under the settings.
    left_out : int
        Of the partitions that were computed, those that are exclusions.
    waits_for : tuple of str
        Assets that those that wait are made from, and that could not be made.
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
    nothing_to_do: str | None = None
    left_out: int = 0
    waits_for: tuple[str, ...] = ()


@dataclass(frozen=True)
class Todo:
    """The outputs of one asset, by what is to be done about them.

    Parameters
    ----------
    make : list of State
        To be made or recorded.
    waiting : list of State
        Cannot be made before others.
    kept : list of State
        A model that is used as it is.
    force : bool
        Whether those to be made are made even where they are current.
    """

    make: list[State]
    waiting: list[State]
    kept: list[State]
    force: bool


def decide(
    project: Project,
    asset: StoredAsset,
    found: Sequence[State],
    instance: dg.DagsterInstance,
    wish: Wish,
) -> Todo:
    """Decide what to do about each output of an asset.

    Parameters
    ----------
    project : Project
        Where.
    asset : StoredAsset
        Which asset.
    found : sequence of State
        How its outputs stand.
    instance : DagsterInstance
        Tells which outputs are on record.
    wish : Wish
        What is asked for.

    Returns
    -------
    Todo
    """
    selected, named = bool(wish.select), wish.names(asset)
    # Only who names an asset can mean to give up what was imported for it.
    force = wish.force and (named or not any(s.version and s.version.imported for s in found))
    keep = asset.keep_when_inputs_change and not (wish.retrain or named or force)
    kept = [s for s in found if keep and s.only_inputs_changed]
    # In a run of everything, what is made from something that could not be made waits for it.
    waiting = [
        s
        for s in found
        if s not in kept
        and (
            s.status == "blocked"
            or (s.status == "damaged" and not (force and selected))
            or (s.waits_for and not selected)
        )
    ]
    unrecorded = _unrecorded(instance, asset, found)
    make = [
        s
        for s in found
        if s not in waiting
        and s not in kept
        and (named or s.status != "not needed")
        and (force or s.status != "current" or s in unrecorded)
    ]
    if make and not (named or wish.retrain) and (why := _not_asked_for(project, asset)):
        waiting += [replace(s, reasons=(why,), waits_for=()) for s in make]
        make = []
    return Todo(make, waiting, kept, force)


def _not_asked_for(project: Project, asset: StoredAsset) -> str | None:
    """Why nothing is trained now: who meant to bring something else has not said so."""
    trains = asset.keep_when_inputs_change and asset.idle(project.settings) is None
    if not trains or (error := project.failed_import) is None:
        return None
    return (
        f"{asset.name} is not made, for the last import failed ({error}). Import the right file, "
        f"or train: trend run {shlex.quote(str(project.folder))} --select +{asset.name}"
    )


def run_all(
    project: Project, definitions: dg.Definitions, instance: dg.DagsterInstance, wish: Wish
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
    wish : Wish
        What is asked for.

    Yields
    ------
    Outcome
        For each asset, when it is done.
    """
    used = {dim for asset in wish.assets() for dim in asset.dims}
    for dimension, error in register_all(instance, project):
        if dimension in used:
            yield Outcome(dimension, 0, 0, errors=(str(error),))
            return
    lineage = Lineage(project)
    made, all_current = 0, True
    stopped: set[str] = set()
    for asset in wish.assets():
        with kept_open():
            outcome = _run(asset, lineage, definitions, instance, wish)
        if outcome.blocked and (causes := stopped & asset.upstream.keys()):
            # One cause is one error, said where it is; what waits for it is counted.
            waits_for = tuple(name for name in asset.upstream if name in causes)
            outcome = replace(outcome, errors=outcome.errors[:-1], waits_for=waits_for)
        if outcome.errors or outcome.blocked:
            stopped.add(asset.name)
        made += outcome.made
        all_current = all_current and not (outcome.errors or outcome.blocked or outcome.notes)
        yield outcome
    if made or not all_current:
        with kept_open():
            _check_up_to_date(definitions, instance)


def _run(
    asset: StoredAsset,
    lineage: Lineage,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    wish: Wish,
) -> Outcome:
    before = lineage.states(asset)
    for state in before:
        if state.version is not None:
            restore_files(lineage.project, state.version)
    todo = decide(lineage.project, asset, before, instance, wish)
    launched = Launched()
    if todo.make:
        launched = _launch(asset, todo, definitions, instance)
        lineage.forget(asset)
    after = lineage.states(asset)
    changed = [_changed(a, b) for a, b in zip(before, after, strict=True)]
    idle = asset.idle(lineage.project.settings)
    blocked = [(*s.waits_for, *s.reasons)[0] for s in todo.waiting]
    return Outcome(
        asset=asset.name,
        made=0 if idle else sum(changed),
        kept=sum(not c and s.status == "current" for c, s in zip(changed, after, strict=True)),
        left_out=sum(
            c and idle is None and s.excluded is not None
            for c, s in zip(changed, after, strict=True)
        ),
        excluded=tuple(f"{s.name}: {s.excluded}" for s in after if idle is None and s.excluded),
        errors=(*(e for e in launched.errors if e not in blocked[:1]), *blocked[:1]),
        blocked=len(blocked),
        notes=tuple(
            f"{s.asset} is used as it is ({'; '.join(s.reasons)}); to train anew: --retrain"
            for s in todo.kept
        )
        + launched.warnings,
        doubts=tuple(
            f"{name}: {doubt}"
            for name, said in doubts_about(lineage.project, asset, after).items()
            for doubt in said
        ),
        traces=launched.traces,
        nothing_to_do=idle,
    )


def _changed(before: State, after: State) -> bool:
    if after.version is None:
        return False
    return before.version is None or before.version.path != after.version.path


def _unrecorded(
    instance: dg.DagsterInstance, asset: StoredAsset, found: Sequence[State]
) -> list[State]:
    """Stored outputs that Dagster does not know of: a run died between storing and recording."""
    key = asset_key(asset.name)
    recorded: dict[str | None, str | None]
    if asset.dims:
        tags = instance.event_log_storage.get_latest_tags_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
        )
        recorded = {k: t.get(DATA_VERSION_TAG) for k, t in tags.items()}
    else:
        records = instance.fetch_materializations(key, limit=1).records
        latest = records[0].asset_materialization if records else None
        recorded = {None: (latest.tags or {}).get(DATA_VERSION_TAG)} if latest else {}
    return [
        s
        for s in found
        if s.version is not None and recorded.get(to_key(s.partition)) != s.version.digest
    ]


@dataclass(frozen=True)
class Launched:
    """What Dagster said of one run."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()


def _launch(
    asset: StoredAsset, todo: Todo, definitions: dg.Definitions, instance: dg.DagsterInstance
) -> Launched:
    """Run the smallest range of partitions that holds all that has to be made."""
    tags = _tags()
    if asset.pool is not None:
        _wait_for_a_place(asset.name, asset.pool, instance)
    if asset.dims:
        first, last = _range(asset, todo.make, instance)
        tags |= {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
    key = asset_key(asset.name)
    result = execute_here(
        definitions,
        instance,
        key,
        module=MODULE,
        location=LOCATION,
        tags=tags,
        run_config={
            "ops": {key.to_python_identifier(): {"config": {"force": todo.force}}},
            **QUIET,
        },
    )
    warnings = tuple(
        f"check {found.check_name}: {(found.description or '').splitlines()[0]}"
        for found in result.get_asset_check_evaluations()
        if not found.passed and found.check_name not in NAMED_ELSEWHERE
    )
    if result.success:
        return Launched(warnings=warnings)
    return _failed(result, warnings)


def _wait_for_a_place(asset: str, pool: str, instance: dg.DagsterInstance) -> None:
    """Wait while runs of the page hold the pool; Dagster would wait in silence, deaf to Ctrl-C."""
    while True:
        end_dead_runs(instance, alone=True)
        found = instance.event_log_storage.get_concurrency_info(pool)
        if not found.active_run_ids or found.active_slot_count < found.slot_count:
            return
        holders = ", ".join(sorted(run[:8] for run in found.active_run_ids))
        PROGRESS.get()(asset, f"waits for run {holders} in pool {pool}, see the page", 0.0)
        time.sleep(SECONDS_BETWEEN_LOOKS)


SECONDS_BETWEEN_LOOKS = 2.0


# The event log keeps everything; the terminal is for people.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def _tags() -> dict[str, str]:
    # Named from the beginning: this process may be killed before the run begins to execute.
    prefix = {PREFIX_TAG: "/".join(PREFIX)} if PREFIX else {}
    return {PLANNED_TAG: "true", **this_process(), **prefix}


def _failed(result: JobExecutionResult, warnings: tuple[str, ...]) -> Launched:
    failures = [event.step_failure_data for event in result.get_step_failure_events()]
    causes = [e.job_failure_data.error for e in result.all_events if e.is_job_failure]
    # It may be interrupted within a step or between two of them.
    if any(_is_interrupt(error) for error in (*(f.error for f in failures), *causes)):
        raise KeyboardInterrupt
    if not failures:  # it failed before its first step
        return Launched(
            tuple(_innermost(error) for error in causes if error) or ("failed without an error",),
            warnings,
            tuple(error.to_string() for error in causes if error),
        )
    # What fails for several reasons says each in a line of its own.
    said = [line for failure in failures for line in _message(failure).splitlines()]
    return Launched(
        tuple(said),
        warnings,
        tuple(f.error.to_string() for f in failures if f.error and f.user_failure_data is None),
    )


def _message(failure: StepFailureData) -> str:
    """What a user reads: our own words where we have them, else the error's."""
    if failure.user_failure_data is not None:
        return failure.user_failure_data.description or "failed without a word"
    return _innermost(failure.error) if failure.error else "failed without an error"


def said_by_steps(events: Iterable[dg.DagsterEvent]) -> list[str]:
    """What a user reads of the steps that failed, each cause once."""
    return list(dict.fromkeys(_message(event.step_failure_data) for event in events))


def _is_interrupt(error: SerializableErrorInfo | None) -> bool:
    while error is not None:
        if error.cls_name == "DagsterExecutionInterruptedError":
            return True
        error = error.cause
    return False


def _innermost(error: SerializableErrorInfo) -> str:
    """Words of the error that caused the others, without the trace."""
    while error.cause is not None:
        error = error.cause
    return " ".join(error.message.split())


def _check_up_to_date(definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
    """Ask of every asset whether it is up to date, also of those that this run left alone."""
    checks = [c for c in definitions.asset_checks or [] if isinstance(c, dg.AssetChecksDefinition)]
    keys = [k for c in checks for k in c.check_keys if k.name == "up_to_date"]
    dg.materialize(
        checks,
        selection=dg.AssetSelection.checks(*keys),
        instance=instance,
        resources=definitions.resources,
        tags=_tags(),
        run_config=QUIET,
        raise_on_error=False,
    )


def _range(
    asset: StoredAsset, make: Sequence[State], instance: dg.DagsterInstance
) -> tuple[str, str]:
    """First and last key, in Dagster's order, of the range that spans all of them."""
    ends: list[dict[str, str]] = [{}, {}]
    for dim in asset.dims:
        wanted = {s.partition[dim] for s in make}
        # A page may have forgotten them since: their file is gone, or the settings have changed.
        make_known(instance, dim, sorted(wanted))
        inside = [key for key in known_keys(instance, dim) if key in wanted]
        ends[0][dim], ends[1][dim] = inside[0], inside[-1]
    return str(to_key(ends[0])), str(to_key(ends[1]))
