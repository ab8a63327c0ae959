"""What every result stands beside: controls without the model, halves of the cohort, noise.

Nothing here is made from planted networks or an atlas.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import TrendError
from trend_dagster.files import replace_file
from trend_dagster.orchestration.assets.connectivity import geodesic_distances, geodesic_labels
from trend_dagster.orchestration.assets.features import embeddings, trained_model
from trend_dagster.orchestration.assets.inputs import bold, cortex
from trend_dagster.orchestration.assets.loading import (
    Run,
    by_components,
    encoding_of,
    feasible,
    feature_maker,
    features,
    from_runs,
    made_by,
    shared_length,
    signal,
    usable_runs,
)
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Optional, Task, needed, stored_asset
from trend_dagster.project.folder import BOLD_RUN, LABEL_FILE, N_COMPONENTS
from trend_dagster.project.mesh import surface_of
from trend_dagster.project.settings import Settings, why_no_stability
from trend_dagster.project.tables import stability_facts, stability_markdown
from trend_dagster.science.connectivity.encoding import CorrelationSource
from trend_dagster.science.evidence.nulls import Smoothness, SurrogateMaker
from trend_dagster.science.evidence.stability import SplitBy, split_halves, timepoints_of
from trend_dagster.science.method import (
    FeatureMaker,
    control_features,
    grid_axes,
    parcellate,
    stability_beside_noise,
    sweep_arrays,
)
from trend_dagster.science.parcellation.fanout import blocks_memory, worker_memory
from trend_dagster.science.surface import Surface
from trend_dagster.storage.arrays import npy_bytes, subject_of
from trend_dagster.storage.label_files import NO_LABEL
from trend_dagster.storage.scratch import remembered
from trend_dagster.storage.stores import Version

if TYPE_CHECKING:
    from trend_dagster.science.parcellation.sweep import Solution

GRID = ("thresholding", "sweep", "factorization", "clustering", "networks")
"""Sections of the settings that decide a sweep."""

UNTRAINED = "untrained"
"""The control whose features are made and kept; those of the other are the signal itself."""

Readers = dict[str, Callable[[], Run]]

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
    settings=("controls", "cohort", "autoencoder", "training", "features"),
    nothing_to_do=_no_controls,
    pool="memory",
    code_version="2",
)
def control_correlation(task: Task, bold: Sequence[Version]) -> Result:
    """What the average correlation is computed from where there is no trained model.

    The control `untrained` takes the features from the model before its first step of training,
    `bold` from the signal itself. Whatever the trained model is said to give must exceed what these
    give. The features of `untrained` are kept; a correlation is computed from them where it is
    used.
    """
    runs, settings = usable_runs(task, bold), task.settings
    masks = np.stack([run.read("vertex_mask") for run in runs.values()])
    controls = settings.controls.features
    if UNTRAINED in controls:
        maker = control_features(UNTRAINED, settings, shared_length(runs, settings.cohort))
        for i, run in enumerate(task.each(list(runs.values()), "run")):
            made, _ = made_by(maker, run)
            if i == 0:
                out = task.draft.create("features", (len(runs), *made.shape))
            out[i] = made
    facts = {"controls": list(controls), "runs": list(runs), "n_vertices": masks.shape[1]}
    return Result(arrays={"vertex_mask": np.any(masks, axis=0)}, facts=facts)


def _control_readers(
    control: str, control_correlation: Version, bold: Sequence[Version]
) -> Readers:
    """Features of each run under a control."""
    runs = {run.partition[BOLD_RUN]: run for run in bold}
    names = control_correlation.facts["runs"]
    if control != UNTRAINED:
        return {name: partial(signal, runs[name]) for name in names}
    stack: Any = control_correlation.array("features")

    def read(place: int, run: Version) -> Run:
        return stack[place], run.read("vertex_mask")

    return {name: partial(read, i, runs[name]) for i, name in enumerate(names)}


def _control_bytes(settings: Settings, inputs: Mapping[str, list[Version]], n_threads: int) -> int:
    (controls,) = inputs["control_correlation"]
    # Of a control, while that of the one before is still held.
    return 0 if controls.excluded is not None else _sweep_bytes(settings, inputs, n_threads, 2)


@stored_asset(
    group="evidence",
    dims=(LABEL_FILE, N_COMPONENTS),
    inputs=[bold, control_correlation, geodesic_labels, geodesic_distances, cortex],
    settings=(*GRID, "correlation"),
    together=N_COMPONENTS,
    nothing_to_do=_no_controls,
    pool="memory",
    worker_bytes=_control_bytes,
    code_version="2",
)
def control_sweep(
    tasks: Sequence[Task],
    bold: Sequence[Version],
    control_correlation: Version,
    geodesic_labels: Version,
    geodesic_distances: Optional,
    cortex: Optional,
) -> Iterator[tuple[Task, Result | TrendError]]:
    """The same sweep on the matrices of the controls: one more dimension, `control`, in front."""
    task = tasks[0]
    encoding = encoding_of(task, geodesic_labels, geodesic_distances, cortex)
    mask = control_correlation.read("vertex_mask")
    possible, errors = feasible(tasks, int(encoding.used(mask).sum()))
    yield from errors
    controls, by_k = control_correlation.facts["controls"], by_components(possible)
    found: dict[int, list[Sequence[Solution]]] = {k: [] for k in by_k}
    for control in task.each(controls, "control") if possible else ():
        source = from_runs(task, _control_readers(control, control_correlation, bold))
        full = source.smoothed(None)
        for k, cells in parcellate(
            source, encoding, task.settings, list(found), full_correlation=full
        ):
            found[k].append(cells)
    for k, one in by_k.items():
        yield one, Result(arrays=_stacked(found[k]), facts={"controls": controls})


def _stacked(controls: Sequence[Sequence[Solution]]) -> dict[str, NDArray[Any]]:
    """Stack the arrays of several sweeps over one grid; the axes of the grid stay as they are."""
    arrays = [sweep_arrays(cells) for cells in controls]
    axes = {name: arrays[0][name] for name in ("alpha_W", "l1_ratio", "n_clusters")}
    return {name: np.stack([a[name] for a in arrays]) for name in arrays[0]} | axes


# --- Halves and surrogate cohorts -------------------------------------------------------------


@stored_asset(
    group="evidence",
    inputs=[bold, embeddings, trained_model],
    settings=("validation", "features", "correlation"),
    nothing_to_do=why_no_stability,
    code_version="2",
)
def split_correlation(
    task: Task, bold: Sequence[Version], embeddings: Sequence[Version], trained_model: Optional
) -> Result:
    """Which runs each of two halves of the cohort has, and which vertices have signal there.

    No subject is on both sides; where there is one subject, no run is; where there is one run, each
    half has half of its timepoints. `split_by` says which it was: the less a half differs from the
    other, the less its agreement says of other people. The correlation of a half is computed from
    its features where it is used, and not kept.
    """
    runs = usable_runs(task, embeddings)
    names = list(runs)
    halves = split_halves([subject_of(n) for n in names], task.settings.validation.random_state)
    parts = [[names[r] for r in part] for part in halves.runs]
    readers = _readers(task, bold, embeddings, trained_model, halves.by, parts)
    masks = [from_runs(task, half).mask for half in readers]
    return Result(
        arrays={"vertex_mask": np.stack(masks)},
        facts={"split_by": halves.by, "halves": parts, "n_vertices": masks[0].size},
    )


def _readers(
    task: Task,
    bold: Sequence[Version],
    embeddings: Sequence[Version],
    trained_model: Optional,
    split_by: str,
    halves: Sequence[Sequence[str]],
) -> list[Readers]:
    """Features of the runs of each half."""
    if split_by == "time":
        ((name,), _), (run,) = halves, bold
        maker = feature_maker(task, trained_model)
        return [{name: partial(made_by, maker, run, half)} for half in (0, 1)]
    runs = {run.partition[BOLD_RUN]: run for run in embeddings}
    return [{name: features(runs[name]) for name in half} for half in halves]


@stored_asset(
    group="evidence",
    inputs=[bold, split_correlation, cortex],
    settings=("validation",),
    nothing_to_do=why_no_stability,
    pool="memory",
    code_version="2",
)
def null_correlation(
    task: Task, bold: Sequence[Version], split_correlation: Version, cortex: Version
) -> Result:
    """What surrogate cohorts are made from: how smooth each run is along the cortex.

    In a surrogate cohort each run is replaced by noise of its own smoothness in space and spectrum
    in time, gets the features that the data has (`validation.null_features`), and falls into the
    same half. Networks make neighbours alike and count as smoothness here, so this null is hard to
    beat. Noise comes from the seed and is made where it is used; nothing of it is kept.
    """
    maker = SurrogateMaker(surface_of(cortex, split_correlation.facts["n_vertices"]))
    smooth = [maker.measure(signal(run)[0]) for run in task.each(bold, "run")]
    arrays = {name: np.array([getattr(one, name) for one in smooth]) for name in SMOOTHNESS}
    means = {what: float(arrays[name].mean()) for name, what in SMOOTHNESS.items()}
    runs, n_nulls = [run.partition[BOLD_RUN] for run in bold], task.settings.validation.n_nulls
    return Result(arrays=arrays, facts={"n_nulls": n_nulls, "runs": runs, **means})


SMOOTHNESS = {
    "common": "correlation_in_common",
    "neighbours": "correlation_of_neighbours",
    "sigma": "kernel_sigma_mm",
}
"""What is measured of each run, and the fact that tells its mean."""


class _Surrogates:
    """Makes the features of surrogate runs, as those of the data were made."""

    def __init__(
        self,
        task: Task,
        bold: Sequence[Version],
        null_correlation: Version,
        trained_model: Optional,
        surface: Surface,
        split_by: SplitBy,
    ) -> None:
        self.config, self.split_by = task.settings.validation, split_by
        self.runs = {run.partition[BOLD_RUN]: run for run in bold}
        measured = zip(*(null_correlation.read(n).tolist() for n in SMOOTHNESS), strict=True)
        names = null_correlation.facts["runs"]
        self.smooth = {n: Smoothness(*one) for n, one in zip(names, measured, strict=True)}
        self.noise = SurrogateMaker(surface)
        same = self.config.null_features == "same"
        self.maker = feature_maker(task, trained_model) if same else FeatureMaker()

    def readers(self, null: int, half: int, names: Sequence[str], folder: Path) -> Readers:
        """Features of a half of a surrogate cohort: made when first asked for, then in a file."""
        return {
            name: partial(self._read, name, half, null, folder / f"{half}-{name}.npy")
            for name in names
        }

    def _read(self, name: str, half: int, null: int, file: Path) -> Run:
        run = self.runs[name]
        if not file.exists():
            bold, mask = signal(run)
            rng = np.random.default_rng([self.config.random_state, null, *name.encode()])
            noise = self.noise.surrogate(bold, self.smooth[name], rng)
            part = timepoints_of(half, self.split_by, bold.shape[1])
            replace_file(file, npy_bytes(self.maker(noise, mask, part)))
        return np.load(file, mmap_mode="r", allow_pickle=False), run.read("vertex_mask")


# --- Stability --------------------------------------------------------------------------------


def _worker_bytes(settings: Settings, inputs: Mapping[str, list[Version]], n_threads: int) -> int:
    (split,) = inputs["split_correlation"]
    # Both halves of the data, and of a surrogate cohort.
    return 0 if split.excluded is not None else _sweep_bytes(settings, inputs, n_threads, 4)


def _sweep_bytes(
    settings: Settings, inputs: Mapping[str, list[Version]], n_threads: int, n_correlations: int
) -> int:
    """Most that a sweep from features holds; Fisher's averages are matrices, held together."""
    (labels,) = inputs["geodesic_labels"]
    if labels.excluded is not None:  # nothing is computed
        return 0
    vector = labels.read("labels")
    _, sizes = np.unique(vector[vector != NO_LABEL], return_counts=True)
    fisher = settings.correlation.average != "arithmetic"
    return max(
        worker_memory(sizes, settings.sweep, n_threads, settings.factorization.compress_above),
        blocks_memory(sizes, len(vector), settings.correlation)
        + fisher * n_correlations * 4 * len(vector) ** 2,
    )


def _disk_bytes(settings: Settings, inputs: Mapping[str, list[Version]], n_threads: int) -> int:
    """Features of one surrogate cohort."""
    found = [v.array("features") for v in inputs["embeddings"] if v.excluded is None]
    return sum(4 * int(np.prod(array.shape)) for array in found)


@stored_asset(
    group="evidence",
    dims=(LABEL_FILE, N_COMPONENTS),
    inputs=[
        bold, embeddings, trained_model, split_correlation, null_correlation, geodesic_labels,
        geodesic_distances, cortex,
    ],
    settings=(*GRID, "validation", "features", "correlation"),
    together=N_COMPONENTS,
    nothing_to_do=why_no_stability,
    pool="memory",
    worker_bytes=_worker_bytes,
    disk_bytes=_disk_bytes,
    code_version="2",
)  # fmt: skip
def stability(
    tasks: Sequence[Task],
    bold: Sequence[Version],
    embeddings: Sequence[Version],
    trained_model: Optional,
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
    noise reaches a stability of 1. An interrupted run goes on after the last cohort it finished.
    """
    task = tasks[0]
    encoding = encoding_of(task, geodesic_labels, geodesic_distances, cortex)
    masks = split_correlation.read("vertex_mask")
    possible, errors = feasible(tasks, min(int(encoding.used(mask).sum()) for mask in masks))
    yield from errors
    if not possible:
        return
    halves, split_by = split_correlation.facts["halves"], split_correlation.facts["split_by"]
    first, second = _readers(task, bold, embeddings, trained_model, split_by, halves)
    surface = surface_of(needed(cortex, task, "cortex"), masks.shape[1])
    noise = _Surrogates(task, bold, null_correlation, trained_model, surface, split_by)
    n_nulls, by_k = int(null_correlation.facts["n_nulls"]), by_components(possible)
    found = stability_beside_noise(
        (from_runs(task, first), from_runs(task, second)),
        _noise(task, noise, halves, n_nulls),
        encoding,
        task.settings,
        list(by_k),
        remember=partial(remembered, {k: one.scratch for k, one in by_k.items()}),
    )
    for k, one in by_k.items():
        yield one, _stability(one, found[k], split_by, n_nulls)


def _noise(
    task: Task, noise: _Surrogates, halves: Sequence[Sequence[str]], n_nulls: int
) -> Iterator[tuple[CorrelationSource, CorrelationSource]]:
    """Both halves of each surrogate cohort, one cohort at a time."""
    for null in range(n_nulls):
        task.progress(f"surrogate cohort {null + 1} of {n_nulls}", (null + 1) / (n_nulls + 1))
        folder = task.scratch / f"surrogate-{null}"
        one, other = (
            from_runs(task, noise.readers(null, half, halves[half], folder)) for half in (0, 1)
        )
        yield one, other
        shutil.rmtree(folder, ignore_errors=True)


def _stability(
    task: Task, found: Mapping[str, NDArray[np.float64]], split_by: str, n_nulls: int
) -> Result:
    arrays: dict[str, NDArray[Any]] = {**grid_axes(task.settings.sweep), **found}
    return Result(
        arrays=arrays,
        facts=stability_facts(found, split_by, n_nulls),
        tables={"beside the null": stability_markdown(task.partition, arrays)},
    )
