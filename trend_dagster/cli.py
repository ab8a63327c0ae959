"""The command line: `trend`. It shows; what it shows is computed elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from trend_dagster.errors import SettingsError, TrendError

if TYPE_CHECKING:  # every command starts at once; what it needs is imported when it runs
    import pandas as pd

    from trend_dagster.orchestration.running import Outcome

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


@app.command()
def demo(folder: Folder = Path("demo"), debug: Debug = False) -> None:
    """Simulate a small cohort with planted networks and run the whole pipeline on it."""
    from trend_dagster.examples import make_demo

    make_demo(folder, console.print)
    raise typer.Exit(_run(folder))


@app.command()
def real(
    folder: Folder = Path("real"),
    vertices: Annotated[
        int, typer.Option(help="Vertices per hemisphere: 642, 2562 or 10242.")
    ] = 642,
    debug: Debug = False,
) -> None:
    """Run the whole pipeline on one real person's resting-state BOLD (fetched, 61 MB)."""
    from trend_dagster.examples import make_real

    make_real(folder, vertices, console.print)
    raise typer.Exit(_run(folder))


@app.command()
def run(
    folder: Folder = Path(),
    select: Annotated[
        list[str] | None, typer.Option(help="Only this asset; may be given several times.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Make anew even what is current.")] = False,
    retrain: Annotated[
        bool, typer.Option(help="Train anew if runs were added or changed.")
    ] = False,
    profile: Annotated[
        str | None, typer.Option(help="Profile in place of the one in trend.yaml.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Make everything that is missing or out of date."""
    raise typer.Exit(_run(folder, select or [], force, retrain, profile))


@app.command()
def status(folder: Folder = Path(), debug: Debug = False) -> None:
    """Say what exists, what is out of date and why, and what is missing."""
    import trend_dagster.orchestration.assets  # noqa: F401 - defines the assets
    from trend_dagster.orchestration.lineage import states
    from trend_dagster.orchestration.resources import Project
    from trend_dagster.orchestration.stored_asset import STORED_ASSETS

    project = Project.open(folder)
    table = Table("asset", "current", "out of date", "missing", "blocked", "excluded", "why")
    for asset in STORED_ASSETS.values():
        found = states(project, asset)
        counts = [
            sum(s.status == status for s in found)
            for status in ("current", "out of date", "missing", "blocked")
        ]
        excluded = [s.version.excluded for s in found if s.version and s.version.excluded]
        why = [*dict.fromkeys(r for s in found for r in s.reasons), *dict.fromkeys(excluded)]
        more = f" (and {len(why) - 1} more)" if len(why) > 1 else ""
        shown = [str(n) if n else "" for n in (*counts, len(excluded))]
        table.add_row(asset.name, *shown, escape(why[0] + more) if why else "")
    console.print(table)


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


def _run(
    folder: Path,
    select: list[str] | None = None,
    force: bool = False,
    retrain: bool = False,
    profile: str | None = None,
) -> int:
    """Run what has to be run, show it, and return the exit status."""
    started = time.perf_counter()
    from trend_dagster.definitions import build_definitions
    from trend_dagster.orchestration.resources import Project
    from trend_dagster.orchestration.running import only_run_here, open_instance, run_all
    from trend_dagster.orchestration.stored_asset import PROGRESS, STORED_ASSETS

    project = Project.open(folder, profile)
    for name in select or []:
        if name not in STORED_ASSETS:
            raise SettingsError(
                f"asset {name!r}",
                expected=f"one of {', '.join(STORED_ASSETS)}",
                found="no such asset",
                remedy="Correct the name given with --select.",
            )
    definitions = build_definitions(project.folder, profile)
    made, failed = 0, 0
    with (
        _stopped_with_a_word(),
        only_run_here(project.folder),
        open_instance(project.folder) as instance,
        _bar() as show,
    ):
        PROGRESS.set(show)
        for outcome in run_all(
            project, definitions, instance, select=select or [], force=force, retrain=retrain
        ):
            made += outcome.made
            failed += len(outcome.errors)
            _show_outcome(outcome)
            for line in (*outcome.excluded, *outcome.notes):
                console.print(f"  [yellow]note[/] {escape(line)}", soft_wrap=True)
            for line in outcome.errors:
                problems.print(f"  [bold red]error[/] {escape(line)}", soft_wrap=True)
    seconds = time.perf_counter() - started
    if made == 0 and failed == 0:
        console.print(f"\nNothing has changed: nothing was computed ({seconds:.0f} s).")
    else:
        console.print(f"\n{made} outputs made in {seconds:.0f} s; {failed} errors.")
    show_results(project.folder, profile)
    return 1 if failed else 0


@contextmanager
def _stopped_with_a_word() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        problems.print("Stopped. What was finished is kept; the same command goes on from here.")
        raise typer.Exit(130) from None


def _show_outcome(outcome: Outcome) -> None:
    counts = {
        "made": outcome.made,
        "unchanged, kept": outcome.kept,
        "waiting for others": outcome.blocked,
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    console.print(f"[bold]{outcome.asset:24}[/] {', '.join(parts) or 'nothing made'}")


@contextmanager
def _bar() -> Iterator[Callable[[str, str, float], None]]:
    """Show one bar for the output at work; nothing where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=1.0)

        def show(name: str, doing: str, share: float) -> None:
            progress.update(task, description=escape(f"{name}: {doing}"), completed=share)

        yield show


def show_results(folder: Path, profile: str | None = None) -> None:
    """Show the table of the sweep beside its controls, and where everything lies.

    Parameters
    ----------
    folder : Path
        Folder of the project.
    profile : str, optional
        In place of the profile that `trend.yaml` names.
    """
    from trend_dagster.orchestration.assets.controls import comparison_table
    from trend_dagster.orchestration.lineage import states
    from trend_dagster.orchestration.resources import Project
    from trend_dagster.orchestration.stored_asset import STORED_ASSETS

    project = Project.open(folder, profile)
    comparison = project.store.latest("control_comparison")
    if comparison is not None:
        found = comparison_table(comparison)
        stale = [s for s in states(project, STORED_ASSETS["control_comparison"]) if s.reasons]
        for state in stale:
            reason = escape(state.reasons[0])
            console.print(f"\n[bold red]These results are from before[/]: {reason}", soft_wrap=True)
        console.print(_comparison(found))
        for line in read_controls(found) if not stale else ():
            console.print(line, soft_wrap=True)
    if note := project.settings.inputs.note:
        console.print(f"[bold]{escape(note)}[/]")
    pictures = sorted(project.outputs.glob("parcellation_*.png"))
    places = {
        "workbook": project.outputs / "Complete_Clustering.xlsx",
        "comparison": project.outputs / "control_comparison.csv",
        "store": project.store.root,
        "planted and found": project.outputs / "planted_and_found.png",
        **{f"picture, {p.stem.split('_')[1]} clusters": p for p in pictures},
    }
    for name, path in places.items():
        if path.exists():
            console.print(f"{name + ':':24} {path}", soft_wrap=True)


FIGURES = (
    "label_file",
    "n_components",
    "n_clusters",
    "silhouette",
    "davies_bouldin",
    "connectivity_ratio",
    "zero_row_share",
)
SHOWN = {
    "label_file": "label file",
    "n_components": "n_com-\nponents",
    "n_clusters": "n_clus-\nters",
    "silhouette": "silhou-\nette",
    "davies_bouldin": "Davies-\nBouldin",
    "connectivity_ratio": "connect.\nratio",
    "zero_row_share": "zero\nrows",
    "dice_trained": "Dice,\ntrained",
    "dice_untrained": "Dice,\nuntrained",
    "dice_bold": "Dice,\nraw BOLD",
    "silhouette_untrained": "silhou-\nette, un-\ntrained",
    "silhouette_bold": "silhou-\nette, raw\nBOLD",
}


def read_controls(found: pd.DataFrame) -> list[str]:
    """Say what the table says: whether the trained model was worth it in the chosen cells.

    Parameters
    ----------
    found : DataFrame
        The comparison, with one column per control.

    Returns
    -------
    list of str
        One line per chosen cell that has controls and planted networks.
    """
    lines = []
    for row in found[found["chosen"]].to_dict("records"):
        controls = {n: row[f"dice_{n}"] for n in ("untrained", "bold") if f"dice_{n}" in row}
        if not controls or "dice_trained" not in row:
            continue
        best, trained = max(controls.values()), row["dice_trained"]
        verdict = "finds more than" if trained > best else "does not find more than"
        lines.append(
            f"{row['n_clusters']:.0f} clusters: the trained model (Dice {trained:.3f}) {verdict} "
            f"its best control ({best:.3f})."
        )
    return lines


def _comparison(found: pd.DataFrame) -> Table:
    wanted = "dice" if "dice_trained" in found else "silhouette"
    columns = [n for n in SHOWN if n in found and (n in FIGURES or n.startswith(wanted))]
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in columns:
        table.add_column(SHOWN[name], justify="left" if name == "label_file" else "right")
        table.columns[-1].no_wrap = name == "label_file"
    table.add_column("chosen")
    for row in found.to_dict("records"):
        shown = [_shown(name, row[name]) for name in columns]
        style = "bold" if row["chosen"] else None
        table.add_row(*shown, "yes" if row["chosen"] else "", style=style)
    return table


def _shown(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    assert isinstance(value, int | float)
    if name in {"n_components", "n_clusters"}:
        return f"{value:.0f}"
    if name == "zero_row_share":
        return f"{value:.1%}"
    return f"{value:.3f}"
