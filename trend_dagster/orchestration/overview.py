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

EXCLUDED = "excluded"
STANDINGS: tuple[str, ...] = (*get_args(Status), EXCLUDED)


@dataclass(frozen=True)
class AssetStatus:
    """How the outputs of one asset stand.

    Parameters
    ----------
    asset : str
        Its name.
    counts : mapping of str to int
        Outputs by how they stand, each once: a status, or ``excluded``.
    reasons : mapping of str to tuple of str
        Why, by output, for all that are not current and are or will be made.
    excluded : mapping of str to str
        Why an output is an exclusion, or will be one once it is its turn, by output.
    not_needed : str or None
        Why outputs are not needed under the settings; None if all are.
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
    waiting : tuple of str
        Outputs that are not made yet only because what they are made from is not.
    following : tuple of str
        Outputs that are out of date only because what they are made from is.
    """

    asset: str
    counts: Mapping[str, int]
    reasons: Mapping[str, tuple[str, ...]]
    excluded: Mapping[str, str]
    not_needed: str | None
    doubts: Mapping[str, tuple[str, ...]]
    removed: tuple[str, ...]
    findings: Mapping[str, tuple[str, ...]]
    under_way: Mapping[str, str]
    n_bytes: int
    waiting: tuple[str, ...] = ()
    following: tuple[str, ...] = ()


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


def standing(project: Project, state: State) -> tuple[str, str | None]:
    """Say how an output stands, for people: one that will be an exclusion is not missing.

    Parameters
    ----------
    project : Project
        Where.
    state : State
        How it stands for the run, which makes exclusions as it makes other outputs.

    Returns
    -------
    tuple of str and (str or None)
        Its status, or ``excluded``; and why it is excluded or not needed.
    """
    asset = ASSETS[state.asset]
    if state.status == "not needed":
        return state.status, state.reasons[0]
    if state.status in ("missing", "blocked") and state.version is None:
        why = asset.why_excluded(project, state.partition)
    else:
        why = state.excluded
    if why is None:
        return state.status, None
    return "not needed" if asset.idle(project.settings) is not None else EXCLUDED, why


def _status(project: Project, asset: StoredAsset, found: list[State]) -> AssetStatus:
    stand = {s.name: standing(project, s) for s in found}
    counts = Counter(how for how, _ in stand.values())
    there = {s.name: s.version for s in found if s.version}
    made = [s for s in found if stand[s.name][1] is None]
    waits = {s.name: under_way(project, asset, s.partition) for s in made if s.status != "current"}
    return AssetStatus(
        asset=asset.name,
        counts={how: counts[how] for how in STANDINGS},
        reasons={s.name: s.reasons for s in made if s.reasons},
        excluded={name: why for name, (how, why) in stand.items() if why and how == EXCLUDED},
        not_needed=next((why for how, why in stand.values() if how == "not needed"), None),
        doubts=doubts_about(project, asset, found),
        removed=tuple(describe(asset.name, p) for p in removed(project, asset)),
        findings={n: tuple(said) for n, v in there.items() if (said := v.facts.get("findings"))},
        under_way={name: said for name, said in waits.items() if said},
        n_bytes=project.store.size(asset.name),
        waiting=tuple(s.name for s in made if s.lacks_input),
        following=tuple(s.name for s in made if s.only_waits),
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
        Its outputs. What was said of one that is out of date may be true no more.

    Returns
    -------
    dict of str to tuple of str
        By output; those about which nothing is odd are left out.
    """
    said = {
        s.name: doubts(s.asset, s.version.facts)
        for s in found
        if s.version is not None and s.status == "current"
    }
    if asset.dims == (BOLD_RUN,) and asset.name == "bold":
        current = [s.partition[BOLD_RUN] for s in found if s.name in said]
        beside = run_doubts(project, current)
        # What sets a run apart goes before what all runs share.
        said = {
            name: [*beside.get(run, ()), *said[name]]
            for run in [*beside, *(run for run in current if run not in beside)]
            if (name := describe("bold", {BOLD_RUN: run}))
        }
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
