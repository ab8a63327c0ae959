"""`trend run`: make what is missing or out of date, and show it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    say,
)
from trend_dagster.cli.results import show_results
from trend_dagster.progress import time_left

if TYPE_CHECKING:
    from trend_dagster.orchestration.production import Progress
    from trend_dagster.orchestration.running import Outcome
    from trend_dagster.project.folder import Project

MAX_DOUBTS = 6  # of an asset; a cohort of hundreds may share one


@app.command()
def run(
    folder: Folder = Path(),
    select: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these assets: a name, or Dagster's selection syntax (+embeddings: and what "
            "it is made from; bold+: and what is made from it; 'embeddings or report'; "
            "group:parcellation). Repeatable."
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Make anew even what is current.")] = False,
    retrain: Annotated[
        bool, typer.Option(help="Train anew if runs were added or changed.")
    ] = False,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Make everything that is missing or out of date."""
    started = time.perf_counter()
    quiet(as_json)
    from trend_dagster.definitions import build_definitions
    from trend_dagster.orchestration.assets import named_assets, select_assets
    from trend_dagster.orchestration.instance import elsewhere, only_run_here, open_instance
    from trend_dagster.orchestration.production import PROGRESS
    from trend_dagster.orchestration.running import Wish, run_all
    from trend_dagster.project.folder import Project

    project = Project.open(folder, profile)
    selected = select_assets(select or [])
    definitions = build_definitions(project.folder, profile)
    outcomes: list[Outcome] = []
    with (
        stopped_with_a_word(),
        only_run_here(project.folder),
        open_instance(project.folder, alone=True) as instance,
        progress_bar() as show,
    ):
        if where := elsewhere(project.folder):
            say(where)
        PROGRESS.set(foretelling(show, say))
        if not selected or "bold" in selected:
            _show_foreseen(project, whole=not selected)
        if not selected or "individuals" in selected:
            _show_foreseen_associations(project)
        named = named_assets(select or [])
        wish = Wish(select=selected, named=named, force=force, retrain=retrain)
        for outcome in run_all(project, definitions, instance, wish):
            outcomes.append(outcome)
            _show_outcome(outcome)
    seconds = time.perf_counter() - started
    left_out = sum(outcome.left_out for outcome in outcomes)
    made = sum(outcome.made for outcome in outcomes) - left_out
    failed = sum(len(outcome.errors) for outcome in outcomes)
    if as_json:
        emit({"seconds": round(seconds, 1), "assets": [asdict(outcome) for outcome in outcomes]})
        raise typer.Exit(1 if failed else 0)
    _show_left_out(outcomes, project)
    if made == 0 and failed == 0 and left_out == 0:
        console.print(f"\nNothing has changed: nothing was computed ({seconds:.0f} s).")
    else:
        waiting = sum(outcome.blocked for outcome in outcomes)
        wait = f", {waiting} outputs wait for what failed" if failed and waiting else ""
        without = f", {left_out} left out" if left_out else ""
        said = f"{failed} error{'' if failed == 1 else 's'}{wait}"
        outputs = f"{made} output{'' if made == 1 else 's'} made{without}"
        console.print(f"\n{outputs} in {seconds:.0f} s; {said}.")
    show_results(project)
    raise typer.Exit(1 if failed else 0)


WORTH_TELLING = 600.0
"""Seconds of work that one wants to know of before."""


def foretelling(show: Callable[[str, float], float | None], say: Callable[[str], None]) -> Progress:
    """Show progress, and say of long work once how long it takes, as soon as that is known.

    Parameters
    ----------
    show : callable
        As ``progress_bar`` gives it.
    say : callable
        Takes a line.
    """
    told: set[str] = set()

    def progress(name: str, doing: str, share: float) -> None:
        left = show(f"{name}: {doing}", share)
        if left is not None and name not in told:
            told.add(name)
            if left > WORTH_TELLING:
                say(
                    f"{name}: {doing}; {time_left(left)}. Ctrl-C stops it; the same command "
                    "goes on from there."
                )

    return progress


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
        "made": outcome.made - outcome.left_out,
        "left out": outcome.left_out,
        "unchanged, kept": outcome.kept,
        "waiting for " + (", ".join(outcome.waits_for) or "others"): outcome.blocked,
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    said = ", ".join(parts) or "nothing to make"
    if outcome.nothing_to_do:
        said = f"[dim]nothing to do: {escape(outcome.nothing_to_do)}[/]"
    console.print(f"[bold]{outcome.asset:24}[/] {said}", soft_wrap=True)
    odd = [*outcome.excluded, *outcome.notes, *outcome.doubts[:MAX_DOUBTS]]
    if (more := len(outcome.doubts) - MAX_DOUBTS) > 0:
        odd.append(f"and {more} more like these (`trend status --all` shows them)")
    for line in odd:
        console.print(f"  [yellow]note[/] {escape(line)}", soft_wrap=True)
    for line in outcome.errors:
        problems.print(f"  [bold red]error[/] {escape(line)}", soft_wrap=True)
    for trace in outcome.traces if debugging() else ():
        problems.print(escape(trace), soft_wrap=True)


def _show_foreseen(project: Project, whole: bool) -> None:
    """Say at once why runs will not be used, and what will stop a run of the whole project.

    What is known of a run by now is said with it.
    """
    from trend_dagster.errors import TrendError
    from trend_dagster.project.folder import BOLD_RUN
    from trend_dagster.project.foresight import foreseen, misfits

    found: dict[str, list[str]] = {}
    others: list[str] = []
    with suppress(TrendError):  # said where the runs are listed
        for key, why in foreseen(project):
            found.setdefault(key, []).append(why)
        others = misfits(project) if whole else []
    found.pop("", None)  # an error, which comes at once
    new = []
    for key, said in found.items():
        before = project.store.latest("bold", {BOLD_RUN: key})
        known = (before.excluded or "") if before else ""
        if not any(known.endswith(why) for why in said):
            new.append(f"{key} cannot be used: {'; '.join(said)}")
    if (more := len(new) - MAX_DOUBTS) > 0:
        new[MAX_DOUBTS:] = [f"and {more} more like these (`trend doctor` shows them)"]
    for line in (*new, *others):
        console.print(f"[yellow]note[/] {escape(line)}", soft_wrap=True)


def _show_foreseen_associations(project: Project) -> None:
    """Say at once which associations will not be made, and whether their table can be read."""
    from trend_dagster.errors import TrendError
    from trend_dagster.orchestration.examination import foreseen_associations

    try:
        notes = foreseen_associations(project)
    except TrendError as error:
        notes = [str(error)]
    for line in notes:
        console.print(f"[yellow]note[/] {escape(line)}", soft_wrap=True)


def _show_left_out(outcomes: list[Outcome], project: Project) -> None:
    """End with what is in no result, and why; a long run has said it long ago."""
    from trend_dagster.project.folder import BOLD_RUN, LABEL_FILE
    from trend_dagster.storage.label_files import unread_label_files
    from trend_dagster.storage.runs import unread_files

    left_out: list[str] = []
    for outcome in outcomes:
        if outcome.asset in (BOLD_RUN, "bold", LABEL_FILE, "geodesic_labels"):
            # Of a whole folder, too: its error went to the other stream, which a log may lack.
            left_out += [*outcome.excluded, *outcome.errors]
    if any(outcome.asset in ("bold", BOLD_RUN) for outcome in outcomes):
        folder = project.folder / project.settings.inputs.bold
        left_out += [f"{name}: {why}" for name, why in unread_files(folder).items()]
    if any(outcome.asset in ("geodesic_labels", LABEL_FILE) for outcome in outcomes):
        folder = project.folder / project.settings.inputs.geodesic_labels
        left_out += [f"{name}: {why}" for name, why in unread_label_files(folder).items()]
    if left_out:
        console.print("\n[bold]Left out:[/]")
        for line in dict.fromkeys(left_out):
            say(f"  {line}")
