"""`trend dev`: the web page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from trend_dagster.cli.app import Debug, Folder, app, console, problems
from trend_dagster.errors import TrendError


@app.command()
def dev(
    folder: Folder = Path("demo"),
    port: Annotated[int, typer.Option(help="Port of the UI on 127.0.0.1.")] = 3000,
    debug: Debug = False,
) -> None:
    """Open the Dagster UI of a project on 127.0.0.1."""
    from trend_dagster.definitions import PROJECT_VARIABLE
    from trend_dagster.orchestration.partitions import register
    from trend_dagster.orchestration.resources import BOLD_RUN, LABEL_FILE, Project
    from trend_dagster.orchestration.running import instance_home, open_instance
    from trend_dagster.orchestration.settings import resource_folder

    project = Project.open(folder)
    with open_instance(project.folder) as instance:
        for dimension in (BOLD_RUN, LABEL_FILE):
            try:
                register(instance, dimension, project.keys(dimension))
            except TrendError as error:  # the UI can be looked at without inputs
                problems.print(f"[yellow]Note[/] {escape(str(error))}", soft_wrap=True)
    environment = os.environ | {
        PROJECT_VARIABLE: str(project.folder),
        "DAGSTER_HOME": str(instance_home(project.folder)),
    }
    console.print(f"Dagster UI of {project.folder}: http://127.0.0.1:{port}  (Ctrl-C ends it)")
    workspace = resource_folder("workspace.yaml")
    command = [sys.executable, "-m", "dagster", "dev", "--workspace", str(workspace)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(command, env=environment) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:  # the same signal has reached dagster: let it end in order
            status = process.wait(timeout=30)
    raise typer.Exit(status)
