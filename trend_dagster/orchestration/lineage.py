"""What exists, what is out of date and why, and what an output was made from.

What belongs here: comparing what is stored with what would be made today. What does not: making it
(``production``) or reporting it (``checks``, the command line).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from trend_dagster.errors import MissingUpstreamError, StoreError, TrendError
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.io_managers import NONE
from trend_dagster.orchestration.production import (
    MISSING,
    StoredAsset,
    digest_with_facts,
    missing_files,
)
from trend_dagster.project.folder import SUBJECT, Project
from trend_dagster.storage.provenance import Recipe
from trend_dagster.storage.stores import Partition, Version, describe, described

Status = Literal["current", "out of date", "missing", "blocked", "damaged", "not needed"]


@dataclass(frozen=True)
class State:
    """How one output stands. What a user brought is current until it is made anew on request.

    Parameters
    ----------
    asset : str
        Name of the asset.
    partition : mapping
        Key by dimension.
    status : str
        ``current``, ``out of date``, ``missing``, ``blocked`` (cannot be made now), ``damaged``
        (stored, but cannot be read: made anew only on request), or ``not needed`` (not current, and
        nothing that has to be made is made from it).
    reasons : tuple of str
        Why, unless it is current.
    version : Version or None
        What is stored.
    waits_for : tuple of str
        What it is made from that is not current itself.
    lacks_input : bool
        Whether it cannot be made only because something it is made from is not there.
    """

    asset: str
    partition: Partition
    status: Status
    reasons: tuple[str, ...]
    version: Version | None
    waits_for: tuple[str, ...] = ()
    lacks_input: bool = False

    @property
    def excluded(self) -> str | None:
        """Why it is an exclusion; None of one that is out of date, whose reason may be too."""
        if self.version is None or self.status != "current":
            return None
        return self.version.excluded

    @property
    def name(self) -> str:
        """Asset and partition in words."""
        return describe(self.asset, self.partition)

    @property
    def only_inputs_changed(self) -> bool:
        """Whether settings and code are those that it was made with, as far as can be told now."""
        if self.version is None or self.version.excluded is not None:
            return False
        if self.status == "blocked":  # what it would be made from is not there yet
            return True
        return self.status == "out of date" and all(
            reason.startswith("input ") or reason in self.waits_for for reason in self.reasons
        )

    @property
    def only_waits(self) -> bool:
        """Whether it is out of date only because of what it is made from: made now, it is equal."""
        return self.version is not None and 0 < len(self.reasons) == len(self.waits_for)

    def waits_among(self, names: Collection[str]) -> bool:
        """Tell whether one of these outputs is what it waits for."""
        return any(waited.rpartition(" is ")[0] in names for waited in self.waits_for)


class Lineage:
    """How the outputs of a project stand; each is looked at once, however many are made from it.

    Parameters
    ----------
    project : Project
        Which project.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self._known: dict[str, State] = {}
        self._needed: dict[str, bool] = {}
        self._lists: dict[tuple[str | None, ...], list[tuple[str, Partition]]] = {}

    def states(self, asset: StoredAsset) -> list[State]:
        """Compare the stored outputs of an asset with what would be made today.

        Parameters
        ----------
        asset : StoredAsset
            Which asset.

        Returns
        -------
        list of State
            One per partition that it has today. What is made from something out of date is out of
            date itself, unless that something is a model that is used as it is.
        """
        return [self._state(asset, partition) for partition in asset.partitions(self.project)]

    def forget(self, asset: StoredAsset) -> None:
        """Look again at an asset that was made anew, and at all that is made from it."""
        changed = {asset.name}
        for other in ASSETS.values():  # in the order of computation
            if changed & other.upstream.keys():
                changed.add(other.name)
        self._known = {k: s for k, s in self._known.items() if s.asset not in changed}
        self._needed.clear()

    def _state(self, asset: StoredAsset, partition: Partition) -> State:
        key = describe(asset.name, partition)
        if key not in self._known:
            state = self._look(asset, partition)
            if state.status != "current" and not self._is_needed(asset):
                why = "under these settings nothing is made from it"
                state = replace(state, status="not needed", reasons=(why,), waits_for=())
            self._known[key] = state
        return self._known[key]

    def _is_needed(self, asset: StoredAsset) -> bool:
        """Tell whether it is an end in itself, or something that has to be made is made from it."""
        if asset.result or asset.idle(self.project.settings) is not None:
            return True  # of the latter, its exclusion tells the page why
        if asset.name not in self._needed:
            consumers = [c for c in ASSETS.values() if asset.name in c.upstream]
            self._needed[asset.name] = not consumers or any(map(self._takes, consumers))
        return self._needed[asset.name]

    def _takes(self, consumer: StoredAsset) -> bool:
        """Tell whether an output of a consumer has to be made; what was brought has not."""
        if consumer.idle(self.project.settings) is not None:
            return False
        found: list[Version | None] = [None]  # files for it are missing: then it is to be made
        with suppress(TrendError):
            found = [self._look_up(consumer, p) for p in consumer.partitions(self.project)]
        return any(v is None or not v.imported for v in found) and self._is_needed(consumer)

    def _look_up(self, asset: StoredAsset, partition: Partition) -> Version | None:
        with suppress(StoreError):  # damaged: it has to be made
            return self.project.store.latest(asset.name, partition)
        return None

    def _look(self, asset: StoredAsset, partition: Partition) -> State:
        project, store = self.project, self.project.store
        try:
            version = store.latest(asset.name, partition)
        except StoreError as error:
            return State(asset.name, partition, "damaged", (str(error),), None)
        if version is not None and version.imported:
            return State(asset.name, partition, "current", (), version)
        try:
            inputs = asset.find(project, partition)
            recipe = asset.recipe(project, partition, inputs)
        except TrendError as error:
            lacks = isinstance(error, MissingUpstreamError)
            blocked = State(asset.name, partition, "blocked", (str(error),), version)
            return replace(blocked, lacks_input=lacks)
        made_like = recipe if version is None else asset.recipe_like(recipe, version)
        waits_for = tuple(self._not_current(asset, partition, made_like))
        if version is None:
            failure = store.failure(asset.name, partition)
            why = (failure,) if failure else ()
            return State(asset.name, partition, "missing", why, None, waits_for)
        reasons = (
            *asset.why_not_current(project, recipe, version, missing_files(project, version)),
            *waits_for,
        )
        if (failure := store.failure(asset.name, partition)) and reasons:
            reasons = (*reasons, failure)
        status: Status = "out of date" if reasons else "current"
        return State(asset.name, partition, status, reasons, version, waits_for)

    def _not_current(
        self, asset: StoredAsset, partition: Partition, recipe: Recipe
    ) -> Iterator[str]:
        """Name what an output would be made from and is not current itself."""
        for upstream in asset.inputs:
            if upstream.idle(self.project.settings) is not None:
                continue
            for name, key in self._wanted(asset, partition, upstream):
                if recipe.inputs.get(name, MISSING).startswith(MISSING):
                    continue  # not used, or passed over
                state = self._state(upstream, key)
                kept = upstream.keep_when_inputs_change and state.only_inputs_changed
                if state.status not in {"current", "not needed"} and not kept:
                    yield f"{name} is {state.status}"

    def _wanted(
        self, asset: StoredAsset, partition: Partition, upstream: StoredAsset
    ) -> list[tuple[str, Partition]]:
        """Outputs of an input that one is made from; listed once for all that take the same.

        One whose own input was removed has no state today, and is left out.
        """
        of = (*upstream.dims, SUBJECT)
        same = (upstream.name, *(partition.get(dim) for dim in of))
        if same not in self._lists:
            today = {dim: set(self.project.keys(dim)) for dim in upstream.dims}
            self._lists[same] = [
                (describe(upstream.name, key), key)
                for key in asset.wanted(self.project, partition, upstream)
                if all(key.get(dim) in keys for dim, keys in today.items())
            ]
        return self._lists[same]


def ancestry(
    project: Project, version: Version, depth: int = 0, followed: set[str] | None = None
) -> Iterator[tuple[int, str]]:
    """Follow an output to everything it was made from, from the files alone.

    Parameters
    ----------
    project : Project
        Where.
    version : Version
        Where to begin.
    depth : int
        How far from the beginning this is.
    followed : set of str, optional
        Outputs that were followed before; they are named again, but not followed.

    Yields
    ------
    (int, str)
        Depth and a line: name, digest, and whether that very version is still the current one.
    """
    origin = f" imported from {version.recipe.imported_from}" if version.imported else ""
    name = version.name
    followed = set() if followed is None else followed
    if name in followed:
        yield depth, f"{name} {version.digest} (as above)"
        return
    followed.add(name)
    yield depth, f"{name} {version.digest}{origin}"
    for name, digest in version.recipe.inputs.items():
        upstream = None if digest == NONE else _stored(project, name)
        if upstream is None:
            yield depth + 1, f"{name} {digest}"
        elif digest in (upstream.digest, digest_with_facts(upstream)):
            yield from ancestry(project, upstream, depth + 1, followed)
        else:
            yield depth + 1, f"{name} {digest} (since replaced by {upstream.digest})"


def _stored(project: Project, name: str) -> Version | None:
    asset, partition = described(name)
    return project.store.latest(asset, partition) if asset in ASSETS else None
