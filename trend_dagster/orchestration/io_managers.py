"""How outputs get from assets into the store and back.

What belongs here: publishing what an asset produces, recording it with Dagster, and opening it for
whoever asks Dagster for a value. What does not: data processing, and the layout on disk
(``storage.stores``).

See https://docs.dagster.io/guides/build/io-managers.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from numpy.typing import NDArray

from trend_dagster.errors import MissingUpstreamError
from trend_dagster.orchestration.partitions import DIMENSIONS, asset_key, to_key, to_partition
from trend_dagster.orchestration.private import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_DATA_VERSION,
    NULL_EVENT_POINTER,
    PLANNED_TAG,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from trend_dagster.orchestration.recorded_pictures import keep_pictures
from trend_dagster.orchestration.resources import ProjectResource
from trend_dagster.storage.provenance import Recipe, digest_of
from trend_dagster.storage.stores import Partition, Version, describe

NONE = "none"
"""In a recipe, the digest of an optional input that was asked for and not there."""

MOST_NUMBERS = 24
"""A fact of more single numbers is shown whole and not number by number."""


@dataclass(frozen=True)
class Result:
    """What an asset computed for one partition.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Arrays by the names of the schema; those already written to the draft are left out.
    facts : mapping
        Numbers and short texts worth looking at; stored with the arrays and shown in the UI.
    tables : mapping of str to str
        Markdown, shown in the UI.
    pictures : mapping of str to bytes
        Small PNG files (tens of kB), shown in the UI.
    files : mapping of str to bytes
        Files for people, by path below the project's ``outputs`` folder.
    attachments : mapping of str to bytes
        Files that are part of the output: stored beside its arrays, and delivered to a folder of
        the asset's name below ``outputs``.
    excluded : str, optional
        Why there is no data: the output is an exclusion.
    """

    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    excluded: str | None = None


@dataclass(frozen=True)
class Published:
    """One finished output on its way to Dagster's records.

    Parameters
    ----------
    version : Version
        What is in the store now.
    recipe : Recipe
        What it was made from.
    result : Result or None
        What was computed; None if the stored version was current and kept.
    seconds : float
        Time it took.
    """

    version: Version
    recipe: Recipe
    result: Result | None
    seconds: float = 0.0


class ZarrIOManager(dg.IOManager):
    """Record what assets publish, and open what is stored.

    Parameters
    ----------
    project : ProjectResource
        Where.
    """

    def __init__(self, project: ProjectResource) -> None:
        self.project = project

    def handle_output(self, context: dg.OutputContext, obj: Iterator[Published]) -> None:
        """Record each output as it is finished.

        Parameters
        ----------
        context : OutputContext
            Dagster's.
        obj : iterator of Published
            Lazy: drawing the next item computes and publishes it.
        """
        parents = context.step_context.job_def.asset_layer.get(context.asset_key).parent_keys
        project = self.project.open()
        pointers = latest_records(context.step_context.instance, parents)
        for published in obj:
            version = published.version
            name = version.name
            if published.result is None and _already_recorded(context, version):
                context.log.info(f"{name} is current and on record: nothing to do")
                continue
            if published.result is not None:
                keep_pictures(project, version, published.result.pictures)
            context.log_event(materialization(published, pointers))
            how = "kept" if published.result is None else f"done in {published.seconds:.1f} s"
            context.log.info(f"{name} {how}")

    def load_input(self, context: dg.InputContext) -> Version | dict[str, Version | None]:
        """Open what is stored, lazily.

        Parameters
        ----------
        context : InputContext
            Dagster's.

        Returns
        -------
        Version or dict of str to Version or None
            One version, or one per partition key (None where nothing is stored) when the reader
            asks for several.
        """
        store = self.project.open().store
        asset = context.asset_key.path[-1]
        if not context.has_asset_partitions:
            return _found(store.latest(asset), asset, {})
        dims = _dims_of(context.asset_partitions_def, asset)
        partitions = {key: to_partition(dims, key) for key in context.asset_partition_keys}
        if len(partitions) == 1:
            (partition,) = partitions.values()
            return _found(store.latest(asset, partition), asset, partition)
        return {key: store.latest(asset, partition) for key, partition in partitions.items()}


def _found(version: Version | None, asset: str, partition: Partition) -> Version:
    if version is None:
        raise MissingUpstreamError(
            describe(asset, partition),
            expected="a stored version",
            found="none",
            remedy=f"Materialize {asset} first.",
        )
    return version


def _dims_of(definition: dg.PartitionsDefinition[str], asset: str) -> tuple[str, ...]:
    if isinstance(definition, dg.MultiPartitionsDefinition):
        return tuple(sorted(dim.name for dim in definition.partitions_defs))
    if dims := tuple(dim for dim, known in DIMENSIONS.items() if known == definition):
        return dims
    raise TypeError(f"{asset} is partitioned by {definition}, which this store does not know")


def _metadata(published: Published) -> dict[str, dg.MetadataValue[Any]]:
    """What the page shows of an output: what it looks like first, where it came from last."""
    version, result = published.version, published.result
    attributes = version.attributes
    metadata: dict[str, Any] = {}
    if version.excluded:
        metadata["excluded"] = version.excluded
    if published.recipe.imported_from is not None:
        metadata["imported_from"] = published.recipe.imported_from
    if result is None:
        metadata["kept"] = "The stored version is current: nothing was computed."
    else:
        metadata |= {name: _picture(png) for name, png in result.pictures.items()}
        metadata |= {name: dg.MetadataValue.md(table) for name, table in result.tables.items()}
    for name, fact in version.facts.items():
        metadata[name] = dg.MetadataValue.json(fact) if isinstance(fact, dict | list) else fact
        numbers = dict(_numbers(name, fact))
        metadata |= numbers if len(numbers) <= MOST_NUMBERS else {}
    metadata |= {k: v for k, v in attributes["run"].items() if k != "run_id"}
    metadata |= {
        "arrays": dg.MetadataValue.md(_array_table(version)),
        "store": dg.MetadataValue.path(str(version.path)),
        "recipe": dg.MetadataValue.json(published.recipe.as_dict()),
        "libraries": dg.MetadataValue.json(attributes["libraries"]),
    }
    return {name: value for name, value in metadata.items() if value is not None}


def _numbers(name: str, fact: Any) -> Iterator[tuple[str, float]]:
    """Single numbers of a nested fact, by name: Dagster plots those over time, and no lists."""
    if isinstance(fact, list):
        for i, part in enumerate(fact, 1):
            clusters = part.get("n_clusters") if isinstance(part, dict) else None
            which = f"{clusters} clusters" if clusters else str(i)
            yield from _numbers(
                name if len(fact) == 1 and not clusters else f"{name}, {which}", part
            )
    elif isinstance(fact, dict):
        for key, part in fact.items():
            yield from _numbers(f"{name}, {key}", part)
    elif isinstance(fact, int | float) and not isinstance(fact, bool):
        yield name, fact


def _picture(png: bytes) -> dg.MarkdownMetadataValue:
    encoded = base64.b64encode(png).decode()
    return dg.MetadataValue.md(f"![](data:image/png;base64,{encoded})")


def _array_table(version: Version) -> str:
    rows = [
        f"| {name} | {' x '.join(map(str, array.shape))} | "
        f"{', '.join(d or '' for d in array.metadata.dimension_names or ())} | {array.dtype} | "  # type: ignore[union-attr]
        f"{array.attrs.get('units', '')} |"
        for name, array in ((n, version.array(n)) for n in version.names()[:40])
    ]
    return "\n".join(
        ["| array | shape | dimensions | type | unit |", "| --- | --- | --- | --- | --- |", *rows]
    )


def materialization(
    published: Published, upstream: Mapping[str, dg.EventLogRecord | None]
) -> dg.AssetMaterialization:
    """Dagster's record of an output.

    Parameters
    ----------
    published : Published
        What is in the store now.
    upstream : mapping of str to EventLogRecord or None
        Latest record of each asset that this one depends on (:func:`latest_records`).

    Returns
    -------
    AssetMaterialization
        With what the page shows, and with versions the way Dagster itself tags an output.
    """
    version = published.version
    return dg.AssetMaterialization(
        asset_key=asset_key(version.asset),
        partition=to_key(version.partition),
        metadata=_metadata(published),
        tags=_tags(published, upstream),
    )


def latest_records(
    instance: dg.DagsterInstance, assets: Iterable[dg.AssetKey]
) -> dict[str, dg.EventLogRecord | None]:
    """Latest record of each asset, by name; None for those that have none."""
    found = {key.path[-1]: instance.fetch_materializations(key, limit=1).records for key in assets}
    return {name: records[0] if records else None for name, records in found.items()}


def _tags(published: Published, upstream: Mapping[str, dg.EventLogRecord | None]) -> dict[str, str]:
    """Data version, code version and input versions."""
    recipe = published.recipe
    tags = {
        DATA_VERSION_TAG: published.version.digest,
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
        CODE_VERSION_TAG: recipe.code_version,
    }
    for asset, record in upstream.items():
        digests = {
            name: digest
            for name, digest in recipe.inputs.items()
            if name.partition("[")[0] == asset and digest != NONE
        }
        # Where it is not made from it (imported, or not needed for this partition) it is out of
        # date, for Dagster, when that changes from now.
        made_from = digests.get(asset) or digest_of(digests)
        used = made_from if digests else _data_version(record)
        key = asset_key(asset)
        tags[get_input_data_version_tag(key)] = used
        tags[get_input_event_pointer_tag(key)] = (
            NULL_EVENT_POINTER if record is None else str(record.storage_id)
        )
    return tags


def _data_version(record: dg.EventLogRecord | None) -> str:
    if record is None or record.asset_materialization is None:
        return NULL_DATA_VERSION.value
    return (record.asset_materialization.tags or {})[DATA_VERSION_TAG]


def _already_recorded(context: dg.OutputContext, version: Version) -> bool:
    """Tell whether a current version need not be recorded once more.

    A run started from the UI or by a backfill records it, for somebody waits for that record; but
    not if an earlier attempt at the same run did, and not if the run was planned from the store.
    """
    step = context.step_context
    attempts = {step.run_id, step.dagster_run.parent_run_id, step.dagster_run.root_run_id}
    records = step.instance.fetch_materializations(
        dg.AssetRecordsFilter(
            asset_key=context.asset_key,
            asset_partitions=[key] if (key := to_key(version.partition)) else None,
        ),
        limit=1,
    ).records
    if not records:
        return False
    materialization = records[0].asset_materialization
    tags = (materialization.tags or {}) if materialization else {}
    planned = PLANNED_TAG in step.dagster_run.tags
    return tags.get(DATA_VERSION_TAG) == version.digest and (
        planned or records[0].run_id in attempts
    )
