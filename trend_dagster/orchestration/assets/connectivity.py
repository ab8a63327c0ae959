"""From features to connectivity: the average correlation and its thresholded forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.matrices import correlation_figure
from trend_dagster.delivery.figures.png import small_png
from trend_dagster.delivery.figures.surface import parcellation_figure
from trend_dagster.delivery.maps import SIDES, networks_of
from trend_dagster.errors import CohortError, InputError
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Cell, stored_asset
from trend_dagster.project.folder import BOLD_RUN, LABEL_FILE, Project
from trend_dagster.project.mesh import (
    is_not_made_from_mesh,
    mesh_of,
    names_no_mesh,
    smoothing_of,
    thresholds_without_mesh,
)
from trend_dagster.project.recordings import check_recordings, weights_of
from trend_dagster.project.settings import (
    Settings,
    made_encodings,
    smooth_encodings,
    surface_labels,
)
from trend_dagster.science.bold import check_same_vertices
from trend_dagster.science.connectivity.correlation import average_correlation as correlate
from trend_dagster.science.connectivity.smoothing import Smoothing
from trend_dagster.science.connectivity.thresholding import (
    ENCODING_REACH,
    BlockMatrix,
    equal_labels,
    threshold_by_distance,
    threshold_by_label,
)
from trend_dagster.science.parcellation.smooth_loadings import GRAPH_REACH, neighbour_graph
from trend_dagster.science.surface import Surface, distance_rows, step_graph, vertex_areas
from trend_dagster.science.surface import geodesic_labels as cut_into_labels
from trend_dagster.storage.arrays import read_distances
from trend_dagster.storage.label_files import NO_LABEL, notes_on_labels, read_geodesic_labels
from trend_dagster.storage.label_images import gifti_labels, keys_of
from trend_dagster.storage.scratch import ResumableMatrix
from trend_dagster.storage.sides import check_order
from trend_dagster.storage.space import check_same_space
from trend_dagster.storage.stores import Partition, Version
from trend_dagster.storage.workbook import npy_bytes

HEMISPHERES = ("left", "right")
"""Names of the distance matrices, in the order of the vertices."""

DISTANCE_ROWS = 256  # computed at a time


@stored_asset(group="connectivity", settings=("correlation",), pool="memory")
def average_correlation(cell: Cell, embeddings: Sequence[Version]) -> Result:
    """Pearson correlation between all pairs of vertices, averaged over runs.

    Each pair is averaged over the runs in which both vertices have signal. Rows and columns of
    vertices without signal in every run are zero. Built tile by tile, in bounded memory.
    """
    if len(embeddings) < 1:
        raise CohortError(
            "average_correlation",
            expected="at least one usable run",
            found="none: all runs are excluded",
            remedy="Look at the reasons (`trend status`), mend the files, or add others.",
        )
    names = [run.partition[BOLD_RUN] for run in embeddings]
    masks = [run.read("vertex_mask") for run in embeddings]
    check_same_vertices({name: len(mask) for name, mask in zip(names, masks, strict=True)})
    check_same_space({n: e.facts.get("space") for n, e in zip(names, embeddings, strict=True)})
    check_recordings(cell.project, names)
    run_masks = np.stack(masks)
    mask = np.asarray(run_masks.any(axis=0))
    config = cell.settings.correlation
    n_tiles = -(-len(mask) // config.tile)
    matrix = ResumableMatrix(cell.scratch, (len(mask), len(mask)), config.tile)
    resumed = len(matrix.done)

    def mark(tile: tuple[int, int]) -> None:
        matrix.mark(tile)
        cell.progress("tiles", len(matrix.done) / (n_tiles * (n_tiles + 1) / 2))

    correlate(
        [_reader(run) for run in embeddings],
        config,
        out=matrix.array,
        weights=weights_of(cell.project, names),
        done=frozenset(matrix.done),
        on_tile=mark,
    )
    return Result(
        arrays={"correlation": matrix.array, "vertex_mask": mask, "run_masks": run_masks},
        facts={
            "n_vertices": len(mask),
            "n_vertices_without_signal": int((~mask).sum()),
            "runs": names,
            "mean": float(np.mean(matrix.array, dtype=np.float64)) / mask.mean() ** 2,
            "tiles_resumed": resumed,
        },
        pictures={"matrix": small_png(correlation_figure(matrix.array))},
    )


def _reader(run: Version) -> Callable[[], tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    return lambda: (run.read("features"), run.read("vertex_mask"))


def _distance_files(project: Project, partition: Partition) -> dict[str, Path]:
    names = project.settings.inputs.geodesic_distances
    return {
        hemisphere: project.folder / name
        for hemisphere, name in zip(HEMISPHERES, names, strict=False)
    }


def _reach(settings: Settings) -> dict[str, float]:
    """How far distances have to be known, in mm; those of files are taken as they are."""
    if settings.inputs.geodesic_distances:
        return {}
    reaches = [ENCODING_REACH * sigma for sigma in smooth_encodings(settings).values()]
    if settings.factorization.smoothness > 0:
        reaches.append(GRAPH_REACH * settings.factorization.smoothness_sigma_mm)
    return {"reach_mm": max(reaches)} if reaches else {}


def _measures_nothing(settings: Settings, partition: Partition) -> bool:
    """Tell whether distances are given, or there is no mesh to measure them on."""
    return bool(settings.inputs.geodesic_distances) or names_no_mesh(settings, partition)


@stored_asset(
    group="connectivity",
    files=_distance_files,
    derived=_reach,
    unless={"cortex": _measures_nothing},
)
def geodesic_distances(cell: Cell, cortex: Version | None) -> Result:
    """Distances along the cortex in mm, for smooth spatial encodings and smooth loadings.

    One matrix per hemisphere: no path along the cortex joins two hemispheres. Read from
    `inputs.geodesic_distances`, or else measured on the mesh, as far as the kernels reach. Made
    only if the settings ask for a smooth encoding (thresholding.smooth_sigma_mm) or for smooth
    loadings.
    """
    files = _distance_files(cell.project, cell.partition)
    reach = _reach(cell.settings)
    if not files and not reach:
        # Somebody materializes all there is on the page.
        return Result(excluded="nothing asks for geodesic distances, and none are given")
    if files:
        check_order("geodesic distance file", list(files.values()), "inputs.geodesic_distances")
        arrays = {hemisphere: read_distances(path) for hemisphere, path in files.items()}
        return _distances(arrays, [path.name for path in files.values()])
    surface = mesh_of(cortex)
    if cortex is None or surface is None:
        raise InputError(
            "inputs.geodesic_distances",
            expected="a mesh to measure distances on, or a file of them for each hemisphere: the "
            "settings ask for smooth encodings or loadings",
            found="neither",
            remedy="Name the mesh in trend.yaml (inputs.surface or inputs.surfaces), or empty "
            "thresholding.smooth_sigma_mm and set factorization.smoothness to 0.",
        )
    measured = {
        hemisphere: _measure(cell, surface, side, reach["reach_mm"])
        for side, hemisphere in enumerate(HEMISPHERES)
    }
    return _distances(measured, cortex.facts["mesh_files"])


def _distances(arrays: dict[str, NDArray[Any]], files: Sequence[str]) -> Result:
    sizes = [len(distances) for distances in arrays.values()]
    return Result(
        arrays=arrays,
        facts={
            "distance_files": list(files),
            "n_vertices": sum(sizes),
            "vertices_per_hemisphere": sizes,
        },
    )


def _measure(cell: Cell, surface: Surface, side: int, reach: float) -> NDArray[np.float32]:
    """Distances within a hemisphere, some rows at a time; goes on where it was stopped."""
    steps = step_graph(surface, side)
    n = steps.shape[0]
    matrix = ResumableMatrix(cell.scratch / HEMISPHERES[side], (n, n), DISTANCE_ROWS)
    for start in range(0, n, DISTANCE_ROWS):
        if (start, 0) not in matrix.done:
            stop = min(start + DISTANCE_ROWS, n)
            matrix.array[start:stop] = distance_rows(steps, start, stop, reach)
            matrix.mark((start, 0))
        cell.progress(f"{HEMISPHERES[side]} hemisphere", (side + start / n) / len(HEMISPHERES))
    return matrix.array


def read_hemispheres(geodesic_distances: Version) -> tuple[list[Any], NDArray[np.intp]]:
    """Open the distances of each hemisphere, and say the hemisphere of each vertex."""
    names = geodesic_distances.names()
    distances = [geodesic_distances.array(h) for h in HEMISPHERES if h in names]
    return distances, np.repeat(np.arange(len(distances)), [d.shape[0] for d in distances])


def graph_of(settings: Settings, distances: Version | None) -> Any:
    """Neighbours on the cortex, if loadings are to be smooth; else None."""
    if distances is None or settings.factorization.smoothness == 0:
        return None
    matrices, _ = read_hemispheres(distances)
    return neighbour_graph(matrices, settings.factorization.smoothness_sigma_mm)


def loadings_are_free(settings: Settings, partition: Partition) -> bool:
    """Tell whether nothing asks for loadings that are smooth along the cortex."""
    return settings.factorization.smoothness == 0


def is_label_file(settings: Settings, partition: Partition) -> bool:
    """Tell whether a spatial encoding is a label file; the others are smooth."""
    return partition[LABEL_FILE] not in smooth_encodings(settings)


def needs_no_distances(settings: Settings, partition: Partition) -> bool:
    """Tell whether a spatial encoding is swept without asking for distances along the cortex."""
    return is_label_file(settings, partition) and loadings_are_free(settings, partition)


def _file(project: Project, partition: Partition) -> dict[str, Path]:
    if partition[LABEL_FILE] in made_encodings(project.settings):
        return {}
    return project.label_file(partition[LABEL_FILE]).named_files("labels")


@stored_asset(
    group="connectivity",
    dims=(LABEL_FILE,),
    files=_file,
    unless={"geodesic_distances": is_label_file, "cortex": is_not_made_from_mesh},
)
def geodesic_labels(
    cell: Cell, geodesic_distances: Version | None, cortex: Version | None
) -> Result:
    """One geodesic label per vertex: which vertices are near each other on the cortex.

    Thresholding keeps the correlation of two vertices only if they carry the same label; vertices
    that a file says to have none (-1: unknown, medial wall) are left out. Labels are read from a
    file, or cut from the mesh (`geodesic_labels.n_labels_per_hemisphere`): then they are connected
    and nearly equal in area, and delivered as .npy and, to look at, as GIFTI. For a smooth
    encoding the labels are the hemispheres.
    """
    if geodesic_distances is not None:
        _, hemisphere = read_hemispheres(geodesic_distances)
        return Result(
            arrays={"labels": hemisphere},
            facts={
                "file": ", ".join(geodesic_distances.facts["distance_files"]),
                "n_vertices": len(hemisphere),
                "n_labels": int(hemisphere.max()) + 1,
            },
        )
    surface = mesh_of(cortex)
    if cortex is not None and surface is not None:
        return _cut_labels(cell, surface, cortex.facts["mesh_files"])
    file = cell.project.label_file(cell.partition[LABEL_FILE])
    labels = read_geodesic_labels(file)
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


def _cut_labels(cell: Cell, surface: Surface, files: Sequence[str]) -> Result:
    """Cut the cortex into labels; on the medial wall stands the nearest one."""
    key = cell.partition[LABEL_FILE]
    wall = surface.medial_wall
    assert wall is not None  # `cortex` always says
    n_labels = surface_labels(cell.settings)[key]
    labels = cut_into_labels(surface, n_labels, ~wall).astype(np.int64)
    on_cortex = np.where(wall, -1, labels)
    networks, keys = networks_of(on_cortex, surface), keys_of(on_cortex)
    title = f"{n_labels} labels per hemisphere"
    images = {
        f"{key}.{side}.label.gii": gifti_labels(
            keys[surface.hemisphere == i], networks, side, title
        )
        for i, side in enumerate(SIDES)
    }
    area = np.bincount(labels[~wall], vertex_areas(surface)[~wall])
    picture = parcellation_figure(surface, on_cortex, title, pixels_per_mm=1.2)
    return Result(
        arrays={"labels": labels},
        facts={
            "file": f"{key}.npy, made from {', '.join(files)}",
            "n_vertices": len(labels),
            "n_labels": len(area),
            "smallest_label_cm2": round(float(area.min()) / 100, 2),
            "largest_label_cm2": round(float(area.max()) / 100, 2),
        },
        pictures={"labels": small_png(picture)},
        attachments={f"{key}.npy": npy_bytes(labels), **images},
    )


def check_label_length(labels: Version, n_vertices: int) -> None:
    """Make sure that a label file belongs to the mesh of the BOLD runs."""
    if labels.facts["n_vertices"] != n_vertices:
        raise InputError(
            f"geodesic label file {labels.facts['file']}",
            expected=f"{n_vertices} labels, one per vertex of the BOLD runs",
            found=str(labels.facts["n_vertices"]),
            remedy="Make it for the same mesh as the BOLD runs, or take it out.",
        )


def vertices_in_use(labels: Version, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Vertices with signal that a label file gives a label."""
    check_label_length(labels, len(mask))
    return np.asarray(mask & (labels.read("labels") != NO_LABEL))


def spatial_matrix(
    cell: Cell,
    correlation: Any,
    mask: NDArray[np.bool_],
    labels: Version,
    distances: Version | None,
    smoothing: Smoothing | None,
) -> BlockMatrix:
    """Limit a correlation to what is near on the cortex: by labels, or smoothly by distance."""
    used = vertices_in_use(labels, mask)
    config = cell.settings.thresholding
    if smoothing is not None:
        correlation = smoothing(correlation)
    if distances is None or is_label_file(cell.settings, cell.partition):
        return threshold_by_label(correlation, labels.read("labels"), used, config)
    matrices, hemisphere = read_hemispheres(distances)
    sigma = smooth_encodings(cell.settings)[cell.partition[LABEL_FILE]]
    return threshold_by_distance(correlation, matrices, hemisphere, sigma, mask, config)


@stored_asset(
    group="connectivity",
    dims=(LABEL_FILE,),
    settings=("thresholding",),
    unless={"geodesic_distances": is_label_file, "cortex": thresholds_without_mesh},
    pool="memory",
)
def thresholded_matrix(
    cell: Cell,
    average_correlation: Version,
    geodesic_labels: Version,
    geodesic_distances: Version | None,
    cortex: Version | None,
) -> Result:
    """The average correlation within labels, stored as its diagonal blocks.

    Between labels it is zero, so with vertices sorted by label it is block diagonal: L blocks of
    about (V/L) x (V/L) are stored in place of V x V numbers. A smooth encoding weights by distance
    instead and has a block per hemisphere. NMF takes no negative numbers; what is done with them
    is a setting, and their share is recorded.
    """
    mask = average_correlation.read("vertex_mask")
    matrix = spatial_matrix(
        cell,
        average_correlation.array("correlation"),
        mask,
        geodesic_labels,
        geodesic_distances,
        smoothing_of(cell.project, cortex, mask),
    )
    sizes = [len(block) for block in matrix.blocks]
    if max(sizes, default=0) < 2:
        raise InputError(
            f"geodesic label file {geodesic_labels.facts['file']}",
            expected="labels that vertices share: thresholding keeps correlations within labels",
            found=f"a label of its own for each of the {len(sizes)} vertices with signal",
            remedy="Make label files with fewer, larger labels.",
        )
    return Result(
        arrays=matrix.arrays(),
        facts={
            "n_vertices": matrix.n_vertices,
            "n_labels": _n_labels(cell, sizes, geodesic_distances),
            "smallest_label": min(sizes),
            "largest_label": max(sizes),
            "stored_share": sum(n**2 for n in sizes) / matrix.n_vertices**2,
            "negative_share": matrix.negative_fraction,
            "mean": matrix.mean(),
        },
    )


def _n_labels(cell: Cell, sizes: Sequence[int], distances: Version | None) -> int:
    """Count labels; for a smooth encoding, those of equal size that would be as local."""
    if distances is None:
        return len(sizes)
    matrices, _ = read_hemispheres(distances)
    sigma = smooth_encodings(cell.settings)[cell.partition[LABEL_FILE]]
    return round(equal_labels(matrices, sigma))
