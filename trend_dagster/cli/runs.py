"""`trend run`: make what is missing or out of date, and show it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from trend_dagster.cli.app import (
    Folder,
    Json,
    Profile,
    app,
    console,
    debugging,
    emit,
    problems,
    progress_bar,
    quiet,
)
from trend_dagster.cli.results import show_results

if TYPE_CHECKING:
    from trend_dagster.orchestration.running import Outcome


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
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Make everything that is missing or out of date."""
    raise typer.Exit(run_project(folder, select or [], force, retrain, profile, as_json))


def run_project(
    folder: Path,
    select: list[str] | None = None,
    force: bool = False,
    retrain: bool = False,
    profile: str | None = None,
    as_json: bool = False,
) -> int:
    """Run what has to be run, show it, and return the exit status.

    Parameters
    ----------
    folder : Path
        Folder of the project.
    select : list of str, optional
        Only these assets.
    force : bool
        Make anew even what is current.
    retrain : bool
        Train anew if runs were added or changed.
    profile : str, optional
        In place of the profile that `trend.yaml` names.
    as_json : bool
        Print what became of each asset as JSON, and nothing else.

    Returns
    -------
    int
        0, or 1 if anything could not be made.
    """
    started = time.perf_counter()
    quiet(as_json)
    from trend_dagster.definitions import build_definitions
    from trend_dagster.orchestration.assets import find_asset
    from trend_dagster.orchestration.instance import only_run_here, open_instance
    from trend_dagster.orchestration.production import PROGRESS
    from trend_dagster.orchestration.running import Wish, run_all
    from trend_dagster.project.folder import Project

    project = Project.open(folder, profile)
    for name in select or []:
        find_asset(name)
    definitions = build_definitions(project.folder, profile)
    outcomes: list[Outcome] = []
    with (
        stopped_with_a_word(),
        only_run_here(project.folder),
        open_instance(project.folder) as instance,
        progress_bar() as show,
    ):
        PROGRESS.set(lambda name, doing, share: show(f"{name}: {doing}", share))
        wish = Wish(select=select or [], force=force, retrain=retrain)
        for outcome in run_all(project, definitions, instance, wish):
            outcomes.append(outcome)
            _show_outcome(outcome)
    seconds = time.perf_counter() - started
    made = sum(outcome.made for outcome in outcomes)
    failed = sum(len(outcome.errors) for outcome in outcomes)
    if as_json:
        emit({"seconds": round(seconds, 1), "assets": [asdict(outcome) for outcome in outcomes]})
        return 1 if failed else 0
    if made == 0 and failed == 0:
        console.print(f"\nNothing has changed: nothing was computed ({seconds:.0f} s).")
    else:
        console.print(f"\n{made} outputs made in {seconds:.0f} s; {failed} errors.")
    show_results(project.folder, profile)
    return 1 if failed else 0


@contextmanager
def stopped_with_a_word() -> Iterator[None]:
    """Let the user stop what runs, and say what that means."""
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
    said = ", ".join(parts) or "nothing to make"
    if outcome.nothing_to_do:
        said = f"[dim]nothing to do: {escape(outcome.nothing_to_do)}[/]"
    console.print(f"[bold]{outcome.asset:24}[/] {said}", soft_wrap=True)
    for line in (*outcome.excluded, *outcome.notes):
        console.print(f"  [yellow]note[/] {escape(line)}", soft_wrap=True)
    for line in outcome.errors:
        problems.print(f"  [bold red]error[/] {escape(line)}", soft_wrap=True)
    for trace in outcome.traces if debugging() else ():
        problems.print(escape(trace), soft_wrap=True)
