"""BOLD as the project's settings have it read: masked, with its repetition time and confounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.project.folder import Project
from trend_dagster.project.mesh import cortex_mask_files, read_mask
from trend_dagster.science.bold import signal_mask, temporal_snr, why_unusable
from trend_dagster.storage.arrays import subject_of
from trend_dagster.storage.confounds import confounds_file, read_confounds
from trend_dagster.storage.runs import BoldRun, RawRun, read_run
from trend_dagster.storage.space import VertexSpace


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A run before anything is taken out of it.

    Parameters
    ----------
    signal : ndarray of shape (n_vertices, n_timepoints), float32
        In the files' own units; 0 outside the cortex mask.
    outside : ndarray of bool of shape (n_vertices,)
        Vertices that the cortex mask leaves out.
    space : VertexSpace
        What the rows are.
    repetition_time : float or None
        Seconds between volumes.
    told_by : str
        ``settings``, ``header``, ``sidecar`` or ``nothing``.
    confounds : callable
        Takes names of columns and reads them, of shape (n_timepoints, n_columns).
    """

    signal: NDArray[np.float32]
    outside: NDArray[np.bool_]
    space: VertexSpace
    repetition_time: float | None
    told_by: str
    confounds: Callable[[tuple[str, ...]], NDArray[np.float64]]


def recorded_files(project: Project, key: str) -> dict[str, Path]:
    """Everything that decides what is read: both hemispheres, mask, sidecars, confounds."""
    run = project.bold_run(key)
    names = ("bold",) if len(run.files) == 1 else ("bold L", "bold R")
    files = dict(zip(names, run.files, strict=True))
    files |= {f"sidecar {i}": path for i, path in enumerate(run.sidecars)}
    if (mask := project.mask_of(run)) is not None:
        files["mask"] = mask
    if project.settings.bold.confounds:
        files["confounds"] = confounds_file(run)
    return files | cortex_mask_files(project)


def read_recorded(project: Project, key: str) -> RecordedRun:
    """Read a run of a project.

    Parameters
    ----------
    project : Project
        Names files and settings.
    key : str
        Of the run.

    Raises
    ------
    InputError
        If a file cannot be used, or its header has a step of no time and no setting says better.
    """
    run = project.bold_run(key)
    raw = read_run(run, project.mask_of(run))
    signal = raw.signal
    outside = np.zeros(len(signal), dtype=bool)
    if cortex_mask_files(project):
        outside = ~read_mask(project, len(signal), raw.space.n_vertices)
    signal[outside] = 0  # NaN as well, which some write on the medial wall
    time, told_by = _repetition_time(project, run, raw)
    n_timepoints = signal.shape[1]
    return RecordedRun(
        signal,
        outside,
        raw.space,
        time,
        told_by,
        lambda columns: read_confounds(confounds_file(run), columns, n_timepoints),
    )


def facts_of(project: Project, key: str, run: RecordedRun) -> dict[str, Any]:
    """What is worth looking at of a run, and what is taken out of it."""
    config = project.settings.bold
    facts = {
        "file": project.bold_run(key).name,
        "subject": subject_of(key),
        "n_vertices": run.signal.shape[0],
        "n_timepoints": run.signal.shape[1],
        "space": run.space.facts(),
        "repetition_time_s": run.repetition_time,
        "repetition_time_told_by": run.told_by,
        "n_vertices_outside_cortex_mask": int(run.outside.sum()),
        "cleaned": ", ".join(config.taken_out) or "nothing taken out",
    }
    if why_unusable(run.signal) is None:
        facts["temporal_snr"] = temporal_snr(run.signal, signal_mask(run.signal))
    return facts


def _repetition_time(project: Project, run: BoldRun, raw: RawRun) -> tuple[float | None, str]:
    """The user's word first; a file that claims no time at all needs it."""
    if project.settings.bold.repetition_time is not None:
        return project.settings.bold.repetition_time, "settings"
    if raw.told_by == "step 0":
        raise InputError(
            f"BOLD file {run.files[0]}",
            expected="a step between volumes above 0 seconds in the header",
            found="step 0 or no seconds",
            remedy="Set bold.repetition_time in trend.yaml, or mend the file: wb_command "
            "-cifti-change-timestep (or a JSON sidecar with RepetitionTime).",
        )
    return raw.repetition_time, raw.told_by
