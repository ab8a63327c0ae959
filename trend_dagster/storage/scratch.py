"""Unfinished work that outlives the process: a large matrix and which tiles of it are done."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from trend_dagster.files import replace_file, sync

Tile = tuple[int, int]


class ResumableMatrix:
    """A matrix of the store that is filled tile by tile and found again after a crash.

    A tile is a chunk of the matrix, in a file of its own. When all are there a draft takes the
    files over as they are (:meth:`~trend_dagster.storage.stores.Draft.adopt`): nothing is copied,
    and the matrix is on the disk once.

    Parameters
    ----------
    array : zarr.Array
        The matrix. It belongs to one recipe, so what is found there belongs to the same result.
    folder : Path
        Folder of the array.

    Attributes
    ----------
    done : set of (int, int)
        First row and column of the tiles that are complete.
    n_resumed : int
        How many of them were found when it was opened.
    """

    def __init__(self, array: zarr.Array[Any], folder: Path) -> None:
        self.array = array
        self.folder = folder
        self._list = folder.with_name(f"{folder.name}.done")
        self.done = self._read()
        self.n_resumed = len(self.done)

    def _files(self, tile: Tile) -> list[Path]:
        """Files of a tile and of its mirror image, which a square matrix has as well."""
        i, j = (start // side for start, side in zip(tile, self.array.chunks, strict=True))
        rows, columns = self.array.cdata_shape
        places = {(i, j), (j, i)} if rows == columns else {(i, j)}
        return [self.folder / "c" / str(row) / str(column) for row, column in sorted(places)]

    def _read(self) -> set[Tile]:
        if not self._list.exists():
            return set()
        lines = self._list.read_text().splitlines(keepends=True)
        # A line without its end is one that the crash cut short.
        whole = [line.split() for line in lines if line.endswith("\n")]
        noted = {(int(row), int(column)) for row, column in whole}
        return {tile for tile in noted if all(path.exists() for path in self._files(tile))}

    def mark(self, tile: Tile) -> None:
        """Note a tile as complete, after its numbers have reached the disk."""
        for path in self._files(tile):
            sync(path)
            sync(path.parent)
        with self._list.open("a") as file:
            file.write(f"{tile[0]} {tile[1]}\n")
        self.done.add(tile)

    def mean(self) -> float:
        """Mean of all numbers, read a row of tiles at a time."""
        n_rows, side = self.array.shape[0], self.array.chunks[0]
        stripes = (np.asarray(self.array[start : start + side]) for start in range(0, n_rows, side))
        total = sum(float(stripe.sum(dtype=np.float64)) for stripe in stripes)
        return total / self.array.size


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
