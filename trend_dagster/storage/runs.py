"""Find and read BOLD runs in the formats that labs have, one run at a time.

A run is one file (.npy, .dtseries.nii, .nii with a mask) or a pair, one file per hemisphere
(.func.gii, .time.gii, .mgh, .mgz). Names are read the way BIDS derivatives of fMRIPrep, NiBabies
and XCP-D write them: https://bids-specification.readthedocs.io/en/stable/derivatives/imaging.html.
"""

from __future__ import annotations

import gzip
import json
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.orientation import lies_wrong_way
from trend_dagster.storage.arrays import is_companion, key_of, read_bold
from trend_dagster.storage.gifti import check_external, external_files, read_series
from trend_dagster.storage.sides import (
    SIDES,
    check_side,
    hemisphere_of,
    hemispheres_equal,
    told_by_header,
)
from trend_dagster.storage.space import DENSITY, Side, Source, Subcortex, VertexSpace

SOURCE_OF: Mapping[str, Source] = {
    ".dtseries.nii": "cifti",
    ".func.gii": "gifti",
    ".time.gii": "gifti",
    ".func.gii.gz": "gifti",
    ".time.gii.gz": "gifti",
    ".gii": "gifti",  # FreeSurfer's and AFNI's; names of surfaces, labels and maps are none
    ".mgh": "freesurfer",
    ".mgz": "freesurfer",
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".npy": "npy",
}
IN_PAIRS = frozenset({"gifti", "freesurfer"})
CORTEX: Mapping[str, Side] = {
    "CIFTI_STRUCTURE_CORTEX_LEFT": "L",
    "CIFTI_STRUCTURE_CORTEX_RIGHT": "R",
}
BLOCK_TIMEPOINTS = 64  # read from a file at a time, so that no second copy of a run is held

# Entities that tell how a recording was processed, not which one it is.
PROCESSING = ("hemi", "space", "cohort", "den", "res", "desc")
# Entities in which the runs of a cohort are alike, or somebody has said that they need not be.
ALIKE = {
    "task": ("task", "tasks"),
    "echo": ("echo", "echoes"),
    "part": ("part of the signal", "parts of the signal"),
    "rec": ("reconstruction", "reconstructions"),
    "space": ("space", "spaces"),
    "cohort": ("cohort of a template", "cohorts of a template"),
    "den": ("density", "densities"),
    "res": ("resolution", "resolutions"),
    "desc": ("description", "descriptions"),
}
_ENTITY = re.compile(r"(?:^|_)([a-z]+)-([A-Za-z0-9+]+)(?=[_.]|$)")
_FORMAT_ENTITY = re.compile(r"_(space|den|res|desc)-([A-Za-z0-9+]+)")
_COHORT = re.compile(r"_cohort-[A-Za-z0-9+]+")
_NOT_BOLD = re.compile(r"\.(dscalar|dlabel|ptseries|pscalar|plabel|dconn|pconn)$|_(mask|boldref)$")
_NOT_SERIES = re.compile(
    r"\.(surf|label|shape|coord|topo|vector|rgba?|tensor|white|pial|midthickness|inflated|sphere|"
    r"thickness|curv|sulc|area)$"
)
_LIKE_BOLD = re.compile(
    r"(_bold\.|\.(func|time)\.gii|\.(npz|mat|dtseries)\b|\.(mgh|mgz|nii|img|gii)\.)"
)

VERTICES = {
    **{f"den-{name}": n for n, name in DENSITY.items()},
    **{"den-91k": 32492, "den-170k": 59292},  # grayordinates
    **{f"space-fsaverage{i}": 10 * 4**i + 2 for i in range(3, 7)},
}
"""Vertices in each hemisphere that an entity of a name stands for."""

LONG_NAMES = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "reconstruction": "rec",
    "direction": "dir",
    "density": "den",
    "resolution": "res",
    "description": "desc",
}
"""Entities by the names that BIDS spells out, for who writes them so."""

Choice = Mapping[str, str | tuple[str, ...] | None]


@dataclass(frozen=True)
class BoldRun:
    """One run: its file, or its files of the left and the right hemisphere.

    Parameters
    ----------
    key : str
        Partition key.
    files : tuple of Path
        One, or left and right.
    source : str
        Format.
    entities : mapping of str to str
        What the name tells the way BIDS does: ``sub``, ``task``, ``space`` and others.
    """

    key: str
    files: tuple[Path, ...]
    source: Source
    entities: Mapping[str, str]

    @property
    def name(self) -> str:
        """Names of its files, for people."""
        return ", ".join(file.name for file in self.files)

    @property
    def sidecars(self) -> tuple[Path, ...]:
        """JSON sidecars that are there."""
        found = (file.with_name(_stem(file) + ".json") for file in self.files)
        return tuple(path for path in found if path.is_file())


@dataclass(frozen=True)
class RawRun:
    """What the files of a run hold.

    Parameters
    ----------
    signal : ndarray of shape (n_vertices, n_timepoints), float32
        In the files' own units; 0 where the file holds no signal of a vertex.
    space : VertexSpace
        What the rows are.
    repetition_time : float, optional
        Seconds between volumes, where header or sidecar tell it.
    told_by : str
        ``header``, ``sidecar`` or ``nothing``.
    notes : tuple of str
        What is odd about the files and should be known.
    """

    signal: NDArray[np.float32]
    space: VertexSpace
    repetition_time: float | None
    told_by: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """What the headers of a run's files tell at once.

    Parameters
    ----------
    n_volumes : int, optional
        How many there are.
    n_rows : int, optional
        Vertices of both hemispheres.
    n_vertices : mapping of str to int
        Vertices of each hemisphere (``L``, ``R``); empty where that is not known.
    repetition_time : float, optional
        Seconds between volumes.
    told_by : str
        As of :class:`RawRun`; ``unknown`` where only reading the whole file tells.
    """

    n_volumes: int | None
    n_rows: int | None
    n_vertices: Mapping[Side, int]
    repetition_time: float | None
    told_by: str


def _ending(path: Path) -> str | None:
    # The longest first: ".func.gii.gz" before ".gii".
    fitting = [ending for ending in SOURCE_OF if path.name.endswith(ending)]
    ending = max(fitting, key=len, default=None)
    if ending == ".gii" and _NOT_SERIES.search(path.name.removesuffix(ending)):
        return None
    return ending


def _stem(path: Path) -> str:
    return path.name.removesuffix(_ending(path) or "")


def entities_of(name: str) -> dict[str, str]:
    """Entities of a name that is written the way BIDS does (``sub-01_task-rest_bold``)."""
    return dict(_ENTITY.findall(name))


def find_runs(
    folder: Path,
    choose: Choice | None = None,
    left_out: Callable[[str], bool] = lambda key: False,
) -> dict[str, BoldRun]:
    """Find the runs of a folder: files in it, and in `sub-*/func` or `sub-*/ses-*/func` below it.

    Parameters
    ----------
    folder : Path
        Where to look.
    choose : mapping of str to str or tuple of str, optional
        Which runs to take, by entities of their names: ``{"task": "rest", "space": "fsLR"}``. A
        tuple takes several; None does not choose.
    left_out : callable, optional
        Whether the run of a key is left out: its files are not read, and may lack a hemisphere.

    Returns
    -------
    dict of str to BoldRun
        By key, sorted. The key is the name without hemisphere, space, cohort, density,
        resolution and description.

    Raises
    ------
    InputError
        If there are none, if several files claim one key, if a hemisphere is missing, if a name
        is not UTF-8, or if there are runs of several tasks, spaces, echoes ... and nothing chooses.
    """
    if not folder.is_dir():
        raise InputError(
            f"BOLD folder {folder}",
            expected=f"a folder with runs ({', '.join(SOURCE_OF)})",
            found="no such folder",
            remedy="Make it and put the files there, or name another one in trend.yaml (inputs).",
        )
    wanted = {
        LONG_NAMES.get(name, name): (value,) if isinstance(value, str) else tuple(value)
        for name, value in (choose or {}).items()
        if value is not None
    }
    groups: dict[str, dict[str, list[tuple[Side | None, Path]]]] = {}
    seen: list[Path] = []
    for path in _candidates(folder):
        seen.append(path)
        check_name(path, "BOLD file")
        entities = entities_of(_stem(path))
        if not all(fits(entities.get(name), values) for name, values in wanted.items()):
            continue
        side, rest = _hemisphere(path)
        key = _run_key(path, rest)
        # One recording on the templates of two cohorts is there in two versions.
        one = key if path.suffix == ".npy" else _COHORT.sub("", key)
        groups.setdefault(one, {}).setdefault(rest + str(_ending(path)), []).append((side, path))
    if not seen:
        raise _none_at_all(folder)
    if not groups:
        raise _none_chosen(folder, seen, wanted)
    runs = [_one_run(key, several, left_out) for key, several in groups.items()]
    _check_whole(runs)
    _check_alike(folder, runs, wanted)
    return {run.key: run for run in sorted(runs, key=lambda run: run.key)}


def unread_files(folder: Path) -> dict[str, str]:
    """Files that look like BOLD and are in no format that is read, by name, with what to do."""
    why = f"no format that is read ({', '.join(SOURCE_OF)}): convert it"
    shape = "by its name a map (.shape.gii): call a series .func.gii"
    return {
        path.name: shape if path.name.endswith(".shape.gii") else why
        for path in _places(folder)
        if _ending(path) is None
        and _LIKE_BOLD.search(path.name)
        and not path.name.endswith((".json", ".tsv", ".txt", ".html", ".svg"))
        and path.is_file()
        and not _is_data_of(path)
    }


def _is_data_of(path: Path) -> bool:
    """Whether a file holds the numbers of a GIFTI file beside it, as Workbench names them."""
    header = path.with_suffix("")
    with suppress(InputError):  # said where it is read
        return header.suffix == ".gii" and path in external_files(header)
    return False


def _none_at_all(folder: Path) -> InputError:
    entries = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(entries[:3]) + (", ..." if len(entries) > 3 else "")
    unread = "".join(f" ({why})" for why in sorted(set(unread_files(folder).values()))[:1])
    remedy = (
        "Put the files there, name another folder in trend.yaml (inputs.bold), or convert them"
        f"{unread}."
    )
    if (whole := _whole_folder(folder)) is not None:
        remedy = f"Name the folder that holds sub-*: `inputs: {{bold: {whole}}}`."
    return InputError(
        f"BOLD folder {folder}",
        expected=f"at least one run ({', '.join(SOURCE_OF)})",
        found=f"{len(entries)} entries, none of them one: {shown}" if entries else "nothing in it",
        remedy=remedy,
    )


def _whole_folder(folder: Path) -> Path | None:
    """Folder with subjects in it that is meant where one too low or too high is named."""
    above = folder
    while re.match(r"(sub|ses)-|func$", above.name):  # sub-01/ses-1/func
        above = above.parent
    holds = (above,) if above != folder else (d for d in sorted(folder.glob("*")) if d.is_dir())
    return next((d for d in holds if any(sub.is_dir() for sub in d.glob("sub-*"))), None)


def _none_chosen(
    folder: Path, seen: list[Path], wanted: Mapping[str, tuple[str, ...]]
) -> InputError:
    there: dict[str, set[str]] = {}
    for path in seen:
        for name, value in entities_of(_stem(path)).items():
            there.setdefault(name, set()).add(value)
    told = [
        f"{name}: {', '.join(sorted(there[name])[:5])}" if name in there else f"no {name}-"
        for name in wanted
    ]
    return InputError(
        f"BOLD folder {folder}",
        expected="runs with " + ", ".join(f"{n}-{'|'.join(v)}" for n, v in wanted.items()),
        found=f"{len(seen)} files, none of them with these ({'; '.join(told)}; names have "
        f"{', '.join(sorted(there)) or 'no entities'})",
        remedy="Correct inputs.select (or space, density, desc) in trend.yaml.",
    )


def fits(value: str | None, wanted: tuple[str, ...]) -> bool:
    """Tell whether an entity's value is one of those wanted; run-01 is run 1."""
    if value is None:
        return False
    return any(
        value == one or (value.isdigit() and one.isdigit() and int(value) == int(one))
        for one in wanted
    )


def _check_whole(runs: list[BoldRun]) -> None:
    """Refuse .npy files of a hemisphere each: the two would be two runs on half of the vertices."""
    halves: dict[str, BoldRun] = {}
    for run in runs:
        side, rest = hemisphere_of(run.key)
        if run.source != "npy" or side is None or re.search("left|right", run.key, re.IGNORECASE):
            continue  # a task may be done with the left hand
        if (other := halves.setdefault(rest, run)) is not run:
            raise InputError(
                f"BOLD files {other.name}, {run.name}",
                expected="one .npy of both hemispheres: the vertices of the left mesh in the first "
                "rows, then those of the right one",
                found="one for each hemisphere",
                remedy="Join them: numpy.save(path, numpy.concatenate([left, right])).",
            )


def _check_alike(folder: Path, runs: list[BoldRun], wanted: Mapping[str, tuple[str, ...]]) -> None:
    """Make sure that a folder with runs of several kinds is taken whole only where it is said."""
    for entity, kinds in ALIKE.items():
        counts: dict[str, int] = {}
        for run in runs:
            # The whole name of a .npy is the key, and its words are its author's own.
            value = run.entities.get(entity)
            if value is not None and (entity == "task" or run.source != "npy"):
                counts[value] = counts.get(value, 0) + 1
        if len(counts) > 1 and entity not in wanted:
            shown = ", ".join(f"{value} ({n} runs)" for value, n in sorted(counts.items()))
            listed = ", ".join(sorted(counts))
            one = "rest" if entity == "task" else min(counts)
            raise InputError(
                f"BOLD folder {folder}",
                expected=f"runs of one {kinds[0]}, or a choice",
                found=f"several {kinds[1]}: {shown}",
                remedy=f"Say which to take in trend.yaml: `inputs: {{select: {{{entity}: {one}}}}}"
                f"`, or all of them: `select: {{{entity}: [{listed}]}}`.",
            )


def _places(folder: Path) -> Iterator[Path]:
    below = [d for pattern in ("sub-*/func", "sub-*/ses-*/func") for d in folder.glob(pattern)]
    for place in (folder, *sorted(below)):
        yield from (path for path in sorted(place.glob("*")) if not is_companion(path))


def _candidates(folder: Path) -> Iterator[Path]:
    for path in _places(folder):
        if _ending(path) is None or _NOT_BOLD.search(_stem(path)):
            continue
        # A compressed CIFTI file is told so where it is read.
        if path.parent == folder or _stem(path).removesuffix(".dtseries").endswith("_bold"):
            yield path


def check_name(path: Path, what: str) -> None:
    """Make sure that a name can be shown and stored.

    Raises
    ------
    InputError
        If it is not UTF-8.
    """
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{what} {path.name!a}",
            expected="a file name in UTF-8",
            found="bytes that are not",
            remedy="Rename it; `convmv -f latin1 -t utf8` does so for whole folders.",
        ) from None


def _hemisphere(path: Path) -> tuple[Side | None, str]:
    stem = _stem(path)
    return hemisphere_of(stem) if SOURCE_OF[str(_ending(path))] in IN_PAIRS else (None, stem)


def _run_key(path: Path, rest: str) -> str:
    if path.suffix == ".npy":  # the whole name: nobody writes several formats as .npy
        return key_of(path)
    return key_of(Path(_FORMAT_ENTITY.sub("", rest).removesuffix("_bold")))


def _one_run(
    key: str,
    several: Mapping[str, list[tuple[Side | None, Path]]],
    left_out: Callable[[str], bool],
) -> BoldRun:
    (name, files), *others = several.items()
    rest = name.removesuffix(str(_ending(files[0][1])))
    source = SOURCE_OF[str(_ending(files[0][1]))]
    if others and all(SOURCE_OF[str(_ending(g[0][1]))] == "npy" for g in several.values()):
        first, second, *_ = (group[0][1] for group in several.values())
        raise InputError(
            f"BOLD file {second.name!r}",
            expected="a name of its own after unsafe characters are made '_'",
            found=f"the same key {key!r} as {first.name!r}",
            remedy="Rename one of the two.",
        )
    if others or (source not in IN_PAIRS and len(files) > 1):
        names = [group[0][1].name for group in several.values()]
        names = names if others else [path.name for _, path in files]
        raise InputError(
            f"BOLD run {key}",
            expected="one file or one pair of hemispheres",
            found=f"several: {', '.join(names)}",
            remedy="Say which to take in trend.yaml, for instance `inputs: {select: {space: "
            "fsLR}}`; or rename.",
        )
    if source in IN_PAIRS:
        sides = [side for side, _ in files]
        if sorted(sides, key=str) != ["L", "R"] and not left_out(_run_key(files[0][1], rest)):
            raise InputError(
                f"BOLD run {key}",
                expected="two files, hemi-L and hemi-R (or lh and rh), of one format",
                found=", ".join(path.name for _, path in files),
                remedy="Put the other hemisphere's file beside it, or leave the run out: "
                f"`inputs: {{exclude: {{{_run_key(files[0][1], rest)}: WHY}}}}`.",
            )
        files = sorted(files, key=lambda item: str(item[0]))
    paths = tuple(path for _, path in files)
    return BoldRun(_run_key(paths[0], rest), paths, source, entities_of(_stem(paths[0])))


def brain_mask_of(run: BoldRun) -> Path | None:
    """Mask that fMRIPrep writes beside a volume (``desc-brain_mask``), if it is there."""
    stem = re.sub(r"(_desc-[A-Za-z0-9+]+)?(_bold)?$", "", _stem(run.files[0])) + "_desc-brain_mask"
    found = (run.files[0].with_name(stem + ending) for ending in (".nii.gz", ".nii"))
    return next((path for path in found if path.is_file()), None)


def read_run(
    run: BoldRun,
    mask: Path | None = None,
    n_vertices: Mapping[Side, int] | None = None,
    n_labels: int | None = None,
) -> RawRun:
    """Read a run.

    Parameters
    ----------
    run : BoldRun
        Which.
    mask : Path, optional
        For volumes: a NIfTI that is not 0 where voxels are wanted.
    n_vertices : mapping of str to int, optional
        Vertices of each hemisphere of the mesh, where the settings name one.
    n_labels : int, optional
        Vertices that label files have: they tell the way of an array of which nothing else does.

    Raises
    ------
    InputError
        If its files cannot be read, do not fit together, lie the wrong way round, or are not of
        the hemispheres that their names say.
    """
    mesh = n_vertices or {}
    if run.source == "npy":
        signal = read_bold(run.files[0])
        odd = _check_way(run.files[0], signal, sum(mesh.values()) or None, n_labels=n_labels)
        raw = RawRun(signal, VertexSpace("npy", {}), None, "nothing", tuple(odd))
    elif run.source == "cifti":
        raw = _read_cifti(run.files[0])
    elif run.source == "nifti":
        raw = _read_nifti(run.files[0], mask)
    else:
        raw = _read_pair(run, mesh)
    if run.source != "nifti":
        half = len(raw.signal) // 2 if len(raw.signal) % 2 == 0 else 0
        if hemispheres_equal(raw.signal, raw.space.n_vertices.get("L", half)):
            raise InputError(
                f"BOLD run {run.key}",
                expected="two hemispheres",
                found=f"the same series in both ({run.name}): one is a copy of the other",
                remedy="Export the hemisphere that is missing.",
            )
    raw = replace(raw, notes=(*raw.notes, *_notes_on_name(run, raw.space)))
    told = _sidecar_time(run)
    if told is None:
        return raw
    notes = raw.notes
    if raw.repetition_time is not None and not np.isclose(told, raw.repetition_time, rtol=0.01):
        notes += (
            f"the sidecar says a repetition time of {told:g} s, the header {raw.repetition_time:g} "
            "s; the sidecar is believed",
        )
    return replace(raw, repetition_time=told, told_by="sidecar", notes=notes)


def read_header(run: BoldRun) -> Header | None:
    """Read what the headers of a run's files tell; None of a damaged one, said where it is read."""
    with suppress(Exception):
        header = _HEADERS[run.source](run)
        told = _sidecar_time(run)
        return header if told is None else replace(header, repetition_time=told, told_by="sidecar")
    return None


def _npy_header(run: BoldRun) -> Header:
    rows, columns = np.load(run.files[0], mmap_mode="r", allow_pickle=False).shape
    # Where there are more columns, rows may be timepoints: its values tell when they are read.
    return Header(columns, rows if rows >= columns else None, {}, None, "nothing")


def _pair_header(run: BoldRun) -> Header:
    of = _gifti_header if run.source == "gifti" else _mgh_header
    parts = [of(path) for path in run.files]
    counts: dict[Side, int] = {s: p.n_rows for s, p in zip(SIDES, parts, strict=True) if p.n_rows}
    known = next((part for part in parts if part.repetition_time is not None), parts[0])
    if len(counts) < len(SIDES):
        counts = {}
    return replace(
        known,
        n_volumes=parts[0].n_volumes,
        n_rows=sum(counts.values()) or None,
        n_vertices=counts,
    )


_STEP = re.compile(
    rb"TimeStep(?:\]\]>)?\s*</Name>\s*<Value>\s*(?:<!\[CDATA\[)?\s*([^\]<]*)", re.IGNORECASE
)
_HEADER_BYTES = 2**16


def _gifti_header(path: Path) -> Header:
    """What stands before the first array: its data is megabytes, and there is one a volume."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        before, data, _ = file.read(_HEADER_BYTES).partition(b"<Data>")
    n_arrays = re.search(rb'NumberOfDataArrays="(\d+)"', before)
    several = n_arrays is not None and int(n_arrays[1]) > 1  # or one for all volumes
    one = re.search(rb'Dimensionality="1"', before) and b"NODE_INDEX" not in before
    n = re.search(rb'Dim0="(\d+)"', before) if several and one else None
    step = _STEP.search(before)
    time = _milliseconds(step[1].decode()) if step else None
    return Header(
        int(n_arrays[1]) if several and n_arrays else None,
        int(n[1]) if n else None,
        {},
        None if time is None else time / 1000,
        "header" if time is not None else "nothing" if data else "unknown",
    )


def _mgh_header(path: Path) -> Header:
    from nibabel.freesurfer.mghformat import MGHHeader

    with (gzip.open if path.suffix == ".mgz" else open)(path, "rb") as file:
        header: Any = MGHHeader.from_fileobj(file)  # type: ignore[no-untyped-call]
    n, *others = header.get_data_shape()
    time = _mgh_time(header)
    told_by = "nothing" if time is None else "header"
    return Header(int(np.prod(others)), int(n), {}, time, told_by)


def _cifti_header(run: BoldRun) -> Header:
    image = load_cifti(run.files[0])
    models, time = _cifti_axes(image, run.files[0])
    counts = {side: n for side, _, _, n in models}
    told_by = "header" if time is not None else "step 0"
    return Header(image.shape[0], sum(counts.values()), counts, time, told_by)


def _nifti_header(run: BoldRun) -> Header:
    image = load_image(run.files[0], "NIfTI file")
    time = _nifti_time(image)
    return Header(image.shape[3], None, {}, time, "nothing" if time is None else "header")


_HEADERS: Mapping[Source, Callable[[BoldRun], Header]] = {
    "npy": _npy_header,
    "gifti": _pair_header,
    "freesurfer": _pair_header,
    "cifti": _cifti_header,
    "nifti": _nifti_header,
}


def _notes_on_name(run: BoldRun, space: VertexSpace) -> Iterator[str]:
    """What the name says of the mesh, where the file has another."""
    for entity, value in run.entities.items():
        n = VERTICES.get(f"{entity}-{value}")
        if n is not None and any(found != n for found in space.n_vertices.values()):
            found = " and ".join(map(str, sorted(set(space.n_vertices.values()))))
            yield (
                f"{run.files[0].name} says {entity}-{value}, {n} vertices in each hemisphere, and "
                f"the files have {found}: named wrongly, or resampled"
            )


_NUMPY = "numpy.save(path, array.T)"


def _check_way(
    path: Path,
    signal: NDArray[np.float32],
    n_vertices: int | None,
    how: str = _NUMPY,
    n_labels: int | None = None,
) -> list[str]:
    """Refuse volumes in rows; where nothing tells, say what is odd."""
    rows, columns = signal.shape
    if n_vertices is not None and n_vertices in (rows, columns):
        wrong: bool | None = rows != n_vertices
    else:
        wrong = lies_wrong_way(signal)
    if wrong is None and n_labels in (rows, columns):
        wrong = rows != n_labels
    if wrong:
        raise _bad(
            path,
            "vertices in rows, timepoints in columns",
            f"{rows} rows and {columns} columns: the wrong way round",
            f"Transpose it: {how}.",
        )
    if wrong is None and columns > rows:
        return [
            f"{path.name} has more timepoints ({columns}) than vertices ({rows}); if its rows are "
            "timepoints, transpose it"
        ]
    return []


def _sidecar_time(run: BoldRun) -> float | None:
    times = set()
    for path in run.sidecars:
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
            value = content.get("RepetitionTime") if isinstance(content, dict) else None
            if value is not None:
                times.add(float(value))
        except (ValueError, TypeError, OSError) as error:
            raise _unreadable(path, "JSON with a RepetitionTime in seconds", error) from error
    if len(times) > 1 or any(not 0 < time < float("inf") for time in times):
        raise InputError(
            f"sidecar of BOLD run {run.key}",
            expected="one RepetitionTime above 0",
            found=", ".join(map(str, sorted(times))),
            remedy="Mend the JSON file.",
        )
    return times.pop() if times else None


def _unreadable(path: Path, expected: str, error: Exception) -> InputError:
    detail = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(
        f"file {path}",
        expected=expected,
        found=f"something that cannot be read ({detail})",
        remedy="Copy it again from where it came from; it may be truncated.",
    )


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn what nibabel raises on a damaged file into words.

    Raises
    ------
    InputError
        In place of it.
    """
    try:
        yield
    except (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise _unreadable(path, f"a complete {what}", error) from error
    except (MemoryError, OverflowError) as error:  # what its header claims
        raise _unreadable(path, f"a {what} that fits into memory", error) from error
    except (zlib.error, ExpatError) as error:
        raise _unreadable(path, f"a complete {what}", error) from error
    except Exception as error:
        if not type(error).__module__.startswith("nibabel."):  # it has a class for each format
            raise
        raise _unreadable(path, f"a complete {what}", error) from error


def load_image(path: Path, what: str) -> Any:
    """Open an image with nibabel; a damaged one is an InputError."""
    import nibabel as nib

    with reading(path, what), warnings.catch_warnings():
        # nibabel reads on where a GIFTI file has fewer arrays than it says.
        warnings.filterwarnings("error", "Actual # of data arrays")
        try:
            image = nib.load(path)
        except UserWarning as error:
            raise ValueError(str(error)) from error
    if ".gii" in path.suffixes:
        check_external(path, image)
    return image


def _bad(path: Path, expected: str, found: str, remedy: str) -> InputError:
    return InputError(f"BOLD file {path}", expected=expected, found=found, remedy=remedy)


# One file per hemisphere


def _read_pair(run: BoldRun, mesh: Mapping[Side, int]) -> RawRun:
    parts: list[tuple[NDArray[np.float32], float | None]] = []
    notes: list[str] = []
    for path, side in zip(run.files, SIDES, strict=True):
        if run.source == "gifti":
            signal, time, odd = _read_gifti(path, side, mesh.get(side))
            notes += odd
        else:
            signal, time = _read_mgh(path)
        parts.append((signal, time))
    lengths = [signal.shape[1] for signal, _ in parts]
    if lengths[0] != lengths[1]:
        raise InputError(
            f"BOLD run {run.key}",
            expected="hemispheres of one length",
            found=f"{lengths[0]} timepoints in {run.files[0].name}, {lengths[1]} in "
            f"{run.files[1].name}",
            remedy="Check that both files are of the same run, and export it again.",
        )
    times = sorted({time for _, time in parts if time is not None})
    if len(times) > 1 and not np.isclose(times[0], times[1], rtol=1e-4):  # rounded otherwise
        raise InputError(
            f"BOLD run {run.key}",
            expected="one repetition time in both hemispheres",
            found=f"{times[0]} and {times[1]} s",
            remedy="Check that both files are of the same run.",
        )
    counts = {side: len(signal) for side, (signal, _) in zip(SIDES, parts, strict=True)}
    time = times[0] if times else None
    both = np.concatenate([signal for signal, _ in parts])
    space = VertexSpace(run.source, counts)
    return RawRun(both, space, time, "nothing" if time is None else "header", tuple(notes))


def _read_gifti(
    path: Path, side: Side, n_vertices: int | None
) -> tuple[NDArray[np.float32], float | None, list[str]]:
    what = "GIFTI file (.func.gii)"
    image = load_image(path, what)
    check_side(
        "BOLD file",
        path,
        side,
        "Rename the file, or mend its header: wb_command -set-structure.",
        header=told_by_header(image),
        name=False,
    )
    with reading(path, what):
        signal, notes = read_series(path, image, n_vertices)
    if len(image.darrays) == 1 or signal.shape[1] > len(image.darrays):  # one 2-D array
        notes += _check_way(path, signal, n_vertices, "write one array of all vertices a volume")
    steps = {a.meta.get("TimeStep") for a in image.darrays} | {image.meta.get("TimeStep")}
    known = {step for step in (_milliseconds(text) for text in steps if text) if step}
    return signal, known.pop() / 1000 if len(known) == 1 else None, notes


def _milliseconds(text: str) -> float | None:
    """GIFTI's step between volumes; what is no number above 0 says nothing."""
    try:
        step = float(text)
    except ValueError:
        return None
    return step if 0 < step < float("inf") else None


_MGH_FOOTER = 2**20  # bytes; scan parameters and tags behind the data, generously


def _unzipped_mgh(path: Path) -> bytes:
    """Unzip as much as the header says that there is: a small file may hold any number of zeros."""
    from nibabel.freesurfer.mghformat import MGHHeader

    with gzip.open(path) as file:
        header: Any = MGHHeader.from_fileobj(file)  # type: ignore[no-untyped-call]
        n_bytes = int(np.prod(header.get_data_shape(), dtype=np.int64))
        most = header.get_data_offset() + n_bytes * header.get_data_dtype().itemsize + _MGH_FOOTER
        file.seek(0)
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than the {most - _MGH_FOOTER} bytes that its header says")
    return content


def _read_mgh(path: Path) -> tuple[NDArray[np.float32], float | None]:
    what = "FreeSurfer overlay (.mgh, .mgz)"
    from nibabel.freesurfer.mghformat import MGHImage

    with reading(path, what):
        # Not nibabel.load, which leaves the file open.
        image: Any = MGHImage.from_bytes(
            _unzipped_mgh(path) if path.suffix == ".mgz" else path.read_bytes()
        )
        data = np.asarray(image.dataobj).astype(np.float32)
        time = _mgh_time(image.header)
    if data.ndim not in (3, 4) or max(data.shape[1:3]) > 1:
        raise _bad(
            path,
            "a surface overlay of shape (vertices, 1, 1, timepoints)",
            f"shape {data.shape}: a volume?",
            "Sample it onto the surface first (mri_vol2surf).",
        )
    return data.reshape(data.shape[0], -1), time


def _mgh_time(header: Any) -> float | None:
    time = float(header["tr"]) / 1000  # FreeSurfer: milliseconds
    return time if time > 0 else None


# Grayordinates and volumes


def cortex_models(axis: Any) -> list[tuple[Side, NDArray[np.intp], NDArray[np.int64], int]]:
    """Brain models of the cortex, left then right.

    Parameters
    ----------
    axis : BrainModelAxis
        Of a CIFTI-2 file.

    Returns
    -------
    list of (str, ndarray, ndarray, int)
        Side, where its grayordinates are, their vertices, and the vertices of the full mesh.
    """
    places = np.arange(len(axis))
    found = [
        # The slice of the last structure has no end.
        (CORTEX[name], places[columns], np.asarray(model.vertex), int(model.nvertices[name]))
        for name, columns, model in axis.iter_structures()
        if name in CORTEX
    ]
    return sorted(found, key=lambda item: item[0])


def load_cifti(path: Path, subject: str = "BOLD file") -> Any:
    """Open a CIFTI-2 file; CIFTI-1 is refused with the command that converts it."""
    import nibabel as nib

    try:
        with reading(path, "CIFTI-2 file"):
            image = nib.load(path)
    except InputError as error:
        if "'NoneType' object has no attribute 'items'" in error.found:  # nibabel's, of no table
            raise InputError(
                f"{subject} {path}",
                expected="a table of labels",
                found="none",
                remedy="Write it again: wb_command -cifti-label-import.",
            ) from error
        if _is_cifti1(path):
            raise _cifti1(path, subject) from None
        raise
    if not isinstance(image, nib.Cifti2Image):
        if _is_cifti1(path):
            raise _cifti1(path, subject)
        raise InputError(
            f"{subject} {path}",
            expected="a CIFTI-2 file",
            found=type(image).__name__,
            remedy="Check what the file is.",
        )
    return image


def _is_cifti1(path: Path) -> bool:
    """Look for CIFTI-1's XML in the first megabyte, where its header lies."""
    with suppress(OSError), path.open("rb") as file:
        return re.search(rb'<CIFTI[^>]*Version="1(\.0)?"', file.read(1 << 20)) is not None
    return False


def _cifti1(path: Path, subject: str) -> InputError:
    return InputError(
        f"{subject} {path}",
        expected="CIFTI-2",
        found="CIFTI-1",
        remedy=f"Convert it: wb_command -file-convert -cifti-version-convert {path.name} 2 new.nii",
    )


def _cifti_axes(
    image: Any, path: Path
) -> tuple[list[tuple[Side, NDArray[np.intp], NDArray[np.int64], int]], float | None]:
    """Models of the cortex, and the seconds between volumes where the header tells them."""
    from nibabel.cifti2.cifti2_axes import BrainModelAxis, SeriesAxis

    with reading(path, "CIFTI-2 file"):
        axes = [image.header.get_axis(i) for i in range(image.ndim)]
    if len(axes) != 2 or not (
        isinstance(axes[0], SeriesAxis) and isinstance(axes[1], BrainModelAxis)
    ):
        kinds = ", ".join(type(axis).__name__ for axis in axes)
        turned = len(axes) == 2 and isinstance(axes[1], SeriesAxis)
        how = "Turn it: wb_command -cifti-transpose." if turned else "Give the dense series."
        raise _bad(path, "a dense time series (.dtseries.nii)", kinds, how)
    models = cortex_models(axes[1])
    if [side for side, *_ in models] != ["L", "R"]:
        sides = ", ".join(side for side, *_ in models) or "no cortex"
        raise _bad(path, "brain models of the left and right cortex", sides, "Export both.")
    # Step 0 is what tools write that do not know it.
    known = axes[0].unit == "SECOND" and axes[0].step > 0
    return models, float(axes[0].step) if known else None


def _read_cifti(path: Path) -> RawRun:
    image = load_cifti(path)
    models, time = _cifti_axes(image, path)
    counts = {side: n for side, _, _, n in models}
    rows = np.concatenate([models[0][2], models[1][2] + counts["L"]])
    columns = np.concatenate([models[0][1], models[1][1]])
    n_timepoints = image.shape[0]
    signal = np.zeros((sum(counts.values()), n_timepoints), dtype=np.float32)
    with reading(path, "CIFTI-2 file"):
        for start in range(0, n_timepoints, BLOCK_TIMEPOINTS):
            block = np.asarray(image.dataobj[start : start + BLOCK_TIMEPOINTS], dtype=np.float32)
            signal[rows, start : start + len(block)] = block[:, columns].T
    in_data = np.zeros(len(signal), dtype=bool)
    in_data[rows] = True
    space = VertexSpace("cifti", counts, in_data=in_data)
    return RawRun(signal, space, time, "header" if time is not None else "step 0")


def read_subcortex(path: Path) -> tuple[NDArray[np.float32], Subcortex] | None:
    """Series of the voxels of a CIFTI file; None if it has none.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    from nibabel.cifti2.cifti2_axes import BrainModelAxis

    image = load_cifti(path)
    with reading(path, "CIFTI-2 file"):
        axis = image.header.get_axis(1)
        if not isinstance(axis, BrainModelAxis) or axis.surface_mask.all():
            return None
        places = np.flatnonzero(axis.volume_mask)
        models = axis[places]
        signal = np.empty((len(places), image.shape[0]), dtype=np.float32)
        for start in range(0, image.shape[0], BLOCK_TIMEPOINTS):
            block = np.asarray(image.dataobj[start : start + BLOCK_TIMEPOINTS], dtype=np.float32)
            signal[:, start : start + len(block)] = block[:, places].T
    return signal, Subcortex(
        np.asarray(models.voxel, dtype=np.int64),
        np.asarray(models.name, dtype=np.str_),
        tuple(models.volume_shape),
        np.asarray(models.affine, dtype=np.float64),
    )


def _read_nifti(path: Path, mask_path: Path | None) -> RawRun:
    image = load_image(path, "NIfTI file")
    if ".dtseries" in path.name or len(image.shape) == 2:
        raise _bad(
            path,
            "a 4-D volume",
            f"shape {image.shape}: grayordinates, as CIFTI has them",
            "Unzip it if it is compressed, and give it a name that ends with .dtseries.nii.",
        )
    if image.get_data_dtype().kind not in "fiu":
        raise _bad(
            path,
            "floating point or integer numbers",
            f"type {image.get_data_dtype()}",
            "Give the magnitude alone, as numbers.",
        )
    if len(image.shape) != 4:
        raise _bad(
            path, "a 4-D volume", f"shape {image.shape}", "Give the time series, not one volume."
        )
    if image.shape[1] == 1:
        raise _bad(
            path,
            "a volume, for a .nii holds one",
            f"shape {image.shape}: a series on a surface, as FreeSurfer writes it",
            "Convert each hemisphere to an overlay: mri_convert FILE.nii.gz lh.NAME.mgz (and rh).",
        )
    if mask_path is None:
        raise _bad(
            path,
            "a mask of the voxels to use",
            "none beside it and none named",
            "Name one in trend.yaml: inputs.volume_mask.",
        )
    mask_image = load_image(mask_path, "NIfTI mask")
    shape, affine = image.shape[:3], np.asarray(image.affine, dtype=np.float64)
    # A series of one volume is a mask as well: (x, y, z, 1).
    same_shape = mask_image.shape[:3] == shape and set(mask_image.shape[3:]) <= {1}
    if not same_shape or not np.allclose(mask_image.affine, affine, atol=1e-3):
        what = "affine" if same_shape else "shape"
        raise InputError(
            f"mask {mask_path}",
            expected=f"the {what} of {path.name}" + (f", {shape}" if what == "shape" else ""),
            found=f"{mask_image.shape}" if what == "shape" else "another one",
            remedy="Resample the mask to the BOLD (nilearn.image.resample_to_img).",
        )
    with _read_through(mask_path, mask_image, "NIfTI mask") as whole:
        values = np.asarray(whole.dataobj).reshape(shape)
    inside = np.isfinite(values) & (values != 0)  # NaN is what many write outside
    voxels = np.flatnonzero(inside)
    if not len(voxels):
        raise InputError(
            f"mask {mask_path}",
            expected="numbers other than 0 where there is brain",
            found="none",
            remedy="Name another mask (inputs.volume_mask in trend.yaml).",
        )
    signal = np.empty((len(voxels), image.shape[3]), dtype=np.float32)
    with _read_through(path, image, "NIfTI file") as whole:
        for start in range(0, signal.shape[1], BLOCK_TIMEPOINTS):
            block = np.asarray(
                whole.dataobj[..., start : start + BLOCK_TIMEPOINTS], dtype=np.float32
            )
            signal[:, start : start + block.shape[3]] = block[inside]
        time = _nifti_time(image)
    space = VertexSpace("nifti", {}, volume_shape=shape, affine=affine, voxels=voxels)
    notes: tuple[str, ...] = ()
    if not np.array_equal(values[inside], np.round(values[inside])):
        notes = (f"mask {mask_path.name} holds fractions: all voxels other than 0 are inside",)
    return RawRun(signal, space, time, "nothing" if time is None else "header", notes)


@contextmanager
def _read_through(path: Path, image: Any, what: str) -> Iterator[Any]:
    """A volume to be read from front to back, to the checksum at the end of a compressed file.

    nibabel reads a compressed file anew for each part, and never so far that damage is noticed.

    Raises
    ------
    InputError
        If it is damaged.
    """
    from nibabel.fileholders import FileHolder

    with reading(path, what):
        if path.suffix != ".gz":
            yield image
            return
        with gzip.open(path) as file:
            yield type(image).from_file_map({"image": FileHolder(fileobj=file)})
            while file.read(2**20):
                pass


def _nifti_time(image: Any) -> float | None:
    time = float(image.header.get_zooms()[3])
    scale = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}.get(image.header.get_xyzt_units()[1])
    return time * scale if scale is not None and time > 0 else None
