"""What every result stands beside: controls without the model, halves of the cohort, noise.

Nothing here is made from planted networks or an atlas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import TrendError
from trend_dagster.orchestration.assets.connectivity import geodesic_distances, geodesic_labels
from trend_dagster.orchestration.assets.features import embeddings, trained_model
from trend_dagster.orchestration.assets.inputs import bold, cortex
from trend_dagster.orchestration.assets.loading import (
    Run,
    by_components,
    correlation,
    encoding_of,
    feasible,
    feature_maker,
    features,
    resumed_correlation,
    signal,
    usable_runs,
)
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Optional, Task, stored_asset
from trend_dagster.project.folder import BOLD_RUN, LABEL_FILE, N_COMPONENTS
from trend_dagster.project.mesh import mesh_of
from trend_dagster.project.recordings import weights_of
from trend_dagster.project.settings import Settings, why_no_stability
from trend_dagster.project.tables import stability_facts, stability_markdown
from trend_dagster.science.bold import common_length
from trend_dagster.science.evidence.nulls import SurrogateMaker
from trend_dagster.science.evidence.stability import split_halves, timepoints_of
from trend_dagster.science.method import (
    FeatureMaker,
    control_features,
    correlate,
    grid_axes,
    parcellate,
    stability_beside_noise,
    sweep_arrays,
)
from trend_dagster.science.parcellation.fanout import worker_memory
from trend_dagster.storage.arrays import subject_of
from trend_dagster.storage.stores import Version

if TYPE_CHECKING:
    from trend_dagster.science.parcellation.sweep import Solution

GRID = ("thresholding", "sweep", "factorization", "clustering", "networks")
"""Sections of the settings that decide a sweep."""

# --- Controls ---------------------------------------------------------------------------------


def _no_controls(settings: Settings) -> str | None:
    if not settings.controls.features:
        return "no controls are asked for (controls.features is empty)"
    if settings.features.source == "bold":
        return "the features are the BOLD itself: there is no model to control"
    return None


@stored_asset(
    group="evidence",
    inputs=[bold],
    settings=("controls", "cohort", "autoencoder", "training", "features", "correlation"),
    nothing_to_do=_no_controls,
    pool="memory",
)
def control_correlation(task: Task, bold: Sequence[Version]) -> Result:
    """The average correlation that there would be without the trained model.

    One matrix per control: `untrained` takes the features from the model before its first step of
    training, `bold` from the signal itself. Whatever the trained model is said to give must exceed
    what these give.
    """
    runs, settings = usable_runs(task, bold), task.settings
    lengths = {name: run.facts["n_timepoints"] for name, run in runs.items()}
    n_timepoints = common_length(lengths, settings.cohort)
    masks = np.stack([run.read("vertex_mask") for run in runs.values()])
    controls, n = settings.controls.features, masks.shape[1]
    out = task.draft.create("correlation", (len(controls), n, n))
    for i, control in enumerate(controls):
        task.progress(control, i / len(controls))
        maker = control_features(control, settings, n_timepoints)
        readers = [partial(_made_by, maker, run) for run in runs.values()]
        weights = weights_of(task.project, list(runs))
        out[i] = correlate(readers, settings, weights=weights).matrix
    return Result(
        arrays={"vertex_mask": np.asarray(masks.any(axis=0))},
        facts={"controls": list(controls), "n_vertices": n},
    )


def _made_by(maker: FeatureMaker, run: Version) -> Run:
    bold, mask = signal(run)
    return maker(bold, mask), mask


@stored_asset(
    group="evidence",
    dims=(LABEL_FILE, N_COMPONENTS),
    inputs=[control_correlation, geodesic_labels, geodesic_distances, cortex],
    settings=GRID,
    together=N_COMPONENTS,
    nothing_to_do=_no_controls,
    pool="memory",
)
def control_sweep(
    tasks: Sequence[Task],
    control_correlation: Version,
    geodesic_labels: Version,
    geodesic_distances: Optional,
    cortex: Optional,
) -> Iterator[tuple[Task, Result | TrendError]]:
    """The same sweep on the matrices of the controls: one more dimension, `control`, in front."""
    encoding = encoding_of(tasks[0], geodesic_labels, geodesic_distances, cortex)
    mask = control_correlation.read("vertex_mask")
    possible, errors = feasible(tasks, int(encoding.used(mask).sum()))
    yield from errors
    controls = control_correlation.facts["controls"]
    found: dict[int, list[Sequence[Solution]]] = {k: [] for k in by_components(possible)}
    for i in range(len(controls) if possible else 0):
        source = correlation(control_correlation, i)
        swept = parcellate(
            source, encoding, tasks[0].settings, list(found), full_correlation=source.matrix
        )
        for k, cells in swept:
            found[k].append(cells)
    for k, task in by_components(possible).items():
        yield task, Result(arrays=_stacked(found[k]), facts={"controls": controls})


def _stacked(controls: Sequence[Sequence[Solution]]) -> dict[str, NDArray[Any]]:
    """Stack the arrays of several sweeps over one grid; the axes of the grid stay as they are."""
    arrays = [sweep_arrays(cells) for cells in controls]
    axes = {name: arrays[0][name] for name in ("alpha_W", "l1_ratio", "n_clusters")}
    return {name: np.stack([a[name] for a in arrays]) for name in arrays[0]} | axes


# --- Halves and surrogate cohorts -------------------------------------------------------------

HALVES = ("first", "second")


@stored_asset(
    group="evidence",
    inputs=[bold, embeddings, trained_model],
    settings=("validation", "features", "correlation"),
    nothing_to_do=why_no_stability,
    pool="memory",
)
def split_correlation(
    task: Task, bold: Sequence[Version], embeddings: Sequence[Version], trained_model: Optional
) -> Result:
    """The average correlation of each of two halves of the cohort.

    No subject is on both sides; where there is one subject, no run is; where there is one run, each
    half has half of its timepoints. `split_by` says which it was: the less a half differs from the
    other, the less its agreement says of other people.
    """
    runs = usable_runs(task, embeddings)
    names, n = list(runs), int(embeddings[0].array("vertex_mask").shape[0])
    halves = split_halves([subject_of(n) for n in names], task.settings.validation.random_state)
    out, masks = task.draft.create("correlation", (2, n, n)), []
    for half, side in enumerate(HALVES):
        readers = {names[r]: features(runs[names[r]]) for r in halves.runs[half]}
        if halves.by == "time":
            maker = feature_maker(task, trained_model)
            readers = {names[0]: partial(_part_of, maker, bold[0], half)}
        out[half] = average = resumed_correlation(task, readers, n, side).array
        masks.append(np.diagonal(average) > 0)
    return Result(
        arrays={"vertex_mask": np.stack(masks)},
        facts={
            "split_by": halves.by,
            "halves": [[names[r] for r in part] for part in halves.runs],
            "n_vertices": n,
        },
    )


def _part_of(maker: FeatureMaker, run: Version, half: int) -> Run:
    bold, mask = signal(run)
    return maker(bold, mask, timepoints_of(half, "time", bold.shape[1])), mask


@stored_asset(
    group="evidence",
    inputs=[bold, split_correlation, trained_model, cortex],
    settings=("validation", "features", "correlation"),
    nothing_to_do=why_no_stability,
    pool="memory",
)
def null_correlation(
    task: Task,
    bold: Sequence[Version],
    split_correlation: Version,
    trained_model: Optional,
    cortex: Version,
) -> Result:
    """The same for surrogate cohorts: noise in the place of each run, without any network.

    Each run is replaced by noise of its own smoothness in space and spectrum in time, gets the
    features that the data has (`validation.null_features`), and falls into the same half. Networks
    make neighbours alike and count as smoothness here, so this null is hard to beat.
    """
    noise = _Surrogates(task, bold, split_correlation, trained_model, cortex)
    n_nulls, n = task.settings.validation.n_nulls, split_correlation.facts["n_vertices"]
    out = task.draft.create("correlation", (n_nulls, 2, n, n))
    for null in range(n_nulls):
        for half, side in enumerate(HALVES):
            name = f"surrogate cohort {null + 1} of {n_nulls}, {side} half,"
            readers = noise.readers(null, half)
            out[null, half] = resumed_correlation(task, readers, n, name).array
    return Result(
        arrays={"vertex_mask": split_correlation.read("vertex_mask")},
        facts={"n_nulls": n_nulls, **noise.facts()},
    )


class _Surrogates:
    """Makes the features of surrogate runs, as those of the data were made."""

    def __init__(
        self,
        task: Task,
        bold: Sequence[Version],
        split_correlation: Version,
        trained_model: Optional,
        cortex: Version,
    ) -> None:
        self.config, self.source = task.settings.validation, task.settings.features.source
        self.split_by = split_correlation.facts["split_by"]
        self.runs = {run.partition[BOLD_RUN]: run for run in bold}
        halves = split_correlation.facts["halves"]
        self.halves = [[name for name in half if name in self.runs] for half in halves]
        surface = mesh_of(cortex, split_correlation.facts["n_vertices"])
        assert surface is not None  # an excluded mesh excludes this asset
        self.noise = SurrogateMaker(surface)
        self.smooth = {name: self.noise.measure(signal(run)[0]) for name, run in self.runs.items()}
        same = self.config.null_features == "same"
        self.maker = feature_maker(task, trained_model) if same else FeatureMaker()

    def readers(self, null: int, half: int) -> dict[str, Any]:
        """Features of the runs of a half of a surrogate cohort, made as they are asked for."""
        return {name: partial(self._read, name, half, null) for name in self.halves[half]}

    def _read(self, name: str, half: int, null: int) -> Run:
        bold, mask = signal(self.runs[name])
        rng = np.random.default_rng([self.config.random_state, null, *name.encode()])
        noise = self.noise.surrogate(bold, self.smooth[name], rng)
        return self.maker(noise, mask, timepoints_of(half, self.split_by, bold.shape[1])), mask

    def facts(self) -> dict[str, Any]:
        """What is worth looking at."""
        smooth = list(self.smooth.values())
        return {
            "split_by": self.split_by,
            "null_features": self.maker.source,
            "features_of_the_data": self.source,
            "correlation_of_neighbours": float(np.mean([s.neighbours for s in smooth])),
            "correlation_in_common": float(np.mean([s.common for s in smooth])),
            "kernel_sigma_mm": float(np.mean([s.sigma for s in smooth])),
        }


# --- Stability --------------------------------------------------------------------------------


def _worker_bytes(settings: Settings, inputs: Mapping[str, list[Version]], n_threads: int) -> int:
    (split,), (labels,) = inputs["split_correlation"], inputs["geodesic_labels"]
    if split.excluded is not None or labels.excluded is not None:  # nothing is computed
        return 0
    _, sizes = np.unique(labels.read("labels"), return_counts=True)
    both = split.array("correlation").nbytes
    return worker_memory(sizes, settings.sweep, n_threads) + both


@stored_asset(
    group="evidence",
    dims=(LABEL_FILE, N_COMPONENTS),
    inputs=[split_correlation, null_correlation, geodesic_labels, geodesic_distances, cortex],
    settings=GRID,
    together=N_COMPONENTS,
    nothing_to_do=why_no_stability,
    pool="memory",
    worker_bytes=_worker_bytes,
)
def stability(
    tasks: Sequence[Task],
    split_correlation: Version,
    null_correlation: Version,
    geodesic_labels: Version,
    geodesic_distances: Optional,
    cortex: Optional,
) -> Iterator[tuple[Task, Result | TrendError]]:
    """How well a cell of the sweep comes back in another half of the cohort, and in noise.

    The same sweep on both halves, and on both halves of every surrogate cohort. For each cell: the
    adjusted Rand index between the halves, the silhouette, and the homogeneity of one half's
    clusters in the other half, each beside its null, with the excess over it and, from 3 surrogate
    cohorts on, a z. The excess alone says something of the data: with as many labels as clusters
    noise reaches a stability of 1.
    """
    encoding = encoding_of(tasks[0], geodesic_labels, geodesic_distances, cortex)
    masks = split_correlation.read("vertex_mask")
    possible, errors = feasible(tasks, min(int(encoding.used(mask).sum()) for mask in masks))
    yield from errors
    if possible:
        settings, n_nulls = tasks[0].settings, int(null_correlation.facts["n_nulls"])
        data = (correlation(split_correlation, 0), correlation(split_correlation, 1))
        noise = _noise(tasks[0], null_correlation, n_nulls)
        by_k = by_components(possible)
        found = stability_beside_noise(data, noise, encoding, settings, list(by_k))
        for k, task in by_k.items():
            yield task, _stability(task, found[k], split_correlation.facts["split_by"], n_nulls)


def _noise(task: Task, null_correlation: Version, n_nulls: int) -> Iterator[Any]:
    """Both halves of each surrogate cohort, one cohort at a time."""
    for null in range(n_nulls):
        task.progress(f"surrogate cohort {null + 1} of {n_nulls}", (null + 1) / (n_nulls + 1))
        yield tuple(correlation(null_correlation, null, half) for half in (0, 1))


def _stability(
    task: Task, found: Mapping[str, NDArray[np.float64]], split_by: str, n_nulls: int
) -> Result:
    arrays: dict[str, NDArray[Any]] = {**grid_axes(task.settings.sweep), **found}
    return Result(
        arrays=arrays,
        facts=stability_facts(found, split_by, n_nulls),
        tables={"beside the null": stability_markdown(task.partition, arrays)},
    )
