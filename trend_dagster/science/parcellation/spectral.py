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
    W: FloatArray,
    H: FloatArray,
    n_networks: int,
    *,
    random_state: int = 108,
    n_vectors: int | None = None,
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
    n_vectors : int, optional
        Leading eigenvectors that vertices are clustered by; as many as networks by default.

    Returns
    -------
    ndarray of shape (n_vertices,)
        0 .. n_networks - 1; -1 for vertices that load on nothing at all.
    """
    loaded: BoolArray = np.asarray(W.any(axis=1))
    labels = np.full(len(W), -1)
    n_vectors = n_vectors or n_networks
    labels[loaded] = _by_spectrum(W[loaded], H[:, loaded], n_networks, n_vectors, random_state)
    return labels


_MORE_OR_FEWER = tuple(sevenths / 7 for sevenths in (-2, -1, 1, 2, 3, 4, 5))


def other_networks(
    W: FloatArray, H: FloatArray, n_networks: int, *, random_state: int = 108
) -> list[IntArray]:
    """Turn a factorisation into other networks, by fewer and more eigenvectors than the usual.

    A network of few vertices has a small eigenvalue, and lies outside the leading eigenvectors
    where the border zones of large ones come first: with more of them it may come back, and others
    may be lost. The factorisation does not tell which of these maps is right.

    Parameters
    ----------
    W, H, n_networks, random_state
        As for `find_networks`.

    Returns
    -------
    list of ndarray of shape (n_vertices,)
        From five to twelve sevenths of the usual number of eigenvectors, as far as the rank of
        W H goes.
    """
    most = W.shape[1]
    wanted = [min(n_networks + round(n_networks * more), most) for more in _MORE_OR_FEWER]
    numbers = [n for n in dict.fromkeys(wanted) if n not in (n_networks, 0)]
    return [
        find_networks(W, H, n_networks, random_state=random_state, n_vectors=n) for n in numbers
    ]


def _by_spectrum(
    W: FloatArray, H: FloatArray, n_networks: int, n_vectors: int, random_state: int
) -> NDArray[np.integer[Any]]:
    """Cluster by the leading eigenvectors of D^(-1/2) A D^(-1/2) with A = (W H + (W H)^T) / 2."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if len(W) <= n_networks:
        return np.arange(len(W))
    space = _leading_vectors(W.astype(np.float64), H.astype(np.float64), n_vectors)
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
