"""Older versions: which there are, and the settings that a version was made with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from trend_dagster.errors import MissingUpstreamError
from trend_dagster.project.folder import Project
from trend_dagster.storage.provenance import flatten
from trend_dagster.storage.stores import Partition, Version, described


def versions(project: Project, asset: str, partition: Partition) -> list[Version]:
    """Versions of an output that are still stored, the oldest first."""
    folders = sorted(project.store.folder(asset, partition).glob("2*"))
    return [Version(asset, partition, path) for path in folders if path.is_dir()]


def version_named(project: Project, asset: str, name: str) -> Version:
    """Find a version of an asset without partitions.

    Parameters
    ----------
    project : Project
        Where.
    asset : str
        Which asset.
    name : str
        ``""`` for the current version, ``before`` for the one before it, or the beginning of the
        name of one.

    Raises
    ------
    MissingUpstreamError
        If it is not stored (any more); names those that are.
    """
    current = project.store.latest(asset)
    there = versions(project, asset, {})
    older = [v for v in there if current is not None and v.path.name < current.path.name]
    if not name:
        found: Sequence[Version] = [] if current is None else [current]
    elif name == "before":
        found = older[-1:]
    else:
        found = [v for v in there if v.path.name.startswith(name)]
    if len(found) != 1:
        raise MissingUpstreamError(
            f"version {name or 'current'!r} of {asset} in {project.folder}",
            expected=f"one of {', '.join(v.path.name for v in there) or 'those that a run makes'}",
            found=f"{len(found)} of that name",
            remedy="Name one, or run first. How many are kept says storage.keep_versions, and "
            "`trend gc` takes all but the newest away.",
        )
    return found[0]


def settings_behind(project: Project, version: Version) -> dict[str, Any]:
    """Settings that an output and all that it was made from were made with.

    Parameters
    ----------
    project : Project
        Where it is stored.
    version : Version
        The output. Of the partitions of an input one is looked at: they share their settings.

    Returns
    -------
    dict of str to object
        By ``section.setting``; those of inputs of which that version is stored no more are missing.
    """
    found: dict[str, Any] = {}
    for one in _behind(project, version):
        found = flatten(one.recipe.as_dict()["settings"]) | found
    return found


def runs_behind(project: Project, version: Version) -> list[str] | None:
    """BOLD runs whose correlations were averaged for an output; None where it is not known."""
    for one in _behind(project, version):
        if one.name == "average_correlation":
            runs: list[str] | None = one.facts.get("runs")
            return runs
    return None


def _behind(project: Project, version: Version) -> Iterator[Version]:
    """Go through an output and all that it was made from, one partition of each."""
    followed: set[str] = set()
    waiting = [version]
    while waiting:
        one = waiting.pop()
        yield one
        for name, digest in one.recipe.inputs.items():
            asset, partition = described(name)
            if asset in followed or asset.startswith("file "):
                continue
            same = [v for v in versions(project, asset, partition) if v.digest == digest]
            if same:
                followed.add(asset)
                waiting.append(same[-1])


def title(version: Version) -> str:
    """Name a version for people: what it is, and when it was made."""
    return f"{version.name} of {version.attributes['created'][:16]}"
