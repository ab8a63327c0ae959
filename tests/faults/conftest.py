"""The outputs that nothing has disturbed, to compare with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.workload import Digests, digests, make_project
from tests.service import trend


@pytest.fixture(scope="session")
def undisturbed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by one `trend run`; never changed."""
    folder = make_project(tmp_path_factory.mktemp("undisturbed") / "project")
    done = trend("run", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def undisturbed(undisturbed_folder: Path) -> Digests:
    return digests(undisturbed_folder)
