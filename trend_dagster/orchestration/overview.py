"""How a whole project stands: what `trend status` and the page's job say.

What belongs here: counting and sizing what ``lineage`` finds. What does not: showing it (``cli``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from trend_dagster.errors import StoreError
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.lineage import Lineage, State, Status
from trend_dagster.orchestration.production import StoredAsset, removed, under_way
from trend_dagster.project.folder import BOLD_RUN, Project
from trend_dagster.project.recordings import run_doubts
from trend_dagster.science.plausibility import doubts
from trend_dagster.storage.stores import describe

STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class AssetStatus:
    """How the outputs of one asset stand.

    Parameters
    ----------
    asset : str
        Its name.
    counts : mapping of str to int
        Outputs by status.
    reasons : mapping of str to tuple of str
        Why, by output, for all that are not current.
    excluded : mapping of str to str
        Why an output is an exclusion, by output.
    doubts : mapping of str to tuple of str
        What is odd about an output, by output.
    removed : tuple of str
        Stored outputs whose input file is gone; they stay, and are left out of new averages.
    findings : mapping of str to tuple of str
        What was found, in words, by output.
    under_way : mapping of str to str
        How far outputs are that are being made, or were when they were stopped.
    n_bytes : int
        Size of all its versions on disk.
    """

    asset: str
    counts: Mapping[str, int]
    reasons: Mapping[str, tuple[str, ...]]
    excluded: Mapping[str, str]
    doubts: Mapping[str, tuple[str, ...]]
    removed: tuple[str, ...]
    findings: Mapping[str, tuple[str, ...]]
    under_way: Mapping[str, str]
    n_bytes: int


def overview(project: Project) -> list[AssetStatus]:
    """Say of every asset what exists, what is out of date and why, and what is missing.

    Parameters
    ----------
    project : Project
        Which project.

    Returns
    -------
    list of AssetStatus
        In the order of computation.
    """
    lineage = Lineage(project)
    with project.store.at_one_moment():
        return [_status(project, asset, lineage.states(asset)) for asset in ASSETS.values()]


def _status(project: Project, asset: StoredAsset, found: list[State]) -> AssetStatus:
    counts, there = (
        Counter(s.status for s in found),
        {s.name: s.version for s in found if s.version},
    )
    waits = {s.name: under_way(project, asset, s.partition) for s in found if s.status != "current"}
    return AssetStatus(
        asset=asset.name,
        counts={status: counts[status] for status in STATUSES},
        reasons={s.name: s.reasons for s in found if s.reasons},
        excluded={name: v.excluded for name, v in there.items() if v.excluded},
        doubts=doubts_about(project, asset, found),
        removed=tuple(describe(asset.name, p) for p in removed(project, asset)),
        findings={n: tuple(said) for n, v in there.items() if (said := v.facts.get("findings"))},
        under_way={name: said for name, said in waits.items() if said},
        n_bytes=project.store.size(asset.name),
    )


def doubts_about(
    project: Project, asset: StoredAsset, found: list[State]
) -> dict[str, tuple[str, ...]]:
    """Say what is odd about stored outputs, each alone and all together.

    Parameters
    ----------
    project : Project
        Where.
    asset : StoredAsset
        Which asset.
    found : list of State
        Its outputs.

    Returns
    -------
    dict of str to tuple of str
        By output; those about which nothing is odd are left out.
    """
    said = {s.name: doubts(s.asset, s.version.facts) for s in found if s.version is not None}
    if asset.dims == (BOLD_RUN,) and asset.name == "bold":
        for run, lines in run_doubts(project, [s.partition[BOLD_RUN] for s in found]).items():
            said[describe("bold", {BOLD_RUN: run})] += lines
    return {name: tuple(lines) for name, lines in said.items() if lines}


def damages(project: Project) -> Iterator[str]:
    """Compare every stored byte with the digest taken when it was written; yield what differs."""
    for name, asset in ASSETS.items():
        for partition in project.store.stored(name, asset.dims):
            try:
                version = project.store.latest(name, partition)
                if version is not None:
                    version.verify()
            except StoreError as error:
                yield str(error)
