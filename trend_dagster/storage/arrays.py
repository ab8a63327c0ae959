"""Numpy's .npy: the BOLD and geodesic labels that users bring, and what is written for them."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from trend_dagster.errors import InputError

MOST_CHARACTERS = 200  # file systems take 255, of which names of outputs add some
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_STRIPE = 512
_SUBJECT = re.compile(r"(?:^|_)sub-([A-Za-z0-9]+)(?=_|$)")


def key_of(path: Path) -> str:
    """Partition key of a file: its name without ending, made safe.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    str
        Letters, digits, ``_``, ``-`` and ``.`` only; never starts with a dot.

    Raises
    ------
    InputError
        If it is too long for the names of folders and files that are made of it.
    """
    if len(path.name) > MOST_CHARACTERS:
        raise InputError(
            f"file {path.name}",
            expected=f"a name of at most {MOST_CHARACTERS} characters",
            found=f"{len(path.name)}",
            remedy="Rename it.",
        )
    stem = path.name.removesuffix(".npy").encode("utf-8", "replace").decode()
    key = _UNSAFE.sub("_", stem).lstrip(".")
    return key or f"file_{hashlib.sha256(stem.encode()).hexdigest()[:8]}"


def is_companion(path: Path) -> bool:
    """Tell whether a file is what macOS puts beside another one on foreign drives (``._NAME``)."""
    return path.name.startswith("._")


def subject_of(key: str) -> str | None:
    """Subject that a run belongs to, where its name tells it the way BIDS does.

    Parameters
    ----------
    key : str
        Key of the run, e.g. ``sub-01_ses-1_run-2``.

    Returns
    -------
    str or None
        ``"01"``, or None where there is no ``sub-`` entity.
    """
    match = _SUBJECT.search(key)
    return match.group(1) if match else None


def read_bold(path: Path) -> NDArray[np.float32]:
    """Read one run.

    Parameters
    ----------
    path : Path
        A .npy file of shape (vertices, timepoints), float or integer.

    Returns
    -------
    ndarray of shape (n_vertices, n_timepoints), float32
        The signal in the file's own units. NaN and inf are passed on, for the caller to judge.

    Raises
    ------
    InputError
        If the file cannot be read or is not such an array.
    """
    array = _read_npy(path, "BOLD")
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"BOLD file {path}",
            expected="a 2-D array of shape (vertices, timepoints)",
            found=f"shape {array.shape}",
            remedy="Save one run per file, vertices in rows.",
        )
    if array.dtype.kind not in "fiu":
        raise InputError(
            f"BOLD file {path}",
            expected="floating point or integer numbers",
            found=f"type {array.dtype}",
            remedy="Save it again with numpy.save of a float32 array.",
        )
    return array.astype(np.float32)


def read_labels(path: Path) -> NDArray[np.int64]:
    """Read one geodesic label file.

    Parameters
    ----------
    path : Path
        A .npy file with one non-negative integer per vertex.

    Returns
    -------
    ndarray of shape (n_vertices,), int64
        The label of each vertex.

    Raises
    ------
    InputError
        If the file cannot be read or is not such an array.
    """
    array = _read_integers(path, "geodesic label")
    if array.min() < 0 or array.max() > np.iinfo(np.int64).max:
        raise InputError(
            f"geodesic label file {path}",
            expected="labels from 0 up",
            found=f"a label of {array.min() if array.min() < 0 else array.max()}",
            remedy="Give vertices without a label a label of their own, for instance 0.",
        )
    return array.astype(np.int64)


def read_signed_labels(path: Path) -> NDArray[np.int64]:
    """Read a vector of networks, -1 where there is none.

    Parameters
    ----------
    path : Path
        A .npy file with one integer per vertex.

    Returns
    -------
    ndarray of shape (n_vertices,), int64
        The network of each vertex.

    Raises
    ------
    InputError
        If the file cannot be read or is not such an array.
    """
    return _read_integers(path, "network").astype(np.int64)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read which vertices belong.

    Parameters
    ----------
    path : Path
        A .npy file with one number, or true and false, per vertex.

    Returns
    -------
    ndarray of shape (n_vertices,), bool
        True where it is finite and not 0.

    Raises
    ------
    InputError
        If the file cannot be read or is not such an array.
    """
    array = _read_npy(path, "mask")
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "biuf":
        raise InputError(
            f"mask file {path}",
            expected="a 1-D array with a number, or true and false, per vertex",
            found=f"type {array.dtype}, shape {array.shape}",
            remedy="Save one vector: 1 on cortex, 0 on the medial wall.",
        )
    return np.asarray(np.isfinite(array) & (array != 0))


def read_distances(path: Path) -> NDArray[np.floating[Any]]:
    """Open the geodesic distances of one hemisphere without reading them whole.

    Parameters
    ----------
    path : Path
        A .npy file of shape (vertices, vertices), in mm; infinite where no path leads.

    Returns
    -------
    ndarray of shape (n_vertices, n_vertices)
        Mapped from the file.

    Raises
    ------
    InputError
        If it is not a square matrix of numbers from 0 up, equal to its transpose, with zeros on
        the diagonal.
    """
    distances = read_numbers(path, "geodesic distance", ("vertices", "vertices"))
    wrong = None
    if distances.shape[0] != distances.shape[1]:
        wrong = f"shape {distances.shape}"
    elif distances.diagonal().any():
        wrong = "a vertex that is not at distance 0 of itself"
    else:
        for start in range(0, len(distances), _STRIPE):
            rows = distances[start : start + _STRIPE]
            if not (rows >= 0).all():
                wrong = "NaN or a negative distance"
            elif not np.allclose(rows, distances[:, start : start + _STRIPE].T, rtol=1e-3):
                wrong = "distances there that differ from those back"
    if wrong is not None:
        raise InputError(
            f"geodesic distance file {path}",
            expected="a symmetric (vertices, vertices) matrix in mm with zeros on the diagonal",
            found=wrong,
            remedy="Compute the distances of all vertices of one hemisphere to each other.",
        )
    return distances


def read_numbers(path: Path, what: str, dims: tuple[str, ...]) -> NDArray[Any]:
    """Open an array of floating point numbers without reading it.

    Parameters
    ----------
    path : Path
        A .npy file.
    what : str
        What it is, for messages ("correlation").
    dims : tuple of str
        What each of its dimensions counts.

    Returns
    -------
    ndarray
        Mapped from the file, which stays as it is.

    Raises
    ------
    InputError
        If the file cannot be read or is not such an array.
    """
    array = _read_npy(path, what)
    if array.ndim != len(dims) or 0 in array.shape or array.dtype.kind != "f":
        raise InputError(
            f"{what} file {path}",
            expected=f"floating point numbers of shape ({', '.join(dims)})",
            found=f"type {array.dtype}, shape {array.shape}",
            remedy="Save it again in that shape with numpy.save.",
        )
    return array


def _read_integers(path: Path, what: str) -> NDArray[Any]:
    array = _read_npy(path, what)
    if array.ndim != 1 or array.size == 0:
        raise InputError(
            f"{what} file {path}",
            expected="a 1-D array with one label per vertex",
            found=f"shape {array.shape}",
            remedy="Save one vector per file.",
        )
    if array.dtype.kind not in "iu":
        raise InputError(
            f"{what} file {path}",
            expected="integers",
            found=f"type {array.dtype}",
            remedy="Save it again with labels.astype('int64').",
        )
    return array


def _read_npy(path: Path, what: str) -> NDArray[Any]:
    """Read a .npy file and nothing else; a pickle inside it is refused, for it could run code."""
    try:
        # Not np.load, which also opens archives and leaves a damaged one open. Mapping makes numpy
        # compare the header with the size of the file, and refuse Python objects.
        return np.asarray(open_memmap(path, mode="r"))
    except (ValueError, OSError) as error:
        raise InputError(
            f"{what} file {path}",
            expected="a complete .npy file of plain numbers",
            found=_what_is_wrong(str(error), path),
            remedy="Save it again with numpy.save(path, array.astype('float32')) or copy it again "
            "from where it came from.",
        ) from error


def _what_is_wrong(message: str, path: Path) -> str:
    if not path.is_file():
        return "a folder" if path.is_dir() else "no such file"
    with path.open("rb") as file:
        start = file.read(2)
    if not start:
        return "an empty file"
    if start == b"PK":
        return "an archive (numpy.savez), which holds several arrays or is damaged"
    if "mmap length" in message or "EOF" in message:
        return f"a truncated file of {path.stat().st_size} bytes"
    if "Python objects" in message:
        return "Python objects (a pickle), which could run code when read"
    if "magic string" in message:
        return "something else (perhaps a pickle, which could run code when read)"
    return message


def npy_bytes(array: NDArray[Any]) -> bytes:
    """An array as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
