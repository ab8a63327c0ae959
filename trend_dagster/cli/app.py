"""What all commands share: the application, the consoles, common options, how errors are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from trend_dagster.errors import SAID_IN_WORDS, TrendError, cannot_write

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Maps of functional networks from resting-state BOLD, as Dagster assets.\n\n"
    "Your own data: `trend init DIR`, put the files in, `trend run DIR`, `trend status DIR`, "
    "`trend dev DIR`. To see what comes out first: `trend demo`.\n\n"
    "With --debug every command shows where in the code an error arose.",
)
WIDTH = 116  # where the output goes to a file or a log there is no width to find out
console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
problems = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else WIDTH)

_debugging = False


def _version(wanted: bool) -> None:
    if wanted:
        from trend_dagster import __version__

        typer.echo(f"trend_dagster {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Say the version, and end."
        ),
    ] = False,
) -> None:
    pass


Folder = Annotated[Path, typer.Argument(help="Folder of the project.")]
ProjectFolder = Annotated[Path, typer.Option("--folder", help="Folder of the project.")]
Profile = Annotated[
    str | None,
    typer.Option(help="Profile in place of the one in trend.yaml: default, demo or tutorial."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs in place of tables.")]


def main() -> None:
    """Run the command line.

    Exit status 0 means done, 1 an error that a message on stderr tells, 2 a command that does not
    exist in that form, 130 stopped by the user.
    """
    global _debugging
    _debugging = "--debug" in sys.argv
    sys.argv[:] = [word for word in sys.argv if word != "--debug"]
    try:
        app()
    except Exception as raised:
        if debugging():
            raise
        error = raised
        if isinstance(error, OSError) and error.filename and error.errno in SAID_IN_WORDS:
            error = cannot_write(str(error.filename), error)
        said = f"{type(error).__name__}: {error}"
        if not isinstance(error, TrendError):
            said += ". That should not happen: the same command with --debug shows where it arose."
        problems.print(f"[bold red]Error[/] {escape(said)}", soft_wrap=True)
        raise SystemExit(1) from None


def debugging() -> bool:
    """Whether the user wants to see where errors arise."""
    return _debugging


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """Show one bar; nothing where there is no terminal.

    Yields
    ------
    callable
        Takes what is being done and the share done, from 0 to 1.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=1.0)

        def show(doing: str, share: float) -> None:
            progress.update(task, description=escape(doing), completed=share)

        yield show


def emit(data: object) -> None:
    """Print JSON on stdout."""
    typer.echo(json.dumps(data, indent=2, default=str))


def quiet(wanted: bool) -> None:
    """Keep everything but JSON and errors off the terminal."""
    console.quiet = wanted
