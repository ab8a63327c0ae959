"""`trend doctor`: what may keep a project from working on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer
from rich.markup import escape

from trend_dagster.cli.app import Folder, Json, Profile, app, console, emit

COLOURS = {"good": "green", "note": "yellow", "wrong": "bold red"}


@app.command()
def doctor(
    folder: Folder = Path(),
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Look for what may keep a project from working on this machine; change nothing.

    Settings, names, headers and tables of the inputs, what lies on another mesh, permissions, file
    system and its locks, space, versions, runs that died, threads.
    """
    from trend_dagster.orchestration.examination import examine

    found = list(examine(folder, profile))
    if as_json:
        emit([asdict(finding) for finding in found])
    else:
        for finding in found:
            colour = COLOURS[finding.level]
            words = escape(finding.words)
            line = f"[{colour}]{finding.level:5}[/] [bold]{finding.subject}[/]: {words}"
            console.print(line, soft_wrap=True)
    raise typer.Exit(any(finding.level == "wrong" for finding in found))
