"""The one mechanism behind every asset: find inputs, skip what is current, compute, publish.

What belongs here: how an asset's partitions depend on another's, what the recipe of an output is,
and the loop over the partitions of a run. What does not: any single asset (``assets``), and how
outputs are recorded (``io_managers``).

An asset is a function of a :class:`Cell` and of the assets that its other parameters name. The
rule of dependence is one for all: a partition depends on the upstream partition that shares its
dimensions, and on all partitions along the dimensions that it does not have.

See https://docs.dagster.io/guides/build/assets.
"""

import inspect
import itertools
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import AssetExecutionContext
from pydantic import Field

from trend_dagster.errors import MissingUpstreamError, SettingsError, StoreError, TrendError
from trend_dagster.orchestration.io_managers import RECORDED_ONE_BY_ONE, Published, Result
from trend_dagster.orchestration.partitions import partitions_of, to_partition
from trend_dagster.project.folder import BOLD_RUN, Project
from trend_dagster.project.settings import Settings, made_encodings, nearest
from trend_dagster.science.cores import usable_cores
from trend_dagster.science.parcellation.fanout import count_workers, side_by_side
from trend_dagster.storage.provenance import Recipe, digest_of, digest_of_file, digest_of_input
from trend_dagster.storage.stores import Draft, Partition, Version, describe, replace_file

Progress = Callable[[str, str, float], None]
"""Takes the name of an output, what happens to it, and the share done from 0 to 1."""

PROGRESS: ContextVar[Progress] = ContextVar("progress", default=lambda name, doing, share: None)
"""Where progress is shown besides Dagster's log; the command line puts a progress bar here."""

OWNER = "team:neuroimaging"

NO_BOLD = "there are no BOLD runs: the average correlation was imported"


class AssetConfig(dg.Config):
    """What can be said of a run that makes one asset."""

    force: bool = Field(
        default=False,
        description="Compute even what is current. Without it an output whose inputs, settings and "
        "code are unchanged is kept.",
    )


@dataclass
class Cell:
    """One partition at work.

    Parameters
    ----------
    project : Project
        The project, with its settings.
    partition : mapping of str to str
        Key by dimension.
    draft : Draft
        Where large arrays are written piece by piece.
    scratch : Path
        Folder for unfinished work; the next attempt at the same recipe finds it again.
    log : callable
        Takes a line for Dagster's log.
    """

    project: Project
    partition: Partition
    draft: Draft
    scratch: Path
    log: Callable[[str], None]

    @property
    def name(self) -> str:
        """Name as messages give it."""
        return describe(self.draft.asset, self.partition)

    @property
    def settings(self) -> Settings:
        """Settings of the project."""
        return self.project.settings

    def progress(self, doing: str, share: float) -> None:
        """Show how far this cell is.

        Parameters
        ----------
        doing : str
            A few words.
        share : float
            From 0 to 1.
        """
        PROGRESS.get()(self.name, doing, share)


Compute = Callable[..., Any]
FilesOf = Callable[[Project, Partition], Mapping[str, Path]]
Unless = Callable[[Settings, Partition], bool]
Derived = Callable[[Settings], Mapping[str, Any]]
WorkerBytes = Callable[[Settings, Mapping[str, list[Version]], int], int]
Pending = list[tuple[Partition, Recipe, dict[str, list[Version]]]]


@dataclass(frozen=True)
class StoredAsset:
    """An asset whose outputs live in the store.

    Parameters
    ----------
    compute : callable
        Takes a cell and, by name, what it is made from: one ``Version`` where partitions
        correspond, a list of them (excluded ones left out) where it takes all, None where the
        settings say that it is not needed. Returns a ``Result``. With ``together`` it takes a
        list of cells and yields ``(cell, Result)`` as each is finished, or ``(cell, TrendError)``
        where only that cell cannot be made.
    dims : tuple of str
        Dimensions of its partitions.
    group : str
        Group in the UI.
    settings : tuple of str
        Sections of the settings that decide its content.
    derived : callable, optional
        Takes the settings; returns what of other sections decides its content, by name.
    code_version : str
        Raised when a change of code changes results.
    files : callable, optional
        Takes the project and a partition, returns the input files that this asset reads, by name.
    together : str, optional
        Dimension whose partitions are computed in one go.
    unless : mapping of str to callable
        Upstream assets that some partitions are made without, and when: the callable takes the
        settings and a partition.
    incomplete : frozenset of str
        Upstream assets of which partitions may be missing; they are then passed over.
    keep_when_inputs_change : bool
        Made anew only when asked or when its settings change (a trained model).
    pool : str, optional
        Concurrency pool.
    worker_bytes : callable, optional
        Takes settings, the inputs of a batch and a number of threads; returns the most memory
        that a process needs for the batch. With it, batches may run side by side
        (``compute.workers``).
    """

    compute: Compute
    dims: tuple[str, ...]
    group: str
    settings: tuple[str, ...]
    derived: Derived | None
    code_version: str
    files: FilesOf | None
    together: str | None
    unless: Mapping[str, Unless]
    incomplete: frozenset[str]
    keep_when_inputs_change: bool
    pool: str | None
    worker_bytes: WorkerBytes | None

    @property
    def name(self) -> str:
        """Name of the asset."""
        return self.compute.__name__

    @property
    def upstream(self) -> tuple[str, ...]:
        """Names of the assets that it is made from."""
        return tuple(inspect.signature(self.compute).parameters)[1:]

    def partitions(self, project: Project) -> list[Partition]:
        """All partitions that it has today."""
        keys = [project.keys(dim) for dim in self.dims]
        return [dict(zip(self.dims, k, strict=True)) for k in itertools.product(*keys)]

    def recipe(
        self, project: Project, partition: Partition, inputs: Mapping[str, list[Version]]
    ) -> Recipe:
        """What an output would be made from now."""
        digests = {describe(v.asset, v.partition): v.digest for vs in inputs.values() for v in vs}
        digests |= self._missing(project, inputs)
        if self.files is not None:
            for name, file in self.files(project, partition).items():
                digests[f"file {name}"] = digest_of_input(file)
        settings = {name: project.settings.identity(name) for name in self.settings}
        if self.derived is not None and (derived := self.derived(project.settings)):
            settings["derived"] = dict(derived)
        for dim in self.dims:  # a setting that became a partition is told by the key
            for section in settings.values():
                section.pop(dim, None)
        return Recipe(self.name, self.code_version, settings, digests)

    def _missing(self, project: Project, inputs: Mapping[str, list[Version]]) -> dict[str, str]:
        """Partitions that are passed over, with why: when that changes, so does the output."""
        found = {describe(v.asset, v.partition) for vs in inputs.values() for v in vs}
        return {
            name: f"missing: {digest_of(project.store.failure(upstream, partition))}"
            for upstream in self.incomplete & inputs.keys()
            for partition in STORED_ASSETS[upstream].partitions(project)
            if (name := describe(upstream, partition)) not in found
        }

    def inputs(self, project: Project, partition: Partition) -> dict[str, list[Version]]:
        """Find the current versions of what an output is made from.

        Raises
        ------
        MissingUpstreamError
            If one of them does not exist.
        """
        return {
            name: self._versions(project, STORED_ASSETS[name], partition)
            for name in self.upstream
            if self.takes(name, project.settings, partition)
        }

    def takes(self, upstream: str, settings: Settings, partition: Partition) -> bool:
        """Tell whether a partition is made from an upstream asset at all."""
        without = self.unless.get(upstream)
        return without is None or not without(settings, partition)

    def _versions(
        self, project: Project, upstream: "StoredAsset", partition: Partition
    ) -> list[Version]:
        shared = {dim: partition[dim] for dim in upstream.dims if dim in partition}
        wanted = [p for p in upstream.partitions(project) if shared.items() <= p.items()]
        if not wanted and shared:  # its file is gone; what is stored may still be used
            wanted = [shared]
        found = [(p, project.store.latest(upstream.name, p)) for p in wanted]
        missing = [p for p, version in found if version is None]
        if missing and upstream.name not in self.incomplete:
            raise MissingUpstreamError(
                describe(self.name, partition),
                expected=f"all of {upstream.name}",
                found=f"{len(missing)} missing, first {describe(upstream.name, missing[0])}"
                + _why_missing(project, upstream.name, missing[0]),
                remedy=f"Materialize {upstream.name} first (`trend run` makes all that is needed), "
                "or mend or remove the input it fails on.",
            )
        return [version for _, version in found if version is not None]

    def takes_all_of(self, upstream: "StoredAsset") -> bool:
        """Tell whether a partition depends on several of upstream's."""
        return not set(upstream.dims) <= set(self.dims)

    def to_dagster(self, settings: Settings) -> dg.AssetsDefinition:
        """Make the Dagster asset.

        Parameters
        ----------
        settings : Settings
            Of the project: they decide the keys of n_components, and which upstream assets are
            needed at all. Dagster warns of a dependency that was never materialized, so one that
            no partition needs is none.

        Returns
        -------
        AssetsDefinition
            Computes any set of its partitions in one run.
        """

        @dg.asset(
            name=self.name,
            deps=[self._dep(STORED_ASSETS[name]) for name in self._needed_by_any(settings)],
            partitions_def=partitions_of(self.dims, [str(k) for k in settings.sweep.n_components]),
            group_name=self.group,
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
        def stored_asset(
            context: AssetExecutionContext, config: AssetConfig
        ) -> dg.MaterializeResult[Any]:
            keys = context.partition_keys if context.has_partition_key_range else None
            if keys is None:
                keys = [context.partition_key] if context.has_partition_key else [None]
            partitions = [to_partition(self.dims, key) for key in keys]
            produced = produce(
                self,
                context.resources.project.open(),
                partitions,
                force=config.force,
                run_id=context.run.run_id,
                log=context.log.info,
            )
            return dg.MaterializeResult(value=produced, metadata=RECORDED_ONE_BY_ONE)

        return stored_asset

    def _needed_by_any(self, settings: Settings) -> list[str]:
        """Name the upstream assets that a label file or another spatial encoding needs."""
        kinds = ("any label file", *made_encodings(settings))
        partitions = [dict.fromkeys(self.dims, kind) for kind in kinds]
        return [n for n in self.upstream if any(self.takes(n, settings, p) for p in partitions)]

    def _dep(self, upstream: "StoredAsset") -> dg.AssetDep:
        mapping: dg.PartitionMapping | None = None
        if upstream.dims and set(upstream.dims) < set(self.dims):
            mapping = dg.MultiToSingleDimensionPartitionMapping(upstream.dims[0])
        elif self.takes_all_of(upstream):
            mapping = dg.AllPartitionMapping()
        return dg.AssetDep(upstream.name, partition_mapping=mapping)


STORED_ASSETS: dict[str, StoredAsset] = {}
"""Every asset by name, in the order of definition, which is an order of computation."""


def find_asset(name: str) -> StoredAsset:
    """Find an asset by name.

    Raises
    ------
    SettingsError
        If there is none; the nearest is named.
    """
    if name not in STORED_ASSETS:
        raise SettingsError(
            f"asset {name!r}",
            expected=f"one of {', '.join(STORED_ASSETS)}",
            found="no such asset" + nearest(name, STORED_ASSETS),
            remedy="Correct the name.",
        )
    return STORED_ASSETS[name]


def stored_asset(
    *,
    group: str,
    dims: tuple[str, ...] = (),
    settings: tuple[str, ...] = (),
    derived: Derived | None = None,
    code_version: str = "1",
    files: FilesOf | None = None,
    together: str | None = None,
    unless: Mapping[str, Unless] | None = None,
    incomplete: frozenset[str] = frozenset(),
    keep_when_inputs_change: bool = False,
    pool: str | None = None,
    worker_bytes: WorkerBytes | None = None,
) -> Callable[[Compute], StoredAsset]:
    """Make an asset of a function; see :class:`StoredAsset` for the parameters."""

    def register(compute: Compute) -> StoredAsset:
        asset = StoredAsset(
            compute=compute,
            dims=dims,
            group=group,
            settings=settings,
            derived=derived,
            code_version=code_version,
            files=files,
            together=together,
            unless=unless or {},
            incomplete=incomplete,
            keep_when_inputs_change=keep_when_inputs_change,
            pool=pool,
            worker_bytes=worker_bytes,
        )
        STORED_ASSETS[asset.name] = asset
        return asset

    return register


def produce(
    asset: StoredAsset,
    project: Project,
    partitions: Sequence[Partition],
    *,
    force: bool,
    run_id: str,
    log: Callable[[str], None],
) -> Iterator[Published]:
    """Compute and publish partitions one by one, leaving out what is current.

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
                inputs = asset.inputs(project, partition)
                recipe = asset.recipe(project, partition, inputs)
                version = None if force else current_version(asset, project, partition, recipe)
            except TrendError as error:
                errors.append(_remember(project, asset, partition, error))
                continue
            if version is None:
                pending.append((partition, recipe, inputs))
            else:
                yield Published(version, recipe, None)
        if pending and asset.worker_bytes is not None and project.settings.compute.workers > 1:
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


def _side_by_side(
    asset: StoredAsset,
    project: Project,
    batches: Sequence[Pending],
    errors: list[TrendError],
    *,
    run_id: str,
    log: Callable[[str], None],
) -> Iterator[Published]:
    """Compute batches in processes of their own; each publishes what it makes by itself."""
    compute, cores = project.settings.compute, usable_cores()

    def needs(n_threads: int) -> list[int]:
        assert asset.worker_bytes is not None
        return [asset.worker_bytes(project.settings, b[0][2], n_threads) for b in batches]

    try:
        n_tasks = min(len(batches), compute.workers)
        n_workers = count_workers(needs, n_tasks, cores, compute.memory_gib)
    except TrendError as error:
        errors += [_remember(project, asset, p, error) for b in batches for p, _, _ in b][:1]
        return
    most = max(needs(cores // n_workers)) / 2**30
    log(f"{n_workers} workers of {cores // n_workers} cores, at most {most:.2g} GiB each")
    elsewhere = Project(project.folder, project.settings)
    tasks = [
        partial(_compute_elsewhere, asset.name, elsewhere, [p for p, _, _ in b], run_id)
        for b in batches
    ]
    for done, (_, (published, failed)) in enumerate(side_by_side(tasks, n_workers, cores), 1):
        errors += failed
        yield from published
        PROGRESS.get()(asset.name, f"{done} of {len(tasks)} batches", done / len(tasks))


def _compute_elsewhere(
    name: str, project: Project, partitions: Sequence[Partition], run_id: str
) -> tuple[list[Published], list[TrendError]]:
    """Compute a batch in this process, and return what there is to be recorded of it."""
    import trend_dagster.orchestration.assets  # noqa: F401 - defines the assets

    asset, errors = STORED_ASSETS[name], list[TrendError]()
    pending: Pending = []
    for partition in partitions:
        inputs = asset.inputs(project, partition)
        pending.append((partition, asset.recipe(project, partition, inputs), inputs))
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


def _exists(asset: StoredAsset, project: Project, partition: Partition) -> bool:
    return all(partition[dim] in project.keys(dim) for dim in asset.dims)


def current_version(
    asset: StoredAsset, project: Project, partition: Partition, recipe: Recipe
) -> Version | None:
    """Return the stored version if it is what the recipe would make, else None."""
    version = project.store.latest(asset.name, partition)
    if version is None or version.recipe != recipe or missing_files(project, version):
        return None
    restore_files(project, version)
    return version


def imported_version(asset: StoredAsset, project: Project, partition: Partition) -> Version | None:
    """Return the stored version if a user brought it: it stands whatever it would be made from."""
    version = project.store.latest(asset.name, partition)
    return version if version is not None and version.imported else None


def missing_files(project: Project, version: Version) -> list[str]:
    """Name the delivered files of a version that are gone; a file somebody edited is theirs.

    What the version itself holds is not missing: it is given back (:func:`restore_files`).
    """
    return [name for name in _gone(project, version) if _attached(version, name) is None]


def restore_files(project: Project, version: Version) -> None:
    """Deliver once more what is gone and the version itself holds.

    Parameters
    ----------
    project : Project
        Whose outputs.
    version : Version
        A stored version; nothing is computed.
    """
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


def _batches(asset: StoredAsset, partitions: Sequence[Partition]) -> Iterator[list[Partition]]:
    if asset.together is None:
        yield from ([partition] for partition in partitions)
        return

    def others(partition: Partition) -> tuple[str, ...]:
        return tuple(key for dim, key in partition.items() if dim != asset.together)

    ordered = sorted(partitions, key=others)
    for _, batch in itertools.groupby(ordered, key=others):
        yield list(batch)


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
    _, _, inputs = pending[0]
    recipes = {describe(asset.name, partition): recipe for partition, recipe, _ in pending}
    try:
        with _cells(asset, project, pending, log) as cells:
            started = time.perf_counter()
            for cell, result in _results(asset, cells, inputs):
                if isinstance(result, TrendError):
                    errors.append(_remember(project, asset, cell.partition, result))
                    continue
                seconds = time.perf_counter() - started
                recipe = recipes[cell.name]
                version = _publish(cell, result, recipe, run_id=run_id, seconds=seconds)
                yield Published(version, recipe, result, seconds)
                started = time.perf_counter()
    except Exception as error:
        known = error if isinstance(error, TrendError) else _damage(inputs)
        if known is None:
            raise
        for partition, recipe, _ in pending:
            with suppress(StoreError):
                if current_version(asset, project, partition, recipe) is not None:
                    continue
            _remember(project, asset, partition, known)
        errors.append(known)


def _results(
    asset: StoredAsset, cells: list[Cell], inputs: Mapping[str, list[Version]]
) -> Iterator[tuple[Cell, Result | TrendError]]:
    """Compute the cells of a batch one by one; those made from an exclusion are excluded."""
    reason = _excluded_by(asset, inputs)
    if reason is not None:
        yield from ((cell, Result(excluded=reason)) for cell in cells)
    elif asset.together is not None:
        yield from asset.compute(cells, **_arguments(asset, inputs))
    else:
        yield from ((c, asset.compute(c, **_arguments(asset, inputs))) for c in cells)


def _damage(inputs: Mapping[str, list[Version]]) -> TrendError | None:
    """Name the damaged store among the inputs of what failed, whatever it failed with."""
    for versions in inputs.values():
        for version in versions:
            try:
                version.verify()
            except TrendError as error:
                return error
    return None


@contextmanager
def _cells(
    asset: StoredAsset,
    project: Project,
    pending: Sequence[tuple[Partition, Recipe, object]],
    log: Callable[[str], None],
) -> Iterator[list[Cell]]:
    """Open a draft for each pending partition; what is not published is thrown away."""
    store, name = project.store, asset.name
    with ExitStack() as drafts:
        yield [
            Cell(
                project,
                partition,
                drafts.enter_context(store.draft(name, partition)),
                store.scratch(name, partition, recipe),
                log,
            )
            for partition, recipe, _ in pending
        ]


def _arguments(asset: StoredAsset, inputs: Mapping[str, list[Version]]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name in asset.upstream:
        if name not in inputs:
            arguments[name] = None
        elif asset.takes_all_of(STORED_ASSETS[name]):
            arguments[name] = [v for v in inputs[name] if v.excluded is None]
        else:
            (arguments[name],) = inputs[name]
    return arguments


def _excluded_by(asset: StoredAsset, inputs: Mapping[str, list[Version]]) -> str | None:
    """Why an output is excluded: what it is made from is, or there are no BOLD runs at all."""
    for name, versions in inputs.items():
        needs_runs = STORED_ASSETS[name].dims == (BOLD_RUN,) and name not in asset.incomplete
        if not versions and needs_runs:
            return NO_BOLD
        if not asset.takes_all_of(STORED_ASSETS[name]):
            for version in versions:
                if version.excluded is not None:
                    return version.excluded
    return None


def _publish(cell: Cell, result: Result, recipe: Recipe, *, run_id: str, seconds: float) -> Version:
    for name, values in result.arrays.items():
        cell.draft.write(name, values)
    files = dict(result.files)
    for name, content in result.attachments.items():
        cell.draft.attach(name, content)
        files[_deliver_as(cell.draft.asset, cell.partition, name)] = content
    _deliver(cell, files)
    facts = dict(result.facts)
    if files:
        facts["files"] = {name: digest_of_file(cell.project.outputs / name) for name in files}
    return cell.project.store.publish(
        cell.draft,
        cell.partition,
        recipe,
        facts=facts,
        excluded=result.excluded,
        run={
            "run_id": run_id,
            "seconds": round(seconds, 3),
            "peak_memory_mib": _peak_memory_mib(),
        },
    )


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
    with _cells(asset, project, [(partition, recipe, None)], lambda line: None) as (cell,):
        return _publish(cell, result, recipe, run_id="", seconds=0.0)


def _deliver(cell: Cell, files: Mapping[str, bytes]) -> None:
    """Write the files for people, and take away those of the version before that are no more."""
    outputs = cell.project.outputs
    before = None
    with suppress(StoreError):  # damaged: nobody knows what it had delivered
        before = cell.project.store.latest(cell.draft.asset, cell.partition)
    old: Mapping[str, str] = {} if before is None else before.facts.get("files", {})
    for name, content in files.items():
        try:
            replace_file(outputs / name, content)
        except OSError as error:
            raise StoreError(
                f"file {outputs / name}",
                expected="a folder that can be written to, on a disk with room",
                found=error.strerror or str(error),
                remedy="Free space or mend the permissions, then run again.",
            ) from error
    for name, digest in old.items():
        path = outputs / name
        if name not in files and path.is_file() and digest_of_file(path) == digest:
            path.unlink()


def _peak_memory_mib() -> int:
    """Most memory that this process ever held: an upper bound on what the output needed."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def _remember(
    project: Project, asset: StoredAsset, partition: Partition, error: TrendError
) -> TrendError:
    project.store.record_failure(asset.name, partition, str(error))
    return error


def _why_missing(project: Project, asset: str, partition: Partition) -> str:
    reason = project.store.failure(asset, partition)
    return f" ({reason})" if reason else ""
