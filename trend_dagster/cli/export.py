"""`trend export`: label images of any cell of the sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from trend_dagster.cli.app import Folder, Json, app, console, emit


@app.command()
def export(
    folder: Folder = Path(),
    to: Annotated[
        Path | None, typer.Option(help="Where to write; outputs/export of the project by default.")
    ] = None,
    n_clusters: Annotated[
        int | None, typer.Option("--clusters", help="Only cells with this number of clusters.")
    ] = None,
    label_file: Annotated[
        str | None, typer.Option(help="Only cells of this geodesic label file.")
    ] = None,
    n_components: Annotated[
        int | None, typer.Option("--components", help="Only cells with this many components.")
    ] = None,
    alpha_W: Annotated[
        float | None, typer.Option("--alpha-w", help="Only cells with this penalty.")
    ] = None,
    l1_ratio: Annotated[float | None, typer.Option(help="Only cells with this L1 ratio.")] = None,
    as_json: Json = False,
) -> None:
    """Write cells of the sweep as label images; by default the chosen ones."""
    from trend_dagster.delivery.export import export_cells
    from trend_dagster.project.folder import Project
    from trend_dagster.project.tables import sweep_cells
    from trend_dagster.project.target import map_space

    project = Project.open(folder)
    cells = sweep_cells(project)
    n_vertices = cells[0].array("labels").shape[-1]
    mesh = project.store.latest("cortex") if project.settings.inputs.has_mesh else None
    wanted = {
        "label_file": label_file,
        "n_components": n_components,
        "alpha_W": alpha_W,
        "l1_ratio": l1_ratio,
        "n_clusters": n_clusters,
    }
    written = []
    for path in export_cells(
        cells,
        project.store.latest("selected_parcellations"),
        wanted,
        map_space(project, mesh, n_vertices),
        project.outputs / "export" if to is None else to,
    ):
        written.append(str(path))
        if not as_json:
            console.print(escape(str(path)), soft_wrap=True)
    if as_json:
        emit(written)
