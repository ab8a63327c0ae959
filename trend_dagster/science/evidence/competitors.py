"""What a user would try instead: other features, other clusterings, the same input.

Every competitor takes the matrix that the factorisation takes, average correlation under a
spatial encoding, so that it enjoys the same knowledge of where vertices lie.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse import csgraph
from sklearn.cluster import AgglomerativeClustering, KMeans, SpectralClustering
from sklearn.decomposition import NMF, PCA
from sklearn.exceptions import ConvergenceWarning

from trend_dagster.errors import SettingsError
from trend_dagster.science.connectivity.smoothing import smoother
from trend_dagster.science.surface import Surface, edge_graph

FloatArray = NDArray[np.floating]
Labels = NDArray[np.int32]


# Features


def pca_features(matrix: FloatArray, n_components: int, random_state: int = 108) -> FloatArray:
    """Score every vertex on the principal components of the rows of a matrix.

    Returns
    -------
    ndarray of shape (n_vertices, n_components)
        Largest component first.
    """
    pca = PCA(n_components, svd_solver="randomized", random_state=random_state)
    return np.asarray(pca.fit_transform(matrix))


def umap_features(matrix: FloatArray, n_components: int, random_state: int = 108) -> FloatArray:
    """Embed the rows of a matrix by UMAP (McInnes et al. 2018, arXiv:1802.03426).

    Needs the package ``umap-learn``.

    Returns
    -------
    ndarray of shape (n_vertices, n_components)
        Under the correlation between rows as nearness.
    """
    umap = _optional("umap", "umap-learn")
    with warnings.catch_warnings():
        # UMAP says that a seed costs it its threads; the seed is wanted.
        warnings.filterwarnings("ignore", message=".*n_jobs value.*")
        model = umap.UMAP(
            n_components=n_components, metric="correlation", random_state=random_state
        )
        return np.asarray(model.fit_transform(matrix))


def tensor_features(
    matrices: FloatArray, n_components: int, random_state: int = 108, max_iterations: int = 100
) -> FloatArray:
    """Load vertices on the components of a CP decomposition of all runs, stacked into a tensor.

    Needs the package ``tensorly`` (Kossaifi et al. 2019, arXiv:1610.09555).

    Parameters
    ----------
    matrices : ndarray of shape (n_vertices, n_vertices, n_runs)
        Correlation of each run, under the spatial encoding.
    n_components : int
        Rank.
    random_state : int
        Seed of the start.
    max_iterations : int
        Sweeps of alternating least squares at most.

    Returns
    -------
    ndarray of shape (n_vertices, n_components)
        Scaled by the component's weight.
    """
    decomposition = _optional("tensorly.decomposition", "tensorly")
    weights, factors = decomposition.parafac(
        np.asarray(matrices, dtype=np.float64), rank=n_components, n_iter_max=max_iterations,
        init="random", random_state=random_state, normalize_factors=True,
    )  # fmt: skip
    return np.asarray(factors[0] * weights)


def _optional(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"competitor that needs {package}",
            expected=f"the package {package}",
            found="not installed",
            remedy=f"Run `pip install {package}`, or leave this competitor out.",
        ) from error


# Clusterings


def kmeans_parcellation(features: FloatArray, n_clusters: int, random_state: int = 108) -> Labels:
    """Cluster vertices by KMeans, best of ten starts.

    Parameters
    ----------
    features : ndarray of shape (n_vertices, n_features)
        Any features; the rows of a correlation matrix too.
    n_clusters : int
        Networks.
    random_state : int
        Seed.

    Returns
    -------
    ndarray of shape (n_vertices,), int32
        0 .. n_clusters - 1.
    """
    model = KMeans(n_clusters, n_init=10, random_state=random_state)
    return np.asarray(model.fit_predict(features), dtype=np.int32)


def ward_parcellation(features: FloatArray, n_clusters: int, graph: sp.csr_array) -> Labels:
    """Merge neighbouring vertices by Ward's criterion: every network is one patch.

    Parameters
    ----------
    features : ndarray of shape (n_vertices, n_features)
        Any features.
    n_clusters : int
        Networks.
    graph : csr_array of shape (n_vertices, n_vertices)
        Edges of the mesh; only neighbours merge.

    Returns
    -------
    ndarray of shape (n_vertices,), int32
        0 .. n_clusters - 1.

    Raises
    ------
    SettingsError
        If the mesh has more pieces than networks are asked for.
    """
    # scikit-learn would join the hemispheres by a bridge, and make a network of both ends of it.
    _, piece = csgraph.connected_components(graph, directed=False)
    pieces = [np.flatnonzero(piece == k) for k in range(piece.max() + 1)]
    trees = [_ward(features[p], graph[p][:, p], 1) for p in pieces]
    if n_clusters < len(pieces):
        raise SettingsError(
            "n_clusters",
            expected=f"at least {len(pieces)}, the pieces of the mesh",
            found=str(n_clusters),
            remedy="Ask for more networks, or give a mesh in one piece.",
        )
    # The last merges are undone, whichever piece they were made in.
    heights = np.concatenate([tree.distances_ for tree in trees])
    of_piece = np.repeat(np.arange(len(pieces)), [len(p) - 1 for p in pieces])
    undone = of_piece[np.argsort(-heights, kind="stable")[: n_clusters - len(pieces)]]
    labels, start = np.empty(len(features), dtype=np.int32), 0
    for own, n in zip(pieces, 1 + np.bincount(undone, minlength=len(pieces)), strict=True):
        labels[own] = start + _ward(features[own], graph[own][:, own], int(n)).labels_
        start += int(n)
    return labels


def _ward(features: FloatArray, graph: sp.csr_array, n_clusters: int) -> AgglomerativeClustering:
    model = AgglomerativeClustering(n_clusters, connectivity=graph, compute_distances=True)
    return model.fit(features)


def spectral_parcellation(matrix: FloatArray, n_clusters: int, random_state: int = 108) -> Labels:
    """Cluster vertices by the spectrum of their correlation (Ng, Jordan and Weiss 2001).

    Parameters
    ----------
    matrix : ndarray of shape (n_vertices, n_vertices)
        Correlation, under a spatial encoding or not; negative entries count as none.
    n_clusters : int
        Networks.
    random_state : int
        Seed.

    Returns
    -------
    ndarray of shape (n_vertices,), int32
        0 .. n_clusters - 1.
    """
    with warnings.catch_warnings():
        # Thresholding may leave hemispheres or labels unconnected, which is what was asked for.
        warnings.filterwarnings("ignore", message=".*not fully connected.*")
        model = SpectralClustering(n_clusters, affinity="precomputed", random_state=random_state)
        return np.asarray(model.fit_predict(np.clip(matrix, 0, None)), dtype=np.int32)


def nmf_parcellation(matrix: FloatArray, n_clusters: int, random_state: int = 108) -> Labels:
    """Give every vertex the component of a plain NMF on which it loads most.

    Parameters
    ----------
    matrix : ndarray of shape (n_vertices, n_vertices)
        Correlation; negative entries count as zero.
    n_clusters : int
        Components.
    random_state : int
        Seed of the randomised start.

    Returns
    -------
    ndarray of shape (n_vertices,), int32
        0 .. n_clusters - 1; a component that leads nowhere leaves its number out.
    """
    model = NMF(n_clusters, init="nndsvda", solver="cd", random_state=random_state, max_iter=500)
    with warnings.catch_warnings():
        # On data without networks it hardly converges; its answer then is as good as any.
        warnings.simplefilter("ignore", ConvergenceWarning)
        loadings = model.fit_transform(np.clip(matrix, 0, None))
    return np.asarray(loadings.argmax(axis=1), dtype=np.int32)


# Compositions


@dataclass(frozen=True, eq=False)
class CompetitorInput:
    """What a competitor gets; its matrices have the vertices with signal only.

    Parameters
    ----------
    matrix : ndarray of shape (n_kept, n_kept)
        Average correlation, smoothed along the cortex.
    graph : csr_array of shape (n_kept, n_kept)
        Edges of the mesh.
    surface : Surface
        The mesh.
    mask : ndarray of bool of shape (n_vertices,)
        Vertices with signal.
    of_subjects : callable
        Returns the matrix of each subject, for those who decompose a tensor.
    runs : callable
        Returns the BOLD of each run, of shape (n_vertices, n_timepoints), prepared and smoothed,
        for those who start from time series.
    """

    matrix: FloatArray
    graph: sp.csr_array
    surface: Surface
    mask: NDArray[np.bool_]
    of_subjects: Callable[[], Sequence[FloatArray]]
    runs: Callable[[], Sequence[FloatArray]]


def competitor_input(
    correlation: FloatArray,
    mask: NDArray[np.bool_],
    surface: Surface,
    fwhm_mm: float,
    *,
    cleaned: bool,
    of_subjects: Callable[[], Sequence[FloatArray]] = list,
    runs: Callable[[], Sequence[FloatArray]] = list,
) -> CompetitorInput:
    """Smooth what a competitor gets.

    Parameters
    ----------
    correlation : ndarray of shape (n_vertices, n_vertices)
        Average over all runs.
    mask : ndarray of bool of shape (n_vertices,)
        Vertices with signal.
    surface : Surface
        The mesh.
    fwhm_mm : float
        Smoothing along the cortex, full width at half maximum.
    cleaned : bool
        Whether the matrix is the very one that our factorisation sees: without the correlation of
        a vertex with itself, hemispheres apart.
    of_subjects, runs : callable, optional
        Return correlations of shape (n_vertices, n_vertices), one for each subject, and prepared
        BOLD of shape (n_vertices, n_timepoints), one for each run.

    Returns
    -------
    CompetitorInput
    """
    kernel = smoother(surface, mask, fwhm_mm) if fwhm_mm else sp.csr_array(sp.eye_array(len(mask)))

    def smooth(matrix: FloatArray) -> FloatArray:
        both: FloatArray = np.asarray(kernel @ (kernel @ matrix).T)[np.ix_(mask, mask)]
        return both

    if cleaned:
        matrix = smooth(correlation - np.diag(np.diag(correlation)))
        side = surface.hemisphere[mask]
        matrix *= side[:, None] == side
    else:
        matrix = smooth(correlation)
    return CompetitorInput(
        matrix.astype(np.float32),
        sp.csr_array(edge_graph(surface)[mask][:, mask]),
        surface,
        mask,
        lambda: [smooth(own) for own in of_subjects()],
        lambda: [kernel @ run for run in runs()],
    )


def _umap_kmeans(given: CompetitorInput, n: int, seed: int) -> Labels:
    return kmeans_parcellation(umap_features(given.matrix, n, seed), n, seed)


def _tensor_kmeans(given: CompetitorInput, n: int, seed: int) -> Labels:
    stack = np.stack(given.of_subjects(), axis=2)
    return kmeans_parcellation(tensor_features(stack, n, seed, max_iterations=30), n, seed)


def _nilearn(given: CompetitorInput, n: int, seed: int, method: str) -> Labels:
    """Parcellate runs with ``nilearn.regions.Parcellations`` on the cortical mesh.

    It reduces all runs to 200 components and clusters vertices by them: "ward" by agglomeration
    along the mesh, "kmeans" by KMeans.
    """
    from nilearn.regions import Parcellations
    from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage

    surface, mask, sides = given.surface, given.mask, {"left": 0, "right": 1}
    own = {name: np.flatnonzero(surface.hemisphere == side) for name, side in sides.items()}
    mesh = PolyMesh(
        **{
            name: InMemoryMesh(
                surface.coordinates[rows],
                np.searchsorted(rows, surface.triangles[np.isin(surface.triangles[:, 0], rows)]),
            )
            for name, rows in own.items()
        }
    )

    def image(values: FloatArray) -> Any:
        parts = {name: np.asarray(values[rows], np.float32) for name, rows in own.items()}
        return SurfaceImage(mesh, parts)

    where = SurfaceImage(mesh, {name: mask[rows].astype(np.int8) for name, rows in own.items()})
    model = Parcellations(method, n, random_state=seed, mask=where)
    with warnings.catch_warnings():
        # The mesh has two pieces, which nilearn joins; and it has opinions on standardising.
        warnings.simplefilter("ignore")
        model.fit([image(run) for run in given.runs()])
    found = model.labels_img_.data.parts
    labels = np.full(len(mask), -1, dtype=np.int32)
    for name, rows in own.items():
        labels[rows] = np.asarray(found[name], dtype=np.int32).ravel() - 1
    return labels[mask]


Competitor = Callable[[CompetitorInput, int, int], Labels]
"""Takes its input, a number of networks and a seed; returns the network of each kept vertex."""

FAST_COMPETITORS: dict[str, Competitor] = {
    "KMeans": lambda g, n, seed: kmeans_parcellation(g.matrix, n, seed),
    "Spectral": lambda g, n, seed: spectral_parcellation(g.matrix, n, seed),
    "PCA, KMeans": lambda g, n, seed: kmeans_parcellation(pca_features(g.matrix, n, seed), n, seed),
    "NMF, largest loading": lambda g, n, seed: nmf_parcellation(g.matrix, n, seed),
    "Ward on the mesh": lambda g, n, seed: ward_parcellation(g.matrix, n, g.graph),
}
"""They take seconds and need nothing but scikit-learn."""

SLOW_COMPETITORS: dict[str, Competitor] = {
    "UMAP, KMeans": _umap_kmeans,
    "Tensor, KMeans": _tensor_kmeans,
    "nilearn Ward": partial(_nilearn, method="ward"),
    "nilearn KMeans": partial(_nilearn, method="kmeans"),
}
"""They take minutes, and two of them a package of their own."""

COMPETITORS = FAST_COMPETITORS | SLOW_COMPETITORS
"""Features and clusterings from well-kept libraries, by name."""
