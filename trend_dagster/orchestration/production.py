"""The one mechanism behind every asset: find inputs, skip what is current, compute, publish.

What belongs here: what an output is made from (its recipe), the loop over the partitions of a run,
and publishing. What does not: any single asset (``assets``), and how outputs are recorded with
Dagster (``io_managers``).

An asset is a function of a :class:`Task` and of the assets that its other parameters name. Three
rules hold for all of them:

- *Dependence*: a partition is made from the upstream partition that shares its dimensions, and from
  all partitions along the dimensions that it does not have; a subject, from its own runs only.
- *Currency*: an output whose stored recipe (code version, settings, digests of its inputs) equals
  today's is current, and is kept.
- *Absence*: an asset that has nothing to do under the settings is an exclusion that says why
  (``nothing_to_do``), and what needs an excluded input is excluded for the same reason. How an
  input may be absent stands in the annotation of its parameter: ``Version`` must be there,
  ``Sequence[Version]`` must all be there (excluded ones are left out), :class:`Available` takes
  those there are, :class:`Some` at least one of them, and :class:`Optional` gives None for what is
  missing or excluded. An optional input that was not asked for is no part of the recipe.

See https://docs.dagster.io/guides/build/assets.
"""

import importlib
import inspect
import itertools
import json
import os
import resource
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
from pydantic import Field

from trend_dagster.errors import (
    FactorizationError,
    InputError,
    MissingUpstreamError,
    RunDiedError,
    ServerError,
    SettingsError,
    StoreError,
    TrendError,
    cannot_write,
)
from trend_dagster.files import replace_file
from trend_dagster.orchestration.engines import on_dask
from trend_dagster.orchestration.instance import make_sure_of
from trend_dagster.orchestration.io_managers import NONE, Published, Result
from trend_dagster.orchestration.partitions import PARTITIONS, asset_key, to_partition
from trend_dagster.orchestration.private import RECORDED_ONE_BY_ONE
from trend_dagster.orchestration.room import check_disk, check_memory, memory_of_machine
from trend_dagster.project.folder import BOLD_RUN, N_COMPONENTS, SUBJECT, Project
from trend_dagster.project.settings import Settings
from trend_dagster.science.cores import usable_cores
from trend_dagster.storage.provenance import (
    BECAUSE,
    Recipe,
    differences,
    digest_of,
    digest_of_file,
)
from trend_dagster.storage.stores import Draft, Partition, Version, describe, described

T = TypeVar("T")

Progress = Callable[[str, str, float], None]
"""Takes the name of an output, what happens to it, and the share done from 0 to 1."""

PROGRESS: ContextVar[Progress] = ContextVar("progress", default=lambda name, doing, share: None)
"""Where progress is shown besides Dagster's log; the command line puts a progress bar here."""

UNDER_WAY = "under_way.json"
"""In the scratch folder of an output that is being made: how far it is."""

OWNER = "team:neuroimaging"

GROUPS = (
    "inputs",
    "features",
    "connectivity",
    "parcellation",
    "evidence",
    "individuals",
    "delivery",
)
"""Groups of assets in the order of the method."""

DOCS_VARIABLE = "TREND_DOCS_URL"
"""Environment variable: where the pages that `make docs` builds are served."""


def group_in_order(group: str) -> str:
    """Name a group as the page does, which sorts by name: in the order of the method."""
    return f"{GROUPS.index(group) + 1}_{group}"


def _documentation(asset: str) -> dg.MetadataValue[Any]:
    page = f"reference/assets.html#{asset}"
    served = os.environ.get(DOCS_VARIABLE)
    if served is None:
        return dg.MetadataValue.text(
            f"`make docs` in a checkout makes site/{page}; where it is served, {DOCS_VARIABLE} "
            "makes this a link"
        )
    return dg.MetadataValue.url(f"{served.rstrip('/')}/{page}")


FORCE_TAG = "trend/force"
"""Tag of runs that compute even what is current: the names of those assets."""

LEFT_OUT = "left_out"
"""Section of the recipe of what the user leaves out."""

EXCLUDED = "excluded"
"""Section of the recipe of what is an exclusion because its input is one."""

MISSING = "missing:"
"""In a recipe, what the digest of a partition that was passed over begins with."""


# --- What an asset is -------------------------------------------------------------------------


class AssetConfig(dg.Config):
    """What can be said of a run that makes one asset."""

    force: bool = Field(
        default=False,
        description="Compute even what is current. Without it an output whose inputs, settings and "
        "code are unchanged is kept.",
    )


class Available(list[Version]):
    """Those partitions of an input that there are; why others are missing is in the recipe."""


class Some(Available):
    """The same, of which an output takes at least one."""


class Optional:
    """An input that an output may do without: called, it is the version, or None.

    Parameters
    ----------
    version : Version or None
        What is stored; None where it is missing, excluded, or has nothing to do.
    """

    def __init__(self, version: Version | None) -> None:
        self._version = version
        self.asked_for = False

    def __call__(self) -> Version | None:
        """Ask for it: from here on the output is made from it, or from its absence."""
        self.asked_for = True
        return self._version


def needed(optional: Optional, task: "Task", upstream: str) -> Version:
    """Ask for an optional input that the settings make necessary.

    Raises
    ------
    MissingUpstreamError
        If it is not there.
    """
    version = optional()
    if version is None:
        raise MissingUpstreamError(
            task.name,
            expected=f"{upstream}, which the settings ask for",
            found="none" + _why_missing(task.project, upstream, {}),
            remedy=f"`{command(task.project, task.draft.asset)}` makes it first.",
        )
    return version


@dataclass
class Task:
    """One partition of an asset at work.

    Parameters
    ----------
    project : Project
        The project, with its settings.
    partition : mapping of str to str
        Key by dimension.
    draft : Draft
        Where large arrays are written piece by piece.
    recipe : Recipe
        What it is made from, as it was before the work began: what changes meanwhile makes the
        output out of date.
    log : callable
        Takes a line for Dagster's log.
    """

    project: Project
    partition: Partition
    draft: Draft
    recipe: Recipe
    log: Callable[[str], None]
    _written_down: float = field(default=0.0, init=False)

    @property
    def name(self) -> str:
        """Name as messages give it."""
        return describe(self.draft.asset, self.partition)

    @cached_property
    def scratch(self) -> Path:
        """Folder for unfinished work; the next attempt at the same recipe finds it again.

        While another process makes the same output there, it is one that nobody finds again.
        """
        return self.draft.workplace(self._unfinished)

    @property
    def _unfinished(self) -> Path:
        return self.project.store.scratch(self.draft.asset, self.partition, self.recipe)

    def forget(self) -> None:
        """Remove unfinished work, once the output is published."""
        self.draft.discard(self._unfinished)

    @property
    def settings(self) -> Settings:
        """Settings of the project."""
        return self.project.settings

    def progress(self, doing: str, share: float) -> None:
        """Show how far this task is: a few words, and the share done from 0 to 1.

        Once a second it is written down beside the unfinished work as well, for `trend status`.
        """
        PROGRESS.get()(self.name, doing, share)
        now = time.time()
        if now - self._written_down > 1:
            self._written_down = now
            told = json.dumps({"doing": doing, "share": share, "at": now}).encode()
            with suppress(OSError):  # a full disk is told by what has to be kept
                self.scratch.mkdir(parents=True, exist_ok=True)
                replace_file(self.scratch / UNDER_WAY, told)

    def each(self, things: Sequence[T], what: str) -> Iterator[T]:
        """Go through things one by one, and show how far that is."""
        for done, thing in enumerate(things):
            self.progress(f"{what} {done + 1} of {len(things)}", done / len(things))
            yield thing


Compute = Callable[..., Any]
FilesOf = Callable[[Project, Partition], Mapping[str, Path]]
Beside = Callable[[Project], Sequence[Version]]
Deciding = Callable[[Settings], Mapping[str, dict[str, Any]]]
NothingToDo = Callable[[Settings], str | None]
LeftOut = Callable[[Project, Partition], str | None]
WorkerBytes = Callable[[Settings, Mapping[str, list[Version]], int], int]
Inputs = dict[str, list[Version]]
"""What is stored of each input today, by the input's name."""

Pending = list[tuple[Partition, Inputs]]


@dataclass(frozen=True, eq=False)
class StoredAsset:
    """An asset whose outputs live in the store.

    Parameters
    ----------
    compute : callable
        Takes a task and, by name, what it is made from; returns a ``Result``. With ``together`` it
        takes a list of tasks and yields ``(task, Result)`` as each is finished, or
        ``(task, TrendError)`` where only that one cannot be made.
    dims : tuple of str
        Dimensions of its partitions.
    group : str
        Group in the UI.
    inputs : tuple of StoredAsset
        What it is made from; the parameters of ``compute`` have their names.
    settings : tuple of str or callable
        Sections of the settings that decide its content, or what takes the settings and returns
        what of several sections does, by name.
    code_version : str
        Raised when a change of code changes results.
    nothing_to_do : callable, optional
        Takes the settings; says why no output is needed under them, or None.
    left_out : callable, optional
        Takes the project and a partition; says why the user leaves it out, or None.
    foreseen : callable, optional
        Takes the same; says why ``compute`` will exclude it, or None. For who asks before.
    files : callable, optional
        Takes the project and a partition, returns the input files that this asset reads, by name.
    beside : callable, optional
        Takes the project; returns stored versions that this asset reads and that are not among its
        inputs.
    together : str, optional
        Dimension whose partitions are computed in one go.
    keep_when_inputs_change : bool
        Made anew only when asked or when its settings change (a trained model).
    result : bool
        Made for its own sake, also where nothing is made from it.
    pool : str, optional
        Concurrency pool.
    worker_bytes : callable, optional
        Takes settings, the inputs of a batch and a number of threads; returns the most memory
        that a process needs for the batch. With it, batches may run side by side
        (``compute.workers``).
    memory_bytes : callable, optional
        The same of an asset whose partitions are made one after another.
    disk_bytes : callable, optional
        Takes the same; returns what it writes, unfinished work included.
    """

    compute: Compute
    group: str
    dims: tuple[str, ...] = ()
    inputs: "tuple[StoredAsset, ...]" = ()
    settings: tuple[str | Deciding, ...] = ()
    code_version: str = "1"
    nothing_to_do: NothingToDo | None = None
    left_out: LeftOut | None = None
    foreseen: LeftOut | None = None
    files: FilesOf | None = None
    beside: Beside | None = None
    together: str | None = None
    keep_when_inputs_change: bool = False
    result: bool = False
    pool: str | None = None
    worker_bytes: WorkerBytes | None = None
    memory_bytes: WorkerBytes | None = None
    disk_bytes: WorkerBytes | None = None

    def __post_init__(self) -> None:
        """Make sure that inputs and parameters agree."""
        parameters = list(inspect.signature(self.compute).parameters)[1:]
        if sorted(parameters) != sorted(self.upstream):
            raise TypeError(f"{self.name} takes {parameters}, and its inputs are {self.upstream}")

    @property
    def name(self) -> str:
        """Name of the asset."""
        return self.compute.__name__

    @property
    def upstream(self) -> "dict[str, StoredAsset]":
        """What it is made from, by name."""
        return {asset.name: asset for asset in self.inputs}

    @cached_property
    def _annotations(self) -> dict[str, str]:
        parameters = inspect.signature(self.compute).parameters.values()
        return {p.name: str(p.annotation).rpartition(".")[2].strip("'>") for p in parameters}

    def may_lack(self, upstream: str) -> bool:
        """Tell whether an output can be made where partitions of an input are missing."""
        return self.asks_for(upstream) or self._takes_those_there_are(upstream)

    def _takes_those_there_are(self, upstream: str) -> bool:
        return self._annotations[upstream] in (Available.__name__, Some.__name__)

    def asks_for(self, upstream: str) -> bool:
        """Tell whether it is known only to the computation if an input is used at all."""
        return self._annotations[upstream] == Optional.__name__

    def takes_all_of(self, upstream: "StoredAsset") -> bool:
        """Tell whether a partition depends on several of upstream's."""
        return not set(upstream.dims) <= set(self.dims)

    def idle(self, settings: Settings) -> str | None:
        """Why there is nothing to do under the settings; None if there is."""
        return None if self.nothing_to_do is None else self.nothing_to_do(settings)

    def why_excluded(self, project: Project, partition: Partition) -> str | None:
        """Why an output is an exclusion, whatever the files hold; None if only making it tells.

        Parameters
        ----------
        project : Project
            Where.
        partition : mapping
            Which output.
        """
        why = self.idle(project.settings)
        for tells in (self.left_out, self.foreseen):
            if why is None and tells is not None:
                why = tells(project, partition)
        for name, upstream in self.upstream.items():
            if why is None and not (self.may_lack(name) or self.takes_all_of(upstream)):
                of = {dim: partition[dim] for dim in upstream.dims}
                why = upstream.why_excluded(project, of)
        return why

    def partitions(self, project: Project) -> list[Partition]:
        """All partitions that it has today."""
        keys = [project.keys(dim) for dim in self.dims]
        return [dict(zip(self.dims, k, strict=True)) for k in itertools.product(*keys)]

    def wanted(
        self, project: Project, partition: Partition, upstream: "StoredAsset"
    ) -> list[Partition]:
        """Partitions of an input that an output is made from."""
        shared = {dim: partition[dim] for dim in upstream.dims if dim in partition}
        if len(shared) == len(upstream.dims):
            return [shared]
        keys = [_keys_for(project, partition, dim) for dim in upstream.dims]
        found: list[Partition] = [
            dict(zip(upstream.dims, key, strict=True)) for key in itertools.product(*keys)
        ]
        # Where its file is gone, what is stored may still be used.
        return found if found or not shared else [shared]

    def find(self, project: Project, partition: Partition) -> Inputs:
        """Find the current versions of what an output is made from.

        Raises
        ------
        MissingUpstreamError
            If one of them that it cannot do without does not exist.
        """
        if self.idle(project.settings) is not None:
            return {}
        return {
            name: self._versions(project, upstream, partition)
            for name, upstream in self.upstream.items()
        }

    def _versions(
        self, project: Project, upstream: "StoredAsset", partition: Partition
    ) -> list[Version]:
        if self.may_lack(upstream.name) and upstream.idle(project.settings) is not None:
            return []
        wanted = self.wanted(project, partition, upstream)
        found = [(p, project.store.latest(upstream.name, p)) for p in wanted]
        missing = [p for p, version in found if version is None]
        some = self._annotations[upstream.name] == Some.__name__
        if missing and (len(missing) == len(found) if some else not self.may_lack(upstream.name)):
            raise MissingUpstreamError(
                describe(self.name, partition),
                expected=f"{'one' if some else 'all'} of {upstream.name}",
                found=f"{len(missing)} missing, first {describe(upstream.name, missing[0])}"
                + _why_missing(project, upstream.name, missing[0]),
                remedy=f"`{command(project, self.name)}` makes it first; or mend or remove the "
                "input it fails on.",
            )
        return [version for _, version in found if version is not None]

    def recipe(self, project: Project, partition: Partition, inputs: Inputs) -> Recipe:
        """What an output would be made from now, if it asked for all that is optional.

        Parameters
        ----------
        project : Project
            Where.
        partition : mapping
            Which output.
        inputs : dict
            As :meth:`find` found them.

        Returns
        -------
        Recipe
        """
        if (why := self.idle(project.settings)) is not None:
            return Recipe(self.name, self.code_version, {"nothing_to_do": {BECAUSE: why}})
        if self.left_out is not None and (why := self.left_out(project, partition)) is not None:
            return Recipe(self.name, self.code_version, {LEFT_OUT: {BECAUSE: why}})
        digests: dict[str, str] = {}
        for name, versions in inputs.items():
            if self.asks_for(name):
                there = [v for v in versions if v.excluded is None]
                shared = {d: partition[d] for d in self.upstream[name].dims if d in partition}
                digests[describe(name, shared)] = there[0].digest if there else NONE
            else:
                digests |= {v.name: v.digest for v in versions}
        digests |= self._missing(project, partition, inputs)
        if self.files is not None:
            for name, file in self.files(project, partition).items():
                digests[f"file {name}"] = project.digests.of(file)
        if self.beside is not None:
            # What was measured counts, too: maps go by the format of a run, which no array holds.
            found = self.beside(project)
            digests |= {v.name: digest_with_facts(v) for v in found}
        traced = any(self.asks_for(name) for name in inputs)
        settings = self._identity(project)
        if (why := _excluded_by(self, inputs)) is not None:
            settings[EXCLUDED] = {BECAUSE: why}  # all exclusions have one digest
        return Recipe(self.name, self.code_version, settings, digests, traced=traced)

    def _identity(self, project: Project) -> dict[str, Any]:
        """Settings that decide the content; those that became a partition are told by the key."""
        found: dict[str, Any] = {}
        for setting in self.settings:
            if callable(setting):
                found |= setting(project.settings)
            else:
                found[setting] = project.settings.identity(setting)
        for section in found.values():
            for dim in self.dims:
                section.pop(dim, None)
        return found

    def _missing(self, project: Project, partition: Partition, inputs: Inputs) -> dict[str, str]:
        """Partitions that are passed over, with why: when that changes, so does the output."""
        found: dict[str, str] = {}
        for upstream in self.inputs:
            lacking = self._takes_those_there_are(upstream.name)
            if not lacking or upstream.idle(project.settings) is not None:
                continue
            there = {v.name for v in inputs[upstream.name]}
            for key in self.wanted(project, partition, upstream):
                if (name := describe(upstream.name, key)) not in there:
                    failure = project.store.failure(upstream.name, key)
                    found[name] = f"{MISSING} {digest_of(failure)}"
        return found

    def recipe_like(self, today: Recipe, stored: Version) -> Recipe:
        """Today's recipe, with those optional inputs that a stored output asked for.

        A store from before optional inputs were traced names only those that were there. One that
        it does not name was not used if it was there already, and is new if it came later.
        """
        made = stored.recipe
        inputs = dict(today.inputs)
        for name in self.upstream:
            if not self.asks_for(name):
                continue
            for key in [k for k in inputs if k.partition("[")[0] == name]:
                if key in made.inputs:
                    continue
                came_later = not made.traced and self._came_later(key, stored)
                if inputs[key] == NONE or not came_later:
                    del inputs[key]
        return replace(today, inputs=inputs, traced=made.traced)

    def why_not_current(
        self, project: Project, today: Recipe, stored: Version, missing: Sequence[str]
    ) -> list[str]:
        """Say what a stored output lacks to be what would be made today; empty if nothing.

        Parameters
        ----------
        project : Project
            Where.
        today : Recipe
            What it would be made from now.
        stored : Version
            The output.
        missing : sequence of str
            Its delivered files that are gone.
        """
        if self.keep_when_inputs_change and self.idle(project.settings) and not stored.excluded:
            return []  # it has nothing to do now, and what it once did took long
        return [
            *differences(stored.recipe, self.recipe_like(today, stored)),
            *(f"file {name} is gone" for name in missing),
        ]

    def _came_later(self, key: str, stored: Version) -> bool:
        name, partition = described(key)
        pointer = stored.path.parents[1 + len(stored.partition)].joinpath(
            name, *(f"{d}={k}" for d, k in partition.items())
        )
        versions = sorted(p.name for p in pointer.glob("2*"))
        # Names of versions begin with the time that they were made at.
        return bool(versions) and versions[-1] > stored.path.name

    def definition(self) -> dg.AssetsDefinition:
        """Make the Dagster asset: it computes any set of its partitions in one run."""

        @dg.asset(
            key=asset_key(self.name),
            deps=[self._dep(upstream) for upstream in self.inputs],
            partitions_def=PARTITIONS[self.dims],
            group_name=group_in_order(self.group),
            metadata={"docs": _documentation(self.name)},
            description=inspect.getdoc(self.compute),
            code_version=self.code_version,
            owners=[OWNER],
            kinds={"zarr", "numpy"},
            pool=self.pool,
            io_manager_key="zarr",
            required_resource_keys={"project"},
            backfill_policy=dg.BackfillPolicy.single_run() if self.dims else None,
            tags={"cost": self.pool or "light"},
        )
        def run(context: dg.AssetExecutionContext, config: AssetConfig) -> Any:
            keys = context.partition_keys if context.has_partition_key_range else None
            if keys is None:
                keys = [context.partition_key] if context.has_partition_key else [None]
            project: Project = context.resources.project.open()
            make_sure_of(context.instance, project.folder)
            produced = produce(
                self,
                project,
                [to_partition(self.dims, key) for key in keys],
                force=config.force or self.name in context.run.tags.get(FORCE_TAG, "").split(","),
                run_id=context.run.run_id,
                log=context.log.info,
            )
            return dg.MaterializeResult(value=produced, metadata=RECORDED_ONE_BY_ONE)

        run.op.compute_fn.decorated_fn.stored_asset = self  # type: ignore[union-attr]
        return run

    def _dep(self, upstream: "StoredAsset") -> dg.AssetDep:
        mapping: dg.PartitionMapping | None = None
        if upstream.dims and set(upstream.dims) < set(self.dims):
            mapping = dg.MultiToSingleDimensionPartitionMapping(upstream.dims[0])
        elif self.takes_all_of(upstream):
            mapping = dg.AllPartitionMapping()
        return dg.AssetDep(asset_key(upstream.name), partition_mapping=mapping)


def _keys_for(project: Project, partition: Partition, dim: str) -> list[str]:
    """Keys of a dimension that go with an output: its own, or all; of a subject, its runs."""
    if dim in partition:
        return [partition[dim]] if partition[dim] in project.keys(dim) else []
    if dim == BOLD_RUN and SUBJECT in partition:
        return project.runs_by_subject.get(partition[SUBJECT], [])
    return project.keys(dim)


def stored(definition: dg.AssetsDefinition) -> StoredAsset:
    """What is behind the definition of an asset."""
    found: StoredAsset = definition.op.compute_fn.decorated_fn.stored_asset  # type: ignore[union-attr]
    return found


def stored_asset(
    *, inputs: Sequence[dg.AssetsDefinition] = (), **options: Any
) -> Callable[[Compute], dg.AssetsDefinition]:
    """Make an asset of a function; see :class:`StoredAsset` for the parameters."""

    def define(compute: Compute) -> dg.AssetsDefinition:
        return StoredAsset(compute, inputs=tuple(map(stored, inputs)), **options).definition()

    return define


def digest_with_facts(version: Version) -> str:
    """Digest of a version that is read beside the inputs: of its arrays and what was measured."""
    return digest_of([version.digest, version.facts])


# --- The loop over the partitions of a run ----------------------------------------------------


def produce(
    asset: StoredAsset,
    project: Project,
    partitions: Sequence[Partition],
    *,
    force: bool,
    run_id: str,
    log: Callable[[str], None],
) -> Iterator[Published]:
    """Make what is asked for, except what is current.

    An error in one partition does not stop the others; all errors are raised together at the end.

    Parameters
    ----------
    asset : StoredAsset
        Which asset.
    project : Project
        In which project.
    partitions : sequence of mappings
        Which partitions.
    force : bool
        Whether to compute even what is current.
    run_id : str
        Dagster's run, for the record.
    log : callable
        Takes a line for Dagster's log.

    Yields
    ------
    Published
        As each is finished or found current.

    Raises
    ------
    dagster.Failure
        At the end, with every error a user can mend.
    """
    errors: list[TrendError] = []
    batches: list[Pending] = []  # that wait to be computed side by side
    for batch in _batches(asset, partitions):
        pending: Pending = []
        for partition in batch:
            if len(partitions) > 1 and not _exists(asset, project, partition):
                log(f"{describe(asset.name, partition)}: its input is gone; what is stored stays")
                continue
            try:
                if not force and (version := imported_version(asset, project, partition)):
                    yield Published(version, version.recipe, None)
                    continue
                inputs = asset.find(project, partition)
                version = None if force else current_version(asset, project, partition, inputs)
            except TrendError as error:
                errors.append(_remember(project, asset, partition, error))
                continue
            if version is None:
                pending.append((partition, inputs))
            else:
                yield Published(version, version.recipe, None)
        if pending and _goes_elsewhere(asset, project.settings):
            batches.append(pending)
        elif pending:
            yield from _compute(asset, project, pending, errors, run_id=run_id, log=log)
    if batches:
        yield from _side_by_side(asset, project, batches, errors, run_id=run_id, log=log)
    if errors:
        raise dg.Failure(
            # One cause is one error: a misspelt name fails every partition in the same words.
            description="\n".join(dict.fromkeys(str(error) for error in errors)),
            metadata={"errors": len(errors), "of": len(partitions)},
            allow_retries=False,
        )


def _batches(asset: StoredAsset, partitions: Sequence[Partition]) -> Iterator[list[Partition]]:
    if asset.together is None:
        yield from ([partition] for partition in partitions)
        return

    def others(partition: Partition) -> tuple[str, ...]:
        return tuple(key for dim, key in partition.items() if dim != asset.together)

    ordered = sorted(partitions, key=others)
    for _, batch in itertools.groupby(ordered, key=others):
        yield list(batch)


def _exists(asset: StoredAsset, project: Project, partition: Partition) -> bool:
    return all(partition[dim] in project.keys(dim) for dim in asset.dims)


def current_version(
    asset: StoredAsset, project: Project, partition: Partition, inputs: Inputs
) -> Version | None:
    """Return the stored version if it is what would be made of today's inputs, else None."""
    version = project.store.latest(asset.name, partition)
    if version is None:
        return None
    today = asset.recipe(project, partition, inputs)
    if asset.why_not_current(project, today, version, missing_files(project, version)):
        return None
    restore_files(project, version)
    return version


def imported_version(asset: StoredAsset, project: Project, partition: Partition) -> Version | None:
    """Return the stored version if a user brought it: it stands whatever it would be made from."""
    version = project.store.latest(asset.name, partition)
    return version if version is not None and version.imported else None


def _goes_elsewhere(asset: StoredAsset, settings: Settings) -> bool:
    """Tell whether batches are computed by other processes than that of the run."""
    if asset.idle(settings) is not None:
        return False
    if settings.compute.engine == "dask":
        return bool(asset.dims)
    return asset.worker_bytes is not None and settings.compute.workers > 1


def _side_by_side(
    asset: StoredAsset,
    project: Project,
    batches: Sequence[Pending],
    errors: list[TrendError],
    *,
    run_id: str,
    log: Callable[[str], None],
) -> Iterator[Published]:
    """Compute batches elsewhere; each publishes what it makes by itself."""
    elsewhere = Project(project.folder, project.settings)
    tasks = [
        partial(
            _compute_elsewhere,
            asset.compute.__module__,
            asset.name,
            elsewhere,
            [p for p, _ in b],
            run_id,
        )
        for b in batches
    ]
    try:
        if project.settings.compute.dask is not None and project.settings.compute.engine == "dask":
            finished = on_dask(tasks, project.settings.compute.dask, project.folder)
        else:
            finished = _in_processes(asset, project, batches, tasks, log)
        for done, (_, (published, failed)) in enumerate(finished, 1):
            errors += failed
            yield from published
            PROGRESS.get()(asset.name, f"{done} of {len(tasks)} batches", done / len(tasks))
    except (SettingsError, ServerError, FactorizationError, RunDiedError) as error:
        errors.append(_fail_rest(asset, project, [one for b in batches for one in b], error))


def _in_processes(
    asset: StoredAsset,
    project: Project,
    batches: Sequence[Pending],
    tasks: Sequence[Callable[[], T]],
    log: Callable[[str], None],
) -> Iterator[tuple[int, T]]:
    """Do tasks in processes of this machine, as many as fit its cores and the memory."""
    from trend_dagster.science.parcellation.fanout import count_workers, side_by_side

    compute, cores = project.settings.compute, usable_cores()

    def needs(n_threads: int) -> list[int]:
        assert asset.worker_bytes is not None
        return [asset.worker_bytes(project.settings, b[0][1], n_threads) for b in batches]

    n_tasks = min(len(batches), compute.workers)
    n_workers = count_workers(needs, n_tasks, cores, memory_for(project.settings))
    most = max(needs(cores // n_workers)) / 2**30
    log(f"{n_workers} workers of {cores // n_workers} cores, at most {most:.2g} GiB each")
    yield from side_by_side(tasks, n_workers, cores)


def _compute_elsewhere(
    module: str, name: str, project: Project, partitions: Sequence[Partition], run_id: str
) -> tuple[list[Published], list[TrendError]]:
    """Compute a batch in this process, and return what there is to be recorded of it."""
    if not project.folder.is_dir():
        raise InputError(
            f"project {project.folder} on {socket.gethostname()}",
            expected="its folder under the same path on every machine that computes for it",
            found="no such folder",
            remedy="Mount it there, or set compute.engine to local.",
        )
    asset = stored(getattr(importlib.import_module(module), name))
    errors: list[TrendError] = []
    pending = [(partition, asset.find(project, partition)) for partition in partitions]
    published = [
        # The numbers are in the store; what the page shows of them is small.
        replace(
            p,
            version=replace(p.version),
            result=None if p.result is None else replace(p.result, arrays={}),
        )
        for p in _compute(asset, project, pending, errors, run_id=run_id, log=lambda line: None)
    ]
    return published, errors


def _compute(
    asset: StoredAsset,
    project: Project,
    pending: Pending,
    errors: list[TrendError],
    *,
    run_id: str,
    log: Callable[[str], None],
) -> Iterator[Published]:
    """Compute a batch whose partitions share their inputs."""
    partition, inputs = pending[0]
    try:
        _check_room(asset, project, partition, inputs)
        arguments = _arguments(asset, inputs)
        with _tasks(asset, project, pending, log) as tasks:
            started = time.perf_counter()
            for task, result in _results(asset, list(tasks.values()), inputs, arguments):
                if isinstance(result, TrendError):
                    errors.append(_remember(project, asset, task.partition, result))
                    continue
                seconds = time.perf_counter() - started
                recipe = _asked_for(task.recipe, arguments)
                version = _publish(task, result, recipe, run_id=run_id, seconds=seconds)
                yield Published(version, version.recipe, result, seconds)
                started = time.perf_counter()
    except Exception as error:
        known = error if isinstance(error, TrendError) else _damage(inputs)
        if known is None:
            raise
        errors.append(_fail_rest(asset, project, pending, known))


def _fail_rest(
    asset: StoredAsset, project: Project, pending: Pending, error: TrendError
) -> TrendError:
    """Remember an error for all outputs of a batch but those that were published before it."""
    for partition, found in pending:
        with suppress(StoreError):
            if current_version(asset, project, partition, found) is not None:
                continue
        _remember(project, asset, partition, error)
    return error


def memory_for(settings: Settings) -> float:
    """GiB of memory for one step, or for all workers together."""
    return settings.compute.memory_gib or memory_of_machine()


def _check_room(asset: StoredAsset, project: Project, partition: Partition, inputs: Inputs) -> None:
    """Refuse what would die of memory or a full disk in the middle."""
    settings, name = project.settings, describe(asset.name, partition)
    if asset.idle(settings) is not None or _excluded_by(asset, inputs) is not None:
        return
    if (memory := asset.worker_bytes or asset.memory_bytes) is not None:
        check_memory(name, memory(settings, inputs, usable_cores()), memory_for(settings))
    if asset.disk_bytes is not None:
        scratch = project.store.scratch(
            asset.name, partition, asset.recipe(project, partition, inputs)
        )
        # What an interrupted attempt has written is taken up, and takes no room once more.
        held = sum(f.stat().st_blocks * 512 for f in scratch.rglob("*") if f.is_file())
        needed = asset.disk_bytes(settings, inputs, usable_cores()) - held
        check_disk(name, needed, project.store.root)


def _results(
    asset: StoredAsset,
    tasks: list[Task],
    inputs: Inputs,
    arguments: Mapping[str, Any],
) -> Iterator[tuple[Task, Result | TrendError]]:
    """Compute the tasks of a batch one by one; those made from an exclusion are excluded."""
    first = tasks[0]
    reason = asset.idle(first.settings) or _excluded_by(asset, inputs)
    if asset.left_out is not None:
        reason = reason or asset.left_out(first.project, first.partition)
    if reason is not None:
        yield from ((task, Result(excluded=reason)) for task in tasks)
    elif asset.together is not None:
        yield from asset.compute(tasks, **arguments)
    else:
        yield from ((task, asset.compute(task, **arguments)) for task in tasks)


def _arguments(asset: StoredAsset, inputs: Inputs) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name, versions in inputs.items():
        usable = [v for v in versions if v.excluded is None]
        if asset.asks_for(name):
            arguments[name] = Optional(usable[0] if usable else None)
        elif asset.takes_all_of(asset.upstream[name]):
            arguments[name] = Available(usable)
        else:
            (arguments[name],) = versions
    return arguments


def _excluded_by(asset: StoredAsset, inputs: Inputs) -> str | None:
    """Why an output is excluded: what it is made from is, or there is nothing of it at all."""
    for name, versions in inputs.items():
        if asset.may_lack(name):
            continue
        if not versions:
            return f"there are no outputs of {name} to make it from"
        if not asset.takes_all_of(asset.upstream[name]) and versions[0].excluded is not None:
            return versions[0].excluded
    return None


def _asked_for(recipe: Recipe, arguments: Mapping[str, Any]) -> Recipe:
    """Leave out of a recipe the optional inputs that the computation did not ask for."""
    unused = {n for n, a in arguments.items() if isinstance(a, Optional) and not a.asked_for}
    inputs = {k: d for k, d in recipe.inputs.items() if k.partition("[")[0] not in unused}
    return replace(recipe, inputs=inputs)


def _damage(inputs: Inputs) -> TrendError | None:
    """Name the damaged store among the inputs of what failed, whatever it failed with."""
    for versions in inputs.values():
        for version in versions:
            try:
                version.verify()
            except TrendError as error:
                return error
    return None


def _remember(
    project: Project, asset: StoredAsset, partition: Partition, error: TrendError
) -> TrendError:
    project.store.record_failure(asset.name, partition, str(error))
    return error


def command(project: Project, asset: str) -> str:
    """What makes an asset with all that it is made from, as one types it anywhere."""
    return f"trend run {shlex.quote(str(project.folder))} --select +{asset}"


def _why_missing(project: Project, asset: str, partition: Partition) -> str:
    reason = project.store.failure(asset, partition)
    return f" ({reason})" if reason else ""


# --- Publishing -------------------------------------------------------------------------------


@contextmanager
def _tasks(
    asset: StoredAsset, project: Project, pending: Pending, log: Callable[[str], None]
) -> Iterator[dict[str, Task]]:
    """Open a draft for each pending partition; what is not published is thrown away."""
    store, name = project.store, asset.name
    with ExitStack() as drafts:
        yield {
            describe(name, partition): Task(
                project,
                partition,
                drafts.enter_context(store.draft(name, partition)),
                asset.recipe(project, partition, inputs),
                log,
            )
            for partition, inputs in pending
        }


def _publish(task: Task, result: Result, recipe: Recipe, *, run_id: str, seconds: float) -> Version:
    for name, values in result.arrays.items():
        task.draft.write(name, values)
    files = dict(result.files)
    for name, content in result.attachments.items():
        task.draft.attach(name, content)
        files[_deliver_as(task.draft.asset, task.partition, name)] = content
    _deliver(task, files)
    facts = dict(result.facts)
    if files:
        facts["files"] = {name: digest_of_file(task.project.outputs / name) for name in files}
    version = task.project.store.publish(
        task.draft,
        task.partition,
        recipe,
        facts=facts,
        excluded=result.excluded,
        run={
            "run_id": run_id,
            "seconds": round(seconds, 3),
            "peak_memory_mib": _peak_memory_mib(),
        },
    )
    task.forget()
    return version


def publish_alone(
    asset: StoredAsset, project: Project, partition: Partition, result: Result, recipe: Recipe
) -> Version:
    """Publish an output that no run has computed.

    Parameters
    ----------
    asset : StoredAsset
        Which asset.
    project : Project
        Where to.
    partition : mapping
        Which partition.
    result : Result
        All of its arrays.
    recipe : Recipe
        Where it comes from.

    Returns
    -------
    Version
        The new current version.
    """
    store = project.store
    with store.draft(asset.name, partition) as draft:
        task = Task(project, partition, draft, recipe, lambda line: None)
        return _publish(task, result, recipe, run_id="", seconds=0.0)


def under_way(project: Project, asset: StoredAsset, partition: Partition) -> str | None:
    """Say how far an output is that is being made, or was when it was stopped.

    Parameters
    ----------
    project : Project
        Where.
    asset : StoredAsset
        Which asset.
    partition : mapping
        Which output.

    Returns
    -------
    str or None
        A clause; None where nothing was begun.
    """
    files = project.store.folder(asset.name, partition).glob(f".scratch-*/{UNDER_WAY}")
    found = []
    for file in files:
        with suppress(OSError, ValueError):  # finished since, or damaged
            found.append(json.loads(file.read_bytes()))
    if not found:
        return None
    last = max(found, key=lambda told: told["at"])
    at = time.strftime("%d %b %H:%M:%S", time.localtime(last["at"]))
    return f"{last['doing']}, {last['share']:.0%} done ({at})"


def removed(project: Project, asset: StoredAsset) -> list[Partition]:
    """Find stored outputs whose input file is no longer there.

    Parameters
    ----------
    project : Project
        Where.
    asset : StoredAsset
        Which asset.

    Returns
    -------
    list of mappings
        Their partitions.
    """
    dims = [dim for dim in asset.dims if dim != N_COMPONENTS]
    today = {dim: _keys(project, dim) for dim in dims}
    return [
        partition
        for partition in project.store.stored(asset.name, asset.dims)
        if any(partition[dim] not in today[dim] for dim in dims)
    ]


def _keys(project: Project, dim: str) -> set[str]:
    try:
        return set(project.keys(dim))
    except InputError:  # the folder itself is gone, or empty
        return set()


def missing_files(project: Project, version: Version) -> list[str]:
    """Name the delivered files of a version that are gone; a file somebody edited is theirs.

    What the version itself holds is not missing: it is given back (:func:`restore_files`).
    """
    return [name for name in _gone(project, version) if _attached(version, name) is None]


def restore_files(project: Project, version: Version) -> None:
    """Deliver once more what is gone and the version itself holds; nothing is computed."""
    for name in _gone(project, version):
        if (held := _attached(version, name)) is not None:
            replace_file(project.outputs / name, held.read_bytes())


def _gone(project: Project, version: Version) -> list[str]:
    files: Mapping[str, str] = version.facts.get("files", {})
    return [name for name in files if not (project.outputs / name).is_file()]


def _attached(version: Version, delivered: str) -> Path | None:
    """File of a version that is delivered under a name; the inverse of :func:`_deliver_as`."""
    held = version.path / Path(delivered).name
    same = delivered == _deliver_as(version.asset, version.partition, held.name)
    return held if same and held.is_file() else None


def _deliver_as(asset: str, partition: Partition, attachment: str) -> str:
    return "/".join([asset, *partition.values(), attachment])


def _deliver(task: Task, files: Mapping[str, bytes]) -> None:
    """Write the files for people, and take away those of the version before that are no more.

    Folders that are empty then go as well, but for the uppermost, which others may be about to
    write to.
    """
    outputs = task.project.outputs
    before = None
    with suppress(StoreError):  # damaged: what it had delivered is not known
        before = task.project.store.latest(task.draft.asset, task.partition)
    old: Mapping[str, str] = {} if before is None else before.facts.get("files", {})
    for name, content in files.items():
        try:
            replace_file(outputs / name, content)
        except OSError as error:
            raise cannot_write(f"file {outputs / name}", error) from error
    for name, digest in old.items():
        path = outputs / name
        if name not in files and path.is_file() and digest_of_file(path) == digest:
            path.unlink()
            with suppress(OSError):  # not empty
                for folder in Path(name).parents[:-2]:
                    (outputs / folder).rmdir()


def _peak_memory_mib() -> int:
    """Most memory that this process ever held: an upper bound on what the output needed."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))
