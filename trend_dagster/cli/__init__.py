"""The command line: `trend`. It reads arguments and prints; the work is in the other packages.

One module per group of commands. A module takes ``app`` from ``trend_dagster.cli.app``, decorates
its functions with ``@app.command()`` and stands in the list below, in the order of the help.
What a command needs beyond this package it imports when it runs, so that every command starts at
once.
"""

from trend_dagster.cli import (  # noqa: F401, I001 - the order of `trend --help`
    settings,
    runs,
    status,
    show,
    export,
    compare,
    dev,
    doctor,
    gc,
    examples,
    imports,
    validate,
)
from trend_dagster.cli.app import main as main
