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
        for asset in found:
            for line in _reasons(asset, None if all_reasons else MAX_REASONS):
                say(line)
        if waiting := [f"{a.asset} ({len(a.waiting)})" for a in found if a.waiting]:
            say(f"Not made yet, for want of what they are made from: {', '.join(waiting)}")
        if (holder := Holder.read(run_lock(project.folder))) and holder.alive:
            say(f"`trend run` is at work ({holder})")
        for line in damaged:
            problems.print(f"[bold red]damaged[/] {escape(line)}", soft_wrap=True)
    raise typer.Exit(1 if damaged else 0)


def _table(found: list[AssetStatus]) -> Table:
    statuses = [s for s in found[0].counts if any(asset.counts[s] for asset in found)]
    table = Table("asset")
    for name in [*statuses, "excluded", "size"]:
        table.add_column(name, justify="right")
    for asset in found:
        counts = [str(asset.counts[s] or "") for s in statuses]
        size = bytes_shown(asset.n_bytes) if asset.n_bytes else ""
        table.add_row(asset.asset, *counts, str(len(asset.excluded) or ""), size)
    table.add_section()
    total = sum(asset.n_bytes for asset in found)
    table.add_row("all", *("" for _ in statuses), "", bytes_shown(total))
    return table


def _reasons(asset: AssetStatus, most: int | None) -> list[str]:
    lines = [f"{name}: {said}" for name, said in asset.under_way.items()]
    for name, why in asset.reasons.items():  # an error begins with the name of its output itself
        said = [one.removeprefix(f"{name}: ") for one in dict.fromkeys(why)]
        lines += [] if name in asset.waiting else [f"{name}: {'; '.join(said)}"]
    lines += [f"{name} is excluded: {why}" for name, why in asset.excluded.items()]
    lines += [f"{name}: {doubt}" for name, said in asset.doubts.items() for doubt in said]
    lines += [f"{name}: {line}" for name, said in asset.findings.items() for line in said]
    lines += [f"{name}: its file was removed; what is stored stays" for name in asset.removed]
    if most is not None and len(lines) > most:
        lines[most:] = [f"{asset.asset}: and {len(lines) - most} more (--all shows them)"]
    return lines


def bytes_shown(n_bytes: int) -> str:
    """A size as people read it, in powers of 1024."""
    size, units = float(n_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"
