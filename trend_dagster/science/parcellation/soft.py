"""How much of each network there is at a vertex: what a parcellation leaves out."""

from __future__ import annotations

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


def _unit(series: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = series - series.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    # What is left of a constant is rounding.
    varies = length > 1e-6 * np.abs(series).max(axis=1, keepdims=True, initial=0)
    unit: NDArray[np.float64] = np.full_like(centred, np.nan)
    np.divide(centred, length, out=unit, where=varies)
    return unit
