"""What goes in: the BOLD runs, and the mesh that their vertices lie on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trend_dagster.delivery.figures.png import small_png
from trend_dagster.delivery.figures.surface import parcellation_figure
from trend_dagster.delivery.figures.timeseries import carpet_png
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Available, Task, stored_asset
from trend_dagster.project.cortex import read_cortex
from trend_dagster.project.folder import BOLD_RUN, Project
from trend_dagster.project.mesh import cortex_mask_files, mesh_files
from trend_dagster.project.recordings import read_recording, recording_files
from trend_dagster.project.settings import Settings, surface_labels
from trend_dagster.storage.stores import Partition

NOTHING_LEFT = "all vertices have the same series: nothing is left without the global signal"


def _recorded(project: Project, partition: Partition) -> dict[str, Path]:
    return recording_files(project, project.bold_run(partition[BOLD_RUN]))


def _resampled(settings: Settings) -> dict[str, dict[str, Any]]:
    to = settings.inputs.resample
    return {} if to is None else {"inputs": {"resample": to}}


def _filled(settings: Settings) -> dict[str, dict[str, Any]]:
    """Since when filters see all censored volumes interpolated; until then only some were."""
    bold = settings.bold
    affected = bold.censor is not None and bold.filters
    return {"filters": {"censored_volumes": "interpolated"}} if affected else {}


def _left_out(project: Project, partition: Partition) -> str | None:
    why = project.why_left_out(partition[BOLD_RUN])
    return None if why is None else f"{why} (inputs.exclude)"


def _wall(settings: Settings) -> dict[str, dict[str, str]]:
    """A mesh that comes along brings its medial wall, unless a mask says where there is cortex."""
    surface = settings.inputs.surface
    return {} if surface is None or settings.inputs.cortex_mask else {"mesh": {"wall_of": surface}}


@stored_asset(
    group="inputs",
    dims=(BOLD_RUN,),
    settings=("bold", _wall, _resampled, _filled),
    code_version="3",
    left_out=_left_out,
    files=_recorded,
)
def bold(task: Task) -> Result:
    """Resting-state BOLD of one run on the cortical surface, with its mask of usable vertices.

    Vertices whose signal never changes (medial wall, outside the field of view) or that
    `inputs.cortex_mask` leaves out are masked here, once; every later asset obeys this mask. Where
    the file has values on the medial wall of `inputs.surface`, that wall is masked; where it has
    NaN there, those vertices are. A run with other NaN or infinite values, without any signal, or
    that `inputs.exclude` names, is excluded: its output says so and why, and the other runs go on
    without it.
    """
    run = read_recording(task.project, task.project.bold_run(task.partition[BOLD_RUN]))
    if run.unusable is not None:
        return Result(facts=run.facts, excluded=run.unusable)
    prepared, mask = run.prepared(task.settings.bold)
    if not prepared.any():
        return Result(facts=run.facts, excluded=f"{run.facts['file']}: {NOTHING_LEFT}")
    return Result(
        arrays={"bold": prepared, "vertex_mask": mask, **run.space_arrays()},
        facts=run.facts,
        pictures={"carpet": carpet_png(prepared[mask])},
    )


def _mesh(project: Project, partition: Partition) -> dict[str, Path]:
    return mesh_files(project) | cortex_mask_files(project)


def _no_mesh(settings: Settings) -> str | None:
    asked = settings.inputs.has_mesh or surface_labels(settings)
    return None if asked else "the settings name no surface"


@stored_asset(
    group="inputs", inputs=[bold], settings=("inputs",), nothing_to_do=_no_mesh, files=_mesh
)
def cortex(task: Task, bold: Available) -> Result:
    """The mesh of both hemispheres that the vertices belong to, and where on it there is cortex.

    The medial wall is where no BOLD run has signal; a run has none outside `inputs.cortex_mask`.
    Without runs it is what that mask leaves out. Distances, labels and pictures are made from this.
    """
    mesh = read_cortex(task.project, bold)
    shown = np.where(mesh.is_cortex, mesh.surface.hemisphere.astype(np.int32), -1)
    return Result(
        arrays=mesh.arrays(),
        facts=mesh.facts(),
        pictures={"cortex": small_png(parcellation_figure(mesh.surface, shown, pixels_per_mm=1.2))},
    )
