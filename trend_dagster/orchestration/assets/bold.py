"""From BOLD files to usable time series."""

from __future__ import annotations

from pathlib import Path

from trend_dagster.figures.png import small_png
from trend_dagster.figures.timeseries import carpet_figure
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.resources import BOLD_RUN, Project
from trend_dagster.orchestration.stored_asset import Cell, stored_asset
from trend_dagster.science.bold import prepare, signal_mask, temporal_snr, why_unusable
from trend_dagster.storage.images import read_bold, subject_of
from trend_dagster.storage.stores import Partition


def _file(project: Project, partition: Partition) -> dict[str, Path]:
    key = partition[BOLD_RUN]
    return {"bold": project.input_file(BOLD_RUN, key)}


@stored_asset(group="inputs", dims=(BOLD_RUN,), settings=("bold",), files=_file)
def bold(cell: Cell) -> Result:
    """Resting-state BOLD of one run on the cortical surface, with its mask of usable vertices.

    Vertices whose signal never changes (medial wall, outside the field of view) are masked here,
    once; every later asset obeys this mask. A run with NaN or infinite values, or without any
    signal, is excluded: its output says so and why, and the other runs go on without it.
    """
    path = cell.project.input_file(BOLD_RUN, cell.partition[BOLD_RUN])
    signal = read_bold(path)
    facts = {
        "file": path.name,
        "subject": subject_of(cell.partition[BOLD_RUN]),
        "n_vertices": signal.shape[0],
        "n_timepoints": signal.shape[1],
    }
    if (reason := why_unusable(signal)) is not None:
        return Result(facts=facts, excluded=f"{path.name}: {reason}")
    mask = signal_mask(signal)
    prepared = prepare(signal, mask, cell.settings.bold)
    return Result(
        arrays={"bold": prepared, "vertex_mask": mask},
        facts=facts
        | {
            "n_vertices_without_signal": int((~mask).sum()),
            "temporal_snr": temporal_snr(signal, mask),
        },
        pictures={"carpet": small_png(carpet_figure(prepared[mask]))},
    )
