"""What takes room in a project and is needed no more: `trend gc`.

What belongs here: finding it, and taking it away. What does not: what is collected by itself when
an output is published (``storage.stores``).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trend_dagster.errors import TrendError
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.production import StoredAsset
from trend_dagster.project.folder import Project
from trend_dagster.storage.stores import (
    POINTER,
    Partition,
    describe,
    drafts_in,
    pointed_to,
    remove_outputs,
    remove_unless_used,
    size_of,
    versions_in,
)

SETTLED_SECONDS = 3600.0  # what was written to more recently may belong to a run at work


@dataclass(frozen=True)
class Leftover:
    """Something that can go.

    Parameters
    ----------
    path : Path
        A folder or file.
    why : str
        What it is, for people.
    n_bytes : int
        Its size.
    """

    path: Path
    why: str
    n_bytes: int


def leftovers(project: Project, keep_versions: int = 1, outdated: bool = False) -> list[Leftover]:
    """Find what is needed no more.

    Parameters
    ----------
    project : Project
        Where.
    keep_versions : int
        Versions to keep of each output, the current one included.
    outdated : bool
        Also outputs whose input file is gone or whose partition the settings ask for no more.

    Returns
    -------
    list of Leftover
        By path. Nothing that a run at work has written to in the last hour.
    """
    found = dict(_found(project, keep_versions, outdated))
    now = time.time()
    return [
        Leftover(path, why, size_of(path))
        for path, why in sorted(found.items())
        if "version" in why or now - _last_change(path) > SETTLED_SECONDS
    ]


def _found(project: Project, keep_versions: int, outdated: bool) -> Iterator[tuple[Path, str]]:
    root = project.store.root
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.is_dir() and folder.name not in ASSETS:
            yield folder, "output of an asset that there is no more"
    for asset in ASSETS.values():
        gone = _asked_for_no_more(project, asset) if outdated else []
        for partition in gone:
            folder = project.store.folder(asset.name, partition)
            yield folder, f"{describe(asset.name, partition)}: asked for no more"
        for partition in project.store.stored(asset.name, asset.dims):
            if partition not in gone:
                yield from _in_one_output(project, asset, partition, keep_versions)
        for folder in _folders(project, asset):
            yield from _unfinished(project, asset, folder)


def _in_one_output(
    project: Project, asset: StoredAsset, partition: Partition, keep_versions: int
) -> Iterator[tuple[Path, str]]:
    folder = project.store.folder(asset.name, partition)
    current = pointed_to(folder)
    others = [path for path in versions_in(folder) if path.name != current]
    for path in others[: max(0, len(others) - keep_versions + 1)]:
        yield path, f"old version of {describe(asset.name, partition)}"


def _asked_for_no_more(project: Project, asset: StoredAsset) -> list[Partition]:
    try:
        today = {dim: set(project.keys(dim)) for dim in asset.dims}
    except TrendError:  # the folder of the inputs is not there, perhaps not mounted
        return []
    stored = project.store.stored(asset.name, asset.dims)
    return [p for p in stored if any(key not in today[dim] for dim, key in p.items())]


def _folders(project: Project, asset: StoredAsset) -> list[Path]:
    """Folders of all outputs of an asset, also of those that were never published."""
    root = project.store.root / asset.name
    found = sorted(root.glob("/".join(f"{dim}=*" for dim in asset.dims))) if asset.dims else [root]
    return [folder for folder in found if folder.is_dir()]


def _unfinished(project: Project, asset: StoredAsset, folder: Path) -> Iterator[tuple[Path, str]]:
    parts = folder.relative_to(project.store.root).parts[1:]
    partition = dict(part.split("=", 1) for part in parts)
    name = describe(asset.name, partition)
    for path in drafts_in(folder):
        yield path, f"what a killed writer of {name} has left"
    for path in folder.glob(f".{POINTER}.*"):
        yield path, f"what a killed writer of {name} has left"
    for path in folder.glob(".scratch-*"):
        fingerprint = _fingerprint(project, asset, partition)
        if fingerprint is not None and path.name != f".scratch-{fingerprint}":
            yield path, f"unfinished work on {name} from other settings or inputs"
    trainings = [path.parent for path in folder.glob(".training-*/state.pt")]
    trainings.sort(key=lambda path: (path / "state.pt").stat().st_mtime)
    for path in trainings[:-1]:
        yield path, f"state of an earlier training of {name}"


def _fingerprint(project: Project, asset: StoredAsset, partition: Partition) -> str | None:
    """What the output would be made from now; None where that cannot be told."""
    with suppress(TrendError):
        inputs = asset.find(project, partition)
        return asset.recipe(project, partition, inputs).fingerprint
    return None


def _last_change(path: Path) -> float:
    times = [0.0]
    for below in [path, *path.rglob("*")]:
        with suppress(FileNotFoundError):
            times.append(below.lstat().st_mtime)
    return max(times)


def take_away(leftover: Leftover) -> bool:
    """Remove it, unless a process is using it.

    Parameters
    ----------
    leftover : Leftover
        What.

    Returns
    -------
    bool
        Whether it is gone.
    """
    path = leftover.path
    if not path.is_dir():
        path.unlink(missing_ok=True)
    elif path in (*versions_in(path.parent), *drafts_in(path.parent)):
        remove_unless_used(path)
    elif path.name.startswith("."):
        shutil.rmtree(path, ignore_errors=True)
    else:
        remove_outputs(path)
    return not path.exists()
