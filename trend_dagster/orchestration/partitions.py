"""The three dimensions along which work is cut, and the keys of their partitions.

What belongs here: partition definitions and the translation between Dagster's keys and the
``{dimension: key}`` form that the store uses. What does not: which keys there are today (the
project knows its files) and how one asset's partitions depend on another's (``stored_asset``).

See https://docs.dagster.io/guides/build/partitions-and-backfills.
"""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from trend_dagster.project.folder import BOLD_RUN, LABEL_FILE, N_COMPONENTS
from trend_dagster.storage.stores import WHOLE, Partition

bold_runs = dg.DynamicPartitionsDefinition(name=BOLD_RUN)
label_files = dg.DynamicPartitionsDefinition(name=LABEL_FILE)


def partitions_of(
    dims: tuple[str, ...], n_components: Sequence[str]
) -> dg.PartitionsDefinition[str] | None:
    """Dagster's definition for a set of dimensions.

    Parameters
    ----------
    dims : tuple of str
        Dimensions of an asset; empty for an asset without partitions.
    n_components : sequence of str
        Keys of the dimension that the settings decide.

    Returns
    -------
    PartitionsDefinition or None
        None without dimensions.
    """
    if not dims:
        return None
    single: dict[str, dg.PartitionsDefinition[str]] = {
        BOLD_RUN: bold_runs,
        LABEL_FILE: label_files,
        N_COMPONENTS: dg.StaticPartitionsDefinition(list(n_components)),
    }
    if len(dims) == 1:
        return single[dims[0]]
    return dg.MultiPartitionsDefinition({dim: single[dim] for dim in dims})


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


def register(instance: dg.DagsterInstance, dimension: str, keys: Sequence[str]) -> list[str]:
    """Make keys known to Dagster.

    Parameters
    ----------
    instance : DagsterInstance
        Where.
    dimension : str
        ``bold_run`` or ``label_file``.
    keys : sequence of str
        All keys that there are.

    Returns
    -------
    list of str
        Those that were new.
    """
    known = set(instance.get_dynamic_partitions(dimension))
    new = [key for key in keys if key not in known]
    if new:
        instance.add_dynamic_partitions(dimension, new)
    return new
