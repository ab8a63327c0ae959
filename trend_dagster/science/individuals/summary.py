"""What a table says of each network of a newborn, without any matrix of vertices by vertices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_dagster.science.individuals.model import Cortex, FloatArray, PreparedRun

Labels = NDArray[np.integer]

MEASURES = ("area_mm2", "homogeneity", "silhouette", "confidence")
"""Of each network of a newborn; `storage.schema` describes each."""


def network_table(
    runs: Sequence[PreparedRun],
    labels: Labels,
    confidence: FloatArray,
    cortex: Cortex,
    n_networks: int,
) -> pd.DataFrame:
    """Measure each network of a newborn.

    Parameters
    ----------
    runs : sequence of PreparedRun
        The newborn's.
    labels : ndarray of shape (n_kept,)
        Its map.
    confidence : ndarray of shape (n_kept,)
        Probability of the network that each vertex has.
    cortex : Cortex
        From `Cortex.along`.
    n_networks : int
        Networks of the cohort.

    Returns
    -------
    DataFrame
        A row for each network: ``network`` (from 1), ``n_vertices``, ``area_mm2``,
        ``homogeneity`` (mean correlation between two vertices of it), ``silhouette`` (mean over
        its vertices, distance 1 - correlation) and ``confidence``; means over the runs in which
        two of its vertices have signal, weighted by their length; NaN where there is none, and
        for a network that the newborn does not have.
    """
    index = labels.astype(np.intp)
    sizes = np.bincount(index, minlength=n_networks)
    found = np.stack([_homogeneity_and_silhouette(run.series, index, n_networks) for run in runs])
    weight = np.array([run.n_timepoints for run in runs], dtype=np.float64)[:, None, None]
    total = (weight * np.isfinite(found)).sum(axis=0)
    sums = np.nansum(weight * found, axis=0)
    measures = np.divide(sums, total, out=np.full(total.shape, np.nan), where=total > 0)
    areas = np.bincount(index, cortex.area, n_networks)
    mean_confidence = np.bincount(index, confidence, n_networks) / np.maximum(sizes, 1)
    table = pd.DataFrame(
        {
            "network": np.arange(1, n_networks + 1),
            "n_vertices": sizes,
            "area_mm2": areas,
            "homogeneity": measures[0],
            "silhouette": measures[1],
            "confidence": mean_confidence,
        }
    )
    table.loc[sizes == 0, ["homogeneity", "silhouette", "confidence"]] = np.nan
    return table


def _homogeneity_and_silhouette(
    series: FloatArray, index: NDArray[np.intp], n_networks: int
) -> FloatArray:
    """Both from the sums of the series of each network: sums of correlations are products.

    Vertices without signal in this run do not count; NaN for networks with less than two.
    """
    alive = series.any(axis=1)
    series, index = series[alive], index[alive]
    sizes = np.bincount(index, minlength=n_networks)
    member = np.eye(len(sizes), dtype=np.float32)[index]
    sums = (series @ (member.T @ series).T).astype(np.float64)  # of correlations with a network
    itself = np.square(series).sum(axis=1)
    rows = np.arange(len(index))
    own = sums[rows, index] - itself
    within = own / np.maximum(sizes[index] - 1, 1)
    homogeneity = np.bincount(index, within, len(sizes)) / np.maximum(sizes, 1)
    others = np.where(sizes > 0, 1 - sums / np.maximum(sizes, 1), np.inf)
    others[rows, index] = np.inf
    inner, outer = 1 - within, others.min(axis=1)
    with np.errstate(invalid="ignore"):
        values = (outer - inner) / np.maximum(inner, outer)
    values[(sizes[index] < 2) | ~np.isfinite(values)] = 0
    silhouette = np.bincount(index, values, len(sizes)) / np.maximum(sizes, 1)
    return np.where(sizes > 1, np.stack([homogeneity, silhouette]), np.nan)
