"""From a factorisation to networks: the spectrum of what it says.

KMeans on the rows of W splits large networks and gives up small ones for the halves. The product
W H is the matrix without most of its noise, and spectral clustering of that finds both (Ng, Jordan
and Weiss 2001). Being of low rank, it never has to be made: nothing here is vertices by vertices.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.science.connectivity.thresholding import BoolArray, FloatArray, IntArray


def find_networks(
    W: FloatArray, H: FloatArray, n_networks: int, *, random_state: int = 108
) -> IntArray:
    """Turn a factorisation into networks, by the spectrum of W H.

    Parameters
    ----------
    W : ndarray of shape (n_vertices, n_components)
        Loadings; zero rows where there is no signal.
    H : ndarray of shape (n_components, n_vertices)
        The other factor.
    n_networks : int
        Networks wanted.
    random_state : int
        Seed of KMeans on the eigenvectors.

    Returns
    -------
    ndarray of shape (n_vertices,)
        0 .. n_networks - 1; -1 for vertices that load on nothing at all.
    """
    loaded: BoolArray = np.asarray(W.any(axis=1))
    labels = np.full(len(W), -1)
    labels[loaded] = _by_spectrum(W[loaded], H[:, loaded], n_networks, random_state)
    return labels


def _by_spectrum(
    W: FloatArray, H: FloatArray, n_networks: int, random_state: int
) -> NDArray[np.integer[Any]]:
    """Cluster by the leading eigenvectors of D^(-1/2) A D^(-1/2) with A = (W H + (W H)^T) / 2."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if len(W) <= n_networks:
        return np.arange(len(W))
    space = _leading_vectors(W.astype(np.float64), H.astype(np.float64), n_networks)
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: W has collapsed, which is measured elsewhere.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(n_networks, n_init=10, random_state=random_state)
        return np.asarray(model.fit_predict(space))


def _leading_vectors(W: FloatArray, H: FloatArray, n_vectors: int) -> FloatArray:
    """Eigenvectors of the largest eigenvalues, as scikit-learn's spectral embedding scales them.

    A is B M B^T for B = [W, H^T] and a small M, so that its eigenvectors follow from a QR
    decomposition of B and the eigenvectors of a matrix of twice as many rows as components.
    """
    degree = (W @ H.sum(axis=1) + H.T @ W.sum(axis=0)) / 2
    scale = np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
    basis, mixed = np.linalg.qr(np.hstack([W, H.T]) * scale[:, None])
    half = mixed[:, : W.shape[1]] @ mixed[:, W.shape[1] :].T
    _, vectors = np.linalg.eigh((half + half.T) / 2)
    leading = vectors[:, ::-1][:, : min(n_vectors, W.shape[1])]
    space: FloatArray = (basis @ leading) * scale[:, None]
    return space
