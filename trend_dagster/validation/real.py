"""Split halves of real data: what is found twice, beside what noise would give.

The runs are those of a project on a mesh, as ``trend real`` makes it. Truth is not known, so
nothing here says that networks are right, only that they are found again, and by whom.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trend_dagster.delivery.figures.png import to_png
from trend_dagster.delivery.figures.surface import comparison_figure
from trend_dagster.errors import InputError
from trend_dagster.project.folder import Project
from trend_dagster.project.mesh import read_mesh
from trend_dagster.storage.arrays import subject_of
from trend_dagster.storage.provenance import digest_of_file
from trend_dagster.storage.runs import read_run
from trend_dagster.storage.stores import replace_file
from trend_dagster.validation.recordings import Recording, halves
from trend_dagster.validation.simulated import RANDOM_STATE
from trend_dagster.validation.ways import (
    OWN_WIDTH_MM,
    PROFILE,
    Way,
    competitor,
    ours,
    profile,
    tutorial,
)

N_NETWORKS = 14


def recording_of(project: Project) -> tuple[dict[str, Any], Recording]:
    """Read the runs of a project.

    Parameters
    ----------
    project : Project
        With a surface among its inputs.

    Returns
    -------
    tuple of dict and Recording
        What decides the data, and the data.

    Raises
    ------
    InputError
        If the project names no surface, or runs lie on another.
    """
    surface = read_mesh(project)
    if surface is None:
        raise InputError(
            f"project {project.folder}",
            expected="inputs.surface, the mesh that the runs lie on",
            found="none",
            remedy="Name it in trend.yaml: split halves need it for their null.",
        )
    found = project.bold_runs
    runs = {name: read_run(run).signal for name, run in found.items()}
    for name, bold in runs.items():
        if len(bold) != surface.n_vertices:
            raise InputError(
                f"run {name}",
                expected=f"{surface.n_vertices} vertices, as the project's surface has",
                found=str(len(bold)),
                remedy="Name the surface of the data as inputs.surface.",
            )
    files = {path.name: digest_of_file(path) for run in found.values() for path in run.files}
    people = [subject_of(name) or name for name in runs]
    return {"files": files}, Recording(surface, list(runs.values()), people)


def ways() -> list[Way]:
    """Who is compared on real data, ours first."""
    raw, own = profile("tutorial"), profile(PROFILE)
    return [
        ours(),
        tutorial(20),
        competitor("raw", "KMeans", 0.0, raw),
        competitor("raw", "KMeans", 6.0, raw),
        competitor("cleaned", "Spectral", OWN_WIDTH_MM, own),
    ]


def draw_halves(way: Way, recording: Recording, path: Path, n_networks: int = N_NETWORKS) -> None:
    """Draw the networks of both halves beside each other.

    Parameters
    ----------
    way : Way
        Whose networks.
    recording : Recording
        The data.
    path : Path
        PNG that is written.
    n_networks : int
        Networks.
    """
    split, *parts = halves(recording)
    first, second = (way.find(part, n_networks, RANDOM_STATE) for part in parts)
    titles = (f"{way.name}: one half of {split}", "the other half")
    figure = comparison_figure(recording.surface, np.asarray(first), np.asarray(second), titles)
    replace_file(path, to_png(figure))
