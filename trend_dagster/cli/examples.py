"""`trend demo` and `trend real`: projects to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trend_dagster.cli.app import Folder, app, console
from trend_dagster.cli.runs import run


@app.command()
def demo(folder: Folder = Path("demo")) -> None:
    """Simulate a small cohort with planted networks and run the whole pipeline on it."""
    from trend_dagster.examples import make_demo

    make_demo(folder, console.print)
    run(folder)


@app.command()
def real(
    folder: Folder = Path("real"),
    vertices: Annotated[
        int, typer.Option(help="Vertices per hemisphere: 642, 2562 or 10242.")
    ] = 642,
) -> None:
    """Run the whole pipeline on one real person's resting-state BOLD (fetched, 61 MB)."""
    from trend_dagster.examples import make_real

    make_real(folder, vertices, console.print)
    run(folder)
