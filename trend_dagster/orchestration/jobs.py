"""Jobs, named for what a person wants done. What the command line does, they do.

What belongs here: jobs for the page, the sensor and the schedule, and their run config. What does
not: how things are made (``running``), which is the same for `trend run`.

Each job is one step that makes what is missing or out of date, asset by asset, in runs of its own
that the page shows beside it. So it can be started again after any failure, and takes up what was
finished.

See https://docs.dagster.io/guides/build/ops and
https://docs.dagster.io/guides/operate/configuration/run-configuration.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster import OpExecutionContext
from pydantic import Field

from trend_dagster.errors import SettingsError, TrendError
from trend_dagster.orchestration.importing import READERS, import_file
from trend_dagster.orchestration.instance import end_dead_runs, only_run_here
from trend_dagster.orchestration.production import STORED_ASSETS, find_asset
from trend_dagster.orchestration.resources import ProjectResource
from trend_dagster.orchestration.running import Outcome, run_all
from trend_dagster.project.folder import Project
from trend_dagster.project.settings import nearest
from trend_dagster.storage.stores import Version, describe

BuildDefinitions = Callable[[str | None], dg.Definitions]
"""Takes a profile in place of the one in trend.yaml."""

PROJECT_POOL = "project"  # of the jobs: one at a time, like `trend run`


class MakeConfig(dg.Config):
    """What `trend run` takes as options; the profile is the project's (resources)."""

    select: list[str] = Field(
        default=[],
        description="Only these assets, by name. Empty: all that belong to this job.",
    )
    force: bool = Field(
        default=False,
        description="Make anew even what is current. Imported outputs are kept unless selected.",
    )
    retrain: bool = Field(
        default=False,
        description="Train the model anew if runs were added or changed since. Otherwise the "
        "model there is stays in use.",
    )


class ImportConfig(dg.Config):
    """What `trend import-...` takes."""

    kind: str = Field(description=f"What the file holds: {' or '.join(READERS)}.")
    file: str = Field(description="Path of the file, on the machine that this page runs on.")


@dataclass(frozen=True)
class JobSpec:
    """A job that makes assets.

    Parameters
    ----------
    description : str
        For the page.
    assets : callable
        Takes the name of an asset and tells whether it belongs to the job.
    retrain : bool
        Whether the job is there to train.
    """

    description: str
    assets: Callable[[str], bool]
    retrain: bool = False


JOBS: dict[str, JobSpec] = {
    "full_pipeline": JobSpec(
        "Everything that is missing or out of date, from BOLD to parcellations. The same as "
        "`trend run`. A model is trained if there is none; one that is there stays in use.",
        lambda name: True,
    ),
    "train": JobSpec(
        "Train the model on today's BOLD runs. Training that was interrupted goes on where it "
        "stopped. What was embedded with the model before is out of date afterwards.",
        lambda name: name in {"bold", "trained_model"},
        retrain=True,
    ),
    "embed_new_runs": JobSpec(
        "Read new or changed BOLD runs and embed them with the model there is. Does not train.",
        lambda name: name in {"bold", "embeddings"},
    ),
    "parcellate": JobSpec(
        "Everything that follows from the model there is: embeddings of new runs, the average "
        "correlation, the sweep over label files, the parcellations and what they are compared "
        "with. Does not train.",
        lambda name: name != "trained_model",
    ),
}


def op_of(job: str) -> str:
    """Name of the one step of a job; Dagster wants it to differ from the job's."""
    return f"do_{job}"


def build_jobs(build: BuildDefinitions) -> list[dg.JobDefinition]:
    """Make all jobs.

    Parameters
    ----------
    build : callable
        Builds the definitions of the project, for the runs that a job starts.

    Returns
    -------
    list of JobDefinition
        One per entry of ``JOBS``, and the one that imports.
    """
    return [*(_make_job(name, spec, build) for name, spec in JOBS.items()), _import_job()]


def _make_job(name: str, spec: JobSpec, build: BuildDefinitions) -> dg.JobDefinition:
    @dg.op(
        name=op_of(name),
        description=spec.description,
        pool=PROJECT_POOL,
        required_resource_keys={"project"},
        out=dg.Out(dg.Nothing),
    )
    def make(context: OpExecutionContext, config: MakeConfig) -> None:
        with _errors_in_words():
            outcomes = list(_logged(_run(context, config, spec, build), context))
        context.add_output_metadata({"outcome": dg.MetadataValue.md(_table(outcomes))})
        errors = [error for outcome in outcomes for error in outcome.errors]
        if errors:
            raise dg.Failure("\n".join(errors), allow_retries=False)

    @dg.job(name=name, description=spec.description)
    def job() -> None:
        make()

    return job


def _run(
    context: OpExecutionContext, config: MakeConfig, spec: JobSpec, build: BuildDefinitions
) -> Iterator[Outcome]:
    resource: ProjectResource = context.resources.project
    project = resource.open()
    for asset in config.select:
        find_asset(asset)
    with only_run_here(project.folder, wait=context.log.info):
        end_dead_runs(context.instance)
        yield from run_all(
            project,
            build(resource.profile or None),
            context.instance,
            select=config.select,
            among=[asset for asset in STORED_ASSETS if spec.assets(asset)],
            force=config.force,
            retrain=config.retrain or spec.retrain,
        )


@contextmanager
def _errors_in_words() -> Iterator[None]:
    """Let a run fail with the words of our errors; trying again would not mend them."""
    try:
        yield
    except TrendError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def _logged(outcomes: Iterator[Outcome], context: OpExecutionContext) -> Iterator[Outcome]:
    for outcome in outcomes:
        context.log.info(
            f"{outcome.asset}: {outcome.made} made, {outcome.kept} kept, {outcome.blocked} waiting"
        )
        for note in (*outcome.excluded, *outcome.notes):
            context.log.warning(note)
        for error in outcome.errors:
            context.log.error(error)
        yield outcome


def _table(outcomes: list[Outcome]) -> str:
    rows = [
        f"| {o.asset} | {o.made} | {o.kept} | {o.blocked} | {len(o.errors)} |" for o in outcomes
    ]
    head = ["| asset | made | kept | waiting | errors |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *rows])


def _import_job() -> dg.JobDefinition:
    description = (
        "Take up what was computed elsewhere, for instance by the tutorial's notebook, in place of "
        "what would be computed here. The file is checked first. The same as `trend import-...`."
    )

    @dg.op(
        name=op_of("import_file"),
        description=description,
        pool=PROJECT_POOL,
        required_resource_keys={"project"},
        out=dg.Out(dg.Nothing),
    )
    def import_op(context: OpExecutionContext, config: ImportConfig) -> None:
        with _errors_in_words():
            made = _import(context, config)
        names = [describe(version.asset, version.partition) for version in made]
        context.add_output_metadata({"imported": dg.MetadataValue.json(json.dumps(names))})

    @dg.job(name="import_file", description=description)
    def job() -> None:
        import_op()

    return job


def _import(context: OpExecutionContext, config: ImportConfig) -> list[Version]:
    if config.kind not in READERS:
        raise SettingsError(
            f"kind {config.kind!r}",
            expected=f"one of {', '.join(READERS)}",
            found="no such kind" + nearest(config.kind, READERS),
            remedy="Name one of these.",
        )
    project: Project = context.resources.project.open()
    with only_run_here(project.folder, wait=context.log.info):
        return import_file(project, context.instance, Path(config.file), READERS[config.kind])
