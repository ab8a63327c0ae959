"""The lockstep of coordinate descent on torch tensors, for a card.

The same updates in the same order as the compiled loops. What differs is what suits a card: a
component is updated for all vertices and all factorisations in one operation, and rows that are
zero all over a block are not left out, since many small operations cost more there than wide
ones. Rows that pad a factorisation to the largest number of components stay zero by themselves:
their gradient is l1, which is not negative, and their curvature is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trend_dagster.errors import FactorizationError
from trend_dagster.science._device import Device, full_float32, torch_device
from trend_dagster.science.connectivity.thresholding import BlockMatrix, FloatArray


class TorchLockstep:
    """Many factorisations of one block matrix, advanced together sweep by sweep.

    Parameters
    ----------
    matrix : BlockMatrix
        X.
    starts : sequence of tuple of ndarray of shape (n_components, n_kept)
        W transposed and H of each factorisation, in block order.
    penalty : sequence of tuple of float
        l1 and l2 of each.
    device : {"cpu-torch", "cuda"}
        Where.
    """

    exact = near = True  # each sweep is with X itself, whatever is asked for

    def __init__(
        self,
        matrix: BlockMatrix,
        starts: Sequence[tuple[FloatArray, FloatArray]],
        penalty: Sequence[tuple[float, float]],
        device: Device,
    ) -> None:
        import torch

        place = torch_device(device, FactorizationError)
        self.rows = list(matrix.slices())
        self.X = [torch.from_numpy(np.ascontiguousarray(b)).to(place) for b in matrix.blocks]
        self.problems = list(range(len(starts)))
        self.sizes = [len(Wt) for Wt, _ in starts]
        self.n_cells = len(starts)
        dtype = self.X[0].dtype
        shape = len(starts), max(self.sizes), matrix.n_kept
        self.W, self.H = (torch.zeros(shape, dtype=dtype, device=place) for _ in range(2))
        for problem, (Wt, Ht) in enumerate(starts):
            self.W[problem, : len(Wt)] = torch.from_numpy(np.ascontiguousarray(Wt))
            self.H[problem, : len(Ht)] = torch.from_numpy(np.ascontiguousarray(Ht))
        weights = torch.tensor(penalty, dtype=dtype, device=place)
        self.l1, self.l2 = weights[:, :1], weights[:, 1:]

    def sweep(self) -> FloatArray:
        """Update W, then H; return the violation of each factorisation, of shape (n_cells,)."""
        with full_float32():
            total = self._half(self.W, self.H) + self._half(self.H, self.W)
        violation = np.zeros(self.n_cells)
        violation[self.problems] = total.cpu().numpy()
        return violation

    def _half(self, factor: Any, other: Any) -> Any:
        import torch

        # H X = (X H^T)^T, as X is symmetric.
        product = torch.empty_like(factor)
        for X, rows in zip(self.X, self.rows, strict=True):
            wide = other[:, :, rows].reshape(-1, len(X)) @ X
            product[:, :, rows] = wide.view(*other.shape[:2], -1)
        gram = other @ other.mT
        curvature = torch.diagonal(gram, dim1=1, dim2=2) + self.l2
        step = torch.where(curvature != 0, 1 / curvature, 0)
        violation = torch.zeros(len(self.problems), dtype=torch.float64, device=factor.device)
        for t in range(factor.shape[1]):
            w = factor[:, t]
            gradient = torch.bmm(gram[:, t : t + 1], factor)[:, 0]
            gradient += self.l1 - product[:, t] + self.l2 * w
            projected = torch.where(w == 0, gradient.clamp(max=0), gradient)
            violation += projected.abs().sum(dim=1, dtype=torch.float64)
            factor[:, t] = (w - gradient * step[:, t : t + 1]).clamp(min=0)
        return violation

    def take(self, problem: int) -> tuple[FloatArray, FloatArray]:
        """Return W transposed and H of one factorisation, in block order, and let go of it."""
        at, size = self.problems.index(problem), self.sizes[problem]
        found = self.W[at, :size].cpu().numpy().copy(), self.H[at, :size].cpu().numpy().copy()
        self.problems.remove(problem)
        left = [i for i in range(len(self.W)) if i != at]
        k_max = max((self.sizes[c] for c in self.problems), default=0)
        self.W, self.H = self.W[left, :k_max], self.H[left, :k_max]
        self.l1, self.l2 = self.l1[left], self.l2[left]
        return found
