"""From BOLD files to usable time series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.png import small_png
from trend_dagster.delivery.figures.timeseries import carpet_figure
from trend_dagster.errors import InputError
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Task, stored_asset
from trend_dagster.project.folder import BOLD_RUN, Project
from trend_dagster.project.mesh import cortex_mask_files, read_mask
from trend_dagster.science.bold import clean, prepare, signal_mask, temporal_snr, why_unusable
from trend_dagster.storage.arrays import subject_of
from trend_dagster.storage.confounds import confounds_file, read_confounds
from trend_dagster.storage.runs import BoldRun, RawRun, read_run
from trend_dagster.storage.stores import Partition


def _files(project: Project, partition: Partition) -> dict[str, Path]:
    """Everything that decides what is read: both hemispheres, mask, sidecars, confounds."""
    run = project.bold_run(partition[BOLD_RUN])
    names = ("bold",) if len(run.files) == 1 else ("bold L", "bold R")
    files = dict(zip(names, run.files, strict=True))
    files |= {f"sidecar {i}": path for i, path in enumerate(run.sidecars)}
    if (mask := project.mask_of(run)) is not None:
        files["mask"] = mask
    if project.settings.bold.confounds:
        files["confounds"] = confounds_file(run)
    return files | cortex_mask_files(project)


@stored_asset(group="inputs", dims=(BOLD_RUN,), settings=("bold",), files=_files)
def bold(task: Task) -> Result:
    """Resting-state BOLD of one run on the cortical surface, with its mask of usable vertices.

    Vertices whose signal never changes (medial wall, outside the field of view) or that
    `inputs.cortex_mask` leaves out are masked here,
    once; every later asset obeys this mask. A run with NaN or infinite values, or without any
    signal, is excluded: its output says so and why, and the other runs go on without it.
    """
    config = task.settings.bold
    files = _files(task.project, task.partition)
    run = task.project.bold_run(task.partition[BOLD_RUN])
    raw = read_run(run, files.get("mask"))
    signal = raw.signal
    outside = _outside_cortex(task.project, raw)
    signal[outside] = 0  # NaN as well, which some write on the medial wall
    time, told_by = _repetition_time(task, run, raw)
    facts: dict[str, Any] = {
        "file": run.name,
        "subject": subject_of(task.partition[BOLD_RUN]),
        "n_vertices": signal.shape[0],
        "n_timepoints": signal.shape[1],
        "space": raw.space.facts(),
        "repetition_time_s": time,
        "repetition_time_told_by": told_by,
    }
    if (reason := why_unusable(signal)) is not None:
        return Result(facts=facts, excluded=f"{run.name}: {reason}")
    mask = signal_mask(signal)
    confounds = (
        read_confounds(files["confounds"], config.confounds, signal.shape[1])
        if config.confounds
        else None
    )
    snr = temporal_snr(signal, mask)
    prepared = prepare(clean(signal, mask, config, time, confounds), mask, config)
    return Result(
        arrays={"bold": prepared, "vertex_mask": mask, **raw.space.arrays()},
        facts=facts
        | {
            "n_vertices_without_signal": int((~mask).sum()),
            "n_vertices_outside_cortex_mask": int(outside.sum()),
            "temporal_snr": snr,
            "cleaned": ", ".join(config.taken_out) or "nothing taken out",
        },
        pictures={"carpet": small_png(carpet_figure(prepared[mask]))},
    )


def _repetition_time(task: Task, run: BoldRun, raw: RawRun) -> tuple[float | None, str]:
    """The user's word first; a file that claims no time at all needs it."""
    if task.settings.bold.repetition_time is not None:
        return task.settings.bold.repetition_time, "settings"
    if raw.told_by == "step 0":
        raise InputError(
            f"BOLD file {run.files[0]}",
            expected="a step between volumes above 0 seconds in the header",
            found="step 0 or no seconds",
            remedy="Set bold.repetition_time in trend.yaml, or mend the file: wb_command "
            "-cifti-change-timestep (or a JSON sidecar with RepetitionTime).",
        )
    return raw.repetition_time, raw.told_by


def _outside_cortex(project: Project, raw: RawRun) -> NDArray[np.bool_]:
    """Vertices that the user's mask leaves out."""
    n = len(raw.signal)
    if not cortex_mask_files(project):
        return np.zeros(n, dtype=bool)
    return ~read_mask(project, n, raw.space.n_vertices)
