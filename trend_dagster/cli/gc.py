"""`trend gc`: give back the room of what is needed no more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from trend_dagster.cli.app import Folder, Json, Profile, app, console, emit, problems
from trend_dagster.cli.status import bytes_shown


@app.command()
def gc(
    folder: Folder = Path(),
    keep: Annotated[
        int, typer.Option(min=1, help="Versions of each output to keep, the current one included.")
    ] = 1,
    outdated: Annotated[
        bool,
        typer.Option(
            "--outdated",
            help="Also outputs whose input file is gone or which the settings ask for no more.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Say what is needed no more, and remove it if that is wanted.

    Old versions, abandoned unfinished work, what killed processes have left. What a process reads
    or writes at the moment stays.
    """
    from trend_dagster.orchestration.cleaning import leftovers, take_away
    from trend_dagster.orchestration.instance import only_run_here
    from trend_dagster.project.folder import Project

    project = Project.open(folder, profile)
    found = leftovers(project, keep, outdated)
    total = sum(one.n_bytes for one in found)
    if not as_json:
        table = Table("what", "where", "size")
        for one in found:
            path = str(one.path.relative_to(project.folder))
            table.add_row(escape(one.why), escape(path), bytes_shown(one.n_bytes))
        console.print(table if found else "Nothing: all that is stored is in use.")
    removed = []
    ask = f"Remove {len(found)} of these, {bytes_shown(total)}?"
    if found and not (yes or as_json or sys.stdin.isatty()):
        console.print(f"{ask} Nobody can be asked here: `--yes` does it.", soft_wrap=True)
    elif found and (yes or (not as_json and typer.confirm(ask))):
        with only_run_here(project.folder):
            removed = [one for one in found if take_away(one)]
        freed = bytes_shown(sum(one.n_bytes for one in removed))
        if not as_json:
            console.print(f"{len(removed)} removed, {freed} freed.")
        for one in found:
            if one.path.exists():
                problems.print(f"[yellow]kept[/] in use: {escape(str(one.path))}", soft_wrap=True)
    if as_json:
        rows = [{"path": str(o.path), "what": o.why, "bytes": o.n_bytes} for o in found]
        emit({"found": rows, "bytes": total, "removed": [str(o.path) for o in removed]})
