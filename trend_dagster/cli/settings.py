"""`trend init` and `trend settings`: a project to begin with, and every setting there is."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from trend_dagster.cli.app import (
    PROFILES,
    WIDTH,
    Folder,
    Json,
    Profile,
    app,
    console,
    emit,
    problems,
    say,
)
from trend_dagster.errors import InputError, cannot_write


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make; it may exist.")],
    profile: Annotated[str, typer.Option(help=f"Profile to build on: {PROFILES}.")] = "default",
    records: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Lay Dagster's records into PostgreSQL: postgresql://USER@HOST/DATABASE, or "
            "env:NAME for what that environment variable has. One database for each project. Needs "
            "`pip install 'trend_dagster[cluster]'`.",
        ),
    ] = None,
) -> None:
    """Make a project: a commented trend.yaml, and folders for BOLD and label files."""
    from trend_dagster.files import replace_file
    from trend_dagster.project.settings import (
        SETTINGS_FILE,
        Settings,
        check_profile,
        new_settings_file,
    )

    check_profile(profile)
    file = folder / SETTINGS_FILE
    if file.exists() or (folder.exists() and not folder.is_dir()):
        raise InputError(
            f"project {folder}",
            expected="a new folder, or one without a trend.yaml",
            found=f"{file} there already" if file.exists() else "a file",
            remedy="Edit what is there, or name another folder.",
        )
    inputs = Settings().inputs
    if records is not None:
        from trend_dagster.orchestration.instance import lay_records_into

        lay_records_into(records, folder)
        if find_spec("dagster_postgres") is None:
            problems.print(
                "[yellow]Note[/] records in PostgreSQL need more than is installed here: "
                "pip install 'trend_dagster\\[cluster]'",
                soft_wrap=True,
            )
    try:
        for name in (inputs.bold, inputs.geodesic_labels):
            (folder / name).mkdir(parents=True, exist_ok=True)
        replace_file(file, new_settings_file(profile).encode())
    except OSError as error:
        remedy = "run again, or name another folder."
        raise cannot_write(f"project {folder}", error, remedy) from error
    say(f"Made {folder}. Next:")
    steps = (
        f"name the folder of your BOLD in {file} (inputs.bold: /data/derivatives/fmriprep), or put "
        f"one file or pair per run into {folder / inputs.bold}: GIFTI, MGH, CIFTI-2, NIfTI, .npy "
        "(vertices x timepoints)",
        "name the mesh that its vertices lie on there (inputs.surface or inputs.surfaces): "
        "spatial encodings are cut from it",
        f"or put a .npy per label file (a label per vertex) into {folder / inputs.geodesic_labels}",
        f"trend run {folder}",
    )
    for number, step in enumerate(steps, start=1):
        say(f"  {number}. {step}")


@app.command()
def settings(
    folder: Folder = Path(),
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """List every setting: its value here, its default, the tutorial's value, what it means.

    A table in a terminal of 116 columns or more; else a line for each setting, for grep and files.
    """
    from trend_dagster.project.settings import setting_lines

    lines = setting_lines(folder, profile)
    if as_json:
        emit(lines)
        return
    if not console.is_terminal or console.width < WIDTH:
        for line in lines:
            say(_in_a_line(line))
        return
    table = Table()
    table.add_column("setting", no_wrap=True)
    for name in ("here", "default", "tutorial"):
        table.add_column(name, max_width=14, overflow="fold")
    table.add_column("meaning", ratio=1)
    last = ""
    for line in lines:
        here, *values = (escape(_shown(line[name])) for name in ("here", "default", "tutorial"))
        if line["here"] != line["default"]:
            here = f"[bold]{here}[/]"
        section, _, name = line["name"].partition(".")
        if section != last:
            table.add_section()
        last = section
        table.add_row(f"{section}.\n{name}", here, *values, escape(line["description"]))
    console.print(table)


def _in_a_line(line: dict[str, Any]) -> str:
    """``name = value  # meaning``, with the other values where they differ."""
    here, *values = (_shown(line[name]) or "none" for name in ("here", "default", "tutorial"))
    others = zip(("default", "tutorial"), values, strict=True)
    said = ", ".join(f"{name} {value}" for name, value in others if value != here)
    meaning = " ".join(line["description"].split())
    return f"{line['name']} = {here}  # {meaning}" + (f" ({said})" if said else "")


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(_shown(one) for one in value) or "none"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
