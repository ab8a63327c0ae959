"""Ask Dagster's daemon for what is missing or out of date, as one asset backfill, and follow it.

What belongs here: which partitions are asked for, waiting until they are made, and taking the
request back. What does not: what a job is for (``jobs``), and making it in this process
(``running``).

Each run of the backfill is a run of the code location: the page can terminate it and run it again.
Dagster starts them in the order of dependence; a partition starts when all that it is made from and
that was asked for with it is there.

See https://docs.dagster.io/guides/build/partitions-and-backfills/backfilling-data.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import dagster as dg

from trend_dagster.errors import RunDiedError
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.checks import up_to_date_now
from trend_dagster.orchestration.lineage import Lineage, State
from trend_dagster.orchestration.partitions import PARTITIONS, asset_key, to_key
from trend_dagster.orchestration.private import (
    BACKFILL_ID_TAG,
    MAX_RETRIES_TAG,
    ask_for_backfill,
    cancel_backfill,
    failed_in_a_step,
    how_backfill_ended,
    open_backfills,
)
from trend_dagster.orchestration.production import FORCE_TAG
from trend_dagster.orchestration.running import Outcome, Wish, decide
from trend_dagster.project.folder import Project

ASKED_BY_TAG = "trend/asked_by"
"""Tag of the runs that a job has asked for: which job."""

SECONDS_BETWEEN_LOOKS = 2.0

MOST_ROUNDS = 4
"""What was made may put something else out of date, once or twice; more is a mistake of ours."""


@dataclass
class Plan:
    """What one backfill is asked for.

    Parameters
    ----------
    wanted : dict of str to list of State
        Outputs to be made, by asset, as they stand before.
    forced : list of str
        Assets that are made even where they are current.
    waiting : dict of str to str
        Outputs that wait for something that is not asked for, and for what.
    """

    wanted: dict[str, list[State]] = field(default_factory=dict)
    forced: list[str] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)


def plan(
    project: Project, instance: dg.DagsterInstance, wish: Wish, tried: Sequence[str] = ()
) -> Plan:
    """Find the outputs that are missing or out of date, and those that will be when they are made.

    Parameters
    ----------
    project : Project
        Where.
    instance : DagsterInstance
        Tells which outputs are on record.
    wish : Wish
        What is asked for.
    tried : sequence of str
        Outputs that were asked for before and could not be made.

    Returns
    -------
    Plan
    """
    lineage, found = Lineage(project), Plan()
    for asset in wish.assets():
        todo = decide(project, asset, lineage.states(asset), instance, wish)
        comes = bool(asset.upstream.keys() & found.wanted.keys())
        waiting = [s for s in todo.waiting if s.status != "damaged"]
        coming = {s.name for ss in found.wanted.values() for s in ss}
        wanted = [
            state
            for state in [*todo.make, *(waiting if comes else [])]
            if state.name not in tried
            and (todo.force or not state.only_waits or state.waits_among(coming))
        ]
        if not comes:
            found.waiting |= {s.name: (*s.waits_for, *s.reasons)[0] for s in waiting}
        if wanted:
            found.wanted[asset.name] = wanted
            found.forced += [asset.name] if todo.force else []
    return found


def make_all(
    project: Project,
    instance: dg.DagsterInstance,
    wish: Wish,
    job: str,
    log: Callable[[str], None],
) -> list[Outcome]:
    """Ask for all that is missing or out of date, and wait until it is made.

    Where something cannot be made, what can do without it is asked for in another backfill: the
    table of the sweep has a row for the cell that failed.

    Parameters
    ----------
    project : Project
        Where.
    instance : DagsterInstance
        Whose daemon is asked.
    wish : Wish
        What is asked for.
    job : str
        On whose behalf.
    log : callable
        Takes a line about what happens.

    Returns
    -------
    list of Outcome
        One for each asset of which anything was asked for.

    Raises
    ------
    RunDiedError
        If the process of a run was ended from outside.
    """
    for left_over in open_backfills(instance, ASKED_BY_TAG):
        log(f"following backfill {left_over}, which an earlier run of a job has asked for")
        _follow(instance, left_over, log)
    before: dict[str, State] = {}
    tried: list[str] = []
    for _ in range(MOST_ROUNDS):
        todo = plan(project, instance, wish, tried)
        if not todo.wanted:
            break
        backfill = _ask(instance, todo, job)
        log(f"asked for {_counts(todo)} in backfill {backfill}")
        _follow(instance, backfill, log)
        wanted = {s.name: s for ss in todo.wanted.values() for s in ss}
        before = wanted | before
        tried += [name for name, state in wanted.items() if not _is_made(project, state)]
    return list(outcomes_of(project, instance, before.values(), todo.waiting))


def _ask(instance: dg.DagsterInstance, todo: Plan, job: str) -> str:
    tags = {ASKED_BY_TAG: job, MAX_RETRIES_TAG: "0"}  # the job tries again, as a whole
    if todo.forced:
        tags[FORCE_TAG] = ",".join(todo.forced)
    wanted: dict[dg.AssetKey, tuple[dg.PartitionsDefinition[str] | None, list[str]]] = {}
    for asset, states in todo.wanted.items():
        keys = [key for s in states if (key := to_key(s.partition)) is not None]
        wanted[asset_key(asset)] = (PARTITIONS[ASSETS[asset].dims], keys)
    return ask_for_backfill(instance, wanted, tags, job)


def _is_made(project: Project, before: State) -> bool:
    """Tell whether an output has another version than before."""
    now = project.store.latest(before.asset, before.partition)
    return now is not None and (before.version is None or now.path != before.version.path)


def _counts(todo: Plan) -> str:
    return ", ".join(f"{len(states)} of {asset}" for asset, states in todo.wanted.items())


def _follow(instance: dg.DagsterInstance, backfill: str, log: Callable[[str], None]) -> None:
    """Wait until a backfill has ended; what interrupts the waiting ends the backfill too."""
    told: dict[str, str] = {}
    of_it = dg.RunsFilter(tags={BACKFILL_ID_TAG: backfill})
    # Of one that an earlier run of a job has asked for: what had died by then is no news.
    before = {run.run_id for run in instance.get_runs(of_it) if _was_killed(run)}
    with _taken_back(instance, backfill):
        while True:
            ended = how_backfill_ended(instance, backfill)
            for run in instance.get_runs(of_it):
                _tell(run, told, log)
                if run.run_id not in before and _was_killed(run):
                    raise RunDiedError(
                        f"run {run.run_id[:8]} of backfill {backfill}",
                        expected="a process that works until it is done",
                        found="it was ended from outside: killed, or out of memory",
                        remedy="Nothing that was finished is lost. If it comes again, give it more "
                        "memory, or run less at a time.",
                    )
            if ended is not None:
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _was_killed(run: dg.DagsterRun) -> bool:
    return run.status == dg.DagsterRunStatus.FAILURE and not failed_in_a_step(run)


def _tell(run: dg.DagsterRun, told: dict[str, str], log: Callable[[str], None]) -> None:
    if told.get(run.run_id) != run.status.value:
        told[run.run_id] = run.status.value
        assets = ", ".join(sorted(key.path[-1] for key in run.asset_selection or ()))
        log(f"run {run.run_id[:8]} ({assets}): {run.status.value.lower().replace('_', ' ')}")


@contextmanager
def _taken_back(instance: dg.DagsterInstance, backfill: str) -> Iterator[None]:
    """Cancel a backfill, with the runs of it that are at work, if what waits for it is ended."""
    try:
        yield
    except BaseException:
        cancel_backfill(instance, backfill)
        raise


def outcomes_of(
    project: Project,
    instance: dg.DagsterInstance,
    asked: Iterable[State],
    waiting: Mapping[str, str],
) -> Iterator[Outcome]:
    """Say what became of the outputs that were asked for, asset by asset, and to the page too.

    Parameters
    ----------
    project : Project
        Where.
    instance : DagsterInstance
        Told whether the asset is up to date now, which a change of its files may have put in doubt.
    asked : iterable of State
        Outputs as they stood before.
    waiting : mapping
        Outputs that wait for something that was not asked for, and for what.

    Yields
    ------
    Outcome
        One for each asset of which anything was asked for. What was made from something that is
        out of date itself, and was not asked for, is no error.
    """
    lineage, by_asset = Lineage(project), defaultdict[str, list[State]](list)
    for state in asked:
        by_asset[state.asset].append(state)
    for name in [name for name in ASSETS if name in by_asset]:
        states = lineage.states(ASSETS[name])
        instance.report_runless_asset_event(up_to_date_now(name, states))
        now = {s.name: s for s in states}
        made = [s for s in by_asset[name] if _is_made(project, s)]
        after = [s for b in by_asset[name] if (s := now.get(b.name))]
        new = {s.name for s in made}
        wrong = [s for s in after if s.status != "current" and not (s.only_waits and s.name in new)]
        yield Outcome(
            asset=name,
            made=len(made),
            kept=sum(s.status == "current" and s not in made for s in by_asset[name]),
            excluded=tuple(
                f"{s.name}: {s.version.excluded}" for s in after if s.version and s.version.excluded
            ),
            errors=tuple(sorted({_why_not(project, s) for s in wrong})),
            blocked=sum(key.partition("[")[0] == name for key in waiting),
        )


def _why_not(project: Project, state: State) -> str:
    name = state.name
    reason = project.store.failure(state.asset, state.partition)
    return reason or f"{name} was not made ({'; '.join(state.reasons) or state.status})"
