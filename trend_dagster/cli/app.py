"""What all commands share: the application, the consoles, common options, how errors are shown."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from trend_dagster.errors import SAID_IN_WORDS, TrendError, cannot_write
from trend_dagster.progress import Pace, time_left

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Maps of functional networks from resting-state BOLD, as Dagster assets.\n\n"
    "Your own data: `trend init DIR`, put the files in, `trend run DIR`, `trend status DIR`, "
    "`trend dev DIR`. To see what comes out first: `trend demo`.\n\n"
    "With --debug every command shows where in the code an error arose.",
)
# Closed by who started it (`>&-`), as some schedulers do: Python has nothing in their place.
sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115

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


PROFILES = "default, autoencoder, demo or tutorial"

Folder = Annotated[Path, typer.Argument(help="Folder of the project.")]
ProjectFolder = Annotated[Path, typer.Option("--folder", help="Folder of the project.")]
Profile = Annotated[
    str | None,
    typer.Option(help=f"Profile in place of the one in trend.yaml: {PROFILES}."),
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
    # Processes that it starts load no module from the folder they are in: that of the project.
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        app()
    except Exception as raised:
        if debugging():
            raise
        error = raised
        if isinstance(error, OSError) and error.errno in SAID_IN_WORDS:
            error = cannot_write(str(error.filename or "the output of this command"), error)
        said = f"{type(error).__name__}: {error}"
        if not isinstance(error, TrendError):
            said += ". That should not happen: the same command with --debug shows where it arose."
        problems.print(f"[bold red]Error[/] {escape(said)}", soft_wrap=True)
        raise SystemExit(1) from None


def debugging() -> bool:
    """Whether the user wants to see where errors arise."""
    return _debugging


LINES_APART = 2.0  # seconds between lines of progress in a log, at least
LINE_ANYWAY = 60.0  # seconds until there is one although the words are the same


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], float | None]]:
    """Show one bar and the time left; where there is no terminal, a line where the words change.

    Yields
    ------
    callable
        Takes what is being done, ``what: how far``, and the share done, from 0 to 1; returns the
        seconds that are left of it, or None where they are not known yet.
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    pace = Pace()
    words, told_at = "", -math.inf

    def write(doing: str, share: float, left: str) -> None:
        nonlocal words, told_at
        apart = LINES_APART if doing != words else LINE_ANYWAY
        if time.monotonic() - told_at >= apart:
            words, told_at = doing, time.monotonic()
            console.print(f"[dim]{escape(doing)} ({share:.0%}{left})[/]", soft_wrap=True)

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TextColumn("{task.fields[left]}"), console=console, transient=True,
                  disable=not console.is_terminal) as progress:  # fmt: skip
        task = progress.add_task("starting", total=1.0, left="")

        def show(doing: str, share: float) -> float | None:
            seconds = pace.seconds_left(doing.partition(":")[0], share)
            left = "" if seconds is None else time_left(seconds)
            if console.is_terminal:
                progress.update(task, description=escape(doing), completed=share, left=left)
            else:
                write(doing, share, f", {left}" if left else "")
            return seconds

        yield show


def say(line: str) -> None:
    """Print a line as it is: no markup, and as long as it is."""
    console.print(escape(line), soft_wrap=True)


def emit(data: object) -> None:
    """Print JSON on stdout."""
    typer.echo(json.dumps(data, indent=2, default=str))


def quiet(wanted: bool) -> None:
    """Keep everything but JSON and errors off the terminal."""
    console.quiet = wanted
