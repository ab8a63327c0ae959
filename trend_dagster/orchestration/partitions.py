"""The dimensions along which work is cut, and the keys of their partitions.

What belongs here: partition definitions, keeping Dagster's keys those of today's inputs and
settings, and the translation between the names that an instance knows and those of the store (an
asset's, and the ``{dimension: key}`` form). What does not: which keys there are today (the project
knows its files) and how one asset's partitions depend on another's (``production``).

See https://docs.dagster.io/guides/build/partitions-and-backfills.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence

import dagster as dg

from trend_dagster.errors import TrendError
from trend_dagster.project.folder import BOLD_RUN, LABEL_FILE, N_COMPONENTS, SUBJECT, Project
from trend_dagster.storage.stores import WHOLE, Partition

PREFIX_VARIABLE = "TREND_KEY_PREFIX"
"""Environment variable: what all asset keys and names of partitions begin with in the instance.

It tells projects apart that share one instance. No setting of `trend.yaml`: assets are defined
before a project is opened."""

PREFIX = tuple(filter(None, os.environ.get(PREFIX_VARIABLE, "").split("/")))


def asset_key(asset: str) -> dg.AssetKey:
    """Dagster's key of an asset."""
    return dg.AssetKey([*PREFIX, asset])


def name_of(dimension: str) -> str:
    """Name that a dimension has in the instance."""
    return "_".join([*PREFIX, dimension])


def known_keys(instance: dg.DagsterInstance, dimension: str) -> Sequence[str]:
    """Keys of a dimension that Dagster knows, in its order."""
    return instance.get_dynamic_partitions(name_of(dimension))


DIMENSIONS = {
    name: dg.DynamicPartitionsDefinition(name=name_of(name))
    for name in (BOLD_RUN, LABEL_FILE, N_COMPONENTS, SUBJECT)
}

PARTITIONS: dict[tuple[str, ...], dg.PartitionsDefinition[str] | None] = {
    (): None,
    (BOLD_RUN,): DIMENSIONS[BOLD_RUN],
    (LABEL_FILE,): DIMENSIONS[LABEL_FILE],
    (SUBJECT,): DIMENSIONS[SUBJECT],
    (LABEL_FILE, N_COMPONENTS): dg.MultiPartitionsDefinition(
        {name: DIMENSIONS[name] for name in (LABEL_FILE, N_COMPONENTS)}
    ),
}
"""Dagster's definition for each set of dimensions that an asset may have."""


def to_partition(dims: tuple[str, ...], key: str | None) -> Partition:
    """Translate Dagster's partition key.

    Parameters
    ----------
    dims : tuple of str
        Dimensions of the asset.
    key : str or None
        Dagster's key.

    Returns
    -------
    mapping of str to str
        Key by dimension, in the order of ``dims``.
    """
    if key is None:
        return WHOLE
    if isinstance(key, dg.MultiPartitionKey):
        return {dim: key.keys_by_dimension[dim] for dim in dims}
    if len(dims) > 1:
        # Keys that come as plain text list the dimensions by name, in alphabetical order.
        return dict(zip(sorted(dims), key.split("|"), strict=True))
    return {dims[0]: key}


def to_key(partition: Partition) -> str | None:
    """Translate to Dagster's partition key.

    Parameters
    ----------
    partition : mapping of str to str
        Key by dimension.

    Returns
    -------
    str or None
        A ``MultiPartitionKey`` for two dimensions, None for none.
    """
    if not partition:
        return None
    if len(partition) == 1:
        return next(iter(partition.values()))
    return dg.MultiPartitionKey(partition)


def make_known(instance: dg.DagsterInstance, dimension: str, keys: Collection[str]) -> None:
    """Make keys of a dimension known to Dagster, beside those that are."""
    known = set(known_keys(instance, dimension))
    if new := [key for key in keys if key not in known]:
        instance.add_dynamic_partitions(name_of(dimension), new)


def register(instance: dg.DagsterInstance, dimension: str, keys: Sequence[str]) -> None:
    """Make the keys of a dimension known to Dagster, and forget those that are no more.

    What is stored of a key that is gone stays. Dagster must forget the key: a backfill of all
    partitions would fail for ever on one that cannot be made.

    Parameters
    ----------
    instance : DagsterInstance
        Where.
    dimension : str
        ``bold_run``, ``label_file``, ``n_components`` or ``subject``.
    keys : sequence of str
        All keys that there are.
    """
    make_known(instance, dimension, keys)
    for key in sorted(set(known_keys(instance, dimension)).difference(keys)):
        instance.delete_dynamic_partition(name_of(dimension), key)


def register_all(
    instance: dg.DagsterInstance, project: Project
) -> Iterator[tuple[str, TrendError]]:
    """Make today's keys of all dimensions known to Dagster.

    Parameters
    ----------
    instance : DagsterInstance
        Where.
    project : Project
        Whose inputs and settings.

    Yields
    ------
    tuple of str and TrendError
        A dimension whose keys cannot be told, and why; what is known of it stays.
    """
    for dimension in DIMENSIONS:
        try:
            register(instance, dimension, project.keys(dimension))
        except TrendError as error:
            yield dimension, error
