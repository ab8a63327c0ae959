"""The demo, made once for all tests of what comes out of it."""

from __future__ import annotations

import subprocess
import sys

import pytest


def demo(folder):
    """Run `trend demo` as a person does."""
    command = [sys.executable, "-c", "from trend_dagster.cli import main; main()"]
    return subprocess.run(
        [*command, "demo", str(folder)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Folder of the finished demo, and what the command said."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    return folder, demo(folder)
