"""Sensors that watch the input folders: one says what has changed, one has it made.

The second is off until somebody switches it on.

What belongs here: noticing files that are new, changed or gone, and asking for jobs. What does not:
deciding what is out of date (``lineage`` compares digests), or doing it (``jobs``).

See https://docs.dagster.io/guides/automate/sensors.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from trend_dagster.errors import TrendError
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.checks import files_there_now, up_to_date_now
from trend_dagster.orchestration.instance import make_sure_of
from trend_dagster.orchestration.jobs import op_of
from trend_dagster.orchestration.lineage import Lineage
from trend_dagster.orchestration.partitions import DIMENSIONS, known_keys
from trend_dagster.orchestration.resources import ProjectResource
from trend_dagster.project.folder import BOLD_RUN, LABEL_FILE, Project
from trend_dagster.storage.provenance import digest_of

SETTLED_SECONDS = 10.0
"""A file that was written to more recently may still be on its way: the next tick looks again."""

INPUTS = {BOLD_RUN: "bold", LABEL_FILE: "geodesic_labels"}
"""Asset that reads the files of each dimension."""

EMBED, PARCELLATE, CHECK = "embed_new_runs", "parcellate", "check_everything"

Stamps = dict[str, list[int]]
"""Time of the last change (ns) and size (bytes) of each file, by key."""


@dataclass(frozen=True)
class Change:
    """What happened to the files of one dimension since the tick before.

    Parameters
    ----------
    new, changed, removed : list of str
        Keys. Only what no output exists of is new.
    stamps : mapping
        What the next tick compares with.
    """

    new: list[str]
    changed: list[str]
    removed: list[str]
    stamps: Stamps


def build_sensor(interval_seconds: int, jobs: Sequence[Any]) -> dg.SensorDefinition:
    """Make the sensor.

    Parameters
    ----------
    interval_seconds : int
        Time between two looks at the folders.
    jobs : sequence of JobDefinition
        Those that it may ask for.

    Returns
    -------
    SensorDefinition
        Stopped until it is switched on.
    """

    @dg.sensor(
        name="new_input_files",
        jobs=[job for job in jobs if job.name in {EMBED, PARCELLATE, CHECK}],
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Looks at the folders of BOLD and label files. A new file becomes a partition, "
        "and its work is requested: a run is embedded with the model there is, a label file goes "
        "through the sweep. A changed file is read again, which puts what follows out of date. A "
        "removed one is reported; it is left out of new averages, and its outputs stay.",
    )
    def new_input_files(
        context: dg.SensorEvaluationContext, project: dg.ResourceParam[ProjectResource]
    ) -> dg.SensorResult:
        try:
            opened = project.open()
            make_sure_of(context.instance, opened.folder)
            changes = _look_at_all(opened, _seen(context))
        except TrendError as error:
            return dg.SensorResult(skip_reason=str(error))
        for dim, change in changes.items():
            for what in ("new", "changed", "removed"):
                if keys := getattr(change, what):
                    context.log.info(f"{dim}: {what}: {', '.join(keys)}")
        requests = _requests(opened, changes)
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else "no file is new, changed or gone",
            dynamic_partitions_requests=[*_partitions(context.instance, opened, changes)],
            cursor=_cursor(changes),
        )

    return new_input_files


def build_lookout(interval_seconds: int) -> dg.SensorDefinition:
    """Make the sensor that only says on the page what became of input files; it starts nothing.

    No `AutomationCondition` and no freshness policy: what was kept because nothing has changed is
    as good as what was made today, and an observed source would be a second opinion on what is out
    of date.

    Parameters
    ----------
    interval_seconds : int
        Time between two looks at the folders.

    Returns
    -------
    SensorDefinition
        Switched on.
    """

    @dg.sensor(
        name="changed_input_files",
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks at the folders of BOLD and label files, and lets the checks up_to_date "
        "and files_there of what is read from them fail when a file was changed or removed. It "
        "starts nothing.",
    )
    def changed_input_files(
        context: dg.SensorEvaluationContext, project: dg.ResourceParam[ProjectResource]
    ) -> dg.SensorResult:
        before = _seen(context)
        try:
            opened = project.open()
            make_sure_of(context.instance, opened.folder)
            changes = _look_at_all(opened, before)
            found = [*_found(opened, changes, before)]
        except TrendError as error:
            return dg.SensorResult(skip_reason=str(error))
        return dg.SensorResult(
            asset_events=found,
            skip_reason=None if found else "no file that was read is changed or gone",
            cursor=_cursor(changes),
        )

    return changed_input_files


def _found(
    project: Project, changes: Mapping[str, Change], before: Mapping[str, Stamps]
) -> Iterator[dg.AssetCheckEvaluation]:
    for dim, name in INPUTS.items():
        if changes[dim].changed:
            yield up_to_date_now(name, Lineage(project).states(ASSETS[name]))
        if changes[dim].stamps.keys() != before.get(dim, {}).keys():
            yield files_there_now(project, name)


def _seen(context: dg.SensorEvaluationContext) -> dict[str, Stamps]:
    """What the tick before saw, by dimension."""
    seen: dict[str, Stamps] = json.loads(context.cursor or "{}")
    return seen


def _cursor(changes: Mapping[str, Change]) -> str:
    return json.dumps({dim: change.stamps for dim, change in changes.items()})


def _look_at_all(project: Project, before: Mapping[str, Stamps]) -> dict[str, Change]:
    return {dim: _look(project, dim, before.get(dim, {})) for dim in INPUTS}


def _look(project: Project, dim: str, before: Stamps) -> Change:
    inputs = project.inputs(dim)
    stamps: Stamps = {}
    new, changed = [], []
    for key in inputs:
        stamp = _stamp(project.input_files(dim, key))
        if stamp is None or 0 <= time.time() - stamp[0] / 1e9 < SETTLED_SECONDS:
            if key in before:
                stamps[key] = before[key]
            continue
        stamps[key] = stamp
        if before.get(key) == stamp:
            continue
        if project.store.latest(INPUTS[dim], {dim: key}) is None:
            new.append(key)  # also what was looked at before, half copied, and never stored
        elif key in before:
            changed.append(key)
    return Change(new, changed, sorted(before.keys() - inputs.keys()), stamps)


def _stamp(paths: Sequence[Path]) -> list[int] | None:
    try:
        found = [path.stat() for path in paths]
    except OSError:  # a link that leads nowhere, or gone since the folder was listed
        return None
    return [max(f.st_mtime_ns for f in found), sum(f.st_size for f in found)]


def _partitions(
    instance: dg.DagsterInstance, project: Project, changes: Mapping[str, Change]
) -> Iterator[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest]:
    """Let a new file become a partition; one that is gone is taken away, and its outputs stay."""
    for dim in INPUTS:
        known, keys = known_keys(instance, dim), project.keys(dim)
        if new := [key for key in changes[dim].new if key not in known]:
            yield DIMENSIONS[dim].build_add_request(new)
        if gone := [key for key in known if key not in keys]:
            yield DIMENSIONS[dim].build_delete_request(gone)


def _requests(project: Project, changes: Mapping[str, Change]) -> list[dg.RunRequest]:
    """Ask for at most three runs: one per kind of file, and the checks if a file is gone."""
    bold, labels = changes[BOLD_RUN], changes[LABEL_FILE]
    requests = []
    if bold.new or bold.changed:
        select = ["bold"]
        model = project.store.latest("trained_model")
        if bold.new and (model is not None or project.settings.features.source == "bold"):
            select.append("embeddings")
        requests.append(_request(EMBED, select, bold))
    if labels.new or labels.changed:
        select = ["geodesic_labels"]
        if labels.new and project.store.latest("average_correlation") is not None:
            select += ["thresholded_matrix", "nmf_sweep"]
        requests.append(_request(PARCELLATE, select, labels))
    if gone := [*bold.removed, *labels.removed]:
        key = digest_of([gone, {dim: change.stamps for dim, change in changes.items()}])
        requests.append(dg.RunRequest(run_key=f"removed-{key}", job_name=CHECK))
    return requests


def _request(job: str, select: list[str], change: Change) -> dg.RunRequest:
    keys = [*change.new, *change.changed]
    return dg.RunRequest(
        # The same files in the same state are asked for once.
        run_key=f"{job}-{digest_of({key: change.stamps[key] for key in keys})}",
        job_name=job,
        run_config={"ops": {op_of(job): {"config": {"select": select}}}},
    )
