"""From features to connectivity: the average correlation and its thresholded forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import CohortError, InputError
from trend_dagster.figures.matrices import correlation_figure
from trend_dagster.figures.png import small_png
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.resources import BOLD_RUN, LABEL_FILE, Project
from trend_dagster.orchestration.stored_asset import Cell, stored_asset
from trend_dagster.science.block_matrix import threshold_by_label
from trend_dagster.science.bold import check_same_vertices
from trend_dagster.science.correlation import average_correlation as correlate
from trend_dagster.storage.images import read_labels
from trend_dagster.storage.scratch import ResumableMatrix
from trend_dagster.storage.stores import Partition, Version


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


def _file(project: Project, partition: Partition) -> dict[str, Path]:
    return {"labels": project.input_file(LABEL_FILE, partition[LABEL_FILE])}


@stored_asset(group="connectivity", dims=(LABEL_FILE,), files=_file)
def geodesic_labels(cell: Cell) -> Result:
    """One geodesic label per vertex: which vertices are near each other on the cortex.

    Thresholding keeps the correlation of two vertices only if they carry the same label.
    """
    path = cell.project.input_file(LABEL_FILE, cell.partition[LABEL_FILE])
    labels = read_labels(path)
    return Result(
        arrays={"labels": labels},
        facts={
            "file": path.name,
            "n_vertices": len(labels),
            "n_labels": len(np.unique(labels)),
        },
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


@stored_asset(group="connectivity", dims=(LABEL_FILE,), settings=("thresholding",), pool="memory")
def thresholded_matrix(
    cell: Cell, average_correlation: Version, geodesic_labels: Version
) -> Result:
    """The average correlation within labels, stored as its diagonal blocks.

    Between labels it is zero, so with vertices sorted by label it is block diagonal: L blocks of
    about (V/L) x (V/L) are stored in place of V x V numbers. NMF takes no negative numbers; what
    is done with them is a setting, and their share is recorded.
    """
    check_label_length(geodesic_labels, average_correlation.facts["n_vertices"])
    matrix = threshold_by_label(
        average_correlation.array("correlation"),
        geodesic_labels.read("labels"),
        average_correlation.read("vertex_mask"),
        cell.settings.thresholding,
    )
    sizes = [len(block) for block in matrix.blocks]
    if max(sizes) < 2:
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
            "n_labels": len(sizes),
            "smallest_label": min(sizes),
            "largest_label": max(sizes),
            "stored_share": sum(n**2 for n in sizes) / matrix.n_vertices**2,
            "negative_share": matrix.negative_fraction,
            "mean": matrix.mean(),
        },
    )
