"""Stored versions as what the science takes: readers of runs, the model, the encoding.

What belongs here: opening versions. What does not: what is done with them (``science.method``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.maps import cohort_networks
from trend_dagster.errors import CohortError, TrendError
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Optional, Task, needed
from trend_dagster.project.folder import BOLD_RUN, LABEL_FILE, N_COMPONENTS, Project
from trend_dagster.project.mesh import mesh_of
from trend_dagster.project.recordings import check_recordings, weights_of
from trend_dagster.project.settings import Settings
from trend_dagster.project.tables import Parcellations
from trend_dagster.project.target import MapSpace, target_files
from trend_dagster.science.bold import CohortConfig, check_same_vertices, common_length
from trend_dagster.science.connectivity.correlation import correlate_runs
from trend_dagster.science.connectivity.encoding import Correlation, CorrelationSource, Encoding
from trend_dagster.science.evidence.stability import timepoints_of
from trend_dagster.science.method import (
    FeatureMaker,
    correlation_of_runs,
    possible_components,
)
from trend_dagster.storage.label_images import Network
from trend_dagster.storage.scratch import ResumableMatrix
from trend_dagster.storage.space import check_same_space
from trend_dagster.storage.stores import Partition, Version, describe

HEMISPHERES = ("left", "right")
"""Names of the distance matrices, in the order of the vertices."""

Run = tuple[NDArray[np.float32], NDArray[np.bool_]]


def usable_runs(task: Task, runs: Sequence[Version]) -> dict[str, Version]:
    """Runs by key, after it is certain that they fit together.

    Raises
    ------
    CohortError
        If there is none, or they differ in vertices or space.
    """
    if not runs:
        raise CohortError(
            task.draft.asset,
            expected="at least one usable run",
            found="none: all runs are excluded",
            remedy="Look at the reasons (`trend status`), mend the files, or add others.",
        )
    found = {run.partition[BOLD_RUN]: run for run in runs}
    check_same_vertices({n: int(run.array("vertex_mask").shape[0]) for n, run in found.items()})
    check_same_space({name: run.facts.get("space") for name, run in found.items()})
    check_recordings(task.project, list(found))
    return found


def by_components(tasks: Sequence[Task]) -> dict[int, Task]:
    """Tasks of a sweep by their number of components."""
    return {int(task.partition[N_COMPONENTS]): task for task in tasks}


def feasible(
    tasks: Sequence[Task], n_kept: int
) -> tuple[list[Task], list[tuple[Task, TrendError]]]:
    """Part the tasks that there are vertices enough for from the others, and say why not."""
    by_k = by_components(tasks)
    possible, errors = possible_components(list(by_k), n_kept)
    return [by_k[k] for k in possible], [(by_k[k], error) for k, error in errors.items()]


def signal(run: Version) -> Run:
    """Read the BOLD of a run, 0 without signal, and its mask."""
    bold, mask = run.read("bold"), run.read("vertex_mask")
    bold[~mask] = 0
    return bold, mask


def signal_inside(path: Path, n_timepoints: int) -> NDArray[np.float32]:
    """Read the BOLD of the vertices with signal; a path travels to other processes."""
    run = Version("bold", {}, path)
    return np.ascontiguousarray(run.read("bold")[run.read("vertex_mask"), :n_timepoints])


def made_by(maker: FeatureMaker, run: Version, half: int | None = None) -> Run:
    """Make features of a run, or of a half of its timepoints.

    Raises
    ------
    CohortError
        If the run is shorter than those that the model was trained with.
    """
    length, wanted = run.facts["n_timepoints"], maker.n_timepoints
    if wanted is not None and length < wanted:
        raise CohortError(
            f"BOLD run {run.partition[BOLD_RUN]}",
            expected=f"at least the {wanted} timepoints that the model was trained with",
            found=f"{length}",
            remedy="Take the file out, or train again with `cohort: {lengths: crop}`.",
        )
    bold, mask = signal(run)
    part = None if half is None else timepoints_of(half, "time", bold.shape[1])
    return maker(bold, mask, part), mask


def shared_length(runs: Mapping[str, Version], config: CohortConfig) -> int:
    """Timepoints that a model is given of every run."""
    return common_length({n: run.facts["n_timepoints"] for n, run in runs.items()}, config)


def features(run: Version) -> Callable[[], Run]:
    """Return what reads the features of a run and its mask."""
    return lambda: (run.read("features"), run.read("vertex_mask"))


def feature_maker(task: Task, trained_model: Optional) -> FeatureMaker:
    """Return what makes features as the settings say, with the model as it was trained."""
    source = task.settings.features.source
    if source == "bold":
        return FeatureMaker()
    from trend_dagster.project.model import read_model
    from trend_dagster.storage.weights import WEIGHTS

    version = needed(trained_model, task, "trained_model")
    model, _ = read_model(version.file(WEIGHTS))
    return FeatureMaker(source, model, version.facts["n_timepoints"])


def correlation(version: Version) -> Correlation:
    """Open a stored correlation; nothing of it is read yet."""
    return Correlation(version.array("correlation"), version.read("vertex_mask"))


def averaged(task: Task, average_correlation: Version) -> CorrelationSource:
    """Return the average correlation, from the features it was made from where that is possible.

    Blocks and sums come from features sooner than from the matrix. What was imported, is Fisher's
    average, or was made from features that are no longer there is read from the store.
    """
    project, made = task.project, average_correlation.recipe
    digests = {n: d for n, d in made.inputs.items() if n.partition("[")[0] == "embeddings"}
    names = average_correlation.facts.get("runs", [])
    runs = [
        version
        for name in names
        if (version := project.store.latest("embeddings", {BOLD_RUN: name})) is not None
        and version.digest == digests.get(describe("embeddings", {BOLD_RUN: name}))
    ]
    same = made.settings.get("correlation") == project.settings.identity("correlation")
    arithmetic = task.settings.correlation.average == "arithmetic"
    if not runs or not same or not arithmetic or len(runs) < len(names):
        return correlation(average_correlation)
    return from_runs(task, {run.partition[BOLD_RUN]: features(run) for run in runs})


def from_runs(task: Task, runs: Mapping[str, Callable[[], Run]]) -> CorrelationSource:
    """Average the correlation of runs where it is asked for, each counted as the settings say."""
    return correlation_of_runs(
        list(runs.values()), task.settings, weights_of(task.project, list(runs))
    )


def resumed_correlation(
    task: Task, runs: Mapping[str, Callable[[], Run]], n_vertices: int
) -> ResumableMatrix:
    """Correlate runs tile by tile, in a matrix that an interruption leaves to go on from."""
    config = task.settings.correlation
    n_tiles = -(-n_vertices // config.tile)
    shape, tile = (n_vertices, n_vertices), (config.tile, config.tile)
    matrix = task.draft.resume("correlation", shape, tile, task.scratch)

    def mark(tile: tuple[int, int]) -> None:
        matrix.mark(tile)
        task.progress("tiles", len(matrix.done) / (n_tiles * (n_tiles + 1) / 2))

    done = frozenset(matrix.done)
    correlate_runs(
        list(runs.values()),
        config,
        out=matrix.array,
        weights=weights_of(task.project, list(runs)),
        done=done,
        on_tile=mark,
    )
    task.draft.adopt(matrix)
    return matrix


def distances_of(geodesic_distances: Version) -> list[Any]:
    """Open the distances within each hemisphere."""
    names = geodesic_distances.names()
    return [geodesic_distances.array(h) for h in HEMISPHERES if h in names]


def named_by_atlas(settings: Settings) -> dict[str, dict[str, Any]]:
    """What a recipe says where networks are named by an atlas."""
    return {"derived": {"named": "by atlas"}} if settings.outputs.atlases else {}


def named_networks(
    task: Task, chosen: Parcellations, space: MapSpace, atlas_overlap: Optional
) -> list[list[Network]]:
    """Networks of the cohort as maps, tables and report name them."""
    return cohort_networks(chosen, space, overlap_of(task, atlas_overlap))


def page_result(name: str, page: bytes, facts: Mapping[str, Any], **more: Any) -> Result:
    """Put a page together as an output: what is kept of it in the store is its digest."""
    return Result(
        arrays={"sha256": np.frombuffer(hashlib.sha256(page).digest(), dtype=np.uint8)},
        facts={**facts, "megabytes": round(len(page) / 1e6, 2)},
        files={name: page},
        **more,
    )


def template_files(project: Project, partition: Partition) -> dict[str, Path]:
    """What says on what maps are written."""
    return target_files(project)


def overlap_of(task: Task, atlas_overlap: Optional) -> Version | None:
    """Overlap with atlases, where the settings name any."""
    return atlas_overlap() if task.settings.outputs.atlases else None


def encoding_of(
    task: Task, labels: Version, distances: Optional, cortex: Optional, *, loadings: bool = True
) -> Encoding:
    """Open a spatial encoding, with the mesh and the distances that the settings ask for.

    Parameters
    ----------
    task : Task
        Its key names the encoding.
    labels : Version
        Of ``geodesic_labels``.
    distances, cortex : Optional
        Asked for only where they are used.
    loadings : bool
        Whether loadings may have to be smooth, which takes distances as well.
    """
    settings = task.settings
    kernel = settings.thresholding.kernels().get(task.partition[LABEL_FILE])
    near = kernel is not None or (loadings and settings.factorization.smoothness > 0)
    version = distances() if near else None
    return Encoding(
        labels.read("labels"),
        kernel,
        () if version is None else distances_of(version),
        mesh_of(cortex()) if settings.thresholding.smoothing_fwhm_mm else None,
        f"geodesic label file {labels.facts['file']}",
    )
