"""What all commands share: the application, the consoles, common options, how errors are shown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from trend_dagster.errors import TrendError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Maps of functional networks from resting-state BOLD, as Dagster assets.",
)
WIDTH = 116  # where the output goes to a file or a log there is no width to find out
console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
problems = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else WIDTH)

Folder = Annotated[Path, typer.Argument(help="Folder of the project.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")]


def main() -> None:
    """Run the command line; a user's error is one message and exit status 1."""
    try:
        app()
    except TrendError as error:
        if "--debug" in sys.argv:
            raise
        message = escape(f"{type(error).__name__}: {error}")
        problems.print(f"[bold red]Error[/] {message}", soft_wrap=True)
        raise SystemExit(1) from None
