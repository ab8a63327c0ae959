"""A PostgreSQL server of Debian's for tests, with databases that are thrown away."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import free_port


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """Address of a server on 127.0.0.1, with four databases, ``one`` to ``four``."""
    programs = _programs()
    if programs is None:
        if os.environ.get("TREND_REQUIRE_POSTGRES"):
            pytest.fail("TREND_REQUIRE_POSTGRES is set, and there is no PostgreSQL")
        pytest.skip("no PostgreSQL here (Debian: postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own are closed to other users
    user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses root
        user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
    port = free_port()

    def do(program: str, *arguments: str) -> None:
        command = [*user, str(programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr

    data = str(folder / "data")
    do("initdb", "--auth=trust", "--username=lab", "--no-sync", "-D", data)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    do("pg_ctl", "start", "-w", "-D", data, "-l", str(folder / "log"), "-o", options)
    try:
        for name in ("one", "two", "three", "four"):
            do("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "lab", name)
        yield f"postgresql://lab@127.0.0.1:{port}"
    finally:
        do("pg_ctl", "stop", "-m", "immediate", "-D", data)
        shutil.rmtree(folder)
