"""The time series of each network, and how networks connect."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import svds
from threadpoolctl import threadpool_limits

from trend_dagster.errors import InputError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NetworkSeries:
    """Time series of the networks in one run; NaN for a network without vertices with signal.

    Attributes
    ----------
    mean : ndarray of shape (n_timepoints, n_networks)
        Mean over the vertices of a network.
    eigenvariate : ndarray of shape (n_timepoints, n_networks)
        The course that explains most variance of its vertices (SPM's first eigenvariate): scaled
        to the root mean square of what it explains at a vertex, with the sign of the mean.
    n_vertices : ndarray of shape (n_networks,)
        Vertices with signal of each network.
    """

    mean: FloatArray
    eigenvariate: FloatArray
    n_vertices: NDArray[np.intp]


def network_series(
    bold: NDArray[np.floating], labels: NDArray[np.integer], n_networks: int
) -> NetworkSeries:
    """Take the time series of each network out of a run.

    Parameters
    ----------
    bold : ndarray of shape (n_vertices, n_timepoints)
        BOLD; constant vertices do not count.
    labels : ndarray of shape (n_vertices,)
        The cohort's or the newborn's own map; -1 without network.
    n_networks : int
        Networks of the cohort, whether all are found here or not.

    Returns
    -------
    NetworkSeries
        In the order of the networks' numbers.

    Raises
    ------
    InputError
        If map and run are of different meshes.
    """
    if len(bold) != len(labels):
        raise InputError(
            "map of the networks",
            expected=f"{len(bold)} vertices, as the run has",
            found=str(len(labels)),
            remedy="Give a map of the mesh of the run.",
        )
    inside = (labels >= 0) & (np.ptp(bold, axis=1) > 0)
    counts = np.bincount(labels[inside], minlength=n_networks)
    mean = np.full((bold.shape[1], n_networks), np.nan)
    eigenvariate = mean.copy()
    for network in np.flatnonzero(counts):
        own = bold[inside & (labels == network)].astype(np.float64)
        mean[:, network] = own.mean(axis=0)
        eigenvariate[:, network] = _first_eigenvariate(own)
    return NetworkSeries(mean, eigenvariate, counts)


def series_arrays(
    runs: Sequence[NDArray[np.floating]], maps: NDArray[np.integer], n_networks: int
) -> dict[str, NDArray[Any]]:
    """Take the time series out of all runs of a newborn, under several maps.

    Parameters
    ----------
    runs : sequence of ndarray of shape (n_vertices, n_timepoints)
        BOLD; runs may differ in length.
    maps : ndarray of shape (..., n_vertices)
        Such as the cohort's and the newborn's own, each of several parcellations.
    n_networks : int
        Networks of the largest.

    Returns
    -------
    dict of str to ndarray
        ``mean`` and ``eigenvariate`` of shape (..., n_timepoints, n_networks), the runs one after
        another, and ``n_timepoints`` of each run.
    """
    flat = maps.reshape(-1, maps.shape[-1])
    with threadpool_limits(1, user_api="blas"):  # its products are small
        made = [[network_series(run, labels, n_networks) for run in runs] for labels in flat]
    arrays: dict[str, NDArray[Any]] = {"n_timepoints": np.array([run.shape[1] for run in runs])}
    for name in ("mean", "eigenvariate"):
        values = np.stack([np.concatenate([getattr(s, name) for s in own]) for own in made])
        arrays[name] = values.reshape(*maps.shape[:-1], *values.shape[1:])
    return arrays


def _first_eigenvariate(own: FloatArray) -> FloatArray:
    centred = own - own.mean(axis=1, keepdims=True)
    if min(centred.shape) == 1:
        return np.asarray(centred[0])
    start = np.ones(min(centred.shape))  # Lanczos starts by chance otherwise
    loadings, size, courses = svds(centred, k=1, v0=start)
    sign = 1.0 if loadings.sum() >= 0 else -1.0
    return np.asarray(sign * size[0] / np.sqrt(len(own)) * courses[0])


@dataclass(frozen=True, eq=False)
class NetworkConnectivity:
    """How networks connect; NaN where a network is missing.

    Attributes
    ----------
    correlation, partial : ndarray of shape (n_networks, n_networks)
        Full and partial correlation; ones on the diagonal.
    z : ndarray of shape (n_networks, n_networks)
        Fisher's z of the full correlation; NaN on the diagonal.
    partial_z : ndarray of shape (n_networks, n_networks)
        The same of the partial correlation.
    """

    correlation: FloatArray
    partial: FloatArray
    z: FloatArray
    partial_z: FloatArray


def network_connectivity(series: FloatArray) -> NetworkConnectivity:
    """Correlate the networks of one run.

    Parameters
    ----------
    series : ndarray of shape (n_timepoints, n_networks)
        `NetworkSeries.mean` or `NetworkSeries.eigenvariate`.

    Returns
    -------
    NetworkConnectivity
        Full correlations are Pearson's; partial ones come from the covariance shrunk after Ledoit
        and Wolf (2004, doi:10.1016/S0047-259X(03)00096-4), as a run may have hardly more
        independent timepoints than there are networks. With less than two networks that have
        a series there is nothing to correlate.
    """
    # nilearn loads slowly, and most of what uses this module does not connect networks.
    from nilearn.connectome import ConnectivityMeasure
    from sklearn.covariance import EmpiricalCovariance, LedoitWolf

    present = np.flatnonzero(np.isfinite(series).all(axis=0))
    if len(present) < 2:
        nothing = np.full((2, *(series.shape[1],) * 2), np.nan)
        nothing[:, present, present] = 1
        return NetworkConnectivity(*nothing, *(_fisher_z(values) for values in nothing))
    found = []
    for kind, estimator in (
        ("correlation", EmpiricalCovariance()),
        ("partial correlation", LedoitWolf()),
    ):
        measure = ConnectivityMeasure(estimator, kind=kind, standardize="zscore_sample")
        with warnings.catch_warnings():
            # nilearn announces what its next version will do by default.
            warnings.simplefilter("ignore")
            values = measure.fit_transform([series[:, present]])[0]
        whole = np.full((series.shape[1],) * 2, np.nan)
        whole[np.ix_(present, present)] = values
        found.append(whole)
    return NetworkConnectivity(*found, *(_fisher_z(values) for values in found))


def _fisher_z(correlation: FloatArray) -> FloatArray:
    z = np.arctanh(np.clip(correlation, -1 + 1e-9, 1 - 1e-9))
    np.fill_diagonal(z, np.nan)
    return np.asarray(z)


def connectivity_of_newborn(
    runs: Sequence[NetworkConnectivity], n_timepoints: Sequence[int]
) -> NetworkConnectivity:
    """Average the runs of one newborn.

    Parameters
    ----------
    runs : sequence of NetworkConnectivity
        From `network_connectivity`.
    n_timepoints : sequence of int
        Of each run, its weight.

    Returns
    -------
    NetworkConnectivity
        Means of Fisher's z over the runs that have both networks, and their correlations.
    """
    weights = np.asarray(n_timepoints, dtype=np.float64)[:, None, None]
    z, partial_z = (
        _mean_where_known(np.stack([getattr(run, name) for run in runs]), weights)
        for name in ("z", "partial_z")
    )
    return NetworkConnectivity(_from_z(z), _from_z(partial_z), z, partial_z)


def connectivity_arrays(
    series: FloatArray, n_timepoints: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Connect the networks in each run of a newborn and in all, under several maps.

    Parameters
    ----------
    series : ndarray of shape (..., n_timepoints, n_networks)
        From `series_arrays`, the runs one after another.
    n_timepoints : sequence of int
        Of each run.

    Returns
    -------
    dict of str to ndarray
        By the attributes of `NetworkConnectivity`, of shape (..., n_networks, n_networks); and of
        each run under ``run_`` and that name, of shape (..., n_runs, n_networks, n_networks).
    """
    ends, before = np.cumsum(n_timepoints)[:-1], series.shape[:-2]
    flat = series.reshape(-1, *series.shape[-2:])
    with threadpool_limits(1, user_api="blas"):
        runs = [[network_connectivity(run) for run in np.split(own, ends)] for own in flat]
    both = [connectivity_of_newborn(own, n_timepoints) for own in runs]
    arrays = {}
    for name in (field.name for field in fields(NetworkConnectivity)):
        of_all = np.array([getattr(c, name) for c in both])
        of_runs = np.array([[getattr(c, name) for c in own] for own in runs])
        arrays[name] = of_all.reshape(*before, *of_all.shape[1:])
        arrays[f"run_{name}"] = of_runs.reshape(*before, *of_runs.shape[1:])
    return arrays


def _mean_where_known(values: FloatArray, weights: FloatArray) -> FloatArray:
    known = np.isfinite(values) * weights
    total = known.sum(axis=0)
    summed = (known * np.nan_to_num(values)).sum(axis=0)
    mean: FloatArray = np.full(total.shape, np.nan)
    np.divide(summed, total, out=mean, where=total > 0)
    return mean


def _from_z(z: FloatArray) -> FloatArray:
    correlation = np.tanh(z)
    np.fill_diagonal(correlation, np.where(np.isfinite(z).any(axis=1), 1.0, np.nan))
    return np.asarray(correlation)
