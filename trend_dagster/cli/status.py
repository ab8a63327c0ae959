"""`trend status`: what exists, what is out of date and why, what is missing."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from trend_dagster.cli.app import Debug, Folder, app, console


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
