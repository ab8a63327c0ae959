"""`trend compare`: two parcellations beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from trend_dagster.cli.app import Json, app, console, emit, say
from trend_dagster.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trend_dagster.project.folder import Project
    from trend_dagster.storage.stores import Version

Place = Annotated[
    str,
    typer.Argument(
        help="A project's folder (what was chosen there), FOLDER:before (the version before), "
        "FOLDER:VERSION, or a cell of the sweep, FOLDER:LABEL_FILE/N_COMPONENTS."
    ),
]


@dataclass(frozen=True)
class _Side:
    project: Project
    version: Version
    labels: dict[int, NDArray[np.int32]]  # by number of clusters
    cell: dict[str, str]  # what a cell of the sweep was named by


@app.command()
def compare(
    a: Place,
    b: Place,
    to: Annotated[
        Path | None,
        typer.Option(help="Folder of the pictures; outputs/compared of the first by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare two projects, versions or cells: settings, runs, agreement, a picture of both."""
    from trend_dagster.delivery.figures.png import to_png
    from trend_dagster.delivery.figures.surface import comparison_figure
    from trend_dagster.files import replace_file
    from trend_dagster.project.history import runs_behind, settings_behind
    from trend_dagster.project.mesh import mesh_of
    from trend_dagster.science.evidence.measures import adjusted_rand_index, mean_dice

    sides = (_side(a), _side(b))
    first, second = sides
    common = sorted(first.labels.keys() & second.labels.keys())
    _check_comparable(sides, (a, b), common)
    was, now = (settings_behind(side.project, side.version) for side in sides)
    for name in first.cell.keys() & second.cell.keys():
        was, now = was | {name: first.cell[name]}, now | {name: second.cell[name]}
    # A cell knows nothing of the rest of its sweep, and of how one was chosen.
    one_cell = any(side.cell for side in sides)
    names = was.keys() & now.keys() if one_cell else was.keys() | now.keys()
    differ = {n: (was.get(n), now.get(n)) for n in sorted(names)}
    differ = {name: values for name, values in differ.items() if values[0] != values[1]}
    taken = [runs_behind(side.project, side.version) for side in sides]
    runs = {a: _not_in(taken[1], taken[0]), b: _not_in(taken[0], taken[1])}
    mesh = mesh_of(first.project.store.latest("cortex"), len(first.labels[common[0]]))
    rows: list[dict[str, Any]] = []
    for n in common:
        one, other = first.labels[n], second.labels[n]
        row: dict[str, Any] = {
            "n_clusters": n,
            "ari": round(adjusted_rand_index(other, one), 4),
            "dice": round(mean_dice(other, one), 4),
            "picture": None,
        }
        if mesh is not None:
            folder = first.project.outputs / "compared" if to is None else to
            path = folder / f"compared_{n}_clusters.png"
            replace_file(path, to_png(comparison_figure(mesh, one, other, (a, b)), 110))
            row["picture"] = str(path)
        rows.append(row)
    if as_json:
        emit({"a": a, "b": b, "settings": differ, "runs": runs, "agreement": rows})
        return
    table = Table("n_clusters", "adjusted Rand index", "Dice of matched networks")
    for row in rows:
        table.add_row(str(row["n_clusters"]), f"{row['ari']:.3f}", f"{row['dice']:.3f}")
    console.print(table)
    for name, values in differ.items():
        say(f"{name}: {values[0]} in {a}, {values[1]} in {b}")
    if not differ:
        console.print("No setting that decides a result differs.")
    for place, only in runs.items():
        if only:
            say(f"{len(only)} runs only in {place}: {', '.join(only)}")
    for row in rows:
        if row["picture"]:
            say(f"picture: {row['picture']}")


def _not_in(other: list[str] | None, own: list[str] | None) -> list[str]:
    """Runs of one side that the other does not have; none where either is not known."""
    return [] if own is None or other is None else [run for run in own if run not in other]


def _side(place: str) -> _Side:
    """Find what is meant by an argument."""
    from trend_dagster.project.folder import Project
    from trend_dagster.project.history import version_named
    from trend_dagster.project.tables import CELL, cell_labels

    folder, _, which = place.partition(":")
    project = Project.open(Path(folder))
    if "/" in which:
        version, labels = cell_labels(project, which)
        return _Side(project, version, labels, dict(zip(CELL, which.split("/"), strict=False)))
    version = version_named(project, "selected_parcellations", which)
    counts = version.read("n_clusters").tolist()
    return _Side(project, version, dict(zip(counts, version.read("labels"), strict=True)), {})


def _check_comparable(
    sides: tuple[_Side, _Side], places: tuple[str, str], common: list[int]
) -> None:
    counts = [sorted(side.labels) for side in sides]
    if not common:
        raise InputError(
            f"parcellations {places[0]} and {places[1]}",
            expected="a number of clusters that both have",
            found=" and ".join(str(n) for n in counts),
            remedy="Add one to sweep.n_clusters in trend.yaml of one of them, and run it.",
        )
    sizes = [len(side.labels[common[0]]) for side in sides]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"parcellations {places[0]} and {places[1]}",
            expected="the same vertices",
            found=f"{sizes[0]} and {sizes[1]} of them",
            remedy="Compare projects on one mesh.",
        )
