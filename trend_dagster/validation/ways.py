"""Ways from BOLD to networks: the platform's under some settings, and its competitors'."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from trend_dagster.project.settings import Settings, load_settings
from trend_dagster.science.connectivity.correlation import average_correlation
from trend_dagster.science.connectivity.settings import ThresholdConfig
from trend_dagster.science.connectivity.smoothing import Smoothing, smoother
from trend_dagster.science.connectivity.thresholding import (
    BlockMatrix,
    threshold_by_distance,
    threshold_by_label,
)
from trend_dagster.science.evidence import competitors
from trend_dagster.science.parcellation.networks import find_networks
from trend_dagster.science.parcellation.smooth_loadings import neighbour_graph
from trend_dagster.science.parcellation.sweep import sweep
from trend_dagster.science.surface import edge_graph, geodesic_distances, geodesic_labels
from trend_dagster.validation.recordings import FloatArray, Labels, Recording

Find = Callable[[Recording, int, int], Labels]

SECTIONS = (
    "bold",
    "features",
    "autoencoder",
    "training",
    "correlation",
    "thresholding",
    "sweep",
    "factorization",
    "clustering",
    "networks",
)
"""Settings that decide which networks are found."""


@dataclass(frozen=True)
class Way:
    """How somebody finds networks.

    Parameters
    ----------
    kind : str
        Whose way it is: "ours", "tutorial", or a competitor that gets the BOLD "raw" or "cleaned"
        as we clean it.
    name : str
        Unique within its kind.
    identity : mapping
        Everything that decides its result, as JSON can store it.
    find : callable
        Takes a recording, a number of networks and a seed; returns the network of each vertex.
    """

    kind: str
    name: str
    identity: Mapping[str, Any]
    find: Find


@dataclass(frozen=True)
class Encoding:
    """Which correlations a factorisation sees.

    Parameters
    ----------
    labels : int or None
        Hard labels per hemisphere; 1 cuts the hemispheres apart only, None cuts nothing.
    sigma_mm : float or None
        A smooth kernel of that width in place of labels.
    """

    labels: int | None = 1
    sigma_mm: float | None = None


HEMISPHERES = Encoding()


def profile(name: str) -> Settings:
    """Settings of a profile, without a project."""
    return load_settings(Path(__file__).parent, name)


def changed(settings: Settings, **sections: Mapping[str, Any]) -> Settings:
    """Return settings with some of them changed, checked anew."""
    values = settings.model_dump()
    for section, changes in sections.items():
        values[section] |= changes
    return Settings.model_validate(values)


# --- The platform ------------------------------------------------------------------------------


def platform(
    kind: str,
    name: str,
    settings: Settings,
    encoding: Encoding = HEMISPHERES,
    *,
    trained: bool = True,
) -> Way:
    """Return the platform's way under some settings.

    Parameters
    ----------
    kind, name : str
        What to call it.
    settings : Settings
        With one value for each setting of the grid but n_clusters.
    encoding : Encoding
        The spatial encoding; one label per hemisphere by default.
    trained : bool
        Whether a model is trained before its features are taken; without effect on features
        that need no model.

    Returns
    -------
    Way
    """
    needs_model = settings.features.source != "bold"
    sections = [s for s in SECTIONS if needs_model or s not in ("autoencoder", "training")]
    identity = {
        "settings": {section: settings.identity(section) for section in sections},
        "encoding": asdict(encoding),
        "trained": trained and needs_model,
    }
    return Way(kind, name, identity, partial(_platform, settings, encoding, trained))


def _platform(
    settings: Settings,
    encoding: Encoding,
    trained: bool,
    recording: Recording,
    n_networks: int,
    random_state: int,
) -> Labels:
    settings = changed(
        settings,
        sweep={"n_clusters": (n_networks,)},
        clustering={"random_state": random_state},
        factorization={"random_state": random_state},
    )
    if settings.features.source == "bold":
        correlation = recording.correlation(settings.bold, settings.correlation)
    else:
        correlation = model_correlation(settings, trained, recording)
    find = None
    if settings.networks.method != "kmeans":
        find = partial(find_networks, random_state=random_state)
    graph = None
    if settings.factorization.smoothness:
        sides = _distances(recording)
        graph = neighbour_graph(sides, settings.factorization.smoothness_sigma_mm)
    matrix = encoded(recording, same_matrix(recording, correlation, settings), settings, encoding)
    (cell,) = sweep(
        matrix, settings.sweep, settings.factorization, settings.clustering, find=find, graph=graph
    )
    return np.where(recording.mask, cell.clusterings[0].labels, -1)


def same_matrix(recording: Recording, correlation: FloatArray, settings: Settings) -> Any:
    """Return the correlation as settings smooth it, before anything is cut."""
    config = settings.thresholding
    if not config.smoothing_fwhm_mm:
        return correlation
    smoothing = Smoothing.along(
        recording.surface, recording.mask, config.smoothing_fwhm_mm, config.exclusion_mm
    )
    return smoothing(correlation)


def encoded(
    recording: Recording, matrix: Any, settings: Settings, encoding: Encoding
) -> BlockMatrix:
    """Limit a correlation to what an encoding lets through."""
    surface, mask, config = recording.surface, recording.mask, settings.thresholding
    if encoding.sigma_mm is not None:
        return threshold_by_distance(
            matrix, _distances(recording), surface.hemisphere, encoding.sigma_mm, mask, config
        )
    if encoding.labels is None:
        labels = np.zeros(surface.n_vertices, dtype=np.int32)
    elif encoding.labels == 1:
        labels = surface.hemisphere.astype(np.int32)
    else:
        labels = geodesic_labels(surface, encoding.labels, mask)
    return threshold_by_label(matrix, labels, mask, config)


def _distances(recording: Recording) -> list[NDArray[np.float32]]:
    sides = [np.flatnonzero(recording.surface.hemisphere == side) for side in (0, 1)]
    return [geodesic_distances(recording.surface, own)[:, own] for own in sides]


def model_correlation(settings: Settings, trained: bool, recording: Recording) -> FloatArray:
    """Average correlation of a model's features, from before or after its training.

    Parameters
    ----------
    settings : Settings
        Features, model and training.
    trained : bool
        False takes the model before its first step.
    recording : Recording
        Trained on and embedded.

    Returns
    -------
    ndarray of shape (n_vertices, n_vertices)
    """
    from trend_dagster.science.features.autoencoder import embed, initial_model
    from trend_dagster.science.features.training import split_runs, train

    runs = recording.prepared(settings.bold)
    names = [f"run-{i:04d}" for i in range(len(runs))]
    model = initial_model(settings.autoencoder, runs[0][0].shape[1], settings.training.random_state)
    if trained:
        config = settings.training
        split = split_runs(names, recording.subjects, config.test_size, config.random_state)
        series = {n: partial(_inside, r, m) for n, (r, m) in zip(names, runs, strict=True)}
        with tempfile.TemporaryDirectory() as folder:
            model = train(
                series, split, settings.autoencoder, config, checkpoint_dir=Path(folder)
            ).model
    features = []
    for run, mask in runs:
        found = embed(model, _inside(run, mask), source=settings.features.source)
        rows = np.zeros((len(mask), found.shape[1]), dtype=np.float32)
        rows[mask] = found
        features.append((rows, mask))
    result: FloatArray = average_correlation(features, settings.correlation)
    return result


def _inside(run: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.ascontiguousarray(run[mask])


# --- Competitors -------------------------------------------------------------------------------

Clusterer = Callable[["Given", int, int], Labels]


@dataclass(frozen=True, eq=False)
class Given:
    """What a competitor gets: the vertices with signal only.

    Parameters
    ----------
    matrix : ndarray of shape (n_kept, n_kept)
        Average correlation, smoothed along the cortex.
    graph : csr_array of shape (n_kept, n_kept)
        Edges of the mesh.
    recording : Recording
        For those who start from the time series.
    settings : Settings
        How the time series are prepared.
    kernel : csr_array of shape (n_vertices, n_vertices)
        The smoothing, for the same.
    """

    matrix: FloatArray
    graph: sp.csr_array
    recording: Recording
    settings: Settings
    kernel: sp.csr_array


def _umap(given: Given, n: int, seed: int) -> FloatArray:
    return competitors.umap_features(given.matrix, n, seed)


def _tensor(given: Given, n: int, seed: int) -> FloatArray:
    """Correlations of each person, stacked: three ways of a tensor."""
    recording, mask = given.recording, given.recording.mask
    stack = []
    for person in dict.fromkeys(recording.subjects):
        own = recording.part([i for i, s in enumerate(recording.subjects) if s == person])
        matrix = own.correlation(given.settings.bold, given.settings.correlation)
        smooth = given.kernel @ (given.kernel @ matrix).T
        stack.append(np.asarray(smooth)[np.ix_(mask, mask)])
    return competitors.tensor_features(np.stack(stack, axis=2), n, seed, max_iterations=30)


def _nilearn(given: Given, n: int, seed: int, method: str) -> Labels:
    runs = [given.kernel @ run for run, _ in given.recording.prepared(given.settings.bold)]
    mask = given.recording.mask
    labels = competitors.nilearn_parcellation(runs, given.recording.surface, mask, n, method, seed)
    return labels[mask]


SIMPLE = ("KMeans", "Spectral", "PCA, KMeans", "NMF, largest loading", "Ward on the mesh")


def _simple(given: Given, n: int, seed: int, name: str) -> Labels:
    return competitors.competitors(given.matrix, n, given.graph, seed)[name]()


CLUSTERERS: dict[str, Clusterer] = {
    **{name: partial(_simple, name=name) for name in SIMPLE},
    "UMAP, KMeans": lambda g, n, s: competitors.kmeans_parcellation(_umap(g, n, s), n, s),
    "Tensor, KMeans": lambda g, n, s: competitors.kmeans_parcellation(_tensor(g, n, s), n, s),
    "nilearn Ward": partial(_nilearn, method="ward"),
    "nilearn KMeans": partial(_nilearn, method="kmeans"),
}
"""Features and clusterings from well-kept libraries, by name."""


def competitor(kind: str, clusterer: str, fwhm_mm: float, settings: Settings) -> Way:
    """Return a competitor's way.

    Parameters
    ----------
    kind : {"raw", "cleaned"}
        "cleaned": the very matrix that our factorisation sees, prepared as `settings` say, without
        a vertex' correlation with itself, hemispheres apart. "raw": BOLD as the tutorial
        prepares it, nothing left out.
    clusterer : str
        One of `CLUSTERERS`.
    fwhm_mm : float
        Smoothing along the cortex, full width at half maximum.
    settings : Settings
        How runs are prepared and correlations averaged.

    Returns
    -------
    Way
    """
    identity = {
        "clusterer": clusterer,
        "fwhm_mm": fwhm_mm,
        "hollow": kind == "cleaned",
        "settings": {section: settings.identity(section) for section in ("bold", "correlation")},
    }
    name = f"{clusterer}, {fwhm_mm:g} mm"
    return Way(kind, name, identity, partial(_compete, kind, clusterer, fwhm_mm, settings))


def _compete(
    kind: str,
    clusterer: str,
    fwhm_mm: float,
    settings: Settings,
    recording: Recording,
    n_networks: int,
    random_state: int,
) -> Labels:
    surface, mask = recording.surface, recording.mask
    matrix = recording.correlation(settings.bold, settings.correlation)
    kernel = sp.csr_array(sp.eye_array(len(mask)))
    if fwhm_mm:
        kernel = smoother(surface, mask, fwhm_mm)
    if kind == "cleaned":
        matrix = matrix - np.diag(np.diag(matrix))
    smooth = np.asarray(kernel @ (kernel @ matrix).T)[np.ix_(mask, mask)]
    if kind == "cleaned":
        side = surface.hemisphere[mask]
        smooth *= side[:, None] == side
    graph = sp.csr_array(edge_graph(surface)[mask][:, mask])
    given = Given(smooth.astype(np.float32), graph, recording, settings, kernel)
    labels = np.full(len(mask), -1)
    labels[mask] = CLUSTERERS[clusterer](given, n_networks, random_state)
    return labels


# --- Who takes part ----------------------------------------------------------------------------

PROFILE = "default"
OWN_WIDTH_MM = ThresholdConfig().smoothing_fwhm_mm
RAW_WIDTHS_MM = (0.0, 14.0, 19.0, 24.0)
CLEANED_WIDTHS_MM = (12.0, OWN_WIDTH_MM, 24.0)
DEAR = ("UMAP, KMeans", "Tensor, KMeans", "nilearn Ward", "nilearn KMeans")


def ours(settings: Settings | None = None) -> Way:
    """The platform's way with its default settings."""
    return platform("ours", PROFILE, settings or profile(PROFILE))


def tutorial(n_components: int) -> Way:
    """The tutorial's settings with one number of components, on the BOLD itself.

    The block solver finds what scikit-learn's finds, in less time (docs/method-engine.md).
    """
    settings = changed(
        profile("tutorial"),
        features={"source": "bold"},
        sweep={"n_components": (n_components,)},
        factorization={"solver": "block"},
    )
    return platform("tutorial", f"{n_components} components", settings)


def everyone(quick: bool) -> Iterator[Way]:
    """Everyone who takes part, ours first.

    Parameters
    ----------
    quick : bool
        Two widths of smoothing, and only competitors that take seconds.
    """
    yield ours()
    on_W = changed(profile(PROFILE), networks={"method": "kmeans"}, clustering={"scale_rows": True})
    yield platform("ours", "KMeans on its W", on_W)
    for k in (14, 20, 40) if quick else (14, 20, 30, 40):
        yield tutorial(k)
    for kind, name, widths in (
        ("raw", "tutorial", RAW_WIDTHS_MM),
        ("cleaned", PROFILE, CLEANED_WIDTHS_MM),
    ):
        settings = profile(name)
        for width in widths[1:3] if quick and kind == "raw" else widths[1:] if quick else widths:
            for clusterer in SIMPLE:
                yield competitor(kind, clusterer, width, settings)
        for clusterer in () if quick else DEAR:
            yield competitor(kind, clusterer, widths[-2], settings)
