"""The chosen parcellations of a project beside atlases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from trend_dagster.project.folder import Project
from trend_dagster.project.mesh import needed_mesh
from trend_dagster.project.tables import chosen
from trend_dagster.science.evidence.atlases import agree
from trend_dagster.storage.label_files import label_file_at, read_networks


def agreements(folder: Path, files: Sequence[Path]) -> Iterator[tuple[int, str, pd.DataFrame]]:
    """Compare the chosen parcellations of a project with atlases.

    Parameters
    ----------
    folder : Path
        The project, which has run and names its surface.
    files : sequence of Path
        Atlases: a .npy with one integer per vertex (-1 for none), one of a pair of .label.gii or
        .annot, or a .dlabel.nii of one map.

    Yields
    ------
    tuple of int, str, DataFrame
        Number of clusters, name of the atlas, and its rows as `agree` returns them.

    Raises
    ------
    InputError
        If the project has no surface, or an atlas lies on another.
    MissingUpstreamError
        If it has not run.
    """
    project = Project.open(folder)
    selected = chosen(project)
    all_labels, numbers = selected.read("labels"), selected.read("n_clusters")
    surface = needed_mesh(project, "whose sphere makes the null")
    for path in files:
        atlas = read_networks(label_file_at(path))
        for n_clusters, labels in zip(numbers.tolist(), all_labels, strict=True):
            yield n_clusters, path.name, agree(surface, labels, atlas, path.name)
