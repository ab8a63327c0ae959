"""Unfinished work that outlives the process: a large matrix and which tiles of it are done."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.files import replace_file

Tile = tuple[int, int]


class ResumableMatrix:
    """A float32 matrix on disk that is filled tile by tile and found again after a crash.

    Parameters
    ----------
    folder : Path
        Where it lies; belongs to one recipe, so what is found there belongs to the same result.
    shape : tuple of int
        Shape of the matrix.
    tile : int
        Vertices along a side of a tile; with another size the work begins anew.

    Attributes
    ----------
    array : ndarray
        The matrix, mapped from disk.
    done : set of (int, int)
        First row and column of the tiles that are complete.
    n_resumed : int
        How many of them were found when it was opened.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], tile: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"matrix-{shape[0]}x{shape[1]}-tile{tile}.npy"
        self._list = path.with_suffix(".done")
        if not path.exists():
            self._list.unlink(missing_ok=True)
        mode: Any = "r+" if path.exists() else "w+"
        self.array: NDArray[np.float32] = np.lib.format.open_memmap(
            path, mode=mode, dtype=np.float32, shape=shape
        )
        if mode == "w+":
            _reserve(path)
        self.done = self._read()
        self.n_resumed = len(self.done)

    def _read(self) -> set[Tile]:
        if not self._list.exists():
            return set()
        lines = self._list.read_text().splitlines(keepends=True)
        # A line without its end is one that the crash cut short.
        whole = [line.split() for line in lines if line.endswith("\n")]
        return {(int(row), int(column)) for row, column in whole}

    def mark(self, tile: Tile) -> None:
        """Note a tile as complete, after its numbers have reached the disk."""
        assert isinstance(self.array, np.memmap)
        self.array.flush()
        with self._list.open("a") as file:
            file.write(f"{tile[0]} {tile[1]}\n")
        self.done.add(tile)


def remembered(
    folders: Mapping[int, Path], part: int, compute: Callable[[], dict[int, dict[str, Any]]]
) -> dict[int, dict[str, NDArray[Any]]]:
    """Compute one part of a long computation, unless it was finished before.

    Parameters
    ----------
    folders : mapping of int to Path
        Folder of unfinished work of each number of components; each gets its own arrays.
    part : int
        Which part.
    compute : callable
        Returns the arrays of each number of components.
    """
    files = {k: folder / f"part-{part}.npz" for k, folder in folders.items()}
    if not all(path.exists() for path in files.values()):
        for k, arrays in compute().items():
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)
            files[k].parent.mkdir(parents=True, exist_ok=True)
            replace_file(files[k], buffer.getvalue())
    found: dict[int, dict[str, NDArray[Any]]] = {}
    for k, path in files.items():
        with np.load(path, allow_pickle=False) as stored:
            found[k] = {name: stored[name] for name in stored.files}
    return found


def _reserve(path: Path) -> None:
    """Take the room of a file on the disk now: where a mapped file finds none, the process dies."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError:
        path.unlink()
        raise
