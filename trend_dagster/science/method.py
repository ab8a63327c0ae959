"""The whole method, in the one place where its steps are put together.

BOLD is cleaned and standardised, a vertex gets features, their correlation is averaged over runs,
smoothed along the cortex and cut by a spatial encoding, factorised over a grid of settings, and
each factorisation is turned into networks. What a step does stands in its own module; assets,
validation, benchmarks and scripts call what is here and put no steps together themselves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import SettingsError
from trend_dagster.science.bold import BoldConfig, common_length, signal_mask, usable_series
from trend_dagster.science.connectivity.correlation import correlate_runs
from trend_dagster.science.connectivity.encoding import Correlation as Correlation
from trend_dagster.science.connectivity.encoding import CorrelationSource
from trend_dagster.science.connectivity.encoding import Encoding as Encoding
from trend_dagster.science.connectivity.from_runs import RunCorrelation
from trend_dagster.science.connectivity.thresholding import (
    BlockMatrix,
    BoolArray,
    FloatArray,
    IntArray,
)
from trend_dagster.science.evidence.stability import measure_halves, stability_arrays
from trend_dagster.science.features.model_settings import FeatureSource
from trend_dagster.science.parcellation.graph_factorization import neighbour_graph
from trend_dagster.science.parcellation.spectral import find_networks
from trend_dagster.science.parcellation.sweep import Solution, sweep
from trend_dagster.science.parcellation.sweep import grid_axes as grid_axes
from trend_dagster.science.parcellation.sweep import possible_components as possible_components
from trend_dagster.science.parcellation.sweep import sweep_arrays as sweep_arrays
from trend_dagster.science.settings import MethodSettings as MethodSettings

if TYPE_CHECKING:  # torch takes seconds to import: only the functions that compute with it do
    from trend_dagster.science.features.autoencoder import TransformerAutoencoder

Signal = NDArray[np.float32]
Run = tuple[Signal, BoolArray]
Solutions = tuple[Solution, ...]


# --- From BOLD to features -------------------------------------------------------------------


def prepare_run(
    bold: Signal,
    config: BoldConfig,
    repetition_time: float | None = None,
    confounds: NDArray[np.float64] | None = None,
    sample_mask: BoolArray | None = None,
) -> Run:
    """Clean and standardise a run as the settings say.

    Parameters
    ----------
    bold : ndarray of shape (n_vertices, n_timepoints)
        BOLD signal in any unit, finite.
    config : BoldConfig
        What is taken out, and whether the signal is standardised.
    repetition_time : float, optional
        Seconds between volumes; filters need it.
    confounds : ndarray of shape (n_timepoints, n_confounds), optional
        Regressed out.
    sample_mask : ndarray of bool of shape (n_timepoints,), optional
        Volumes to keep; all by default.

    Returns
    -------
    tuple of ndarray
        The run, of shape (n_vertices, n_kept), and the mask of its vertices with signal.

    Raises
    ------
    SettingsError
        If a filter is asked for that the repetition time does not allow, or confounds are asked
        for and not given.
    """
    if config.confounds and confounds is None:
        raise SettingsError(
            "setting bold.confounds",
            expected=f"the columns {', '.join(config.confounds)} of each run",
            found="a run without confounds",
            remedy="Give them with the run, or empty bold.confounds.",
        )
    mask = signal_mask(bold)
    return usable_series(bold, mask, config, repetition_time, confounds, sample_mask), mask


@dataclass(frozen=True, eq=False)
class FeatureMaker:
    """Makes the features of a run: those of a model, or the signal itself.

    Parameters
    ----------
    source : {"input_projection", "encoder", "bold"}
        Which features.
    model : TransformerAutoencoder, optional
        Trained or not; without one the features are the signal itself.
    n_timepoints : int, optional
        The first so many of each run are used; all by default.
    """

    source: FeatureSource = "bold"
    model: TransformerAutoencoder | None = None
    n_timepoints: int | None = None

    def __call__(self, bold: Signal, mask: BoolArray, timepoints: slice | None = None) -> Signal:
        """Make the features of a run.

        Parameters
        ----------
        bold : ndarray of shape (n_vertices, n_timepoints)
            From `prepare_run`.
        mask : ndarray of bool of shape (n_vertices,)
            Vertices with signal; the others never enter the model.
        timepoints : slice, optional
            Only these count (a half of the run). A model needs all of them: it meets the rest at
            each vertex' mean.

        Returns
        -------
        ndarray of shape (n_vertices, n_features), float32
            Zero without signal.

        Raises
        ------
        InputError
            If the run does not fit the model.
        SettingsError
            If features of a model are asked for and there is none.
        """
        signal = np.ascontiguousarray(bold[mask, : self.n_timepoints])
        if timepoints is not None:
            signal = signal[:, timepoints] if self.model is None else _only(signal, timepoints)
        if self.source != "bold":
            from trend_dagster.science.features.autoencoder import embed

            signal = embed(self.model, signal, source=self.source)
        features = np.zeros((len(mask), signal.shape[1]), dtype=np.float32)
        features[mask] = signal
        return features


def _only(signal: Signal, timepoints: slice) -> Signal:
    """Replace all other timepoints by the mean of each vertex."""
    still = np.repeat(signal.mean(axis=1, keepdims=True), signal.shape[1], axis=1)
    still[:, timepoints] = signal[:, timepoints]
    return still


def control_features(
    control: str, settings: MethodSettings, n_timepoints: int | None = None
) -> FeatureMaker:
    """Return what makes the features of a control.

    Parameters
    ----------
    control : {"untrained", "bold"}
        The same features from the model before its first step of training, or the signal itself.
    settings : MethodSettings
        Of the features that are controlled.
    n_timepoints : int, optional
        What the model takes; the signal itself is used whole.

    Returns
    -------
    FeatureMaker
    """
    if control == "bold" or n_timepoints is None:
        return FeatureMaker()
    from trend_dagster.science.features.autoencoder import initial_model

    model = initial_model(settings.autoencoder, n_timepoints, settings.training.random_state)
    return FeatureMaker(settings.features.source, model, n_timepoints)


def train_features(
    runs: Mapping[str, Run],
    subjects: Sequence[str | None],
    settings: MethodSettings,
    checkpoint_dir: Path | None = None,
) -> FeatureMaker:
    """Train a model on runs where the features ask for one.

    Parameters
    ----------
    runs : mapping of str to tuple
        From `prepare_run`, by name; the names decide which runs validate.
    subjects : sequence of str or None
        Subject of each run.
    settings : MethodSettings
        Features, model and training.
    checkpoint_dir : Path, optional
        Where an interrupted training goes on; a folder that is thrown away by default.

    Returns
    -------
    FeatureMaker

    Raises
    ------
    CohortError
        If runs differ in length and may not be cropped, or there are too few.
    """
    if settings.features.source == "bold":
        return FeatureMaker()
    from trend_dagster.science.features.training import split_runs, train

    config = settings.training
    n_timepoints = common_length({n: run.shape[1] for n, (run, _) in runs.items()}, settings.cohort)
    split = split_runs(list(runs), subjects, config.test_size, config.random_state)
    series: dict[str, Callable[[], Signal]] = {
        name: partial(_inside, run, mask, n_timepoints) for name, (run, mask) in runs.items()
    }
    with tempfile.TemporaryDirectory() as thrown_away:
        trained = train(
            series,
            split,
            settings.autoencoder,
            config,
            checkpoint_dir=checkpoint_dir or Path(thrown_away),
        )
    return FeatureMaker(settings.features.source, trained.model, n_timepoints)


def _inside(run: Signal, mask: BoolArray, n_timepoints: int) -> Signal:
    return np.ascontiguousarray(run[mask, :n_timepoints])


# --- From features to a correlation ----------------------------------------------------------


def correlate(
    runs: Sequence[Run | Callable[[], Run]], settings: MethodSettings, **options: Any
) -> Correlation:
    """Average the correlation of features over runs.

    Parameters
    ----------
    runs : sequence
        Features of shape (n_vertices, n_features) and a mask of shape (n_vertices,) for each run,
        or a function that reads them.
    settings : MethodSettings
        How correlations are averaged.
    **options
        See `trend_dagster.science.connectivity.correlation.correlate_runs`.

    Returns
    -------
    Correlation
        Its mask has the vertices with signal in any run.

    Raises
    ------
    CohortError
        If there is no run, or runs do not fit together.
    """
    matrix = correlate_runs(runs, settings.correlation, **options)
    return Correlation(matrix, np.asarray(np.diagonal(matrix) > 0))


def correlation_of_runs(
    runs: Sequence[Run | Callable[[], Run]],
    settings: MethodSettings,
    weights: Sequence[float] | None = None,
) -> CorrelationSource:
    """Average the correlation of features over runs, where it is asked for.

    Parameters
    ----------
    runs : sequence
        As for `correlate`; functions are called several times.
    settings : MethodSettings
        How correlations are averaged.
    weights : sequence of float, optional
        How much each run counts; all the same by default.

    Returns
    -------
    CorrelationSource
        Nothing is computed yet; but Fisher's average, which no product of features gives, is
        computed now, a matrix of vertices by vertices.

    Raises
    ------
    CohortError
        If there is no run, or runs do not fit together.
    """
    if settings.correlation.average == "arithmetic":
        return RunCorrelation(runs, settings.correlation, weights)
    return correlate(runs, settings, weights=weights)


def correlate_bold(
    bold: Sequence[Signal] | Mapping[str, Signal],
    settings: MethodSettings,
    subjects: Sequence[str | None] | None = None,
    repetition_time: float | None = None,
) -> Correlation:
    """Go from BOLD to the average correlation of its features.

    Parameters
    ----------
    bold : sequence or mapping of str to ndarray of shape (n_vertices, n_timepoints)
        Runs in any unit; with names if a model is trained and they matter.
    settings : MethodSettings
        From cleaning to correlation; a model is trained where the features ask for one.
    subjects : sequence of str or None, optional
        Subject of each run; each run is a subject's of its own by default.
    repetition_time : float, optional
        Seconds between volumes; filters need it.

    Returns
    -------
    Correlation

    Raises
    ------
    CohortError
        If runs do not fit together.
    SettingsError
        If a filter is asked for that the repetition time does not allow.
    """
    named = bold if isinstance(bold, Mapping) else {f"run-{i:04d}": r for i, r in enumerate(bold)}
    runs = {name: prepare_run(r, settings.bold, repetition_time) for name, r in named.items()}
    features = train_features(runs, subjects or [None] * len(runs), settings)
    return correlate([(features(*run), run[1]) for run in runs.values()], settings)


# --- From a correlation to networks ----------------------------------------------------------


def encode(source: CorrelationSource, encoding: Encoding, settings: MethodSettings) -> BlockMatrix:
    """Smooth a correlation along the cortex and keep what a spatial encoding lets through.

    Parameters
    ----------
    source : CorrelationSource
        A correlation that was computed, or one that is when it is asked for.
    encoding : Encoding
        Labels or distances, and the mesh to smooth along.
    settings : MethodSettings
        Smoothing and what is done with negative correlations.

    Returns
    -------
    BlockMatrix
        What is factorised.

    Raises
    ------
    InputError
        If the encoding belongs to another mesh.
    FactorizationError
        If the correlation is not finite or not symmetric, or distances do not fit.
    """
    return encoding.apply(source, settings.thresholding)


def loadings_graph(distances: Sequence[Any], settings: MethodSettings) -> Any:
    """Return which vertices are neighbours, if loadings are to be smooth; else None.

    Parameters
    ----------
    distances : sequence of array of shape (n_h, n_h)
        Distances along the cortex within each hemisphere, in mm.
    settings : MethodSettings
        Strength and reach.

    Returns
    -------
    sparse array of shape (n_vertices, n_vertices) or None

    Raises
    ------
    FactorizationError
        If no two vertices are near enough to be neighbours.
    """
    config = settings.factorization
    if config.smoothness == 0 or not distances:
        return None
    return neighbour_graph(distances, config.smoothness_sigma_mm)


def sweep_solutions(
    matrix: BlockMatrix,
    settings: MethodSettings,
    n_components: Sequence[int] | None = None,
    *,
    full_correlation: Any = None,
    graph: Any = None,
) -> Iterator[tuple[int, Solutions]]:
    """Factorise a matrix over the grid of settings and find the networks of each factorisation.

    Parameters
    ----------
    matrix : BlockMatrix
        From `encode`.
    settings : MethodSettings
        Grid, factorisation, and how networks are found.
    n_components : sequence of int, optional
        Those of the grid by default.
    full_correlation : array of shape (n_vertices, n_vertices), optional
        The correlation before it was cut, for connectivity that does not see the encoding.
    graph : sparse array, optional
        From `loadings_graph`.

    Yields
    ------
    tuple of int and tuple of Solution
        A number of components once it is complete, and its solutions ascending by alpha_W and
        l1_ratio.

    Raises
    ------
    FactorizationError
        If there are more components or clusters than vertices in use.
    """
    grid = settings.sweep
    if n_components is not None:
        grid = grid.model_copy(update={"n_components": tuple(n_components)})
    wanted = len(grid.alpha_W) * len(grid.l1_ratio)
    find: Callable[[FloatArray, FloatArray, int], IntArray] | None = None
    if settings.networks.method != "kmeans":
        find = partial(find_networks, random_state=settings.clustering.random_state)
    found: dict[int, list[Solution]] = {k: [] for k in grid.n_components}
    for one in sweep(
        matrix,
        grid,
        settings.factorization,
        settings.clustering,
        full_correlation=full_correlation,
        graph=graph,
        find=find,
    ):
        found[one.n_components].append(one)
        if len(found[one.n_components]) == wanted:
            complete = found.pop(one.n_components)
            yield one.n_components, tuple(sorted(complete, key=lambda c: (c.alpha_W, c.l1_ratio)))


def parcellate(
    source: CorrelationSource,
    encoding: Encoding,
    settings: MethodSettings,
    n_components: Sequence[int] | None = None,
    *,
    full_correlation: Any = None,
) -> Iterator[tuple[int, Solutions]]:
    """Go from a correlation to the networks of every combination of settings.

    Parameters
    ----------
    source : CorrelationSource
        A correlation that was computed, or one that is when it is asked for.
    encoding : Encoding
        Spatial encoding.
    settings : MethodSettings
        From smoothing to networks.
    n_components : sequence of int, optional
        Those of the grid by default.
    full_correlation : array of shape (n_vertices, n_vertices), optional
        As for `sweep_solutions`.

    Yields
    ------
    tuple of int and tuple of Solution
        As from `sweep_solutions`.

    Raises
    ------
    InputError
        If the encoding belongs to another mesh.
    FactorizationError
        If the correlation cannot be factorised as asked.
    """
    yield from sweep_solutions(
        encode(source, encoding, settings),
        settings,
        n_components,
        full_correlation=full_correlation,
        graph=loadings_graph(encoding.distances, settings),
    )


# --- Whether networks come back --------------------------------------------------------------

Halves = tuple[CorrelationSource, CorrelationSource]
Measured = dict[int, dict[str, NDArray[np.float64]]]
"""Measures of two halves by their name, for each number of components."""


def stability_beside_noise(
    data: Halves,
    noise: Iterable[Halves],
    encoding: Encoding,
    settings: MethodSettings,
    n_components: Sequence[int] | None = None,
    *,
    remember: Callable[[int, Callable[[], Measured]], Measured] = lambda _, measure: measure(),
) -> Measured:
    """Sweep both halves of a cohort, and both of each surrogate cohort, and compare the halves.

    Parameters
    ----------
    data : tuple of two CorrelationSource
        One for each half of the cohort.
    noise : iterable of tuple of two CorrelationSource
        The same of each surrogate cohort, with the masks of the data; taken one at a time.
    encoding : Encoding
        Spatial encoding.
    settings : MethodSettings
        From smoothing to networks.
    n_components : sequence of int, optional
        Those of the grid by default.
    remember : callable, optional
        Takes the number of a cohort (0 for the data, then the surrogates) and what measures it, and
        returns the measures: those that it knows from before, or new ones.

    Returns
    -------
    dict of int to dict of str to ndarray
        For each number of components the arrays of
        `trend_dagster.science.evidence.stability.stability_arrays`, of shape
        (n_combinations, n_clusters).

    Raises
    ------
    InputError
        If the encoding belongs to another mesh.
    FactorizationError
        If a correlation cannot be factorised as asked.
    """
    measured, *nulls = (
        remember(number, partial(_between_halves, pair, encoding, settings, n_components))
        for number, pair in enumerate(chain([data], noise))
    )
    return {k: stability_arrays(measured[k], [null[k] for null in nulls]) for k in measured}


def _between_halves(
    pair: Halves,
    encoding: Encoding,
    settings: MethodSettings,
    n_components: Sequence[int] | None,
) -> Measured:
    """Compare the halves of one cohort, for each number of components."""
    # Homogeneity is asked of the half that the clusters were not made from.
    first, second = (
        dict(
            parcellate(
                half, encoding, settings, n_components, full_correlation=other.smoothed(None)
            )
        )
        for half, other in zip(pair, pair[::-1], strict=True)
    )
    return {k: measure_halves(first[k], second[k]) for k in first}
