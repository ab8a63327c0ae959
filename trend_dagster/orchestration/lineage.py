"""What exists, what is out of date and why, and what an output was made from.

What belongs here: comparing what is stored with what would be made today. What does not: making it
(``stored_asset``) or reporting it (``checks``, the command line).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from trend_dagster.errors import TrendError
from trend_dagster.orchestration.resources import Project
from trend_dagster.orchestration.stored_asset import STORED_ASSETS, StoredAsset, missing_files
from trend_dagster.storage.provenance import differences
from trend_dagster.storage.stores import Partition, Version, describe


@dataclass(frozen=True)
class State:
    """How one output stands.

    Parameters
    ----------
    asset : str
        Name of the asset.
    partition : mapping
        Key by dimension.
    status : str
        ``current``, ``out of date``, ``missing``, or ``blocked`` (cannot be made now).
    reasons : tuple of str
        Why, unless it is current.
    version : Version or None
        What is stored.
    """

    asset: str
    partition: Partition
    status: Literal["current", "out of date", "missing", "blocked"]
    reasons: tuple[str, ...]
    version: Version | None

    @property
    def only_inputs_changed(self) -> bool:
        """Whether settings and code are those that it was made with."""
        return self.status == "out of date" and all(r.startswith("input ") for r in self.reasons)


def state_of(project: Project, asset: StoredAsset, partition: Partition) -> State:
    """Compare one stored output with what would be made today.

    Parameters
    ----------
    project : Project
        Where.
    asset : StoredAsset
        Which asset.
    partition : mapping
        Which partition.

    Returns
    -------
    State
        Its standing, with reasons.
    """
    version = project.store.latest(asset.name, partition)
    try:
        recipe = asset.recipe(project, partition, asset.inputs(project, partition))
    except TrendError as error:
        return State(asset.name, partition, "blocked", (str(error),), version)
    if version is None:
        failure = project.store.failure(asset.name, partition)
        why = (failure,) if failure else ()
        return State(asset.name, partition, "missing", why, None)
    reasons = (
        *differences(version.recipe, recipe),
        *(f"file {name} is gone or changed" for name in missing_files(project, version)),
    )
    return State(asset.name, partition, "out of date" if reasons else "current", reasons, version)


def states(project: Project, asset: StoredAsset) -> list[State]:
    """Return the state of every partition that an asset has today."""
    return [state_of(project, asset, partition) for partition in asset.partitions(project)]


def ancestry(project: Project, version: Version, depth: int = 0) -> Iterator[tuple[int, str]]:
    """Follow an output to everything it was made from, from the files alone.

    Parameters
    ----------
    project : Project
        Where.
    version : Version
        Where to begin.
    depth : int
        How far from the beginning this is.

    Yields
    ------
    (int, str)
        Depth and a line: name, digest, and whether that very version is still the current one.
    """
    yield depth, f"{describe(version.asset, version.partition)} {version.digest}"
    for name, digest in version.recipe.inputs.items():
        upstream = _stored(project, name)
        if upstream is None:
            yield depth + 1, f"{name} {digest}"
        elif upstream.digest == digest:
            yield from ancestry(project, upstream, depth + 1)
        else:
            yield depth + 1, f"{name} {digest} (since replaced by {upstream.digest})"


def _stored(project: Project, name: str) -> Version | None:
    asset, _, rest = name.rstrip("]").partition("[")
    if asset not in STORED_ASSETS:
        return None
    partition = dict(part.split("=", 1) for part in rest.split(", ")) if rest else {}
    return project.store.latest(asset, partition)
