"""`trend dev`: the web page."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from trend_dagster.cli.app import Folder, Profile, app, problems, say
from trend_dagster.errors import ServerError

if TYPE_CHECKING:
    import dagster as dg

    from trend_dagster.project.folder import Project


@app.command()
def dev(
    folder: Folder = Path(),
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the page on 127.0.0.1.")
    ] = 3000,
    read_only: Annotated[
        bool,
        typer.Option(
            "--read-only",
            help="Show the page, but start and change nothing: for who may only read the project.",
        ),
    ] = False,
    profile: Profile = None,
) -> None:
    """Serve the Dagster page of a project on 127.0.0.1, with its sensor and schedule.

    It runs until it is ended: Ctrl-C, or `kill`.
    """
    for ending in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ending, lambda number, frame: sys.exit(0))  # until there is what it ends
    say("Starting ...")
    from trend_dagster.definitions import PROFILE_VARIABLE, PROJECT_VARIABLE
    from trend_dagster.orchestration.failures import PAGE_VARIABLE
    from trend_dagster.orchestration.instance import (
        HOME_VARIABLE,
        added_settings,
        elsewhere,
        instance_home,
        open_instance,
        open_records,
    )
    from trend_dagster.orchestration.service import Service, make_sure_no_daemon, only_service
    from trend_dagster.project.folder import Project

    project = Project.open(folder, profile)
    _check_free(port)
    environment = os.environ | {
        PROJECT_VARIABLE: str(project.folder),
        PROFILE_VARIABLE: profile or "",
        PAGE_VARIABLE: os.environ.get(PAGE_VARIABLE, f"http://127.0.0.1:{port}"),
    }
    where = f"Dagster UI of {project.folder}: http://127.0.0.1:{port}"

    if read_only:
        with open_records(project.folder) as records:
            if records is None:
                raise ServerError(
                    f"project {project.folder}",
                    expected="records that can be read (its folder .dagster)",
                    found="none",
                    remedy="`trend status` and `trend show` tell what is stored.",
                )
            say(f"{where}, read only  (Ctrl-C ends it)")
            Service(records, project.folder, port, environment, say, read_only=True).run()
        return
    with (
        only_service(project.folder, port),
        open_instance(project.folder, end_dead=False) as instance,  # the service does, and tells
    ):
        home = instance_home(project.folder)
        if told := elsewhere(project.folder):
            say(told)
            make_sure_no_daemon(instance, say)
        _register(project, instance)
        if (home / "dagster.yaml").exists() and (ours := added_settings(home)):
            say(f"Dagster's settings are those of {home / 'dagster.yaml'}, with {', '.join(ours)}.")
        say(f"{where}  (Ctrl-C ends it)")
        environment[HOME_VARIABLE] = str(home)
        Service(instance, project.folder, port, environment, say).run()


def _register(project: Project, instance: dg.DagsterInstance) -> None:
    from trend_dagster.orchestration.partitions import register_all

    for _, error in register_all(instance, project):  # the UI can be looked at without inputs
        problems.print(f"[yellow]Note[/] {escape(str(error))}", soft_wrap=True)


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
