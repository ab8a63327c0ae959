"""`trend dev`: the web page."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from trend_dagster.cli.app import Folder, Profile, app, console, problems
from trend_dagster.errors import ServerError


@app.command()
def dev(
    folder: Folder = Path(),
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the page on 127.0.0.1.")
    ] = 3000,
    profile: Profile = None,
) -> None:
    """Open the Dagster page of a project on 127.0.0.1, with its sensor and schedule."""
    from trend_dagster.definitions import PROFILE_VARIABLE, PROJECT_VARIABLE
    from trend_dagster.orchestration.instance import instance_home, open_instance
    from trend_dagster.orchestration.partitions import register_all
    from trend_dagster.project.folder import Project
    from trend_dagster.project.settings import resource_folder

    project = Project.open(folder, profile)
    _check_free(port)
    with open_instance(project.folder) as instance:
        for _, error in register_all(instance, project):  # the UI can be looked at without inputs
            problems.print(f"[yellow]Note[/] {escape(str(error))}", soft_wrap=True)
    environment = os.environ | {
        PROJECT_VARIABLE: str(project.folder),
        PROFILE_VARIABLE: profile or "",
        "DAGSTER_HOME": str(instance_home(project.folder)),
    }
    console.print(f"Dagster UI of {project.folder}: http://127.0.0.1:{port}  (Ctrl-C ends it)")
    workspace = resource_folder("workspace.yaml")
    # Dagster asks to be started by another program, which would look for settings of its own.
    silent = "ignore:Function `dev_command` is superseded"
    command = [sys.executable, "-W", silent, "-m", "dagster", "dev", "--workspace", str(workspace)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(command, env=environment, cwd=project.folder) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:  # the same signal has reached dagster: let it end in order
            status = process.wait(timeout=30)
    raise typer.Exit(status)


def _check_free(port: int) -> None:
    """Make sure that nobody else serves that port; dagster itself would say so in a trace."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerError(
                f"port {port} of 127.0.0.1",
                expected="a port that is free",
                found=error.strerror or str(error),
                remedy=f"Name another one (`--port {port % 65535 + 1}`), or end what uses it.",
            ) from None
