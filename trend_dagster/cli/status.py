"""`trend status`: what exists, what is out of date and why, what is missing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from trend_dagster.cli.app import Folder, Json, Profile, app, console, emit, problems, say

if TYPE_CHECKING:
    from trend_dagster.orchestration.overview import AssetStatus

MAX_REASONS = 3  # per asset, unless all are asked for


@app.command()
def status(
    folder: Folder = Path(),
    profile: Profile = None,
    all_reasons: Annotated[bool, typer.Option("--all", help="Give every reason.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every stored byte with its digest as well.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what exists, what is out of date and why, what is missing or excluded, and the sizes."""
    from trend_dagster.orchestration.instance import run_lock
    from trend_dagster.orchestration.overview import damages, overview
    from trend_dagster.project.folder import Project
    from trend_dagster.storage.locks import Holder

    project = Project.open(folder, profile)
    found = overview(project)
    damaged = list(damages(project)) if verify else []
    if as_json:
        data = {"project": str(project.folder), "assets": [asdict(asset) for asset in found]}
        emit(data | ({"damaged": damaged} if verify else {}))
    else:
        console.print(_table(found))
        said: set[str] = set()
        for asset in found:
            for line in _reasons(asset, None if all_reasons else MAX_REASONS, said):
                say(line)
        for line in _not_needed(found):
            say(line)
        if waiting := [f"{a.asset} ({len(a.waiting)})" for a in found if a.waiting]:
            say(f"Not made yet, for want of what they are made from: {', '.join(waiting)}")
        if following := [f"{a.asset} ({len(a.following)})" for a in found if a.following]:
            say(f"Out of date only because what they are made from is: {', '.join(following)}")
        if (holder := Holder.read(run_lock(project.folder))) and holder.alive:
            say(f"`trend run` is at work ({holder})")
        for line in damaged:
            problems.print(f"[bold red]damaged[/] {escape(line)}", soft_wrap=True)
    raise typer.Exit(1 if damaged else 0)


def _table(found: list[AssetStatus]) -> Table:
    standings = [s for s in found[0].counts if any(asset.counts[s] for asset in found)]
    table = Table("asset")
    for name in [*standings, "size"]:
        table.add_column(name, justify="right")
    for asset in found:
        counts = [str(asset.counts[s] or "") for s in standings]
        size = bytes_shown(asset.n_bytes) if asset.n_bytes else ""
        table.add_row(asset.asset, *counts, size)
    table.add_section()
    total = sum(asset.n_bytes for asset in found)
    table.add_row("all", *("" for _ in standings), bytes_shown(total))
    return table


def _reasons(asset: AssetStatus, most: int | None, said_before: set[str]) -> list[str]:
    """Say what there is to say; exclusions only of the first asset, for they pass on to others."""
    lines = [f"{name}: {said}" for name, said in asset.under_way.items()]
    for name, why in asset.reasons.items():  # an error begins with the name of its output itself
        said = [one.removeprefix(f"{name}: ") for one in dict.fromkeys(why)]
        counted = name in asset.waiting or (name in asset.following and most is not None)
        lines += [] if counted else [f"{name}: {'; '.join(said)}"]
    for name, reason in asset.excluded.items():
        once = f"{name.removeprefix(asset.asset)}: {reason}"
        lines += [] if once in said_before else [f"{name} is excluded: {reason}"]
        said_before.add(once)
    lines += [f"{name}: {doubt}" for name, said in asset.doubts.items() for doubt in said]
    lines += [f"{name}: {line}" for name, said in asset.findings.items() for line in said]
    lines += [f"{name}: its file was removed; what is stored stays" for name in asset.removed]
    if most is not None and len(lines) > most:
        lines[most:] = [f"{asset.asset}: and {len(lines) - most} more (--all shows them)"]
    return lines


def _not_needed(found: list[AssetStatus]) -> list[str]:
    """Say what the settings do not ask for, each reason once."""
    assets: dict[str, list[str]] = {}
    for asset in found:
        if asset.not_needed is not None:
            assets.setdefault(asset.not_needed, []).append(asset.asset)
    return [f"Not needed ({why}): {', '.join(names)}" for why, names in assets.items()]


def bytes_shown(n_bytes: int) -> str:
    """A size as people read it, in powers of 1024."""
    size, units = float(n_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"
