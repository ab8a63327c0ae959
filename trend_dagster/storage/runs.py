"""Find and read BOLD runs in the formats that labs have, one run at a time.

A run is one file (.npy, .dtseries.nii, .nii with a mask) or a pair, one file per hemisphere
(.func.gii, .mgh, .mgz). Names are read the way BIDS derivatives of fMRIPrep, NiBabies and XCP-D
write them: https://bids-specification.readthedocs.io/en/stable/derivatives/imaging.html.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.storage.arrays import find_files, key_of, read_bold
from trend_dagster.storage.space import Side, Source, VertexSpace

SOURCE_OF: Mapping[str, Source] = {
    ".dtseries.nii": "cifti",
    ".func.gii": "gifti",
    ".mgh": "freesurfer",
    ".mgz": "freesurfer",
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".npy": "npy",
}
IN_PAIRS = frozenset({"gifti", "freesurfer"})
SIDES: tuple[Side, Side] = ("L", "R")
CORTEX: Mapping[str, Side] = {
    "CIFTI_STRUCTURE_CORTEX_LEFT": "L",
    "CIFTI_STRUCTURE_CORTEX_RIGHT": "R",
}
BLOCK_TIMEPOINTS = 64  # read from a file at a time, so that no second copy of a run is held

_HEMISPHERE = re.compile(r"(?:^|[._])(hemi-[LR]|lh|rh|L|R)(?=[._]|$)")
_FORMAT_ENTITY = re.compile(r"_(space|den|res|desc)-([A-Za-z0-9+]+)")
_NOT_BOLD = re.compile(r"\.(dscalar|dlabel|ptseries|pscalar|plabel|dconn|pconn)$|_(mask|boldref)$")


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
        ``space``, ``den``, ``desc`` as far as the name tells them.
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
    """

    signal: NDArray[np.float32]
    space: VertexSpace
    repetition_time: float | None
    told_by: str


def _ending(path: Path) -> str | None:
    return next((ending for ending in SOURCE_OF if path.name.endswith(ending)), None)


def _stem(path: Path) -> str:
    return path.name.removesuffix(_ending(path) or "")


def find_runs(folder: Path, choose: Mapping[str, str | None] | None = None) -> dict[str, BoldRun]:
    """Find the runs of a folder: files in it, and in `sub-*/func` or `sub-*/ses-*/func` below it.

    Parameters
    ----------
    folder : Path
        Where to look.
    choose : mapping of str to str or None, optional
        ``space``, ``den`` and ``desc`` to take, where a run is there in several.

    Returns
    -------
    dict of str to BoldRun
        By key, sorted. The key is the name without hemisphere, space, density and description.

    Raises
    ------
    InputError
        If there are none, if several files claim one key, if a hemisphere is missing, or if a name
        is not UTF-8.
    """
    wanted = {name: value for name, value in (choose or {}).items() if value is not None}
    groups: dict[str, dict[str, list[tuple[Side | None, Path]]]] = {}
    seen = 0
    for path in _candidates(folder):
        seen += 1
        check_name(path, "BOLD file")
        if any(_entities(path).get(name) != value for name, value in wanted.items()):
            continue
        side, rest = _hemisphere(path)
        key = _run_key(path, rest)
        groups.setdefault(key, {}).setdefault(rest + str(_ending(path)), []).append((side, path))
    if not seen:
        return {key: BoldRun(key, (p,), "npy", {}) for key, p in find_files(folder, "BOLD").items()}
    if not groups:
        raise InputError(
            f"BOLD folder {folder}",
            expected="runs with " + ", ".join(f"{n}-{v}" for n, v in wanted.items()),
            found=f"{seen} files, none of them with these",
            remedy="Correct space, density or desc in trend.yaml (inputs).",
        )
    return {key: _one_run(key, several) for key, several in sorted(groups.items())}


def _candidates(folder: Path) -> Iterator[Path]:
    below = [d for pattern in ("sub-*/func", "sub-*/ses-*/func") for d in folder.glob(pattern)]
    for place in (folder, *sorted(below)):
        for path in sorted(place.glob("*")):
            if _ending(path) is None or _NOT_BOLD.search(_stem(path)):
                continue
            if place == folder or _stem(path).endswith("_bold"):
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


def _entities(path: Path) -> dict[str, str]:
    return dict(_FORMAT_ENTITY.findall(_stem(path)))


def _hemisphere(path: Path) -> tuple[Side | None, str]:
    stem = _stem(path)
    return hemisphere_of(stem) if SOURCE_OF[str(_ending(path))] in IN_PAIRS else (None, stem)


def hemisphere_of(stem: str) -> tuple[Side | None, str]:
    """Hemisphere that a name without ending tells (None if it does not), and the rest of it."""
    match = _HEMISPHERE.search(stem)
    if match is None:
        return None, stem
    side: Side = "L" if match.group(1) in ("hemi-L", "lh", "L") else "R"
    return side, (stem[: match.start()] + stem[match.end() :]).lstrip("._")


def _run_key(path: Path, rest: str) -> str:
    if path.suffix == ".npy":  # the whole name: nobody writes several formats as .npy
        return key_of(path)
    return key_of(Path(_FORMAT_ENTITY.sub("", rest).removesuffix("_bold")))


def _one_run(key: str, several: Mapping[str, list[tuple[Side | None, Path]]]) -> BoldRun:
    (_, files), *others = several.items()
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
            remedy="Say which to take: space, density or desc in trend.yaml (inputs); or rename.",
        )
    if source in IN_PAIRS:
        sides = [side for side, _ in files]
        if sorted(sides, key=str) != ["L", "R"]:
            raise InputError(
                f"BOLD run {key}",
                expected="two files, hemi-L and hemi-R (or lh and rh)",
                found=", ".join(path.name for _, path in files),
                remedy="Put the other hemisphere's file beside it.",
            )
        files = sorted(files, key=lambda item: str(item[0]))
    paths = tuple(path for _, path in files)
    return BoldRun(key, paths, source, _entities(paths[0]))


def brain_mask_of(run: BoldRun) -> Path | None:
    """Mask that fMRIPrep writes beside a volume (``desc-brain_mask``), if it is there."""
    stem = re.sub(r"(_desc-[A-Za-z0-9+]+)?(_bold)?$", "", _stem(run.files[0])) + "_desc-brain_mask"
    found = (run.files[0].with_name(stem + ending) for ending in (".nii.gz", ".nii"))
    return next((path for path in found if path.is_file()), None)


def read_run(run: BoldRun, mask: Path | None = None) -> RawRun:
    """Read a run.

    Parameters
    ----------
    run : BoldRun
        Which.
    mask : Path, optional
        For volumes: a NIfTI that is not 0 where voxels are wanted.

    Raises
    ------
    InputError
        If its files cannot be read, do not fit together, or lie the wrong way round.
    """
    if run.source == "npy":
        signal = read_bold(run.files[0])
        raw = RawRun(signal, VertexSpace("npy", {}), None, "nothing")
    elif run.source == "cifti":
        raw = _read_cifti(run.files[0])
    elif run.source == "nifti":
        raw = _read_nifti(run.files[0], mask)
    else:
        raw = _read_pair(run)
    n_vertices, n_timepoints = raw.signal.shape
    if n_timepoints > n_vertices:
        raise InputError(
            f"BOLD file {run.files[0]}",
            expected="more vertices (rows) than timepoints (columns)",
            found=f"{n_vertices} rows and {n_timepoints} columns: the wrong way round",
            remedy="Transpose it: numpy.save(path, array.T).",
        )
    told = _sidecar_time(run)
    return raw if told is None else replace(raw, repetition_time=told, told_by="sidecar")


def _sidecar_time(run: BoldRun) -> float | None:
    times = set()
    for path in run.sidecars:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            value = content.get("RepetitionTime") if isinstance(content, dict) else None
            if value is not None:
                times.add(float(value))
        except (ValueError, TypeError, OSError) as error:
            raise _unreadable(path, "JSON with a RepetitionTime in seconds", error) from error
    if len(times) > 1 or any(not time > 0 for time in times):
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
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        yield
    except (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise _unreadable(path, f"a complete {what}", error) from error
    except (zlib.error, ExpatError, ImageFileError, HeaderDataError) as error:
        raise _unreadable(path, f"a complete {what}", error) from error


def load_image(path: Path, what: str) -> Any:
    """Open an image with nibabel; a damaged one is an InputError."""
    import nibabel as nib

    with reading(path, what):
        return nib.load(path)


def _bad(path: Path, expected: str, found: str, remedy: str) -> InputError:
    return InputError(f"BOLD file {path}", expected=expected, found=found, remedy=remedy)


# One file per hemisphere


def _read_pair(run: BoldRun) -> RawRun:
    reader = _read_gifti if run.source == "gifti" else _read_mgh
    parts = [reader(path) for path in run.files]
    lengths = [signal.shape[1] for signal, _ in parts]
    if lengths[0] != lengths[1]:
        raise InputError(
            f"BOLD run {run.key}",
            expected="hemispheres of one length",
            found=f"{lengths[0]} timepoints in {run.files[0].name}, {lengths[1]} in "
            f"{run.files[1].name}",
            remedy="Check that both files are of the same run, and export it again.",
        )
    if parts[0][1] != parts[1][1]:
        raise InputError(
            f"BOLD run {run.key}",
            expected="one repetition time in both hemispheres",
            found=f"{parts[0][1]} and {parts[1][1]} s",
            remedy="Check that both files are of the same run.",
        )
    counts = {side: len(signal) for side, (signal, _) in zip(SIDES, parts, strict=True)}
    time = parts[0][1]
    signal = np.concatenate([signal for signal, _ in parts])
    space = VertexSpace(run.source, counts)
    return RawRun(signal, space, time, "nothing" if time is None else "header")


def _read_gifti(path: Path) -> tuple[NDArray[np.float32], float | None]:
    image = load_image(path, "GIFTI file (.func.gii)")
    with reading(path, "GIFTI file (.func.gii)"):
        arrays = [np.asarray(array.data, dtype=np.float32) for array in image.darrays]
    steps = {a.meta.get("TimeStep") for a in image.darrays} | {image.meta.get("TimeStep")}
    if len(arrays) == 1 and arrays[0].ndim == 2:
        signal = arrays[0]
    elif arrays and all(a.ndim == 1 and a.shape == arrays[0].shape for a in arrays):
        signal = np.stack(arrays, axis=1)
    else:
        shapes = sorted({str(array.shape) for array in arrays}) or ["no arrays"]
        raise _bad(
            path,
            "one array per volume, or one of shape (vertices, timepoints)",
            ", ".join(shapes),
            "Export the time series again.",
        )
    known = {float(step) / 1000 for step in steps if step}  # GIFTI: milliseconds
    return signal, known.pop() if len(known) == 1 and min(known) > 0 else None


def _read_mgh(path: Path) -> tuple[NDArray[np.float32], float | None]:
    what = "FreeSurfer overlay (.mgh, .mgz)"
    from nibabel.freesurfer.mghformat import MGHImage

    with reading(path, what):
        # Not nibabel.load, which leaves the file open.
        content = path.read_bytes()
        image: Any = MGHImage.from_bytes(
            gzip.decompress(content) if path.suffix == ".mgz" else content
        )
        data = np.asarray(image.dataobj).astype(np.float32)
        time = float(image.header["tr"]) / 1000  # FreeSurfer: milliseconds
    if data.ndim not in (3, 4) or max(data.shape[1:3]) > 1:
        raise _bad(
            path,
            "a surface overlay of shape (vertices, 1, 1, timepoints)",
            f"shape {data.shape}: a volume?",
            "Sample it onto the surface first (mri_vol2surf).",
        )
    return data.reshape(data.shape[0], -1), time if time > 0 else None


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
    from nibabel.cifti2.cifti2 import Cifti2HeaderError

    what = "CIFTI-2 file"
    try:
        with reading(path, what):
            try:
                image = nib.load(path)
            except Cifti2HeaderError as error:
                raise ValueError(str(error)) from error
    except InputError:
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
    with path.open("rb") as file:
        return re.search(rb'<CIFTI[^>]*Version="1(\.0)?"', file.read(1 << 20)) is not None


def _cifti1(path: Path, subject: str) -> InputError:
    return InputError(
        f"{subject} {path}",
        expected="CIFTI-2",
        found="CIFTI-1",
        remedy=f"Convert it: wb_command -file-convert -cifti-version-convert {path.name} 2 new.nii",
    )


def _read_cifti(path: Path) -> RawRun:
    from nibabel.cifti2.cifti2_axes import BrainModelAxis, SeriesAxis

    image = load_cifti(path)
    with reading(path, "CIFTI-2 file"):
        axes = [image.header.get_axis(i) for i in range(image.ndim)]
    if len(axes) != 2 or not (
        isinstance(axes[0], SeriesAxis) and isinstance(axes[1], BrainModelAxis)
    ):
        kinds = ", ".join(type(axis).__name__ for axis in axes)
        raise _bad(path, "a dense time series (.dtseries.nii)", kinds, "Give the dense series.")
    models = cortex_models(axes[1])
    if [side for side, *_ in models] != ["L", "R"]:
        sides = ", ".join(side for side, *_ in models) or "no cortex"
        raise _bad(path, "brain models of the left and right cortex", sides, "Export both.")
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
    # Step 0 is what tools write that do not know it.
    time = float(axes[0].step) if axes[0].unit == "SECOND" and axes[0].step > 0 else None
    return RawRun(signal, space, time, "header" if time is not None else "step 0")


def _read_nifti(path: Path, mask_path: Path | None) -> RawRun:
    image = load_image(path, "NIfTI file")
    if len(image.shape) != 4:
        raise _bad(
            path, "a 4-D volume", f"shape {image.shape}", "Give the time series, not one volume."
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
    if mask_image.shape != shape or not np.allclose(mask_image.affine, affine, atol=1e-3):
        what = "shape" if mask_image.shape != shape else "affine"
        raise InputError(
            f"mask {mask_path}",
            expected=f"the {what} of {path.name}" + (f", {shape}" if what == "shape" else ""),
            found=f"{mask_image.shape}" if what == "shape" else "another one",
            remedy="Resample the mask to the BOLD (nilearn.image.resample_to_img).",
        )
    with reading(mask_path, "NIfTI mask"):
        inside = np.asarray(mask_image.dataobj) != 0
    voxels = np.flatnonzero(inside)
    signal = np.empty((len(voxels), image.shape[3]), dtype=np.float32)
    with reading(path, "NIfTI file"):
        # A compressed file is read through for each block: fewer, larger ones.
        step = BLOCK_TIMEPOINTS if path.suffix == ".nii" else 4 * BLOCK_TIMEPOINTS
        for start in range(0, signal.shape[1], step):
            block = np.asarray(image.dataobj[..., start : start + step], dtype=np.float32)
            signal[:, start : start + block.shape[3]] = block[inside]
        time = float(image.header.get_zooms()[3])
    scale = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}.get(image.header.get_xyzt_units()[1])
    space = VertexSpace("nifti", {}, volume_shape=shape, affine=affine, voxels=voxels)
    known = scale is not None and time > 0
    return RawRun(
        signal, space, time * scale if known and scale else None, "header" if known else "nothing"
    )
