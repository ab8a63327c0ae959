"""Matrices, sweeps and training as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.png import new_figure
from trend_dagster.science.sparse import times

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#5b6066"
BLUE = "#2a6fbb"
ORANGE = "#d2691e"


def correlation_figure(
    correlation: Any,
    labels: NDArray[np.integer] | None = None,
    max_pixels: int = 600,
) -> Figure:
    """Correlation matrix with vertices sorted by network.

    Parameters
    ----------
    correlation : ndarray or zarr.Array of shape (n_vertices, n_vertices)
        Average Pearson correlation; larger matrices are averaged
        down to what can be seen.
    labels : ndarray of shape (n_vertices,), optional
        Network or label of each vertex; -1 is left out. Without it, the order stays.
    max_pixels : int
        Rows of the picture at most.

    Returns
    -------
    Figure
        Colours centred on zero, and cut at the 99th percentile of the absolute values.
    """
    n_vertices = correlation.shape[0]
    labels = np.zeros(n_vertices, dtype=int) if labels is None else np.asarray(labels)
    order = np.flatnonzero(labels >= 0)
    order = order[labels[order].argsort(kind="stable")]
    blocks = np.array_split(order, min(max_pixels, len(order)))
    small = _averaged(correlation, blocks)
    limit = float(np.nanpercentile(np.abs(small), 99)) or 1.0
    figure = new_figure(figsize=(5.4, 4.7), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(small, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    _mark_networks(axes, labels[order], len(small) / len(order))
    figure.colorbar(image, ax=axes, shrink=0.8, label="Pearson correlation")
    return figure


def _averaged(
    matrix: Any, blocks: list[NDArray[np.intp]], stripe: int = 1024
) -> NDArray[np.floating]:
    """Mean of the matrix over each pair of blocks of vertices."""
    import scipy.sparse as sp

    of_block = np.repeat(np.arange(len(blocks)), [len(b) for b in blocks])
    share = np.concatenate([np.full(len(b), 1 / len(b), np.float32) for b in blocks])
    place = of_block, np.concatenate(blocks)
    average = sp.csr_array((share, place), shape=(len(blocks), matrix.shape[0]))
    total = np.zeros((len(blocks), len(blocks)))
    # In the order of storage, a stripe at a time: the matrix may lie on disk, in chunks.
    for start in range(0, matrix.shape[0], stripe):
        rows = np.asarray(matrix[start : start + stripe], dtype=np.float32)
        # From the left first, where whole rows are added up.
        total += times(average[:, start : start + stripe], rows) @ average.T
    return total


def _mark_networks(axes: Axes, sorted_labels: NDArray[np.integer], scale: float) -> None:
    names, starts = np.unique(sorted_labels, return_index=True)
    edges = np.append(starts, len(sorted_labels)) * scale - 0.5
    for edge in edges[1:-1]:
        axes.axhline(edge, color="black", linewidth=0.4)
        axes.axvline(edge, color="black", linewidth=0.4)
    middle = (edges[1:] + edges[:-1]) / 2
    axes.set_xticks([])
    # Networks are counted from 1, as in files and tables.
    axes.set_yticks(
        middle if len(names) > 1 else [], names + 1 if len(names) > 1 else [], fontsize=7
    )
    axes.tick_params(length=0)
    if len(names) > 1:
        axes.set_ylabel("Network")


def sweep_figure(
    table: pd.DataFrame,
    metric: str,
    title: str = "",
    beside: Mapping[str, str] | None = None,
) -> Figure:
    """Heat maps of a metric over n_components and label file, one for each n_clusters.

    Parameters
    ----------
    table : DataFrame
        One row per cell with columns ``label_file``, ``n_components``, ``n_clusters`` and the
        metric. Several cells of one position (alpha_W, l1_ratio) are averaged.
    metric : str
        Column to show.
    title : str
        Written above; the metric's name by default.
    beside : mapping of str to str, optional
        Title -> column of what the metric must be compared with (controls, a null): a row of
        panels each, below.

    Returns
    -------
    Figure
        One colour scale for all panels; a cell without a value is left white.
    """
    panels = list(table.groupby("n_clusters", sort=True))
    if not panels:
        figure = new_figure(figsize=(4.0, 1.0))
        figure.text(0.5, 0.5, "No finished cell yet", ha="center", va="center", color=GREY)
        return figure
    kinds = {"": metric} | dict(beside or {})
    n_files = table["label_file"].nunique()
    columns = table["n_components"].nunique()
    width = 1.9 + len(panels) * max(2.2, 0.42 * columns)
    height = 0.6 + len(kinds) * (0.9 + 0.42 * n_files)
    figure = new_figure(figsize=(width, height), layout="constrained")
    rows = figure.subplots(len(kinds), len(panels), squeeze=False, sharey=True)
    values = table[list(kinds.values())].to_numpy(dtype=float)
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    for row, (kind, column) in zip(rows, kinds.items(), strict=True):
        for axes, (n_clusters, cells) in zip(row, panels, strict=True):
            grid = cells.pivot_table(
                index="label_file", columns="n_components", values=column, dropna=False
            )
            image = axes.imshow(grid, cmap="viridis", vmin=low, vmax=high, aspect="auto")
            _write_cells(axes, grid, (low + high) / 2)
            axes.set_xticks(range(grid.shape[1]), grid.columns, fontsize=8)
            axes.set_yticks(range(grid.shape[0]), grid.index, fontsize=8)
            axes.set_title(f"{n_clusters} clusters{f', {kind}' if kind else ''}", fontsize=10)
    for axes in rows[-1]:
        axes.set_xlabel("n_components", fontsize=9)
    figure.colorbar(image, ax=list(rows.flat), shrink=0.9)
    figure.suptitle(title or metric.replace("_", " "), fontsize=12)
    return figure


def _write_cells(axes: Axes, grid: pd.DataFrame, middle: float) -> None:
    for (row, column), value in np.ndenumerate(grid.to_numpy(dtype=float)):
        if np.isfinite(value):
            colour = "white" if value < middle else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, size=6.5)


def sizes_figure(labels: NDArray[np.integer], title: str = "Vertices in each network") -> Figure:
    """Bar chart of the number of vertices in each network.

    Parameters
    ----------
    labels : ndarray of shape (n_vertices,)
        Label vector; -1 without signal.
    title : str
        Written above.

    Returns
    -------
    Figure
        One bar per network, and a line where all networks would be equal.
    """
    names, sizes = np.unique(labels[labels >= 0], return_counts=True)
    figure = new_figure(figsize=(max(4.0, 0.28 * len(names) + 1.2), 2.8), layout="constrained")
    axes = figure.subplots()
    axes.bar(np.arange(len(names)), sizes, color=BLUE, width=0.82)
    axes.axhline(sizes.mean(), color=GREY, linewidth=0.8, linestyle="--", label="equal sizes")
    axes.set_xticks(np.arange(len(names)), names + 1, fontsize=7)
    axes.set_xlabel("Network")
    axes.set_ylabel("Vertices")
    axes.set_title(title, fontsize=11)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def training_figure(
    train_loss: Sequence[float] | NDArray[np.floating],
    validation_loss: Sequence[float] | NDArray[np.floating],
    learning_rate: Sequence[float] | NDArray[np.floating],
) -> Figure:
    """Losses and learning rate over epochs.

    Parameters
    ----------
    train_loss, validation_loss : sequence of float
        One value per epoch; NaN where there is none.
    learning_rate : sequence of float
        One value per epoch.

    Returns
    -------
    Figure
        The epoch of the best validation loss is marked: its weights are the ones that are kept.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(figsize=(5.4, 3.6), layout="constrained")
    loss, rate = rows = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    epochs = np.arange(1, len(train_loss) + 1)
    loss.plot(epochs, train_loss, color=BLUE, label="training")
    loss.plot(epochs, validation_loss, color=ORANGE, label="validation")
    if np.isfinite(np.asarray(validation_loss, dtype=float)).any():
        best = int(np.nanargmin(np.asarray(validation_loss, dtype=float)))
        loss.plot(epochs[best], validation_loss[best], "o", color=ORANGE, label="best, kept")
    loss.set_ylabel("Loss")
    loss.set_title("Training", fontsize=11)
    loss.legend(frameon=False, fontsize=8)
    rate.step(epochs, learning_rate, where="mid", color=GREY)
    rate.set_yscale("log")
    rate.set_ylabel("Rate")
    rate.set_xlabel("Epoch")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in rows:
        axes.spines[["top", "right"]].set_visible(False)
    return figure
