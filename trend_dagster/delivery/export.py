"""Cells of the sweep that a person asks for, as files: `trend export`.

What belongs here: finding the cells and writing their files into a folder. What does not: how the
files look (``maps``), and the chosen parcellations that every run delivers (the asset
``parcellation_images``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trend_dagster.delivery.maps import cell_title, map_files, networks_of, overlaps_of
from trend_dagster.errors import MissingUpstreamError, SettingsError
from trend_dagster.files import replace_file
from trend_dagster.project.tables import (
    CELL,
    Key,
    Parcellations,
    key_of,
    labels_of,
    tidy_rows,
)
from trend_dagster.project.target import MapSpace
from trend_dagster.storage.label_images import Overlap
from trend_dagster.storage.stores import Version

if TYPE_CHECKING:
    import pandas as pd


def export_cells(
    cells: Sequence[Version],
    selected: Parcellations | None,
    wanted: Mapping[str, Any],
    space: MapSpace,
    folder: Path,
    overlap: Version | None = None,
) -> Iterator[Path]:
    """Write the label images of cells of the sweep.

    Parameters
    ----------
    cells : sequence of Version
        Stored cells of the sweep.
    selected : Parcellations, optional
        The chosen parcellations.
    wanted : mapping
        Values of ``label_file``, ``n_components``, ``alpha_W``, ``l1_ratio`` and ``n_clusters``
        that a cell must have; what is None or left out may be anything. Nothing at all means the
        chosen parcellations.
    space : MapSpace
        What they are written on.
    folder : Path
        Where to; made if need be. Files of these names are replaced, others left alone.
    overlap : Version, optional
        Of ``atlas_overlap``, that the networks of the chosen parcellations are named by.

    Yields
    ------
    Path
        The Workbench spec of each cell, or its table of labels where there is no surface; written
        last, when all the files that it names are there.

    Raises
    ------
    MissingUpstreamError
        If nothing is wanted and none are chosen.
    SettingsError
        If no cell is like that.
    """
    import pandas as pd

    wanted = {name: value for name, value in wanted.items() if value is not None}
    table = pd.DataFrame([row for cell in cells for row in tidy_rows(cell)])
    found = table if wanted else _chosen(selected, table)
    for name, value in wanted.items():
        found = found[found[name] == value]
    if found.empty:
        raise _no_such_cell(table, wanted)
    several = [name for name in ("alpha_W", "l1_ratio") if len(table[name].unique()) > 1]
    known = {} if selected is None else selected.by_cell()
    names = {} if selected is None else _overlaps_by_cell(selected, overlap)
    for row in found.to_dict("records"):
        numbered = known.get(key_of(row))
        labels = space.labels(labels_of(cells, row) if numbered is None else numbered)
        surface, target = space.surface, space.target
        partner = None
        if selected is not None and numbered is not None:
            partner = selected.partners(int(row["n_clusters"]))
        networks = networks_of(labels, surface, target, names.get(key_of(row), ()), partner)
        files = map_files(_name(row, several), cell_title(row), labels, networks, surface, target)
        for file, content in files.items():
            replace_file(folder / file, content)
        yield folder / next(reversed(files))


def _overlaps_by_cell(
    selected: Parcellations, overlap: Version | None
) -> dict[Key, list[tuple[Overlap, ...]]]:
    chosen = selected.choices
    return dict(zip(map(key_of, chosen), overlaps_of(overlap, len(chosen)), strict=True))


def _chosen(selected: Parcellations | None, table: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    if selected is None:
        raise MissingUpstreamError(
            "selected_parcellations",
            expected="chosen parcellations",
            found="none yet",
            remedy="`trend run` chooses them; or name a cell: `trend export --label-file ...`.",
        )
    return table.merge(pd.DataFrame(selected.choices)[CELL], on=CELL)


def _name(cell: Mapping[Any, Any], several: Sequence[str]) -> str:
    parts = [
        cell["label_file"],
        f"{cell['n_components']}_components",
        *(f"{name}_{cell[name]:g}" for name in several),
        f"{cell['n_clusters']}_clusters",
    ]
    return "_".join(parts)


def _no_such_cell(table: pd.DataFrame, wanted: Mapping[str, Any]) -> SettingsError:
    there = "; ".join(
        f"{name} {', '.join(map(str, sorted(table[name].unique())))}" for name in wanted
    )
    return SettingsError(
        "cell of the sweep",
        expected=f"one that exists ({there})",
        found="none with " + ", ".join(f"{name} {value}" for name, value in wanted.items()),
        remedy="Name one of these, or add it to the sweep in trend.yaml and run again.",
    )
