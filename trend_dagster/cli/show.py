"""`trend show`: one output with its shape, its pictures and where it came from."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from trend_dagster.cli.app import Json, Profile, app, console, emit, say
from trend_dagster.errors import MissingUpstreamError, SettingsError

if TYPE_CHECKING:
    from trend_dagster.orchestration.production import StoredAsset
    from trend_dagster.project.folder import Project
    from trend_dagster.storage.stores import Partition, Version

MAX_LINES = 40  # of the tree of what it was made from


@app.command()
def show(
    asset: Annotated[str, typer.Argument(help="Name of the asset, e.g. nmf_sweep.")],
    partition: Annotated[
        list[str] | None,
        typer.Argument(help="Its partition, e.g. sub-01_run-1, or: LABEL_FILE N_COMPONENTS."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Folder of the project, where no argument is one."),
    ] = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Show one output: its arrays, what was measured, its pictures, and what it was made from.

    An argument that is a folder with a trend.yaml is the project: trend show STUDY nmf_sweep.
    """
    from trend_dagster.orchestration.assets import find_asset
    from trend_dagster.project.folder import Project
    from trend_dagster.storage.stores import describe

    folder, (asset, *keys) = _with_folder(folder, [asset, *(partition or [])])
    project = Project.open(folder, profile)
    found = find_asset(asset)
    if found.dims and not keys:
        _list(project, found, as_json)
        return
    key = _partition(found, keys)
    version = project.store.latest(found.name, key)
    if version is None:
        reason = project.store.failure(found.name, key)
        raise MissingUpstreamError(
            describe(found.name, key),
            expected="a stored version",
            found="none" + (f": {reason}" if reason else ""),
            remedy=f"`trend run --select +{found.name}` makes it; `trend show {found.name}` lists "
            "what there is.",
        )
    description = _describe(project, found, version)
    if as_json:
        emit(description)
        return
    _print(description)


def _with_folder(folder: Path | None, words: list[str]) -> tuple[Path, list[str]]:
    """Tell the project's folder from the other words; no asset or key has a trend.yaml in it."""
    from trend_dagster.orchestration.assets import ASSETS
    from trend_dagster.project.settings import SETTINGS_FILE

    if folder is not None:
        return folder, words
    named = [w for w in words if w not in ASSETS and Path(w, SETTINGS_FILE).is_file()]
    if not named:
        return Path(), words
    others = [word for word in words if word != named[0]]
    if not others:
        raise SettingsError(
            "asset",
            expected="the name of an asset",
            found=f"only the project's folder, {named[0]}",
            remedy=f"`trend status {named[0]}` lists the assets; trend show {named[0]} ASSET.",
        )
    return Path(named[0]), others


def _partition(asset: StoredAsset, keys: list[str]) -> Partition:
    if len(keys) != len(asset.dims):
        raise SettingsError(
            f"partition {' '.join(keys)!r} of {asset.name}",
            expected=f"{len(asset.dims)} keys ({' '.join(d.upper() for d in asset.dims)})",
            found=str(len(keys)),
            remedy=f"`trend show {asset.name}` lists what there is.",
        )
    return dict(zip(asset.dims, keys, strict=True))


def _list(project: Project, asset: StoredAsset, as_json: bool) -> None:
    from trend_dagster.orchestration.lineage import Lineage
    from trend_dagster.orchestration.overview import standing

    rows = [
        {
            **s.partition,
            "status": standing(project, s)[0],
            "digest": s.version.digest if s.version else None,
        }
        for s in Lineage(project).states(asset)
    ]
    if as_json:
        emit(rows)
        return
    table = Table(*asset.dims, "status", "digest")
    for row in rows:
        table.add_row(*(escape(str(value or "")) for value in row.values()))
    console.print(table)


def _describe(project: Project, asset: StoredAsset, version: Version) -> dict[str, Any]:
    from trend_dagster.orchestration.lineage import Lineage, ancestry
    from trend_dagster.orchestration.recorded_pictures import write_pictures

    with project.store.at_one_moment():
        states = Lineage(project).states(asset)
        made_from = [{"depth": depth, "what": line} for depth, line in ancestry(project, version)]
    state = next((s for s in states if s.partition == version.partition), None)
    pictures: list[Path] = []
    with suppress(OSError):  # who may only read gets none
        pictures = write_pictures(project, version)
    return {
        "output": version.name,
        "status": state.status if state else "its input was removed",
        "reasons": list(state.reasons) if state else [],
        "excluded": version.excluded,
        "created": version.attributes["created"],
        "digest": version.digest,
        "store": str(version.path),
        "arrays": [
            {
                "name": name,
                "shape": list(array.shape),
                "dimensions": [d or "" for d in array.metadata.dimension_names or ()],  # type: ignore[union-attr]
                "type": str(array.dtype),
                "unit": array.attrs.get("units", ""),
                "description": array.attrs.get("description", ""),
            }
            for name, array in ((n, version.array(n)) for n in version.names())
        ],
        "facts": version.facts,
        "run": version.attributes["run"],
        "pictures": [str(path) for path in pictures],
        "settings": version.recipe.as_dict()["settings"],
        "libraries": version.attributes["libraries"],
        "made_from": made_from,
    }


def _print(found: dict[str, Any]) -> None:
    why = f" ({'; '.join(found['reasons'])})" if found["reasons"] else ""
    console.print(f"[bold]{escape(found['output'])}[/]: {escape(found['status'] + why)}")
    if found["excluded"]:
        say(f"excluded: {found['excluded']}")
    console.print(f"made {found['created']}, digest {found['digest']}")
    say(found["store"])
    table = Table("array", "shape", "dimensions", "type", "unit", "what it is")
    for array in found["arrays"]:
        shape = " x ".join(map(str, array["shape"]))
        dimensions = ", ".join(array["dimensions"])
        row = (array["name"], shape, dimensions, array["type"], array["unit"], array["description"])
        table.add_row(*map(escape, row))
    console.print(table)
    for name, fact in {**found["facts"], **found["run"]}.items():
        say(f"{name}: {_short(fact)}")
    for path in found["pictures"]:
        say(f"picture: {path}")
    console.print("[bold]made from[/]")
    for line in found["made_from"][1 : MAX_LINES + 1]:
        say("  " * line["depth"] + line["what"])
    if (more := len(found["made_from"]) - 1 - MAX_LINES) > 0:
        console.print(f"  and {more} lines more (--json has them all)")


def _short(value: object, most: int = 200) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[:most]} ..."
