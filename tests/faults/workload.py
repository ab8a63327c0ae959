"""What is disturbed, and what must be true afterwards."""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from tests.golden import write_inputs
from trend_dagster.errors import StoreError
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.instance import UNFINISHED, open_records
from trend_dagster.orchestration.lineage import Lineage
from trend_dagster.orchestration.production import MISSING
from trend_dagster.project.folder import Project

# Long enough that kills fall into training, and label files swept by child processes.
SETTINGS = "training: {n_epochs: 20, learning_rate: 1.0e-3}\ncompute: {workers: 2}\n"
Digests = dict[tuple[str, str], str]


def make_project(folder: Path) -> Path:
    """Inputs and settings in which every asset has something to do; nothing is made yet."""
    write_inputs(folder)
    text = (folder / "trend.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("training:")]
    (folder / "trend.yaml").write_text("\n".join(lines) + "\n" + SETTINGS)
    return folder


def copy_without(source: Path, target: Path, *assets: str) -> Path:
    """Copy a finished project and take the outputs of some assets out of it."""
    shutil.copytree(source, target)
    for asset in assets:
        shutil.rmtree(target / "store" / asset)
    return target


def digests(folder: Path) -> Digests:
    """Digest of every output, each compared with its bytes on disk.

    Without reports and pages of newborns: they tell when and where they were made.
    """
    project = Project.open(folder)
    found = {}
    for name, asset in ASSETS.items():
        for partition in project.store.stored(name, asset.dims):
            version = project.store.latest(name, partition)
            assert version is not None
            version.verify()
            if name not in {"report", "individual_page"}:
                found[name, str(sorted(partition.items()))] = version.digest
    return found


def of_what_there_was(folder: Path) -> set[tuple[str, str]]:
    """Outputs made while some of what they are made from was missing, and what follows from those.

    One that goes over all cells is made of those that there are, though a worker has died with
    others. It changes when they come.
    """
    store, found, names = Project.open(folder).store, set(), set()
    for name, asset in ASSETS.items():  # in the order of computation
        for partition in store.stored(name, asset.dims):
            version = store.latest(name, partition)
            assert version is not None
            inputs = version.recipe.inputs
            if names & inputs.keys() or any(d.startswith(MISSING) for d in inputs.values()):
                names.add(version.name)
                found.add((name, str(sorted(partition.items()))))
    return found


def not_current(folder: Path) -> list[str]:
    """Outputs that are not as they would be made now."""
    lineage = Lineage(Project.open(folder))
    return [
        f"{s.asset} {s.partition}: {s.status} {s.reasons}"
        for asset in ASSETS.values()
        for s in lineage.states(asset)
        if s.status not in {"current", "not needed"}
    ]


def shown_as_in_progress(folder: Path) -> list[str]:
    """Runs that the page shows as in progress."""
    with open_records(folder) as records:
        assert records is not None
        return [r.run_id for r in records.get_runs(dg.RunsFilter(statuses=UNFINISHED))]


def n_outputs(folder: Path) -> int:
    """How many outputs are published; their names of files say so, nothing is read."""
    # Not `glob`, which fails where a folder goes while it looks.
    return sum("current" in files for _, _, files in os.walk(folder / "store"))


def leavings(folder: Path) -> list[Path]:
    """What a writer leaves that did not end in order."""
    return [*folder.glob("store/**/.partial-*"), *folder.glob("store/**/.current.*")]


@contextmanager
def reader(folder: Path) -> Iterator[list[str]]:
    """Read whatever is stored, over and over; what could not be read whole is in the list."""
    torn: list[str] = []
    over = threading.Event()

    def read() -> None:
        store = Project.open(folder).store
        while not over.is_set():
            for name, asset in ASSETS.items():
                for partition in store.stored(name, asset.dims):
                    try:
                        if (version := store.latest(name, partition)) is not None:
                            for array in version.names():
                                version.read(array)
                    except StoreError as error:
                        torn.append(str(error))
                    time.sleep(0.1)  # whoever works has the processor

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield torn
    finally:
        over.set()
        thread.join()


def seeded() -> random.Random:
    """Other moments in every run of the tests; the seed stands in the output of one that fails."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)
