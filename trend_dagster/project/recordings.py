"""A run as its files tell it: read, judged, and not yet prepared.

What belongs here: which files decide what is read of a run, what makes a run unusable, and whether
runs are recordings of their own. What does not: reading formats (``storage``), and the mathematics
(``science``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import CohortError, InputError, StoreError
from trend_dagster.project.folder import BOLD_RUN, Project
from trend_dagster.project.mesh import cortex_mask_files, mesh_sizes, read_mask
from trend_dagster.science.bold import same_recordings, signal_mask, temporal_snr, why_unusable
from trend_dagster.storage.arrays import subject_of
from trend_dagster.storage.confounds import confounds_file, read_confounds
from trend_dagster.storage.runs import BoldRun, RawRun, read_run
from trend_dagster.storage.sides import twins
from trend_dagster.storage.stores import Version

COMPARED_ROWS = 16  # of each hemisphere; neighbours, so that few chunks are read


@dataclass(frozen=True)
class Recording:
    """A run, with what was found out about it.

    Parameters
    ----------
    raw : RawRun
        What the files hold; 0 outside the cortex mask.
    mask : ndarray of shape (n_vertices,), bool
        Vertices with signal.
    repetition_time : float or None
        Seconds between volumes, as the settings, the sidecar or the header tell.
    confounds : ndarray of shape (n_timepoints, n_confounds), optional
        What the settings ask to be regressed out.
    facts : mapping
        What is worth recording.
    unusable : str, optional
        Why it cannot be used.
    """

    raw: RawRun
    mask: NDArray[np.bool_]
    repetition_time: float | None
    confounds: NDArray[np.float64] | None
    facts: Mapping[str, Any]
    unusable: str | None


def recording_files(project: Project, run: BoldRun) -> dict[str, Path]:
    """Everything that decides what is read of a run: its data, mask, sidecars and confounds."""
    names = ("bold",) if len(run.files) == 1 else ("bold L", "bold R")
    files = dict(zip(names, run.files, strict=True))
    files |= {f"sidecar {i}": path for i, path in enumerate(run.sidecars)}
    if (mask := project.mask_of(run)) is not None:
        files["mask"] = mask
    if project.settings.bold.confounds:
        files["confounds"] = confounds_file(run)
    return files | cortex_mask_files(project)


def read_recording(project: Project, run: BoldRun) -> Recording:
    """Read and judge a run.

    Raises
    ------
    InputError
        If its files cannot be used as they are.
    """
    config = project.settings.bold
    files = recording_files(project, run)
    raw = read_run(run, files.get("mask"), mesh_sizes(project))
    outside = _outside_cortex(project, raw)
    raw.signal[outside] = 0  # NaN as well, which some write on the medial wall
    time, told_by = _repetition_time(project, run, raw)
    facts: dict[str, Any] = {
        "file": run.name,
        "subject": subject_of(run.key),
        "n_vertices": raw.signal.shape[0],
        "n_timepoints": raw.signal.shape[1],
        "space": raw.space.facts(),
        "repetition_time_s": time,
        "repetition_time_told_by": told_by,
    }
    if notes := [*raw.notes, *_notes_on_mask(project, outside)]:
        facts["notes"] = notes
    mask = np.zeros(len(raw.signal), dtype=bool)
    if (reason := why_unusable(raw.signal)) is not None:
        return Recording(raw, mask, time, None, facts, f"{run.name}: {reason}")
    mask = signal_mask(raw.signal)
    confounds = None
    if config.confounds:
        confounds = read_confounds(files["confounds"], config.confounds, raw.signal.shape[1])
    facts |= {
        "n_vertices_without_signal": int((~mask).sum()),
        "n_vertices_outside_cortex_mask": int(outside.sum()),
        "temporal_snr": temporal_snr(raw.signal, mask),
        "cleaned": _taken_out(project),
    }
    return Recording(raw, mask, time, confounds, facts, None)


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


def _taken_out(project: Project) -> str:
    config = project.settings.bold
    if not config.cleans:
        return "nothing taken out"
    parts = ["linear trend"] if config.detrend else []
    if config.filters:
        parts.append(f"frequencies outside {config.high_pass_hz} to {config.low_pass_hz} Hz")
    return ", ".join([*parts, *config.confounds])


def _outside_cortex(project: Project, raw: RawRun) -> NDArray[np.bool_]:
    """Vertices that the user's mask leaves out."""
    n = len(raw.signal)
    files = list(cortex_mask_files(project).values())
    if not files:
        return np.zeros(n, dtype=bool)
    outside = ~read_mask(project, n, raw.space.n_vertices)
    if len(files) == 2:
        _check_not_exchanged(files, outside, raw.signal)
    return outside


def _notes_on_mask(project: Project, outside: NDArray[np.bool_]) -> list[str]:
    files = list(cortex_mask_files(project).values())
    if len(files) != 2 or not twins(outside, len(outside) // 2):
        return []
    return [
        f"cortex masks {files[0].name} and {files[1].name} are the same: right for a symmetric "
        "mesh, else one is a copy of the other"
    ]


def _check_not_exchanged(
    files: Sequence[Path], outside: NDArray[np.bool_], signal: NDArray[np.float32]
) -> None:
    """Compare a pair of masks with where the run itself has no signal, which is the wall."""
    half = len(outside) // 2
    if len(outside) % 2 or np.array_equal(outside[:half], outside[half:]):
        return
    varies = signal.max(axis=1) > signal.min(axis=1)  # not where there is NaN
    lost, kept_wall = (float((mask & varies).sum()) for mask in (outside, np.roll(outside, half)))
    n_outside = max(1, int(outside.sum()))
    if lost > 0.5 * n_outside and kept_wall < 0.1 * n_outside:
        raise InputError(
            f"cortex masks {files[0]} and {files[1]}",
            expected="the left hemisphere's mask, then the right one's",
            found=f"masks that leave out {lost / n_outside:.0%} of vertices with signal, and none "
            "the other way round: exchanged",
            remedy="Exchange them in trend.yaml (inputs.cortex_mask).",
        )


# Recordings of their own


def check_recordings(project: Project, runs: Sequence[str]) -> None:
    """Make sure that no recording is there under two keys: halves would not be independent.

    Raises
    ------
    CohortError
        If one is; names all such pairs.
    """
    if pairs := copies(project, runs):
        shown = "; ".join(f"{a} and {b} {of}" for a, b, of in pairs[:5])
        more = f"; and {len(pairs) - 5} more" if len(pairs) > 5 else ""
        raise CohortError(
            f"BOLD runs {', '.join(dict.fromkeys(b for _, b, _ in pairs[:5]))}",
            expected="a recording of its own in each run",
            found=f"copies: {shown}{more}",
            remedy="Take all but one of each out of the folder, or put the right files in their "
            "place: what is there twice counts twice, and halves of the cohort agree for nothing.",
        )


def copies(project: Project, runs: Sequence[str]) -> list[tuple[str, str, str]]:
    """Find runs that are one recording, or share a hemisphere.

    Parameters
    ----------
    project : Project
        Whose stored runs.
    runs : sequence of str
        Keys.

    Returns
    -------
    list of tuple of three str
        Two keys, and what of them is the same.
    """
    found = _stored(project, runs)
    masks = {key: version.read("vertex_mask") for key, version in found.items()}
    if len(masks) < 2 or len({len(mask) for mask in masks.values()}) > 1:
        return []
    shared = np.flatnonzero(np.logical_and.reduce(list(masks.values())))
    n = len(next(iter(masks.values())))
    pairs: dict[tuple[str, str], list[str]] = {}
    halves = {"left": shared[shared < n // 2], "right": shared[shared >= n // 2]}
    for side, rows in halves.items():
        start = max(0, (len(rows) - COMPARED_ROWS) // 2)
        some = rows[start : start + COMPARED_ROWS]
        if len(some):
            series = {
                key: np.asarray(version.array("bold").oindex[some, :])
                for key, version in found.items()
            }
            for pair in same_recordings(series):
                pairs.setdefault(pair, []).append(side)
    return [
        (*pair, "are the same" if len(sides) == 2 else f"share the {sides[0]} hemisphere")
        for pair, sides in pairs.items()
    ]


def _stored(project: Project, runs: Sequence[str]) -> dict[str, Version]:
    found = {}
    for key in runs:
        try:
            version = project.store.latest("bold", {BOLD_RUN: key})
        except StoreError:  # damaged: said where it is read
            continue
        if version is not None and version.excluded is None:
            found[key] = version
    return found
