"""Split halves of real data: what is found twice, beside what noise would give.

The runs are those of a project on a mesh, as ``trend real`` makes it. Truth is not known, so
nothing here says that networks are right, only that they are found again, and by whom.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.png import to_png
from trend_dagster.delivery.figures.surface import comparison_figure
from trend_dagster.errors import InputError
from trend_dagster.files import replace_file
from trend_dagster.project.folder import Project
from trend_dagster.project.mesh import needed_mesh
from trend_dagster.project.recordings import Recording as ReadRun
from trend_dagster.project.recordings import read_recording, recording_files
from trend_dagster.storage.arrays import subject_of
from trend_dagster.storage.provenance import digest_of_file
from trend_dagster.validation.approaches import (
    DEFAULT_WIDTH_MM,
    PROFILE,
    Approach,
    changed,
    competitor,
    default_approach,
    profile,
    tutorial_approach,
)
from trend_dagster.validation.recordings import Recording, halves
from trend_dagster.validation.simulated import RANDOM_STATE

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
    surface = needed_mesh(
        project, "the mesh that the runs lie on: split halves take their null from it"
    )
    found = {name: read_recording(project, run) for name, run in project.bold_runs.items()}
    runs = {name: run for name, run in found.items() if run.unusable is None}
    for name, run in runs.items():
        if len(run.raw.signal) != surface.n_vertices:
            raise InputError(
                f"run {name}",
                expected=f"{surface.n_vertices} vertices, as the project's surface has",
                found=str(len(run.raw.signal)),
                remedy="Name the surface of the data as inputs.surface.",
            )
    files = {
        path.name: digest_of_file(path)
        for name in runs
        for path in recording_files(project, project.bold_run(name)).values()
    }
    recording = Recording(
        surface,
        {name: run.raw.signal for name, run in runs.items()},
        [subject_of(name) for name in runs],
        {name: run.repetition_time for name, run in runs.items()},
        {name: partial(_confounds_of, run) for name, run in runs.items()},
        {name: run.sample_mask for name, run in runs.items()},
    )
    return {"files": files}, recording


def _confounds_of(run: ReadRun, columns: tuple[str, ...]) -> NDArray[np.float64]:
    """Confounds as the project's settings ask for them; no other columns are asked for here."""
    assert run.confounds is not None
    return run.confounds


def approaches_for(project: Project) -> list[Approach]:
    """Who is compared on real data, the default first; cleaned is as the project cleans."""
    raw = profile("tutorial")
    own = changed(profile(PROFILE), bold=project.settings.bold.model_dump())
    return [
        default_approach(own),
        tutorial_approach(20),
        competitor("raw", "KMeans", 0.0, raw),
        competitor("raw", "KMeans", 6.0, raw),
        competitor("cleaned", "Spectral", DEFAULT_WIDTH_MM, own),
    ]


def draw_halves(approach: Approach, recording: Recording, path: Path) -> None:
    """Draw the networks of both halves beside each other.

    Parameters
    ----------
    approach : Approach
        Whose networks.
    recording : Recording
        The data.
    path : Path
        PNG that is written.
    """
    split, *parts = halves(recording, RANDOM_STATE)
    first, second = (approach.find(part, N_NETWORKS, RANDOM_STATE) for part in parts)
    titles = (f"{approach.name}: one half of {split}", "the other half")
    figure = comparison_figure(recording.surface, np.asarray(first), np.asarray(second), titles)
    replace_file(path, to_png(figure))
