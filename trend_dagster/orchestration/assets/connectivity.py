"""From features to connectivity: the average correlation and its thresholded forms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from trend_dagster.delivery.figures.matrices import correlation_figure
from trend_dagster.delivery.figures.png import small_png
from trend_dagster.delivery.figures.surface import parcellation_figure
from trend_dagster.delivery.maps import label_files
from trend_dagster.errors import InputError
from trend_dagster.orchestration.assets.features import embeddings
from trend_dagster.orchestration.assets.inputs import cortex
from trend_dagster.orchestration.assets.loading import (
    HEMISPHERES,
    averaged,
    distances_of,
    encoding_of,
    features,
    resumed_correlation,
    usable_runs,
)
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Optional, Task, needed, stored_asset
from trend_dagster.project.folder import LABEL_FILE, Project
from trend_dagster.project.mesh import check_label_file, labels_worked_on, mesh_of, surface_of
from trend_dagster.project.settings import (
    Settings,
    made_encodings,
    surface_labels,
)
from trend_dagster.science.method import encode
from trend_dagster.science.parcellation.fanout import blocks_memory
from trend_dagster.science.parcellation.graph_factorization import GRAPH_REACH
from trend_dagster.science.surface import (
    Surface,
    cut_into_labels,
    distance_rows,
    nearest_vertex,
    step_graph,
    vertex_areas,
)
from trend_dagster.storage.arrays import read_distances
from trend_dagster.storage.label_files import (
    NO_LABEL,
    LabelFile,
    notes_on_labels,
    read_geodesic_labels,
)
from trend_dagster.storage.sides import check_order
from trend_dagster.storage.stores import Partition, Version

DISTANCE_ROWS = 256  # computed at a time


def _matrix_disk(settings: Settings, inputs: Mapping[str, list[Version]], n_threads: int) -> int:
    """The matrix, which is built where it stays."""
    usable = [run for run in inputs["embeddings"] if run.excluded is None]
    return 4 * int(usable[0].array("vertex_mask").shape[0]) ** 2 if usable else 0


@stored_asset(
    group="connectivity",
    inputs=[embeddings],
    settings=("correlation",),
    pool="memory",
    disk_bytes=_matrix_disk,
)
def average_correlation(task: Task, embeddings: Sequence[Version]) -> Result:
    """Pearson correlation between all pairs of vertices, averaged over runs.

    Each pair is averaged over the runs in which both vertices have signal. Rows and columns of
    vertices without signal in every run are zero. Built tile by tile, in bounded memory.
    """
    runs = usable_runs(task, embeddings)
    masks = np.stack([run.read("vertex_mask") for run in runs.values()])
    readers = {name: features(run) for name, run in runs.items()}
    tiles, mask = resumed_correlation(task, readers, masks.shape[1]), np.any(masks, axis=0)
    resumed = {"tiles_resumed": tiles.n_resumed}
    return correlation_result(tiles.array, tiles.mean(), np.asarray(mask), masks, runs, resumed)


def correlation_result(
    correlation: NDArray[np.float32] | zarr.Array[Any],
    mean: float,
    mask: NDArray[np.bool_],
    run_masks: NDArray[np.bool_],
    runs: Iterable[str],
    facts: Mapping[str, Any] | None = None,
) -> Result:
    """Put a correlation together as an output of ``average_correlation``.

    Parameters
    ----------
    correlation : array of shape (n_vertices, n_vertices)
        0 where a vertex has no signal. An array of the store is one that the draft has taken over.
    mean : float
        Of all its numbers.
    mask : ndarray of shape (n_vertices,), bool
        Vertices with signal.
    run_masks : ndarray of shape (n_runs, n_vertices), bool
        The same in each run.
    runs : iterable of str
        Their keys.
    facts : mapping, optional
        What is worth looking at besides.
    """
    arrays: dict[str, NDArray[Any]] = {"vertex_mask": mask, "run_masks": run_masks}
    if isinstance(correlation, np.ndarray):
        arrays["correlation"] = correlation
    return Result(
        arrays=arrays,
        facts={
            "n_vertices": len(mask),
            "n_vertices_without_signal": int((~mask).sum()),
            "runs": list(runs),
            "mean": mean / float(mask.mean()) ** 2,
            **(facts or {}),
        },
        pictures={"matrix": small_png(correlation_figure(correlation))},
    )


def _distance_files(project: Project, partition: Partition) -> dict[str, Path]:
    names = project.settings.inputs.geodesic_distances
    return {h: project.folder / name for h, name in zip(HEMISPHERES, names, strict=False)}


def _reach(settings: Settings) -> float:
    """How far distances have to be known, in mm; 0 where nothing asks for them."""
    reaches = [kernel.reach_mm for kernel in settings.thresholding.kernels().values()]
    if settings.factorization.smoothness > 0:
        reaches.append(GRAPH_REACH * settings.factorization.smoothness_sigma_mm)
    return max(reaches, default=0.0)


def _reach_asked_for(settings: Settings) -> dict[str, dict[str, Any]]:
    """A narrower kernel beside a wide one asks for no other distances; nor does it of files."""
    if settings.inputs.geodesic_distances or not _reach(settings):
        return {}
    return {"derived": {"reach_mm": _reach(settings)}}


def _no_distances(settings: Settings) -> str | None:
    asked = settings.inputs.geodesic_distances or _reach(settings)
    return None if asked else "nothing asks for geodesic distances, and none are given"


@stored_asset(
    group="connectivity",
    inputs=[cortex],
    settings=(_reach_asked_for,),
    nothing_to_do=_no_distances,
    files=_distance_files,
)
def geodesic_distances(task: Task, cortex: Optional) -> Result:
    """Distances along the cortex in mm, for smooth spatial encodings and smooth loadings.

    One matrix per hemisphere: no path along the cortex joins two hemispheres. Read from
    `inputs.geodesic_distances`, or else measured on the mesh, as far as the kernels reach. Made
    only if the settings ask for a smooth encoding (thresholding.smooth_sigma_mm) or for smooth
    loadings.
    """
    files = _distance_files(task.project, task.partition)
    arrays, names = _read_distances(files) if files else _measured(task, cortex)
    sizes = [distances.shape[0] for distances in arrays.values()]
    facts = {"distance_files": names, "n_vertices": sum(sizes), "vertices_per_hemisphere": sizes}
    if files:
        facts["nearest_mm"] = nearest_vertex(arrays[HEMISPHERES[0]])
    return Result(arrays=arrays if files else {}, facts=facts)  # else the draft has them


Distances = tuple[dict[str, Any], list[str]]
"""Distances within each hemisphere, and the files that they come from."""


def _read_distances(files: Mapping[str, Path]) -> Distances:
    check_order("geodesic distance file", list(files.values()), "inputs.geodesic_distances")
    arrays = {hemisphere: read_distances(path) for hemisphere, path in files.items()}
    return arrays, [path.name for path in files.values()]


def _measured(task: Task, cortex: Optional) -> Distances:
    """Measure distances on the mesh, some rows at a time; goes on where it was stopped."""
    version = cortex()
    surface = mesh_of(version)
    if version is None or surface is None:
        raise InputError(
            "inputs.geodesic_distances",
            expected="a mesh to measure distances on, or a file of them for each hemisphere: the "
            "settings ask for smooth encodings or loadings",
            found="neither",
            remedy="Name the mesh in trend.yaml (inputs.surface or inputs.surfaces), or empty "
            "thresholding.smooth_sigma_mm and set factorization.smoothness to 0.",
        )
    reach = _reach(task.settings)
    arrays = {h: _measure(task, surface, side, reach) for side, h in enumerate(HEMISPHERES)}
    return arrays, version.facts["mesh_files"]


def _measure(task: Task, surface: Surface, side: int, reach: float) -> zarr.Array[Any]:
    steps = step_graph(surface, side)
    n = steps.shape[0]
    name, tile = HEMISPHERES[side], (DISTANCE_ROWS, n)
    matrix = task.draft.resume(name, (n, n), tile, task.scratch)
    for start in range(0, n, DISTANCE_ROWS):
        if (start, 0) not in matrix.done:
            stop = min(start + DISTANCE_ROWS, n)
            matrix.array[start:stop] = distance_rows(steps, start, stop, reach)
            matrix.mark((start, 0))
        task.progress(f"{name} hemisphere", (side + start / n) / len(HEMISPHERES))
    task.draft.adopt(matrix)
    return matrix.array


def _label_file(project: Project, partition: Partition) -> dict[str, Path]:
    if partition[LABEL_FILE] in made_encodings(project.settings):
        return {}
    return project.label_file(partition[LABEL_FILE]).named_files("labels")


@stored_asset(
    group="connectivity",
    dims=(LABEL_FILE,),
    inputs=[geodesic_distances, cortex],
    files=_label_file,
)
def geodesic_labels(task: Task, geodesic_distances: Optional, cortex: Optional) -> Result:
    """One geodesic label per vertex: which vertices are near each other on the cortex.

    Thresholding keeps the correlation of two vertices only if they carry the same label; vertices
    that a file says to have none (-1: unknown, medial wall) are left out. Labels are read from a
    file, or cut from the mesh (`geodesic_labels.n_labels_per_hemisphere`): then they are connected
    and nearly equal in area, and delivered as .npy and, to look at, as GIFTI. For a smooth
    encoding the labels are the hemispheres.
    """
    key = task.partition[LABEL_FILE]
    if key in task.settings.thresholding.kernels():
        return _hemispheres(needed(geodesic_distances, task, "geodesic_distances"))
    if key in surface_labels(task.settings):
        return _cut_labels(task, needed(cortex, task, "cortex"))
    return _labels_in_file(task.project, task.project.label_file(key))


def _labels_in_file(project: Project, file: LabelFile) -> Result:
    labels = labels_worked_on(project, read_geodesic_labels(file), partial(check_label_file, file))
    return Result(
        arrays={"labels": labels},
        facts={
            "file": file.name,
            "n_vertices": len(labels),
            "n_labels": len(np.unique(labels[labels != NO_LABEL])),
            "n_vertices_without_label": int((labels == NO_LABEL).sum()),
            **notes_on_labels(file),
        },
    )


def _hemispheres(distances: Version) -> Result:
    sizes = [matrix.shape[0] for matrix in distances_of(distances)]
    return Result(
        arrays={"labels": np.repeat(np.arange(len(sizes)), sizes)},
        facts={
            "file": ", ".join(distances.facts["distance_files"]),
            "n_vertices": sum(sizes),
            "n_labels": len(sizes),
        },
    )


def _cut_labels(task: Task, cortex: Version) -> Result:
    """Cut the cortex into labels; on the medial wall stands the nearest one."""
    key, surface = task.partition[LABEL_FILE], surface_of(cortex)
    assert surface.medial_wall is not None  # `cortex` always says
    wall, n_labels = surface.medial_wall, surface_labels(task.settings)[key]
    labels = cut_into_labels(surface, n_labels, ~wall).astype(np.int64)
    on_cortex = np.where(wall, -1, labels)
    title = f"{n_labels} labels per hemisphere"
    area = np.bincount(labels[~wall], vertex_areas(surface)[~wall])
    picture = parcellation_figure(surface, on_cortex, title, pixels_per_mm=1.2)
    return Result(
        arrays={"labels": labels},
        facts={
            "file": f"{key}.npy, made from {', '.join(cortex.facts['mesh_files'])}",
            "n_vertices": len(labels),
            "n_labels": len(area),
            "smallest_label_cm2": round(float(area.min()) / 100, 2),
            "largest_label_cm2": round(float(area.max()) / 100, 2),
        },
        pictures={"labels": small_png(picture)},
        attachments=label_files(key, title, labels, on_cortex, surface),
    )


def _label_sizes(inputs: Mapping[str, list[Version]]) -> NDArray[np.int64]:
    labels = inputs["geodesic_labels"][0].read("labels")
    return np.unique(labels[labels != NO_LABEL], return_counts=True)[1]


def _blocks_memory(settings: Settings, inputs: Mapping[str, list[Version]], n_threads: int) -> int:
    sizes = _label_sizes(inputs)
    n_vertices = inputs["geodesic_labels"][0].array("labels").shape[0]
    return blocks_memory(sizes, n_vertices, settings.correlation)


def _blocks_disk(settings: Settings, inputs: Mapping[str, list[Version]], n_threads: int) -> int:
    return 4 * int((_label_sizes(inputs) ** 2).sum())


@stored_asset(
    group="connectivity",
    dims=(LABEL_FILE,),
    memory_bytes=_blocks_memory,
    disk_bytes=_blocks_disk,
    inputs=[average_correlation, geodesic_labels, geodesic_distances, cortex],
    settings=("thresholding",),
    pool="memory",
)
def thresholded_matrix(
    task: Task,
    average_correlation: Version,
    geodesic_labels: Version,
    geodesic_distances: Optional,
    cortex: Optional,
) -> Result:
    """The average correlation within labels, stored as its diagonal blocks.

    Between labels it is zero, so with vertices sorted by label it is block diagonal: L blocks of
    about (V/L) x (V/L) are stored in place of V x V numbers. A smooth encoding weights by distance
    instead and has a block per hemisphere. NMF takes no negative numbers; what is done with them
    is a setting, and their share is recorded. Computed from the features that the average was made
    from, where they are still there: smoothing them costs less than smoothing the matrix.
    """
    encoding = encoding_of(task, geodesic_labels, geodesic_distances, cortex, loadings=False)
    matrix = encode(averaged(task, average_correlation), encoding, task.settings)
    facts = {"n_labels": encoding.n_labels(matrix), **matrix.facts()}
    return Result(arrays=matrix.arrays(), facts=facts)
