"""Take up what was computed elsewhere: a user's file becomes an output like any other.

What belongs here: the one way in, and the readers of the tutorial's outputs.
What does not: reading bytes (``storage``) and terminal output (``cli``).

A reader looks at the whole file and raises before anything is registered; what it returns is
published version by version and recorded with Dagster. The recipe of an imported output names its
file, with its digest. From then on it is current, whatever inputs and settings say, until somebody
asks by name for it to be made anew (``trend run --select ASSET --force``); assets that only lead to
it are not needed (``lineage``). A new kind of import is a reader, an entry in ``READERS``, and a
command in ``cli/imports.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError, TrendError
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.assets.connectivity import correlation_result
from trend_dagster.orchestration.io_managers import (
    Published,
    Result,
    latest_records,
    materialization,
)
from trend_dagster.orchestration.partitions import asset_key, register
from trend_dagster.orchestration.production import publish_alone
from trend_dagster.project.folder import BOLD_RUN, Project
from trend_dagster.project.recordings import read_recording
from trend_dagster.science.features.collapse import collapse_measures
from trend_dagster.storage.arrays import read_numbers
from trend_dagster.storage.provenance import Recipe, digest_of_file
from trend_dagster.storage.runs import read_run
from trend_dagster.storage.stores import WHOLE, Partition, Version

ROWS = 1024  # of a large matrix that are looked at together
MAX_ASYMMETRY = 1e-5
MAX_OFF_UNIT = 1e-4  # on the diagonal, and beyond 1


@dataclass(frozen=True)
class Found:
    """What a user's file holds, checked, on its way into the store.

    Parameters
    ----------
    asset : str
        Name of the asset that it is an output of.
    outputs : iterable of (partition, Result)
        May be lazy: each is asked for when the one before it is stored.
    settings : mapping
        Settings that it was made with, by section, as far as the file tells.
    """

    asset: str
    outputs: Iterable[tuple[Partition, Result]]
    settings: Mapping[str, Any] = field(default_factory=dict)


Reader = Callable[[Project, Path], Found]
"""Takes the project and the file, checks all of it against the project, and raises a
``TrendError`` if it cannot be used. It stores nothing itself."""


def import_file(
    project: Project, instance: dg.DagsterInstance, file: Path, read: Reader
) -> list[Version]:
    """Publish what a file holds, and record it as a materialization that names its origin.

    Parameters
    ----------
    project : Project
        Where to.
    instance : DagsterInstance
        Where it is recorded.
    file : Path
        The user's file; it is copied from, and not needed afterwards.
    read : Reader
        What checks and opens it.

    Returns
    -------
    list of Version
        What is current now.

    Raises
    ------
    TrendError
        If the file cannot be used; then nothing has changed.
    """
    try:
        found = read(project, file)
    except TrendError as error:
        project.record_import(error)
        raise
    asset = ASSETS[found.asset]
    recipe = Recipe(
        asset.name,
        asset.code_version,
        found.settings,
        {f"file {file.name}": digest_of_file(file)},
        imported_from=file.name,
    )
    upstream = latest_records(instance, map(asset_key, asset.upstream))
    if BOLD_RUN in asset.dims:
        register(instance, BOLD_RUN, project.keys(BOLD_RUN))
    versions = []
    for partition, result in found.outputs:
        version = publish_alone(asset, project, partition, result, recipe)
        record = materialization(Published(version, recipe, result), upstream)
        instance.report_runless_asset_event(record)
        versions.append(version)
    project.record_import(None)
    return versions


def read_embeddings(project: Project, file: Path, order: Path | None = None) -> Found:
    """Check embeddings of all runs, (runs, vertices, features), as the tutorial stacks them.

    Parameters
    ----------
    project : Project
        Its BOLD files, in the order of their names, tell which run is which.
    file : Path
        A .npy file. A vertex whose features are all equal has no signal.
    order : Path, optional
        A text file with the name of a BOLD file in each line, in the order of the array: the
        tutorial's notebook stacks runs as ``os.listdir`` gives them, which is any order.

    Returns
    -------
    Found
        One output of ``embeddings`` per run.

    Raises
    ------
    InputError
        If the file is no such array, holds NaN or infinity, or does not fit the project.
    """
    stacked = read_numbers(file, "embeddings", ("runs", "vertices", "features"))
    keys = project.keys(BOLD_RUN) if order is None else _in_order_of(project, order)
    if len(stacked) != len(keys):
        raise InputError(
            f"embeddings file {file}",
            expected=f"{len(keys)} runs, one per BOLD file in the order of "
            + ("their names" if order is None else str(order)),
            found=str(len(stacked)),
            remedy="Put the BOLD files of these runs, and no others, into the project.",
        )
    _check_vertices(project, f"embeddings file {file}", stacked.shape, axis=1)
    for key, features in zip(keys, stacked, strict=True):
        n_bad = int((~np.isfinite(features)).any(axis=1).sum())
        if n_bad:
            raise _not_finite(f"embeddings file {file}", f"{n_bad} vertices of run {key}")
        if not _has_signal(features).any():
            raise InputError(
                f"embeddings file {file}",
                expected="features that differ",
                found=f"equal ones in every vertex of run {key}",
                remedy="Export it again; such a run says nothing.",
            )
    return Found("embeddings", _embeddings(keys, stacked))


def _in_order_of(project: Project, order: Path) -> list[str]:
    """Find the runs that a list of files names, in its order."""
    lines = order.read_text(encoding="utf-8", errors="replace").splitlines()
    named = [Path(line.strip()).name for line in lines if line.strip()]
    by_name = {run.files[0].name: key for key, run in project.bold_runs.items()}
    by_name |= {key: key for key in project.bold_runs}
    missing = project.bold_runs.keys() - {by_name.get(name) for name in named}
    unknown = [name for name in named if name not in by_name]
    if missing or unknown or len(named) != len(project.bold_runs):
        raise InputError(
            f"list of runs {order}",
            expected=f"the {len(project.bold_runs)} BOLD files of the project, each in a line",
            found=f"{len(named)} lines; not in the project: {', '.join(unknown[:5]) or 'none'}; "
            f"not in the list: {', '.join(sorted(missing)[:5]) or 'none'}",
            remedy="Write the names of the files in the order in which they were stacked.",
        )
    return [by_name[name] for name in named]


def _embeddings(keys: list[str], stacked: NDArray[Any]) -> Iterator[tuple[Partition, Result]]:
    for key, run in zip(keys, stacked, strict=True):
        features = np.array(run, dtype=np.float32)
        mask = _has_signal(features)
        features[~mask] = 0
        yield (
            {BOLD_RUN: key},
            Result(
                arrays={"features": features, "vertex_mask": mask},
                facts={"source": "imported", **asdict(collapse_measures(features[mask]))},
            ),
        )


def _has_signal(features: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(np.ptp(features, axis=1) > 0)


def read_correlation(project: Project, file: Path) -> Found:
    """Check an average correlation, (vertices, vertices), as the tutorial saves it.

    Parameters
    ----------
    project : Project
        Its BOLD and label files tell how many vertices there are.
    file : Path
        A .npy file. A vertex has no signal if its row and column are all zero, or all NaN as
        ``numpy.corrcoef`` leaves them.

    Returns
    -------
    Found
        One output of ``average_correlation``.

    Raises
    ------
    InputError
        If the file is no correlation matrix, or does not fit the project.
    """
    subject = f"correlation file {file}"
    stored = read_numbers(file, "correlation", ("vertices", "vertices"))
    if stored.shape[0] != stored.shape[1]:
        raise InputError(
            subject,
            expected="as many rows as columns",
            found=f"shape {stored.shape}",
            remedy="Save the whole matrix of correlations between vertices.",
        )
    _check_vertices(project, subject, stored.shape, axis=0)
    correlation = np.array(stored, dtype=np.float32)
    diagonal = correlation.diagonal()
    mask = np.isfinite(diagonal) & (diagonal != 0)
    _clear(subject, correlation, mask)
    _check_correlation(subject, correlation, mask)
    mean, no_runs = float(correlation.mean(dtype=np.float64)), np.zeros((0, len(mask)), np.bool_)
    result = correlation_result(correlation, mean, mask, no_runs, [])
    return Found("average_correlation", [(WHOLE, result)])


def _clear(subject: str, correlation: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
    """Set the rows and columns of vertices without signal to zero, if there is nothing in them."""
    if not mask.any():
        raise InputError(
            subject,
            expected="ones on the diagonal",
            found="only zeros or NaN",
            remedy="Save the correlations themselves.",
        )
    for rows in (correlation[~mask], correlation[:, ~mask].T):
        if np.any(np.isfinite(rows) & (rows != 0)):
            raise InputError(
                subject,
                expected="no correlations of a vertex that has none with itself",
                found="some",
                remedy="Set such a vertex's row and column to zero, or mend its diagonal to 1.",
            )
    correlation[~mask] = 0
    correlation[:, ~mask] = 0


def _check_correlation(
    subject: str, correlation: NDArray[np.float32], mask: NDArray[np.bool_]
) -> None:
    asymmetry = largest = 0.0
    for start in range(0, len(correlation), ROWS):
        rows = correlation[start : start + ROWS]
        if n_bad := int((~np.isfinite(rows)).any(axis=1).sum()):
            raise _not_finite(subject, f"{n_bad} of the vertices from {start} on")
        asymmetry = max(
            asymmetry, float(np.abs(rows - correlation[:, start : start + ROWS].T).max())
        )
        largest = max(largest, float(np.abs(rows).max()))
    off_unit = float(np.abs(correlation.diagonal()[mask] - 1).max())
    problems = {
        f"differs from its transpose by up to {asymmetry:.2g}": asymmetry > MAX_ASYMMETRY,
        f"has values up to {largest:.4g}": largest > 1 + MAX_OFF_UNIT,
        f"has a diagonal that is off 1 by up to {off_unit:.2g}": off_unit > MAX_OFF_UNIT,
    }
    wrong = [what for what, holds in problems.items() if holds]
    if wrong:
        raise InputError(
            subject,
            expected="a symmetric matrix of correlations with ones on the diagonal",
            found=f"one that {' and '.join(wrong)}",
            remedy="Save the average of numpy.corrcoef over runs, before any thresholding.",
        )


def _check_vertices(project: Project, subject: str, shape: tuple[int, ...], axis: int) -> None:
    known = next(_known_vertices(project), None)
    if known is not None and known[1] != shape[axis]:
        exchanged = known[1] == shape[-1]
        raise InputError(
            subject,
            expected=f"{known[1]} vertices, as {known[0]} has",
            found=f"{shape[axis]}" + (f", in an array of shape {shape}" if exchanged else ""),
            remedy="Exchange its axes: numpy.save(path, array.swapaxes(1, 2))."
            if exchanged
            else "Take the file that belongs to the same mesh.",
        )


def _known_vertices(project: Project) -> Iterator[tuple[str, int]]:
    """Yield what tells the number of vertices: stored BOLD, else its files, else label files."""
    with suppress(InputError):  # who brings a correlation needs no BOLD
        for bold in project.current("bold", BOLD_RUN):
            yield f"BOLD run {bold.partition[BOLD_RUN]}", int(bold.facts["n_vertices"])
        for key, run in project.bold_runs.items():
            with suppress(InputError):
                recording = read_recording(project, run)
                if recording.unusable is None:
                    yield f"BOLD run {key}", int(recording.facts["n_vertices"])
    if project.label_vertices is not None:
        yield project.label_vertices


def _not_finite(subject: str, where: str) -> InputError:
    return InputError(
        subject,
        expected="finite numbers",
        found=f"NaN or infinity in {where}",
        remedy="Mend what it was made from, and export it again.",
    )


def read_checkpoint(
    project: Project,
    file: Path,
    *,
    n_heads: int = 8,
    confidence: Literal["key", "tutorial"] = "tutorial",
) -> Found:
    """Check a checkpoint that the tutorial's notebook wrote; no code in it is run.

    Parameters
    ----------
    project : Project
        Its BOLD files tell how many timepoints the weights must take.
    file : Path
        A .pth file.
    n_heads : int
        Attention heads: the one number that the weights do not tell.
    confidence : {"tutorial", "key"}
        How the encoder treats the confidence weights, which are untrained: the published code
        cancels them, so 'tutorial' leaves them out.

    Returns
    -------
    Found
        The output of ``trained_model``.

    Raises
    ------
    InputError
        If the file is no such checkpoint, or was trained on runs of another length.
    """
    from trend_dagster.orchestration.assets.features import model_result
    from trend_dagster.project.model import load_tutorial_checkpoint

    model, origin = load_tutorial_checkpoint(file, n_heads=n_heads, confidence=confidence)
    _check_timepoints(project, file, model.n_timepoints)
    facts = {"n_timepoints": model.n_timepoints, "origin": origin}
    result = model_result(model, (), {"origin": origin}, facts)
    settings = {"autoencoder": model.config.model_dump()}
    return Found("trained_model", [(WHOLE, result)], settings)


def _check_timepoints(project: Project, file: Path, n_timepoints: int) -> None:
    """Compare with the stored runs, or with the first file where none is stored yet."""
    stored = project.current("bold", BOLD_RUN)
    known = {v.partition[BOLD_RUN]: int(v.facts["n_timepoints"]) for v in stored}
    if not known:
        key, run = next(iter(project.bold_runs.items()))
        known = {key: read_run(run, project.mask_of(run)).signal.shape[1]}
    crop = project.settings.cohort.lengths == "crop"
    for key, length in known.items():
        if length < n_timepoints or (length > n_timepoints and not crop):
            raise InputError(
                f"checkpoint {file}",
                expected=f"weights for the {length} timepoints of BOLD run {key}",
                found=f"weights for {n_timepoints}",
                remedy="Import it into a project with runs of that length. Runs that are longer "
                "can be cut: `cohort: {lengths: crop}` in trend.yaml.",
            )


READERS: dict[str, Reader] = {
    "embeddings": read_embeddings,
    "correlation": read_correlation,
    "checkpoint": read_checkpoint,
}
"""What can be imported, by the name that the command and the page give it."""
