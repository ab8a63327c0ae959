"""From BOLD files to usable time series."""

from __future__ import annotations

from pathlib import Path

from trend_dagster.delivery.figures.png import small_png
from trend_dagster.delivery.figures.timeseries import carpet_figure
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Cell, stored_asset
from trend_dagster.project.folder import BOLD_RUN, Project
from trend_dagster.project.recordings import read_recording, recording_files
from trend_dagster.science.bold import usable_series
from trend_dagster.storage.stores import Partition


def _files(project: Project, partition: Partition) -> dict[str, Path]:
    return recording_files(project, project.bold_run(partition[BOLD_RUN]))


@stored_asset(group="inputs", dims=(BOLD_RUN,), settings=("bold",), files=_files)
def bold(cell: Cell) -> Result:
    """Resting-state BOLD of one run on the cortical surface, with its mask of usable vertices.

    Vertices whose signal never changes (medial wall, outside the field of view) or that
    `inputs.cortex_mask` leaves out are masked here,
    once; every later asset obeys this mask. A run with NaN or infinite values, or without any
    signal, is excluded: its output says so and why, and the other runs go on without it.
    """
    config = cell.settings.bold
    run = read_recording(cell.project, cell.project.bold_run(cell.partition[BOLD_RUN]))
    if run.unusable is not None:
        return Result(facts=run.facts, excluded=run.unusable)
    prepared = usable_series(
        run.raw.signal, run.mask, config, run.repetition_time, run.confounds, run.sample_mask
    )
    return Result(
        arrays={"bold": prepared, "vertex_mask": run.mask, **run.raw.space.arrays()},
        facts=run.facts,
        pictures={"carpet": small_png(carpet_figure(prepared[run.mask]))},
    )
