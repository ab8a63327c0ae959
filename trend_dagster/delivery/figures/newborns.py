"""Pictures of single newborns: confidence, series, connectivity, and what goes with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.png import new_figure
from trend_dagster.delivery.figures.surface import maps_figure
from trend_dagster.science.surface import Surface

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FloatArray = NDArray[np.floating[Any]]

CONFIDENCE_STEPS = (0.5, 0.7, 0.9, 0.99)
SPACING = 4.0  # standard deviations between the series of two networks
CHANCE = 0.05


def confidence_figure(surface: Surface, confidence: FloatArray, mask: NDArray[np.bool_]) -> Figure:
    """Draw how sure the network of each vertex is, in steps.

    Parameters
    ----------
    surface : Surface
        The mesh.
    confidence : ndarray of shape (n_vertices,)
        Probability of the network that the vertex has.
    mask : ndarray of bool of shape (n_vertices,)
        Vertices with signal.

    Returns
    -------
    Figure
        Four views and a legend.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    steps = np.where(mask, np.digitize(confidence, CONFIDENCE_STEPS), -1)
    shades = colormaps["viridis"](np.linspace(0.05, 0.95, len(CONFIDENCE_STEPS) + 1))[:, :3]
    colours = dict(enumerate(shades))
    figure = maps_figure(surface, {"confidence": steps}, 1.2, colours)
    low, high = (0, *CONFIDENCE_STEPS), (*CONFIDENCE_STEPS, 1)
    names = [f"{a:g} to {b:g}" for a, b in zip(low, high, strict=True)]
    patches = [Patch(color=c, label=n) for c, n in zip(shades, names, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False)
    return figure


def series_figure(
    series: FloatArray, lengths: NDArray[np.integer[Any]], names: Sequence[str]
) -> Figure:
    """Draw the mean series of each network, one below the other.

    Parameters
    ----------
    series : ndarray of shape (n_timepoints, n_networks)
        The runs one after another.
    lengths : ndarray of int of shape (n_runs,)
        Volumes of each run; a line stands between runs.
    names : sequence of str
        Of the networks.

    Returns
    -------
    Figure
        A row for each network, the first on top.
    """
    known = np.ma.masked_invalid(series)  # a network may be missing, in one run or in all
    shown = ((known - known.mean(axis=0)) / known.std(axis=0)).filled(np.nan)
    n = shown.shape[1]
    figure = new_figure(figsize=(8, 0.9 + 0.22 * n), layout="constrained")
    axes = figure.subplots()
    axes.plot(shown - SPACING * np.arange(n), color="0.25", linewidth=0.6)
    for end in np.cumsum(lengths)[:-1]:
        axes.axvline(end - 0.5, color="tab:red", linewidth=0.8)
    axes.set_yticks(-SPACING * np.arange(n), _numbered(names), fontsize=7)
    axes.set(xlabel="volume", xlim=(0, len(shown) - 1))
    return figure


def _numbered(names: Sequence[str]) -> list[str]:
    """Name and number: columns of tables and values of images have the number."""
    return [f"{name} ({k})" for k, name in enumerate(names, 1)]


def connectivity_figure(matrices: Mapping[str, FloatArray], names: Sequence[str]) -> Figure:
    """Draw correlations between networks, one matrix beside the other.

    Parameters
    ----------
    matrices : mapping of str to ndarray of shape (n_networks, n_networks)
        By title.
    names : sequence of str
        Of the networks.

    Returns
    -------
    Figure
        Colours run from -1 to 1; missing networks are white.
    """
    figure = new_figure(figsize=(4.2 * len(matrices) + 0.6, 3.6), layout="constrained")
    parts = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axes, (title, matrix) in zip(parts, matrices.items(), strict=True):
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        ticks = np.arange(0, len(matrix), max(1, len(matrix) // 7))
        axes.set_xticks(ticks, ticks + 1, fontsize=7)
        first = axes is parts[0]
        axes.set_yticks(*((np.arange(len(matrix)), _numbered(names)) if first else ([], [])))
        axes.tick_params(axis="y", labelsize=5)
        axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=parts, shrink=0.8)
    return figure


def association_figure(table: pd.DataFrame) -> Figure:
    """Draw how measures of networks go with columns of the participants.

    Parameters
    ----------
    table : DataFrame
        From `trend_dagster.science.individuals.association.associate`, with ``n_clusters``.

    Returns
    -------
    Figure
        A panel for each parcellation, measure and column: the slope of each network with its 95 %
        confidence interval, filled where the false discovery rate is below 5 %; a cross for a
        network without a slope.
    """
    panels = list(table.groupby(["n_clusters", "measure", "with"], sort=False))
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = new_figure(figsize=(5.5 * columns, 3.2 * rows), layout="constrained")
    parts = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in parts[len(panels) :]:
        axes.set_axis_off()
    for axes, ((n, measure, column), own) in zip(parts, panels, strict=False):
        for found, fill in ((own["q"] < CHANCE, "tab:red"), (~(own["q"] < CHANCE), "white")):
            shown = own[found]
            reach = [shown["slope"] - shown["slope_low"], shown["slope_high"] - shown["slope"]]
            axes.errorbar(
                shown["network"], shown["slope"], reach, fmt="o", color="0.3", mfc=fill, ms=5
            )
        axes.axhline(0, color="0.6", linewidth=0.8)
        without = own.loc[own["slope"].isna(), "network"]
        axes.plot(without, np.zeros(len(without)), "x", color="0.3")
        axes.set(xlabel="network", ylabel=f"slope of {measure}", title=f"{n} clusters: {column}")
    crosses = "; crosses: no slope (see note in the table)" if table["slope"].isna().any() else ""
    figure.suptitle(f"Exploratory: filled where q < 0.05{crosses}", fontsize=10)
    return figure
