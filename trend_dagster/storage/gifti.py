"""What the arrays of a GIFTI file mean: their intents are obeyed, never guessed from shapes.

Intents: https://www.nitrc.org/projects/gifti (GIFTI surface data format, version 1.0).
"""

from __future__ import annotations

import mmap
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError

NODE_INDEX = "NIFTI_INTENT_NODE_INDEX"
SERIES = ("NIFTI_INTENT_TIME_SERIES", "NIFTI_INTENT_NORMAL", "NIFTI_INTENT_NONE")
"""Intents that volumes come with: the standard's, Workbench's, and none said; the first counts."""

_EXTERNAL = re.compile(rb"ExternalFileName\s*=\s*[\"']([^\"'<>]+)[\"']")


def external_files(path: Path) -> tuple[Path, ...]:
    """Files that hold the data of a GIFTI file (encoding ``ExternalFileBinary``); mostly none.

    Raises
    ------
    InputError
        If one does not lie beside it: any file of the machine could be read so.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            found = {
                match.group(1).decode("utf-8", "replace") for match in _EXTERNAL.finditer(text)
            }
    except (OSError, ValueError):  # missing or empty: said where it is read
        return ()
    for name in found:
        if str(Path(name)) != Path(name).name:  # ./name lies beside it too
            raise InputError(
                f"GIFTI file {path}",
                expected="its data in it, or in a file beside it",
                found=f"that they lie in {name}",
                remedy="Convert it to one file: wb_command -gifti-convert GZIP_BASE64_BINARY.",
            )
    return tuple(path.with_name(Path(name).name) for name in sorted(found))


def check_external(path: Path, image: Any) -> None:
    """Refuse data of another file that `external_files` does not name, so that no digest has it.

    A parser sees more than a search for names does: an entity for a slash, another encoding, a
    compressed file.

    Raises
    ------
    InputError
        If there is such a file.
    """
    named = {array.ext_fname for array in image.darrays if array.ext_fname}
    if named and not {path.parent / name for name in named} <= set(external_files(path)):
        raise InputError(
            f"GIFTI file {path}",
            expected="its data in it, or in a file beside it that it names plainly",
            found=f"that they lie in {', '.join(sorted(named))}",
            remedy="Convert it to one file: wb_command -gifti-convert GZIP_BASE64_BINARY.",
        )


def read_series(
    path: Path, image: Any, n_vertices: int | None, what: str = "BOLD file"
) -> tuple[NDArray[np.float32], list[str]]:
    """Time series of a GIFTI image, one row per vertex of the mesh.

    Parameters
    ----------
    path : Path
        For messages.
    image : GiftiImage
        What nibabel made of it.
    n_vertices : int or None
        Vertices of the hemisphere's mesh, where something tells them.
    what : str
        What the file is, for messages.

    Returns
    -------
    signal : ndarray of shape (n_vertices, n_timepoints), float32
        0 where a sparse file has no vertex.
    notes : list of str
        Arrays that were left out, in words.

    Raises
    ------
    InputError
        If no array, or arrays of several kinds, could be the series; if they do not fit together;
        or if nothing tells the mesh of a sparse file.
    """
    named = [(_intent(array), array) for array in image.darrays]
    kinds = Counter(name for name, _ in named if name != NODE_INDEX)
    chosen = next((name for name in SERIES if kinds[name]), None)
    others = Counter({name: n for name, n in kinds.items() if name != chosen})
    if chosen is None or any(others[name] for name in SERIES if chosen != SERIES[0]):
        raise InputError(
            f"{what} {path}",
            expected=f"a time series: arrays of intent {SERIES[0]}",
            found=_counted(kinds) or "no array",
            remedy="Export the series alone (wb_command -metric-convert -from-nifti, mri_convert), "
            "or give its arrays that intent.",
        )
    series = [np.asarray(array.data, dtype=np.float32) for name, array in named if name == chosen]
    signal = _side_by_side(path, series, what)
    notes = [f"{path.name}: left out what is no time series: {_counted(others)}"] if others else []
    return lay_out(path, signal, _vertices(path, named, what), n_vertices, what), notes


def read_map(path: Path, image: Any, n_vertices: int | None, what: str) -> NDArray[Any]:
    """One value per vertex: the only array of a GIFTI image that is no list of vertices.

    Parameters
    ----------
    path, image, n_vertices, what
        As :func:`read_series`.

    Returns
    -------
    ndarray of shape (n_vertices,)
        0 where a sparse file has no vertex.

    Raises
    ------
    InputError
        If there are several arrays, or none, or if nothing tells the mesh of a sparse file.
    """
    named = [(_intent(array), array) for array in image.darrays]
    values = [np.asarray(array.data) for name, array in named if name != NODE_INDEX]
    if len(values) != 1 or values[0].size != max(values[0].shape, default=0):
        shapes = ", ".join(str(each.shape) for each in values[:3]) or "none"
        raise InputError(
            f"{what} {path}",
            expected="one number for each vertex",
            found=f"{len(values)} arrays of shape {shapes}"
            if len(values) != 1
            else f"shape {shapes}",
            remedy="Save one map alone (wb_command -metric-merge ... -column 1).",
        )
    return lay_out(path, values[0].ravel(), _vertices(path, named, what), n_vertices, what)


def _intent(array: Any) -> str:
    from nibabel.nifti1 import intent_codes

    return str(intent_codes.niistring[array.intent])


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{n} of intent {name}" for name, n in sorted(kinds.items()))


def _side_by_side(
    path: Path, series: Sequence[NDArray[np.float32]], what: str
) -> NDArray[np.float32]:
    if len(series) == 1 and series[0].ndim == 2:
        return series[0]
    columns = [array.ravel() if array.shape[1:] == (1,) else array for array in series]
    if any(array.ndim != 1 or array.shape != columns[0].shape for array in columns):
        shapes = sorted({str(array.shape) for array in series})
        raise InputError(
            f"{what} {path}",
            expected="one array per volume, or one of shape (vertices, timepoints)",
            found=", ".join(shapes),
            remedy="Export the time series again.",
        )
    return np.stack(columns, axis=1)


def _vertices(path: Path, named: Sequence[tuple[str, Any]], what: str) -> NDArray[np.int64] | None:
    listed = [np.asarray(array.data).ravel() for name, array in named if name == NODE_INDEX]
    if not listed:
        return None
    vertices = listed[0].astype(np.int64)
    twice = len(np.unique(vertices)) < len(vertices)
    if len(listed) > 1 or twice or vertices.min(initial=0) < 0:
        raise InputError(
            f"{what} {path}",
            expected="one list of vertices (NIFTI_INTENT_NODE_INDEX), each in it once",
            found=f"{len(listed)} lists" if len(listed) > 1 else "vertices below 0 or there twice",
            remedy="Export it again for all vertices (AFNI: ConvertDset -pad_to_node).",
        )
    return vertices


def lay_out(
    path: Path,
    values: NDArray[Any],
    vertices: NDArray[np.int64] | None,
    n_vertices: int | None,
    what: str,
) -> NDArray[Any]:
    """Put rows on the vertices that they are of; 0 elsewhere.

    Raises
    ------
    InputError
        If there is not one row per listed vertex, or nothing tells how many vertices there are.
    """
    if vertices is None:
        return values
    highest = int(vertices.max(initial=-1))
    n = n_vertices if n_vertices is not None else len(vertices)
    if len(vertices) != len(values) or highest >= n:
        sizes = f"{len(values)} rows of {len(vertices)} listed vertices, the last {highest}"
        raise InputError(
            f"{what} {path}",
            expected="a row for each vertex of a mesh that the settings name"
            + ("" if n_vertices is None else f", {n_vertices} vertices"),
            found=sizes,
            remedy="Name the mesh (inputs.surface or inputs.surfaces in trend.yaml), or export all "
            "vertices (AFNI: ConvertDset -pad_to_node).",
        )
    full = np.zeros((n, *values.shape[1:]), dtype=values.dtype)
    full[vertices] = values
    return full
