"""Connectome Workbench as a judge of what is written and of what is computed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

WB_COMMAND = shutil.which("wb_command")


@pytest.fixture
def workbench() -> None:
    """Skip with a reason where there is no Workbench; fail where it was promised."""
    if WB_COMMAND is None:
        if os.environ.get("TREND_REQUIRE_WORKBENCH"):
            pytest.fail("no wb_command found, and TREND_REQUIRE_WORKBENCH is set")
        pytest.skip("no wb_command on this machine (Debian: apt-get install connectome-workbench)")


def wb_command(*arguments: str | Path) -> str:
    """Run it and return what it prints; whatever it complains of is an error.

    It ends with status 0 even where files are missing, so a word on stderr counts as well.
    """
    done = subprocess.run(
        [str(WB_COMMAND), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    complaints = [line for line in done.stderr.splitlines() if line.strip()]
    assert not complaints, done.stderr
    return done.stdout
