"""A run as its files tell it: read, judged, and not yet prepared.

What belongs here: which files decide what is read of a run, what makes a run unusable, and whether
runs are recordings of their own. What does not: reading formats (``storage``), and the mathematics
(``science``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import CohortError, InputError, SettingsError, StoreError
from trend_dagster.files import replace_file
from trend_dagster.project.folder import BOLD_RUN, Project
from trend_dagster.project.fsaverage import FSAVERAGE, load_fsaverage
from trend_dagster.project.mesh import (
    check_fine_density,
    cortex_mask_files,
    mesh_files,
    mesh_names,
    mesh_sizes,
    read_mask,
    resampling_of,
)
from trend_dagster.project.settings import nearest
from trend_dagster.science.bold import (
    SAME,
    BoldConfig,
    check_filters,
    same_recordings,
    signal_mask,
    temporal_snr,
    volumes_to_drop,
    why_unusable,
)
from trend_dagster.science.method import prepare_run
from trend_dagster.science.plausibility import outlying
from trend_dagster.science.resampling import Resampling
from trend_dagster.science.surface import Surface, pieces_touching
from trend_dagster.storage.arrays import subject_of
from trend_dagster.storage.confounds import (
    beside,
    columns_of,
    confounds_file,
    matching,
    read_confounds,
    shortened,
)
from trend_dagster.storage.provenance import digest_of
from trend_dagster.storage.runs import BoldRun, Header, RawRun, read_run, read_subcortex
from trend_dagster.storage.sides import SIDES, WORD
from trend_dagster.storage.space import Subcortex
from trend_dagster.storage.stores import Version

INPUT = "input_"
"""Before the name of an array whose rows are those of the files, where BOLD was resampled."""

COMPARED_ROWS = 16  # of each hemisphere; neighbours, so that few chunks are read

LARGEST_WALL = 1.5
"""Of the estimate: FreeSurfer's own wall on fsaverage5 is 1.15 times as large."""


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
    sample_mask : ndarray of shape (n_timepoints,), bool, optional
        Volumes to keep; None for all.
    facts : mapping
        What is worth recording.
    unusable : str, optional
        Why it cannot be used.
    """

    raw: RawRun
    mask: NDArray[np.bool_]
    repetition_time: float | None
    confounds: NDArray[np.float64] | None
    sample_mask: NDArray[np.bool_] | None
    facts: Mapping[str, Any]
    unusable: str | None

    def prepared(self, config: BoldConfig) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Cleaned and standardised as the settings say, with the mask of usable vertices."""
        return prepare_run(
            self.raw.signal, config, self.repetition_time, self.confounds, self.sample_mask
        )

    def space_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays of the files' space; of a run that was resampled they have other rows."""
        prefix = INPUT if "n_vertices_of_the_files" in self.facts else ""
        return {f"{prefix}{name}": array for name, array in self.raw.space.arrays().items()}


def recording_files(project: Project, run: BoldRun) -> dict[str, Path]:
    """Everything that decides what is read of a run: its data, mask, sidecars and confounds."""
    names = ("bold",) if len(run.files) == 1 else ("bold L", "bold R")
    files = dict(zip(names, run.files, strict=True))
    files |= {f"sidecar {i}": path for i, path in enumerate(run.sidecars)}
    if (mask := project.mask_of(run)) is not None:
        files["mask"] = mask
    with suppress(InputError):  # one that is needed is missed in read_recording
        files["confounds"] = confounds_file(run)
    config = project.settings.bold
    if config.censor is not None and config.censor.file is not None:
        with suppress(InputError):
            files["censored"] = _censor_table(run, config.censor.file)
    if project.settings.inputs.resample is not None:
        files |= mesh_files(project)
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
    lacking = why_tables_lack(project, run)  # before minutes of reading
    labels = project.label_vertices
    raw = read_run(run, files.get("mask"), mesh_sizes(project), labels[1] if labels else None)
    outside, on_mask = _outside_cortex(project, raw)
    told_by_nan = bool(np.isnan(raw.signal[outside]).all())
    raw.signal[outside] = 0  # NaN as well, which some write on the medial wall
    time, told_by = repetition_time(project, run, raw)
    facts: dict[str, Any] = {
        "file": run.name,
        "subject": subject_of(run.key),
        "n_vertices": raw.signal.shape[0],
        "n_timepoints": raw.signal.shape[1],
        "space": raw.space.facts(),
        "repetition_time_s": time,
        "repetition_time_told_by": told_by,
    }
    if notes := [*raw.notes, *on_mask]:
        facts["notes"] = notes
    mask = np.zeros(len(raw.signal), dtype=bool)
    if lacking is not None:
        return Recording(raw, mask, time, None, None, facts, f"{run.name}: {lacking}")
    if (reason := why_unusable(raw.signal)) is not None:
        if 2 * outside.sum() > len(outside):
            reason += (
                f" inside inputs.cortex_mask, which leaves out {outside.mean():.0%} of the "
                "vertices: it is to be 1 on cortex and 0 on the medial wall"
            )
        return Recording(raw, mask, time, None, None, facts, f"{run.name}: {reason}")
    mask = signal_mask(raw.signal)
    kept = _kept_volumes(project, run, files, raw.signal.shape[1], time, facts)
    if (reason := _too_little(project, kept, time)) is not None:
        return Recording(raw, mask, time, None, None, facts, f"{run.name}: {reason}")
    confounds = _read_confounds(project, run, files, kept)
    if confounds is not None and (n := confounds.shape[1]) >= kept.sum() - 1:
        reason = f"{n} confounds leave nothing of {int(kept.sum())} volumes (bold.confounds)"
        return Recording(raw, mask, time, None, None, facts, f"{run.name}: {reason}")
    if (way := resampling_of(project)) is not None:
        facts |= {"n_vertices": way.surface.n_vertices, "n_vertices_of_the_files": len(mask)}
        raw, mask = _resampled(project, run, raw, mask, way)
        outside = (way.labels_down(outside.astype(np.int64)) == 1) & ~mask
    facts |= {
        "n_vertices_without_signal": int((~mask).sum()),
        "n_vertices_outside_cortex_mask": int(outside.sum()),
        "temporal_snr": temporal_snr(raw.signal, mask),
        "cleaned": ", ".join(config.taken_out) or "nothing taken out",
        **_motion(files, raw.signal.shape[1]),
    }
    if outside.any() and not cortex_mask_files(project):
        facts["medial_wall_of"] = "NaN" if told_by_nan else project.settings.inputs.surface
    return Recording(raw, mask, time, confounds, None if kept.all() else kept, facts, None)


def read_voxels(project: Project, bold: Version) -> tuple[NDArray[np.float32], Subcortex] | None:
    """Read the voxels outside the cortex of a CIFTI run, cleaned as its stored vertices are.

    The global signal stays in: it is that of the cortex, and the mean series of networks, which
    voxels are compared with, hold nothing of it.

    Returns
    -------
    signal : ndarray of shape (n_voxels, n_kept)
        0 where a voxel does not vary.
    subcortex : Subcortex
        Where they are; both None for a run without voxels.
    """
    run, time = project.bold_run(bold.partition[BOLD_RUN]), bold.facts["repetition_time_s"]
    found = read_subcortex(run.files[0]) if run.source == "cifti" else None
    if found is None:
        return None
    signal, subcortex = found
    signal[~np.isfinite(signal).all(axis=1)] = 0
    files, config = recording_files(project, run), project.settings.bold
    kept = _kept_volumes(project, run, files, signal.shape[1], time, {})
    confounds = _read_confounds(project, run, files, kept)
    config = config.model_copy(update={"global_signal": "keep"})
    return prepare_run(signal, config, time, confounds, kept)[0], subcortex


def _read_confounds(
    project: Project, run: BoldRun, files: Mapping[str, Path], kept: NDArray[np.bool_]
) -> NDArray[np.float64] | None:
    """Read what the settings ask to be regressed out, if anything."""
    columns = project.settings.bold.confounds
    if not columns:
        return None
    return read_confounds(files["confounds"], columns, len(kept), int(np.argmax(kept)))


def _motion(files: Mapping[str, Path], n_timepoints: int) -> dict[str, float]:
    """Mean framewise displacement in mm, where a table beside the run has it."""
    with suppress(InputError):
        if "confounds" in files:
            moved = read_confounds(files["confounds"], ("framewise_displacement",), n_timepoints)
            return {"mean_framewise_displacement": round(float(moved.mean()), 4)}
    return {}


def _resampled(
    project: Project, run: BoldRun, raw: RawRun, mask: NDArray[np.bool_], way: Resampling
) -> tuple[RawRun, NDArray[np.bool_]]:
    check_fine_density(mesh_names(project), run.key, len(mask), way.up.shape[0])
    series, mask = way.series_down(raw.signal, mask)
    return replace(raw, signal=series), mask


# Volumes that are left out


def _censor_table(run: BoldRun, ending: str) -> Path:
    found = beside(run, (ending,))
    if len(found) != 1:
        raise InputError(
            f"table of volumes to leave out of BOLD run {run.key}",
            expected=f"one file beside {run.files[0]} whose name ends with {ending}",
            found=", ".join(path.name for path in found) or "no such file",
            remedy="Put it there, or correct bold.censor.file in trend.yaml.",
        )
    return found[0]


def _kept_volumes(
    project: Project,
    run: BoldRun,
    files: Mapping[str, Path],
    n_timepoints: int,
    time: float | None,
    facts: dict[str, Any],
) -> NDArray[np.bool_]:
    """Which volumes are kept; what was left out goes into the facts."""
    config = project.settings.bold
    n_dropped = min(volumes_to_drop(config, time), n_timepoints)
    kept = np.arange(n_timepoints) >= n_dropped
    if config.censor is not None:
        table = files.get("censored", files.get("confounds"))
        assert table is not None
        columns = (config.censor.column,)
        if not _flags_nothing(config.censor.column, columns_of(table)):
            values = read_confounds(table, columns, n_timepoints, n_dropped)
            kept &= (values <= config.censor.above).all(axis=1)
    n_flagged = _unsteady_volumes(run)
    if kept[:n_flagged].any() and not any("non_steady" in name for name in config.confounds):
        facts.setdefault("notes", []).append(
            f"the confounds table says that the first {n_flagged} volumes are not in steady state, "
            f"and {n_dropped} are dropped: set bold.drop_first: {n_flagged} in trend.yaml"
        )
    if n_dropped or config.censor is not None:
        facts |= {
            "n_volumes": n_timepoints,
            "n_timepoints": int(kept.sum()),
            "n_volumes_dropped": n_dropped,
            "n_volumes_censored": int((~kept[n_dropped:]).sum()),
        }
        if time is not None:
            facts["minutes_kept"] = round(float(kept.sum()) * time / 60, 2)
    return kept


def _flags_nothing(column: str, names: list[str]) -> bool:
    """Whether a table has none of the columns of a pattern: one for each volume to leave out."""
    return bool(re.search(r"[*?\[]", column) and names and matching((column,), names)[1])


def _unsteady_volumes(run: BoldRun) -> int:
    """Volumes that the table beside a run flags as not in steady state; 0 without a table."""
    try:
        table = confounds_file(run)
    except InputError:
        return 0
    return sum(name.startswith("non_steady_state") for name in columns_of(table))


def _too_little(project: Project, kept: NDArray[np.bool_], time: float | None) -> str | None:
    config = project.settings.bold
    n_kept = int(kept.sum())
    if n_kept < 2:
        return f"{n_kept} of {len(kept)} volumes are left (bold.drop_first, bold.censor)"
    if (n_filtered := len(kept) - int(np.argmax(kept))) < config.shortest:
        return f"filters need {config.shortest} volumes, and {n_filtered} of {len(kept)} are left"
    if config.minimum_minutes == 0:
        return None
    _check_minutes(config, time)
    assert time is not None
    minutes = n_kept * time / 60
    if minutes >= config.minimum_minutes:
        return None
    return (
        f"{minutes:.1f} minutes are left ({n_kept} of {len(kept)} volumes), less than "
        f"bold.minimum_minutes, {config.minimum_minutes:g}"
    )


def _check_minutes(config: BoldConfig, time: float | None) -> None:
    if config.minimum_minutes and time is None:
        raise InputError(
            "setting bold.minimum_minutes",
            expected="a repetition time",
            found="none: not in the settings, the JSON sidecar or the header",
            remedy="Set bold.repetition_time in trend.yaml.",
        )


def check_time(config: BoldConfig, time: float | None) -> None:
    """Make sure that the repetition time is known and right where the settings need one.

    Raises
    ------
    SettingsError, InputError
        If it is not.
    """
    volumes_to_drop(config, time)
    _check_minutes(config, time)
    check_filters(config, time)


def why_tables_lack(project: Project, run: BoldRun) -> str | None:
    """Say what the tables beside a run lack that the settings ask for and other runs have.

    Raises
    ------
    SettingsError
        If no run has it: in the same words for all.
    """
    config, censor = project.settings.bold, project.settings.bold.censor
    if censor is not None and censor.file is not None:
        ending = censor.file
        why = _lacking(project, run, "bold.censor", (), lambda of: _censor_table(of, ending))
        if why is not None:
            return why
    elif censor is not None:
        why = _lacking(project, run, "bold.censor.column", (censor.column,), confounds_file)
        if why is not None and not _flags_nothing(censor.column, _own_columns(run)):
            return why
    if not config.confounds:
        return None
    return _lacking(project, run, "bold.confounds", config.confounds, confounds_file)


def _own_columns(run: BoldRun) -> list[str]:
    try:
        return columns_of(confounds_file(run))
    except InputError:  # it has no table
        return []


def _lacking(
    project: Project,
    run: BoldRun,
    setting: str,
    wanted: tuple[str, ...],
    find: Callable[[BoldRun], Path],
) -> str | None:
    """Tell what no table has, which is one error of the settings, from what a run lacks."""

    def columns(of: BoldRun) -> tuple[list[str] | None, str]:
        known = project.found_columns
        if (setting, of.key) not in known:
            try:
                known[setting, of.key] = columns_of(find(of)), ""
            except InputError as error:
                expected = error.expected.partition(";")[0]
                known[setting, of.key] = None, f"expected {expected}, found {error.found}"
        return known[setting, of.key]

    own, why = columns(run)
    if own is not None and (not own or not matching(wanted, own)[1]):
        return None  # what is no table is said where its numbers are read
    tables = [t for r in project.bold_runs.values() if (t := columns(r)[0]) is not None]
    known = sorted({name for found in tables for name in found})
    if not tables:
        try:
            find(next(iter(project.bold_runs.values())))
        except InputError as error:
            raise SettingsError(
                f"setting {setting}",
                expected=f"a table beside each run; of the first, {error.expected}",
                found=f"none beside any of {len(project.bold_runs)} runs",
                remedy="Put them there, or take the setting out of trend.yaml.",
            ) from error
    if own is None:
        return why
    if unknown := matching(wanted, known)[1]:
        raise SettingsError(
            f"setting {setting}",
            expected=f"columns of the confounds tables, {', '.join(shortened(known))}",
            found=f"{unknown[0]!r}, which no table has" + nearest(unknown[0], known),
            remedy="Correct the name in trend.yaml.",
        )
    return (
        f"its confounds table lacks {', '.join(matching(wanted, own)[1])}, which other runs have "
        f"({len(own)} others in {find(run).name})"
    )


def repetition_time(
    project: Project, run: BoldRun, raw: RawRun | Header
) -> tuple[float | None, str]:
    """Seconds between volumes, and who told them: the user's word first.

    Raises
    ------
    InputError
        If the file claims that there is no time at all, and nobody says otherwise.
    """
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


def _outside_cortex(project: Project, raw: RawRun) -> tuple[NDArray[np.bool_], list[str]]:
    """Vertices that the user's mask leaves out, or the mesh's wall where the file has values."""
    n = len(raw.signal)
    files = list(cortex_mask_files(project).values())
    if not files:
        return _wall_with_values(project, raw), []
    outside = ~read_mask(project, n, raw.space.n_vertices)
    return outside, _doubts_of_mask(files, outside, raw.signal)


def _wall_with_values(project: Project, raw: RawRun) -> NDArray[np.bool_]:
    """The medial wall of a mesh that comes along, if most of it has values or NaN in this file.

    Where it is NaN, the file tells its own wall, as one without values there does.
    """
    none = np.zeros(len(raw.signal), dtype=bool)
    name = project.settings.inputs.surface
    if name is None or len(raw.signal) != 2 * FSAVERAGE[name] or raw.space.source == "nifti":
        return none
    mesh = load_fsaverage(FSAVERAGE[name])
    wall = mesh.medial_wall
    assert wall is not None  # fsaverage always has one
    if (told := _wall_of_nan(raw.signal, mesh, wall)) is not None:
        return told
    there = raw.signal[wall]
    return wall if (there != there[:, :1]).any(axis=1).mean() > 0.5 else none


def _wall_of_nan(
    signal: NDArray[np.float32], mesh: Surface, wall: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """Vertices without a number at any time that hang together with the wall, if they are it.

    The wall that a file knows (``--medial-surface-nan``) is not vertex for vertex the estimate.
    NaN apart from it stays, and so does all of it where it is much larger than a wall: there the
    run lacks cortex, and is not used.
    """
    never = np.asarray(np.isnan(signal).all(axis=1))
    if never[wall].mean() <= 0.5:
        return None
    told = pieces_touching(mesh, never, wall)
    for side in (0, 1):
        own = mesh.hemisphere == side
        if (told & own).sum() > LARGEST_WALL * (wall & own).sum():
            return None
    return told


def _doubts_of_mask(
    files: Sequence[Path], outside: NDArray[np.bool_], signal: NDArray[np.float32]
) -> list[str]:
    """Compare a mask with where the run itself has no signal, which is the wall.

    Raises
    ------
    InputError
        If the masks of the hemispheres are exchanged, or one stands for both.
    """
    if len(outside) % 2:
        return []
    own = outside.reshape(2, -1)
    varies = (signal.max(axis=1) > signal.min(axis=1)).reshape(2, -1)  # not where there is NaN
    n_outside = np.maximum(own.sum(axis=1), 1)
    lost = (own & varies).sum(axis=1) / n_outside
    lost_across = (own[::-1] & varies).sum(axis=1) / n_outside[::-1]  # by the other side's mask
    other_wall = (~varies & ~own).sum(axis=1) > 0.5 * (own & varies).sum(axis=1)
    same = bool((own[0] == own[1]).all())

    def wrong(found: str, remedy: str) -> InputError:
        return InputError(
            f"cortex mask {' and '.join(map(str, files))}",
            expected="the left hemisphere's mask, then the right one's",
            found=found,
            remedy=f"{remedy} (inputs.cortex_mask in trend.yaml).",
        )

    if not same and lost.min() > 0.05 and lost_across.max() < 0.2 * lost.min():
        share = (own & varies).sum() / n_outside.sum()
        raise wrong(
            f"masks that leave out {share:.0%} of vertices with signal, and "
            f"{'none' if not lost_across.any() else 'hardly any'} the other way round: exchanged",
            "Exchange them",
        )
    worst = int(lost.argmax())
    if same and lost[worst] > 0.05 and lost.min() < 0.2 * lost[worst] and other_wall[worst]:
        raise wrong(
            f"one mask for both, which leaves out {lost[worst]:.0%} of vertices with signal in the "
            f"{WORD[SIDES[worst]]} hemisphere, where the run has its wall elsewhere",
            f"Name the mask of the {WORD[SIDES[worst]]} hemisphere",
        )
    notes = [
        f"{share:.0%} of the vertices that the cortex mask leaves out in the {WORD[side]} "
        "hemisphere have signal, and it keeps others without: of another mesh or hemisphere?"
        for side, share, elsewhere in zip(SIDES, lost, other_wall, strict=True)
        if share > 0.5 and elsewhere
    ]
    if same and own[0].any() and len(files) == 2:
        notes.append(
            f"cortex masks {files[0].name} and {files[1].name} are the same: right for a symmetric "
            "mesh, else one is a copy of the other"
        )
    return notes


# Runs beside each other


def run_doubts(project: Project, runs: Sequence[str]) -> dict[str, list[str]]:
    """Say what is odd about stored runs beside the others: copies, and runs that stand out.

    Parameters
    ----------
    project : Project
        Whose stored runs.
    runs : sequence of str
        Keys.

    Returns
    -------
    dict of str to list of str
        By key; runs about which nothing is odd are left out.
    """
    found = outlying({key: version.facts for key, version in _stored(project, runs).items()})
    for first, second, what in copies(project, runs):
        found.setdefault(second, []).append(f"{first} and this one {what}")
    return found


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
    # All pairs of a thousand runs take seconds, and every look at the project asks.
    versions = {key: version.path.name for key, version in found.items()}
    of = digest_of([COMPARED_ROWS, SAME, versions])
    memory = project.folder / "store" / ".copies.json"  # may be deleted, or not be writable
    with suppress(OSError, ValueError, TypeError, LookupError):
        known = json.loads(memory.read_bytes())
        if known["of"] == of:
            return [(str(first), str(second), str(what)) for first, second, what in known["pairs"]]
    pairs = _compared(found)
    if memory.parent.is_dir():  # asking makes no store
        with suppress(OSError):
            replace_file(memory, json.dumps({"of": of, "pairs": pairs}).encode())
    return pairs


def _compared(found: Mapping[str, Version]) -> list[tuple[str, str, str]]:
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


def weights_of(project: Project, runs: Sequence[str]) -> list[float] | None:
    """Volumes kept of each run, if ``correlation.weight`` counts them; else None.

    Raises
    ------
    CohortError
        If nothing tells them: embeddings that a user brought.
    """
    if project.settings.correlation.weight == "equal":
        return None
    found = _stored(project, runs)
    if unknown := [key for key in runs if key not in found]:
        raise CohortError(
            "setting correlation.weight",
            expected="BOLD of every run, whose volumes are counted",
            found=f"none of {', '.join(unknown[:5])}",
            remedy="Set correlation.weight to equal in trend.yaml.",
        )
    return [float(found[key].facts["n_timepoints"]) for key in runs]
