"""`trend export`: label images of any cell of the sweep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from trend_dagster.cli.app import Folder, Json, app, emit, say


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
    bids: Annotated[
        Path | None,
        typer.Option(help="Write the chosen parcellations as a BIDS derivatives data set here."),
    ] = None,
    xcpd: Annotated[
        Path | None,
        typer.Option(help="Write them as XCP-D takes an atlas (--datasets) here."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write cells of the sweep as label images; by default the chosen ones."""
    if bids is not None or xcpd is not None:
        _tell(_data_sets(folder, bids, xcpd), as_json)
        return
    from trend_dagster.delivery.export import export_cells
    from trend_dagster.project.atlases import stored_overlap
    from trend_dagster.project.folder import Project
    from trend_dagster.project.tables import Parcellations, sweep_cells
    from trend_dagster.project.target import stored_space

    project = Project.open(folder)
    cells = sweep_cells(project)
    selected = project.store.latest("selected_parcellations")
    wanted = {
        "label_file": label_file,
        "n_components": n_components,
        "alpha_W": alpha_W,
        "l1_ratio": l1_ratio,
        "n_clusters": n_clusters,
    }
    paths = export_cells(
        cells,
        None if selected is None else Parcellations.of(selected),
        wanted,
        stored_space(project, cells[0].array("labels").shape[-1]),
        project.outputs / "export" if to is None else to,
        stored_overlap(project),
    )
    _tell(paths, as_json)


def _tell(paths: Iterable[Path], as_json: bool) -> None:
    written = []
    for path in paths:
        written.append(str(path))
        if not as_json:
            say(str(path))
    if as_json:
        emit(written)


def _data_sets(folder: Path, bids: Path | None, xcpd: Path | None) -> Iterator[Path]:
    """Write the chosen parcellations as data sets that other software takes."""
    from trend_dagster.delivery.bids import chosen_of, export_bids, export_xcpd, place_of
    from trend_dagster.project.atlases import stored_overlap
    from trend_dagster.project.folder import SUBJECT, Project
    from trend_dagster.project.settings import why_no_individuals
    from trend_dagster.project.tables import Parcellations, chosen
    from trend_dagster.project.target import stored_space

    project = Project.open(folder)
    settings, store = project.settings, project.store
    selected, asked = Parcellations.of(chosen(project)), why_no_individuals(settings) is None
    own = project.current("individual_networks", SUBJECT) if asked else ()
    written = chosen_of(
        project.folder.name,
        place_of(settings.inputs.surface, (run.entities for run in project.bold_runs.values())),
        selected,
        stored_space(project, selected.labels.shape[1]),
        stored_overlap(project),
        store.latest("subcortical_networks") if settings.parcellation_images.subcortex else None,
        {version.partition[SUBJECT]: version for version in own},
    )
    written = replace(written, note=settings.inputs.note or "")
    if bids is not None:
        yield from export_bids(written, bids)
    if xcpd is not None:
        yield from export_xcpd(written, xcpd)
