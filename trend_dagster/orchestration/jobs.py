"""Jobs, named for what a person wants done. What the command line does, they ask for.

What belongs here: jobs for the page, the sensor and the schedule, and their run config. What does
not: what is asked for and how it is followed (``backfills``).

Each job is one step that asks for one asset backfill over exactly the partitions that are missing
or out of date, and follows it to its end. So it can be started again after any failure, and takes
up what was finished; ending the job ends the backfill.

See https://docs.dagster.io/guides/build/ops and
https://docs.dagster.io/guides/operate/configuration/run-configuration.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg
from dagster import OpExecutionContext
from pydantic import Field

from trend_dagster.errors import RunDiedError, SettingsError, TrendError
from trend_dagster.orchestration.assets import ASSETS, find_asset
from trend_dagster.orchestration.backfills import make_all
from trend_dagster.orchestration.importing import READERS, import_file
from trend_dagster.orchestration.instance import end_dead_runs, make_sure_of, only_run_here
from trend_dagster.orchestration.partitions import register_all
from trend_dagster.orchestration.private import RETRY_ON_ASSET_OR_OP_FAILURE_TAG
from trend_dagster.orchestration.running import Outcome, Wish
from trend_dagster.project.folder import Project
from trend_dagster.project.settings import nearest
from trend_dagster.storage.stores import Version

JOB_TAG = {"trend/job": "true"}
"""Tag of the runs of jobs: one is at work at a time (dagster.yaml), the others are queued."""


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
        description="Learn the model and the newborns' prior anew if runs were added or changed "
        "since. Otherwise those that are there stay in use.",
    )


class ImportConfig(dg.Config):
    """What `trend import-...` takes."""

    kind: str = Field(description=f"What the file holds: {' or '.join(READERS)}.")
    file: str = Field(
        description="Path of the file, on the machine that this page runs on; below the project's "
        "folder if it begins with no /."
    )


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


def build_jobs() -> list[dg.JobDefinition]:
    """Make all jobs: one per entry of ``JOBS``, and the one that imports."""
    return [*(_make_job(name, spec) for name, spec in JOBS.items()), _import_job()]


def _make_job(name: str, spec: JobSpec) -> dg.JobDefinition:
    @dg.op(
        name=op_of(name),
        description=spec.description,
        required_resource_keys={"project"},
        out=dg.Out(dg.Nothing),
    )
    def make(context: OpExecutionContext, config: MakeConfig) -> None:
        with _errors_in_words(context):
            outcomes = _run(context, config, name, spec)
        _tell(outcomes, context)
        context.add_output_metadata({"outcome": dg.MetadataValue.md(_table(outcomes))})
        errors = [error for outcome in outcomes for error in outcome.errors]
        if errors:
            raise dg.Failure("\n".join(errors), allow_retries=False)

    @dg.job(name=name, description=spec.description, tags=JOB_TAG)
    def job() -> None:
        make()

    return job


def _run(
    context: OpExecutionContext, config: MakeConfig, name: str, spec: JobSpec
) -> list[Outcome]:
    project: Project = context.resources.project.open()
    for asset in config.select:
        find_asset(asset)
    wish = Wish(
        select=config.select,
        among=[asset for asset in ASSETS if spec.assets(asset)],
        force=config.force,
        retrain=config.retrain or spec.retrain,
    )
    with only_run_here(project.folder, wait=context.log.info):
        make_sure_of(context.instance, project.folder)
        end_dead_runs(context.instance, alone=True)
        for _, error in register_all(context.instance, project):
            raise error
        return make_all(project, context.instance, wish, name, context.log.info)


@contextmanager
def _errors_in_words(context: OpExecutionContext) -> Iterator[None]:
    """Let a run fail with the words of our errors; trying again would not mend most of them."""
    try:
        yield
    except RunDiedError as error:
        # The run is tried again (dagster.yaml, run_retries), as if this process had been killed.
        context.instance.add_run_tags(context.run_id, {RETRY_ON_ASSET_OR_OP_FAILURE_TAG: "true"})
        raise dg.Failure(str(error)) from error
    except TrendError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def _tell(outcomes: list[Outcome], context: OpExecutionContext) -> None:
    for outcome in outcomes:
        context.log.info(
            f"{outcome.asset}: {outcome.made} made, {outcome.kept} kept, {outcome.blocked} waiting"
        )
        for note in (*outcome.excluded, *outcome.notes):
            context.log.warning(note)
        for error in outcome.errors:
            context.log.error(error)


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
        required_resource_keys={"project"},
        out=dg.Out(dg.Nothing),
    )
    def import_op(context: OpExecutionContext, config: ImportConfig) -> None:
        with _errors_in_words(context):
            made = _import(context, config)
        names = [version.name for version in made]
        context.add_output_metadata({"imported": dg.MetadataValue.json(json.dumps(names))})

    @dg.job(name="import_file", description=description, tags=JOB_TAG)
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
    make_sure_of(context.instance, project.folder)
    with only_run_here(project.folder, wait=context.log.info):
        file = project.folder / config.file
        return import_file(project, context.instance, file, READERS[config.kind])
