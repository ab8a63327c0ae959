"""How much of each network there is at a vertex: what a parcellation leaves out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trend_dagster.science.connectivity.thresholding import FloatArray, IntArray


def network_probability(W: FloatArray, H: FloatArray, labels: IntArray) -> NDArray[np.float32]:
    """Share of each network in what the factorisation says of a vertex.

    W H is the correlation of a vertex with all others, without most of its noise. Its mean over
    the vertices of a network says how much the vertex goes with it; divided by the sum over
    networks, these means add up to one.

    Parameters
    ----------
    W : ndarray of shape (n_vertices, n_components)
        Loadings, none below 0.
    H : ndarray of shape (n_components, n_vertices)
        Profiles, none below 0.
    labels : ndarray of shape (n_vertices,)
        Network of each vertex from 0; -1 without signal.

    Returns
    -------
    ndarray of shape (n_vertices, n_networks), float32
        Each row adds up to 1, or is 0 where there is no signal or nothing is loaded on.
    """
    n = int(labels.max(initial=-1)) + 1
    known = np.flatnonzero(labels >= 0)
    sizes = np.maximum(np.bincount(labels[known], minlength=n), 1)
    profile = np.zeros((len(H), n))
    np.add.at(profile.T, labels[known], H[:, known].T.astype(np.float64))
    goes_with = W.astype(np.float64) @ (profile / sizes)
    goes_with[labels < 0] = 0
    total = goes_with.sum(axis=1, keepdims=True)
    share = np.divide(goes_with, total, out=np.zeros_like(goes_with), where=total > 0)
    return np.asarray(share, dtype=np.float32)


def follow_networks(
    voxels: FloatArray, signal: FloatArray, labels: IntArray
) -> NDArray[np.float64]:
    """Correlation of the series of voxels with the mean series of each network.

    Parameters
    ----------
    voxels : ndarray of shape (n_voxels, n_timepoints)
        Series outside the cortex.
    signal : ndarray of shape (n_vertices, n_timepoints)
        Series of the cortex, of the same run.
    labels : ndarray of shape (n_vertices,)
        Network of each vertex from 0; -1 without signal.

    Returns
    -------
    ndarray of shape (n_voxels, n_networks)
        NaN for a voxel that does not vary, and for a network without vertices.
    """
    n = int(labels.max(initial=-1)) + 1
    means = np.array(
        [
            signal[labels == k].mean(axis=0, dtype=np.float64)
            if (labels == k).any()
            else np.zeros(signal.shape[1])
            for k in range(n)
        ]
    )
    found: NDArray[np.float64] = _unit(voxels.astype(np.float64)) @ _unit(means).T
    return found


def most_followed(
    runs: Sequence[Sequence[NDArray[np.float64]]],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Give each voxel to the network that it follows most, on average over runs.

    Parameters
    ----------
    runs : sequence of sequence of ndarray of shape (n_voxels, n_networks)
        Of each run, for each parcellation, what `follow_networks` found.

    Returns
    -------
    labels : ndarray of shape (n_parcellations, n_voxels)
        Network of each voxel; -1 for one that varies in no run.
    correlation : ndarray of shape (n_parcellations, n_voxels, most networks)
        Mean over the runs in which the voxel varies; NaN where it is not known.
    """
    each = []
    for of_runs in zip(*runs, strict=True):
        with warnings.catch_warnings():  # a voxel that varies in no run
            warnings.simplefilter("ignore", RuntimeWarning)
            each.append(np.nanmean(of_runs, axis=0))
    most = max(mean.shape[1] for mean in each)
    correlation = np.array(
        [
            np.pad(mean, ((0, 0), (0, most - mean.shape[1])), constant_values=np.nan)
            for mean in each
        ],
        dtype=np.float32,
    )
    known = np.nan_to_num(correlation, nan=-np.inf)
    labels = np.where(np.isfinite(known).any(axis=2), known.argmax(axis=2), -1)
    return labels.astype(np.int32), correlation


def _unit(series: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = series - series.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    # What is left of a constant is rounding.
    varies = length > 1e-6 * np.abs(series).max(axis=1, keepdims=True, initial=0)
    unit: NDArray[np.float64] = np.full_like(centred, np.nan)
    np.divide(centred, length, out=unit, where=varies)
    return unit
