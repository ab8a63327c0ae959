"""Pictures and Markdown of the sweep, its controls and the chosen parcellations.

What belongs here: which figures there are of a table or a parcellation, and under which names. What
does not: drawing (``figures``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.matrices import sizes_figure, sweep_figure
from trend_dagster.delivery.figures.png import small_png, to_png
from trend_dagster.delivery.figures.surface import comparison_figure, parcellation_figure
from trend_dagster.delivery.maps import cell_title
from trend_dagster.delivery.workbook import RANKING_COLUMNS
from trend_dagster.project.tables import CELL, CONTROLS
from trend_dagster.science.evidence.stability import COLUMNS, MEASURES
from trend_dagster.science.surface import Surface
from trend_dagster.storage.arrays import npy_bytes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Pictures = dict[str, bytes]
"""PNG files by title, small enough to be shown in the UI."""

Files = dict[str, bytes]
"""Files by their path below the project's outputs."""


# The sweep


def heat_maps(table: pd.DataFrame) -> Pictures:
    """Draw metrics over n_components and label file, each that has a null beside it."""
    figures = {"silhouette": sweep_figure(table, "silhouette")}
    for name in MEASURES:
        if name in table:
            null = {"noise as smooth": f"{name}_null"}
            figures[f"{name} beside its null"] = sweep_figure(table, name, beside=null)
    return {title: small_png(figure) for title, figure in figures.items()}


def sweep_markdown(table: pd.DataFrame) -> str:
    """First rows of the sweep's table."""
    metrics = ["silhouette", "davies_bouldin", "connectivity_ratio", "zero_row_share"]
    return _markdown(table[[*CELL, *metrics, *_stability_columns(table)]].head(40))


def ranking_markdown(ranked: pd.DataFrame) -> str:
    """Best cells for each number of clusters, the chosen one first."""
    left_out = {*COLUMNS} - {*_stability_columns(ranked)}
    columns = [name for name in RANKING_COLUMNS if name in ranked and name not in left_out]
    return _markdown(ranked[columns][ranked["rank"] <= 5])


def _stability_columns(table: pd.DataFrame) -> list[str]:
    return [name for name in COLUMNS if name.startswith("stability") and name in table]


def _markdown(table: pd.DataFrame) -> str:
    return str(table.round(3).to_markdown(index=False))


# The chosen parcellations


def parcellation_or_sizes(
    surface: Surface | None,
    labels: NDArray[np.int32],
    title: str,
    partner: Mapping[int, int] | None = None,
) -> Figure:
    """Draw a parcellation on the project's surface; without one, its cluster sizes.

    Parameters
    ----------
    surface : Surface, optional
        The mesh.
    labels : ndarray of shape (n_vertices,)
        Cluster of each vertex, -1 without signal.
    title : str
        Above the picture.
    partner : mapping of int to int, optional
        Mirror images, right label -> left label, where they are known.

    Returns
    -------
    Figure
        Four views, or a bar chart.
    """
    if surface is None:
        return sizes_figure(labels, title=title)
    return parcellation_figure(surface, labels, title, partner=partner)


def draw_chosen(
    surface: Surface | None,
    ranked: pd.DataFrame,
    labels: NDArray[np.int32],
    partner_of: Mapping[str, Mapping[int, int]],
) -> tuple[Pictures, Files]:
    """Draw the chosen parcellations.

    Parameters
    ----------
    surface : Surface, optional
        The mesh.
    ranked : DataFrame
        Cells with their rank.
    labels : ndarray of shape (n_chosen, n_vertices)
        Label vector of each chosen cell.
    partner_of : mapping of str to mapping
        Mirror images by number of clusters.

    Returns
    -------
    pictures : dict of str to bytes
        Small ones, for the UI.
    files : dict of str to bytes
        The ranking, and for each parcellation a picture and the label vector.
    """
    pictures: Pictures = {}
    table = ranked.drop(columns="cluster_sizes").to_csv(index=False)
    files: Files = {"ranking.csv": table.encode()}
    chosen = ranked[ranked["rank"] == 1].to_dict("records")
    for row, vector in zip(chosen, labels, strict=True):
        n = row["n_clusters"]
        figure = parcellation_or_sizes(surface, vector, cell_title(row), partner_of.get(str(n)))
        pictures[f"{n} clusters"] = small_png(figure)
        files[f"parcellation_{n}_clusters.png"] = to_png(figure, 120)
        files[f"parcellation_{n}_clusters.npy"] = npy_bytes(vector)
    return pictures, files


# Beside the controls


def draw_comparison(
    table: pd.DataFrame,
    surface: Surface | None,
    truth: NDArray[np.int64] | None,
    chosen_labels: Sequence[NDArray[np.int32]],
) -> tuple[Pictures, Files]:
    """Draw the sweep beside its controls, and the first chosen parcellation beside the truth.

    Parameters
    ----------
    table : DataFrame
        The comparison.
    surface : Surface, optional
        The mesh; without it no parcellation is drawn.
    truth : ndarray of shape (n_vertices,), optional
        Planted network of each vertex, -1 for none.
    chosen_labels : sequence of ndarray
        Label vectors of the chosen cells, in the order of the table.

    Returns
    -------
    pictures : dict of str to bytes
        Small ones, for the UI.
    files : dict of str to bytes
        ``control_comparison.csv``, and ``planted_and_found.png`` where there is one.
    """
    pictures: Pictures = {}
    files: Files = {}
    if truth is not None and surface is not None and len(chosen_labels):
        dice = table[table["chosen"]].iloc[0]["dice_trained"]
        titles = ("Planted networks", f"Found from BOLD (Dice {dice:.2f})")
        figure = comparison_figure(surface, truth, chosen_labels[0], titles)
        files["planted_and_found.png"] = to_png(figure, 110)
        pictures["planted and found"] = small_png(figure)
    for metric, own in (("dice", "dice_trained"), ("silhouette", "silhouette")):
        columns = {title: f"{metric}_{name}" for name, title in CONTROLS.items()}
        beside = {title: column for title, column in columns.items() if column in table}
        if own in table and beside:
            figure = sweep_figure(table, own, metric.capitalize(), beside)
            pictures[f"{metric} beside its controls"] = small_png(figure)
    files["control_comparison.csv"] = _shown(table).to_csv(index=False).encode()
    return pictures, files


def comparison_markdown(table: pd.DataFrame) -> str:
    """First rows of the comparison."""
    return _markdown(_shown(table).head(40))


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=["cluster_sizes", "version", "digest", "seconds"])
