"""The outputs that nothing has disturbed, to compare with, and one core for each worker."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.workload import Digests, digests, make_project
from tests.service import trend


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, so that no worker of pytest waits for another at the end."""
    items.sort(key=lambda item: item.path.stem not in {"test_kills", "test_elsewhere"})


@pytest.fixture(scope="session", autouse=True)
def one_core() -> Iterator[None]:
    """Keep what the tests start on one core per worker of pytest.

    The threads of two runs that wait for each other on the same cores take many times as long.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if not worker or not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture(scope="session")
def undisturbed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by one `trend run` for all workers of pytest; never changed."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    project = folder / "undisturbed" / "project"
    with (folder / "undisturbed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not project.exists():
            making = make_project(folder / "making" / "project")
            done = trend("run", making)
            assert done.returncode == 0, done.stdout + done.stderr
            making.parent.rename(project.parent)
    return project


@pytest.fixture(scope="session")
def undisturbed(undisturbed_folder: Path) -> Digests:
    return digests(undisturbed_folder)
