"""The thresholded correlation matrix, kept as the blocks it is made of.

Step 3 of the method keeps a correlation only where two vertices share a spatial label. Sorted by
label, the result is block diagonal, so that V^2 / L numbers say what the dense matrix says with
V^2. Everything later (starting values, products, norms, connectivity) works block by block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trend_dagster.errors import FactorizationError
from trend_dagster.science.connectivity.settings import Kernel, ThresholdConfig

FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

_STRIPE_ROWS = 1024
_ASYMMETRY_LIMIT = 1e-4
_ROUNDING = 1e-6  # what rounding leaves of a zero is no negative correlation


@dataclass(frozen=True, eq=False)
class BlockMatrix:
    """A symmetric block-diagonal matrix over the vertices of a cortex.

    Parameters
    ----------
    blocks : tuple of ndarray of shape (n_l, n_l)
        One symmetric matrix per spatial label, ascending by label.
    permutation : ndarray of shape (n_kept,)
        Original index of each vertex in block order: first all vertices of the first block,
        ascending, then those of the second, and so on.
    n_vertices : int
        All vertices, those without signal included. The latter stand in no block; their rows
        and columns are zero.
    negative_fraction : float
        Share of the used correlations that were negative before `ThresholdConfig.negatives`.
    """

    blocks: tuple[FloatArray, ...]
    permutation: IntArray
    n_vertices: int
    negative_fraction: float = 0.0

    def __post_init__(self) -> None:
        found = sum(len(block) for block in self.blocks)
        if found != len(self.permutation):
            raise FactorizationError(
                "block matrix",
                expected=f"{len(self.permutation)} rows in the blocks, one per vertex",
                found=f"{found}",
                remedy="Read data, block_sizes and permutation from the same store.",
            )

    @property
    def block_sizes(self) -> IntArray:
        """Vertices per block, of shape (n_blocks,)."""
        return np.array([len(block) for block in self.blocks], dtype=np.int64)

    @property
    def n_kept(self) -> int:
        """Vertices with signal: the rows of the matrix that NMF sees."""
        return len(self.permutation)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Floating type of the blocks."""
        return self.blocks[0].dtype if self.blocks else np.dtype(np.float32)

    def slices(self) -> Iterator[slice]:
        """Yield the rows of each block within block order."""
        ends = np.cumsum(self.block_sizes)
        for end, size in zip(ends.tolist(), self.block_sizes.tolist(), strict=True):
            yield slice(end - size, end)

    def members(self) -> Iterator[IntArray]:
        """Yield the original vertex indices of each block, ascending."""
        for rows in self.slices():
            yield self.permutation[rows]

    def astype(self, dtype: type[np.floating[Any]]) -> BlockMatrix:
        """Return the matrix with blocks of another floating type (float64 as a reference)."""
        blocks = tuple(block.astype(dtype, copy=False) for block in self.blocks)
        return BlockMatrix(blocks, self.permutation, self.n_vertices, self.negative_fraction)

    def to_dense(self) -> FloatArray:
        """Return the matrix over all vertices, of shape (n_vertices, n_vertices)."""
        dense = np.zeros((self.n_vertices, self.n_vertices), dtype=self.dtype)
        for block, vertices in zip(self.blocks, self.members(), strict=True):
            dense[np.ix_(vertices, vertices)] = block
        return dense

    def multiply_blocks(self, B: FloatArray) -> FloatArray:
        """Multiply with B of shape (n_kept, m) whose rows are in block order."""
        product = np.empty(B.shape, dtype=np.result_type(self.dtype, B.dtype))
        for block, rows in zip(self.blocks, self.slices(), strict=True):
            np.matmul(block, B[rows], out=product[rows])
        return product

    def squared_norm(self) -> float:
        """Return the sum of squared entries."""
        return float(sum(_sum_of_squares(block) for block in self.blocks))

    def sum(self) -> float:
        """Return the sum of all entries."""
        return float(sum(block.sum(dtype=np.float64) for block in self.blocks))

    def mean(self) -> float:
        """Return the mean over the vertices with signal, zeros between blocks included.

        This is the mean of the matrix that scikit-learn's NMF is given.
        """
        return self.sum() / self.n_kept**2 if self.n_kept else 0.0

    def facts(self) -> dict[str, Any]:
        """Return what is worth looking at of the matrix."""
        sizes = self.block_sizes
        return {
            "n_vertices": self.n_vertices,
            "smallest_label": int(sizes.min()),
            "largest_label": int(sizes.max()),
            "stored_share": int((sizes**2).sum()) / self.n_vertices**2,
            "negative_share": self.negative_fraction,
            "mean": self.mean(),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the plain arrays that say all of the matrix, for a store.

        Returns
        -------
        dict
            ``data``, the blocks one after the other, each row by row; ``block_sizes``;
            ``permutation``.
        """
        data = self._in_one_array()
        return {"data": data, "block_sizes": self.block_sizes, "permutation": self.permutation}

    def _in_one_array(self) -> FloatArray:
        """All blocks one after the other, without a copy where they were made like that."""
        parts = [block.ravel() for block in self.blocks]
        whole = parts[0].base if parts else np.empty(0, dtype=self.dtype)
        if isinstance(whole, np.ndarray) and whole.size == sum(part.size for part in parts):
            starts = whole.ctypes.data + whole.itemsize * np.cumsum([0, *(p.size for p in parts)])
            if whole.ndim == 1 and [p.ctypes.data for p in parts] == starts[:-1].tolist():
                return whole
        return np.concatenate(parts)

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, ArrayLike], n_vertices: int, negative_fraction: float = 0.0
    ) -> BlockMatrix:
        """Rebuild a matrix from what `arrays` returned; the blocks are views of ``data``."""
        data = np.asarray(arrays["data"])
        sizes = np.asarray(arrays["block_sizes"], dtype=np.int64)
        permutation = np.asarray(arrays["permutation"], dtype=np.int64)
        if int((sizes**2).sum()) != data.size:
            raise FactorizationError(
                "block matrix",
                expected=f"{int((sizes**2).sum())} numbers in 'data', as 'block_sizes' says",
                found=f"{data.size}",
                remedy="Read data, block_sizes and permutation from the same store.",
            )
        parts = np.split(data, np.cumsum(sizes**2)[:-1]) if len(sizes) else []
        blocks = tuple(p.reshape(n, n) for p, n in zip(parts, sizes.tolist(), strict=True))
        return cls(blocks, permutation, n_vertices, negative_fraction)


def threshold_by_label(
    correlation: Any,
    labels: NDArray[Any],
    vertex_mask: BoolArray | None = None,
    config: ThresholdConfig | None = None,
) -> BlockMatrix:
    """Keep the correlation of two vertices where they share a spatial label.

    Parameters
    ----------
    correlation : array of shape (n_vertices, n_vertices)
        Symmetric. A numpy array, or anything that gives a numpy array when sliced by rows and
        columns (a zarr array, a memory map): it is read once, in stripes of rows, never whole. Or
        what computes its ``symmetric_blocks``
        (`trend_dagster.science.connectivity.from_runs.SmoothedRuns`).
    labels : ndarray of shape (n_vertices,)
        Spatial label of each vertex. Every value that occurs is a label of its own.
    vertex_mask : ndarray of bool of shape (n_vertices,), optional
        Vertices with signal. The others enter no block. All, if not given.
    config : ThresholdConfig, optional
        What to do with negative correlations.

    Returns
    -------
    BlockMatrix
        One block per label with at least one vertex, ascending by label.

    Raises
    ------
    FactorizationError
        If shapes disagree, or if the used correlations are not finite or not symmetric.
    """
    labels = np.asarray(labels).ravel()
    mask = np.ones(len(labels), bool) if vertex_mask is None else np.asarray(vertex_mask, bool)
    _check_shapes(correlation, labels, mask)
    kept = np.flatnonzero(mask)
    _, label_index = np.unique(labels[kept], return_inverse=True)
    order = np.argsort(label_index, kind="stable")
    sizes = np.bincount(label_index) if len(kept) else np.empty(0, np.int64)
    members = np.split(kept[order], np.cumsum(sizes)[:-1]) if len(sizes) else []
    compute = getattr(correlation, "symmetric_blocks", None)
    blocks = _read_blocks(correlation, members) if compute is None else compute(members)
    policy = (config or ThresholdConfig()).negatives
    negative = sum(_make_non_negative(block, policy) for block in blocks)
    used = sum(block.size for block in blocks)
    return BlockMatrix(
        tuple(blocks), kept[order].astype(np.int64), len(labels), negative / max(used, 1)
    )


def threshold_by_distance(
    correlation: Any,
    distances: Sequence[Any],
    hemispheres: NDArray[Any],
    kernel: Kernel,
    vertex_mask: BoolArray | None = None,
    config: ThresholdConfig | None = None,
) -> BlockMatrix:
    """Weight each correlation by the distance of its vertices, zero between the hemispheres.

    The smooth sibling of `threshold_by_label`: no border cuts a network in two.

    Parameters
    ----------
    correlation : array of shape (n_vertices, n_vertices)
        As for `threshold_by_label`.
    distances : sequence of array of shape (n_h, n_h)
        Geodesic distances in mm between all vertices of each hemisphere, those without signal
        included; hemispheres ascending by their number, vertices ascending. Infinity weighs 0.
        Numpy or zarr arrays, read in stripes of rows.
    hemispheres : ndarray of shape (n_vertices,)
        Hemisphere of each vertex.
    kernel : Kernel
        Weight by distance in mm.
    vertex_mask : ndarray of bool of shape (n_vertices,), optional
        Vertices with signal. All, if not given.
    config : ThresholdConfig, optional
        What to do with negative correlations; applied before weighting.

    Returns
    -------
    BlockMatrix
        One block per hemisphere.

    Raises
    ------
    FactorizationError
        If a distance matrix does not fit its hemisphere, or as for `threshold_by_label`.
    """
    hemispheres = np.asarray(hemispheres).ravel()
    matrix = threshold_by_label(correlation, hemispheres, vertex_mask, config)
    numbers, side = np.unique(hemispheres, return_inverse=True)
    vertices_of = [np.flatnonzero(side == number) for number in range(len(numbers))]
    _check_distances(distances, vertices_of)
    for block, members in zip(matrix.blocks, matrix.members(), strict=True):
        number = side[members[0]]
        rows = np.searchsorted(vertices_of[number], members)
        _weight_block(block, distances[number], rows, kernel)
    return matrix


def equal_labels(distances: Sequence[Any], kernel: Kernel) -> float:
    """Return how local a smooth encoding is, as a number of labels.

    L labels of equal size leave V^2 / L of the V^2 correlations. Weights between 0 and 1 leave
    their sum, so that V^2 over the sum is the number of equal labels that would leave as much.

    Parameters
    ----------
    distances : sequence of array of shape (n_h, n_h)
        As for `threshold_by_distance`.
    kernel : Kernel
        Weight by distance in mm.

    Returns
    -------
    float
        The number of hemispheres for an infinite width, of vertices for none.
    """
    left = 0.0
    for distance in distances:
        for start in range(0, distance.shape[0], _STRIPE_ROWS):
            d = np.asarray(distance[start : start + _STRIPE_ROWS], dtype=np.float64)
            left += float(kernel(d).sum())
    return float(sum(distance.shape[0] for distance in distances) ** 2 / left)


def _weight_block(block: FloatArray, distance: Any, rows: IntArray, kernel: Kernel) -> None:
    for start in range(0, len(rows), _STRIPE_ROWS):
        near = rows[start : start + _STRIPE_ROWS]
        first = int(near[0])
        # A range of rows: distances may lie on the disk.
        d = np.asarray(distance[first : int(near[-1]) + 1], dtype=block.dtype)
        d = d[near - first][:, rows]
        block[start : start + _STRIPE_ROWS] *= kernel(d)


def _read_blocks(correlation: Any, members: Sequence[IntArray]) -> list[FloatArray]:
    """Read every block in one pass over stripes of rows."""
    blocks = empty_blocks([len(m) for m in members])
    n_vertices = correlation.shape[0]
    chunks = getattr(correlation, "chunks", None)
    height = chunks[0] * max(_STRIPE_ROWS // chunks[0], 1) if chunks else _STRIPE_ROWS
    for start in range(0, n_vertices, height):
        stop = min(start + height, n_vertices)
        spans = [np.searchsorted(m, [start, stop]) for m in members]
        present = [i for i, (a, b) in enumerate(spans) if b > a]
        if not present:
            continue
        # Labels mostly live in one hemisphere: columns that no label here reaches are not read.
        low = min(int(members[i][0]) for i in present)
        high = max(int(members[i][-1]) for i in present) + 1
        stripe = np.asarray(correlation[start:stop, low:high])
        for i in present:
            a, b = spans[i]
            blocks[i][a:b] = stripe[np.ix_(members[i][a:b] - start, members[i] - low)]
    for block in blocks:
        _check_block(block)
    return blocks


def empty_blocks(sizes: Sequence[int]) -> list[FloatArray]:
    """Square blocks of float32 one after the other in one array, as a store keeps them."""
    parts = np.split(np.empty(sum(n**2 for n in sizes), np.float32), np.cumsum(np.square(sizes)))
    return [part.reshape(n, n) for part, n in zip(parts, sizes, strict=False)]


def _make_non_negative(block: FloatArray, policy: str) -> int:
    """Apply a policy for negatives in place; return how many entries were negative."""
    negative = 0
    for start in range(0, len(block), _STRIPE_ROWS):
        rows = block[start : start + _STRIPE_ROWS]
        negative += int(np.count_nonzero(rows < -_ROUNDING))
        if policy == "clip":
            np.maximum(rows, 0, out=rows)
        elif policy == "shift":
            rows += 1
            rows *= 0.5
        else:
            np.abs(rows, out=rows)
    return negative


def _sum_of_squares(block: FloatArray) -> float:
    # By stripes: a float64 copy of a whole hemisphere would double the memory in use.
    rows = range(0, len(block), _STRIPE_ROWS)
    return float(sum(np.square(block[i : i + _STRIPE_ROWS], dtype=np.float64).sum() for i in rows))


def _check_block(block: FloatArray) -> None:
    for start in range(0, len(block), _STRIPE_ROWS):
        stripe = slice(start, start + _STRIPE_ROWS)
        if not np.isfinite(block[stripe]).all():
            raise FactorizationError(
                "correlation",
                expected="finite numbers between vertices with signal",
                found="NaN or infinity",
                remedy="Mask vertices without signal with vertex_mask.",
            )
        asymmetry = float(np.abs(block[stripe] - block[:, stripe].T).max(initial=0.0))
        if asymmetry > _ASYMMETRY_LIMIT:
            raise FactorizationError(
                "correlation",
                expected="a symmetric matrix",
                found=f"entries that differ by {asymmetry:.2g} from their mirror image",
                remedy="Pass (C + C.T) / 2, or look for what broke the symmetry.",
            )


def _check_shapes(correlation: Any, labels: NDArray[Any], mask: BoolArray) -> None:
    n = len(labels)
    if tuple(correlation.shape) != (n, n) or mask.shape != (n,):
        raise FactorizationError(
            "spatial labels",
            expected=f"one label and one mask entry for each of {correlation.shape[0]} vertices",
            found=f"{n} labels and a mask of shape {mask.shape}",
            remedy="Use labels made on the surface that the BOLD runs were sampled on.",
        )


def _check_distances(distances: Sequence[Any], vertices_of: Sequence[IntArray]) -> None:
    expected = [(len(v), len(v)) for v in vertices_of]
    found = [tuple(d.shape) for d in distances]
    if expected != found:
        raise FactorizationError(
            "geodesic distances",
            expected=f"matrices of shapes {expected}",
            found=f"shapes {found}",
            remedy="Give one distance matrix per hemisphere, over all of its vertices.",
        )
