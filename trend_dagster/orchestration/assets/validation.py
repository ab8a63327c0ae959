"""Is it the brain or the method: the sweep on two halves of the cohort, and on noise as smooth.

Nothing here is made from planted networks or an atlas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_dagster.errors import CohortError, TrendError
from trend_dagster.orchestration.assets.connectivity import (
    graph_of,
    needs_no_distances,
    spatial_matrix,
    vertices_in_use,
)
from trend_dagster.orchestration.assets.features import load_model
from trend_dagster.orchestration.assets.parcellation import feasible, swept
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Cell, stored_asset
from trend_dagster.project.folder import BOLD_RUN, LABEL_FILE, N_COMPONENTS
from trend_dagster.project.mesh import (
    mesh_of,
    names_no_mesh,
    smoothing_of,
    thresholds_without_mesh,
)
from trend_dagster.project.recordings import check_recordings, weights_of
from trend_dagster.project.settings import Settings, why_no_stability
from trend_dagster.science.bold import check_same_vertices
from trend_dagster.science.connectivity.correlation import average_correlation
from trend_dagster.science.connectivity.thresholding import BlockMatrix
from trend_dagster.science.evidence.nulls import SurrogateMaker
from trend_dagster.science.evidence.stability import (
    COLUMNS,
    MEASURES,
    MIN_NULLS_FOR_Z,
    SplitBy,
    measure_halves,
    split_halves,
    stability_arrays,
    timepoints_of,
)
from trend_dagster.science.parcellation.fanout import worker_memory
from trend_dagster.storage.arrays import subject_of
from trend_dagster.storage.scratch import ResumableMatrix
from trend_dagster.storage.space import check_same_space
from trend_dagster.storage.stores import Partition, Version

if TYPE_CHECKING:  # torch takes seconds to import: only the functions that compute with it do
    from trend_dagster.science.features.autoencoder import TransformerAutoencoder

Features = tuple[NDArray[np.float32], NDArray[np.bool_]]
Measured = dict[int, dict[str, NDArray[np.float64]]]

HALVES = ("first", "second")


# --- The halves ------------------------------------------------------------------------------


def _left_out(settings: Settings) -> dict[str, str]:
    """Why nothing is computed, if so: it hangs on settings of several sections."""
    why = why_no_stability(settings)
    return {} if why is None else {"left_out": why}


def _needs_no_model(settings: Settings, partition: Partition) -> bool:
    return settings.features.source == "bold"


@stored_asset(
    group="validation",
    settings=("validation", "features", "correlation"),
    derived=_left_out,
    unless={"trained_model": _needs_no_model},
    pool="memory",
)
def split_correlation(
    cell: Cell,
    bold: Sequence[Version],
    embeddings: Sequence[Version],
    trained_model: Version | None,
) -> Result:
    """The average correlation of each of two halves of the cohort.

    No subject is on both sides; where there is one subject, no run is; where there is one run, each
    half has half of its timepoints. `split_by` says which it was: the less a half differs from the
    other, the less its agreement says of other people.
    """
    if why := why_no_stability(cell.settings):
        return Result(excluded=why)
    if not embeddings:
        raise CohortError(
            "split_correlation",
            expected="at least one usable run",
            found="none: all runs are excluded",
            remedy="Look at the reasons (`trend status`), mend the files, or add others.",
        )
    names = [run.partition[BOLD_RUN] for run in embeddings]
    n_vertices = {n: len(run.read("vertex_mask")) for n, run in zip(names, embeddings, strict=True)}
    check_same_vertices(n_vertices)
    check_same_space({n: e.facts.get("space") for n, e in zip(names, embeddings, strict=True)})
    check_recordings(cell.project, names)
    halves = split_halves([subject_of(n) for n in names], cell.settings.validation.random_state)
    out = cell.draft.create("correlation", (2, n_vertices[names[0]], n_vertices[names[0]]))
    masks = []
    for half, side in enumerate(HALVES):
        cell.progress(f"{side} half", half / 2)
        if halves.by == "time":
            (run,) = bold
            embedder = _Embedder.of(cell.settings.features.source, trained_model)
            readers = [_part_reader(run, embedder, half)]
        else:
            readers = [_reader(embeddings[r]) for r in halves.runs[half]]
        weights = weights_of(cell.project, [names[r] for r in halves.runs[half]])
        average = _average(cell, side, readers, out.shape[1], weights)
        out[half] = average
        masks.append(np.diagonal(average) > 0)
    return Result(
        arrays={"vertex_mask": np.stack(masks)},
        facts={
            "split_by": halves.by,
            "halves": [[names[r] for r in runs] for runs in halves.runs],
            "n_vertices": out.shape[1],
        },
    )


def _reader(embedded: Version) -> Callable[[], Features]:
    return lambda: (embedded.read("features"), embedded.read("vertex_mask"))


def _part_reader(run: Version, embedder: _Embedder, half: int) -> Callable[[], Features]:
    return lambda: embedder.features(*_signal(run), half, "time")


def _signal(run: Version) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    bold, mask = run.read("bold"), run.read("vertex_mask")
    bold[~mask] = 0
    return bold, mask


def _average(
    cell: Cell,
    name: str,
    readers: Sequence[Callable[[], Features]],
    n_vertices: int,
    weights: Sequence[float] | None,
) -> NDArray[np.float32]:
    """Average the correlation over some runs, in a matrix that an interruption leaves."""
    config = cell.settings.correlation
    matrix = ResumableMatrix(cell.scratch / name, (n_vertices, n_vertices), config.tile)
    average_correlation(
        readers,
        config,
        out=matrix.array,
        weights=weights,
        done=frozenset(matrix.done),
        on_tile=matrix.mark,
    )
    return matrix.array


@dataclass(frozen=True)
class _Embedder:
    """Makes features as those of the data were made; without a model, the signal itself."""

    source: Any
    model: TransformerAutoencoder | None
    n_timepoints: int | None

    @classmethod
    def of(cls, source: str, trained_model: Version | None) -> _Embedder:
        if trained_model is None:
            return cls("bold", None, None)
        return cls(source, load_model(trained_model), trained_model.facts["n_timepoints"])

    def features(
        self, bold: NDArray[np.float32], mask: NDArray[np.bool_], half: int, by: SplitBy
    ) -> Features:
        """Features of what belongs to a half; the model meets the rest of a run at its mean."""
        from trend_dagster.science.features.autoencoder import embed

        signal = np.ascontiguousarray(bold[mask, : self.n_timepoints])
        own = timepoints_of(half, by, signal.shape[1])
        if self.model is None:
            signal = signal[:, own]
        else:
            still = np.repeat(signal.mean(axis=1, keepdims=True), signal.shape[1], axis=1)
            still[:, own] = signal[:, own]
            signal = still
        found = embed(self.model, signal, source=self.source)
        features = np.zeros((len(mask), found.shape[1]), dtype=np.float32)
        features[mask] = found
        return features, mask


# --- Surrogate cohorts -----------------------------------------------------------------------


def _null_needs_no_model(settings: Settings, partition: Partition) -> bool:
    return settings.features.source == "bold" or settings.validation.null_features == "bold"


@stored_asset(
    group="validation",
    settings=("validation", "features", "correlation"),
    derived=_left_out,
    unless={"trained_model": _null_needs_no_model, "cortex": names_no_mesh},
    pool="memory",
)
def null_correlation(
    cell: Cell,
    bold: Sequence[Version],
    split_correlation: Version,
    trained_model: Version | None,
    cortex: Version | None,
) -> Result:
    """The same for surrogate cohorts: noise in the place of each run, without any network.

    Each run is replaced by noise of its own smoothness in space and spectrum in time, gets the
    features that the data has (`validation.null_features`), and falls into the same half. Networks
    make neighbours alike and count as smoothness here, so this null is hard to beat.
    """
    if why := why_no_stability(cell.settings):
        return Result(excluded=why)
    config, facts = cell.settings.validation, split_correlation.facts
    runs = {run.partition[BOLD_RUN]: run for run in bold}
    names = [[name for name in half if name in runs] for half in facts["halves"]]
    n = int(facts["n_vertices"])
    surface = mesh_of(cortex, n)
    assert surface is not None  # why_no_stability has asked
    maker = SurrogateMaker(surface)
    smooth = {name: maker.measure(_signal(run)[0]) for name, run in runs.items()}
    source = cell.settings.features.source
    embedder = _Embedder.of(source, trained_model)

    def reader(name: str, half: int, null: int) -> Callable[[], Features]:
        def read() -> Features:
            signal, mask = _signal(runs[name])
            rng = np.random.default_rng([config.random_state, null, *name.encode()])
            noise = maker.surrogate(signal, smooth[name], rng)
            return embedder.features(noise, mask, half, facts["split_by"])

        return read

    out = cell.draft.create("correlation", (config.n_nulls, 2, n, n))
    for null in range(config.n_nulls):
        for half, side in enumerate(HALVES):
            share = (2 * null + half) / (2 * config.n_nulls)
            cell.progress(f"surrogate cohort {null + 1} of {config.n_nulls}, {side} half", share)
            readers = [reader(name, half, null) for name in names[half]]
            weights = weights_of(cell.project, names[half])
            out[null, half] = _average(cell, f"{null}-{side}", readers, n, weights)
    return Result(
        arrays={"vertex_mask": split_correlation.read("vertex_mask")},
        facts={
            "n_nulls": config.n_nulls,
            "split_by": facts["split_by"],
            "null_features": "bold" if trained_model is None else source,
            "features_of_the_data": source,
            "correlation_of_neighbours": float(np.mean([s.neighbours for s in smooth.values()])),
            "correlation_in_common": float(np.mean([s.common for s in smooth.values()])),
            "kernel_sigma_mm": float(np.mean([s.sigma for s in smooth.values()])),
        },
    )


# --- Stability -------------------------------------------------------------------------------


def _worker_bytes(settings: Settings, inputs: Mapping[str, list[Version]], n_threads: int) -> int:
    (split,), (labels,) = inputs["split_correlation"], inputs["geodesic_labels"]
    if split.excluded is not None or labels.excluded is not None:  # nothing is computed
        return 0
    _, sizes = np.unique(labels.read("labels"), return_counts=True)
    both = split.array("correlation").nbytes
    return worker_memory(sizes, settings.sweep, n_threads) + both


@stored_asset(
    group="validation",
    dims=(LABEL_FILE, N_COMPONENTS),
    settings=("thresholding", "sweep", "factorization", "clustering", "networks"),
    together=N_COMPONENTS,
    unless={"geodesic_distances": needs_no_distances, "cortex": thresholds_without_mesh},
    pool="memory",
    worker_bytes=_worker_bytes,
)
def stability(
    cells: Sequence[Cell],
    split_correlation: Version,
    null_correlation: Version,
    geodesic_labels: Version,
    geodesic_distances: Version | None,
    cortex: Version | None,
) -> Iterator[tuple[Cell, Result | TrendError]]:
    """How well a cell of the sweep comes back in another half of the cohort, and in noise.

    The same sweep on both halves, and on both halves of every surrogate cohort. For each cell: the
    adjusted Rand index between the halves, the silhouette, and the homogeneity of one half's
    clusters in the other half, each beside its null, with the excess over it and, from 3 surrogate
    cohorts on, a z. The excess alone says something of the data: with as many labels as clusters
    noise reaches a stability of 1.
    """
    masks = split_correlation.read("vertex_mask")
    least = min(int(vertices_in_use(geodesic_labels, mask).sum()) for mask in masks)
    cells, errors = feasible(cells, least)
    yield from errors
    if not cells:
        return
    n_nulls = int(null_correlation.facts["n_nulls"])
    graph = graph_of(cells[0].settings, geodesic_distances)
    smoothings = [smoothing_of(cells[0].project, cortex, mask) for mask in masks]
    measured: list[Measured] = []
    for cohort in range(n_nulls + 1):
        cells[0].progress(
            f"surrogate cohort {cohort}" if cohort else "data", cohort / (n_nulls + 1)
        )
        pair = _pair(split_correlation, null_correlation, cohort)
        matrices = [
            spatial_matrix(cells[0], half, mask, geodesic_labels, geodesic_distances, smoothing)
            for half, mask, smoothing in zip(pair, masks, smoothings, strict=True)
        ]
        measured.append(_measure(cells, matrices, pair, graph))
    split_by = split_correlation.facts["split_by"]
    for cell in cells:
        data, *nulls = (m[int(cell.partition[N_COMPONENTS])] for m in measured)
        yield cell, _result(cell, stability_arrays(data, nulls), split_by, n_nulls)


def _pair(split: Version, null: Version, cohort: int) -> NDArray[np.float32]:
    """Both halves of the data (0) or of a surrogate cohort: (2, n_vertices, n_vertices)."""
    if cohort == 0:
        return split.read("correlation")
    return np.asarray(null.array("correlation")[cohort - 1])


def _measure(
    cells: Sequence[Cell], matrices: Sequence[BlockMatrix], pair: NDArray[np.float32], graph: Any
) -> Measured:
    """Sweep both halves of a cohort and compare them, for each number of components."""
    # Homogeneity is asked of the half that the clusters were not made from.
    first, second = (
        dict(swept(cells, matrix, other, graph))
        for matrix, other in zip(matrices, pair[::-1], strict=True)
    )
    return {k: measure_halves(first[k], second[k]) for k in first}


def _result(
    cell: Cell, found: Mapping[str, NDArray[np.float64]], split_by: str, n_nulls: int
) -> Result:
    grid = cell.settings.sweep
    pairs = sorted((a, ratio) for a in grid.alpha_W for ratio in grid.l1_ratio)
    arrays: dict[str, NDArray[Any]] = {
        "alpha_W": np.array([alpha for alpha, _ in pairs]),
        "l1_ratio": np.array([ratio for _, ratio in pairs]),
        "n_clusters": np.array(grid.n_clusters),
        **found,
    }
    facts: dict[str, Any] = {"split_by": split_by, "n_nulls": n_nulls}
    for name in ("stability", "stability_null", "stability_excess"):
        facts[name] = [None if np.isnan(v) else round(float(v), 4) for v in found[name].ravel()]
    if n_nulls < MIN_NULLS_FOR_Z:
        facts["z"] = f"not given: it takes {MIN_NULLS_FOR_Z} surrogate cohorts, there are {n_nulls}"
    table = pd.DataFrame(_rows(cell.partition, arrays))
    shown = table[["n_clusters", *COLUMNS]].set_index("n_clusters").T
    return Result(arrays=arrays, facts=facts, tables={"beside the null": _markdown(shown)})


def _markdown(table: pd.DataFrame) -> str:
    return str(table.round(3).to_markdown())


def stability_rows(version: Version) -> Iterator[dict[str, Any]]:
    """One row per combination of settings and number of clusters of a stored cell."""
    names = ("alpha_W", "l1_ratio", "n_clusters", *COLUMNS)
    yield from _rows(version.partition, {name: version.read(name) for name in names})


def _rows(partition: Partition, arrays: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, Any]]:
    for i, j in np.ndindex(arrays[next(iter(MEASURES))].shape):
        yield {
            "label_file": partition[LABEL_FILE],
            "n_components": int(partition[N_COMPONENTS]),
            "alpha_W": float(arrays["alpha_W"][i]),
            "l1_ratio": float(arrays["l1_ratio"][i]),
            "n_clusters": int(arrays["n_clusters"][j]),
            **{name: float(arrays[name][i, j]) for name in COLUMNS},
        }
