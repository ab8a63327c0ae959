"""The block matrix says what the tutorial's dense matrix says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from trend_dagster.errors import FactorizationError
from trend_dagster.science.connectivity import thresholding
from trend_dagster.science.connectivity.settings import Gaussian, ThresholdConfig
from trend_dagster.science.connectivity.thresholding import (
    BlockMatrix,
    equal_labels,
    threshold_by_distance,
    threshold_by_label,
)


def correlation(n: int, seed: int) -> np.ndarray:
    """Make a correlation matrix with signs of both kinds."""
    rng = np.random.default_rng(seed)
    return np.corrcoef(rng.standard_normal((n, 6)) + rng.standard_normal(6)).reshape(n, n)


def tutorial_threshold(matrix: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Keep entries whose row and column share a label, as the tutorial defines it."""
    return np.where(labels[:, None] == labels[None, :], matrix, 0)


labelings = st.integers(1, 40).flatmap(
    lambda n: st.lists(st.integers(-3, 5), min_size=n, max_size=n).map(np.array)
)


@given(labels=labelings, seed=st.integers(0, 99), data=st.data())
@settings(max_examples=60, deadline=None)
def test_blocks_equal_the_dense_formula(labels, seed, data):
    n = len(labels)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    C = correlation(n, seed)
    matrix = threshold_by_label(C, labels, mask)
    expected = tutorial_threshold(np.maximum(C, 0), labels) * np.outer(mask, mask)
    np.testing.assert_allclose(matrix.to_dense(), expected, atol=1e-6)
    np.testing.assert_allclose(matrix.squared_norm(), np.square(expected).sum(), rtol=1e-5)
    if mask.any():
        np.testing.assert_allclose(matrix.mean(), expected[np.ix_(mask, mask)].mean(), rtol=1e-5)
    B = np.random.default_rng(seed).standard_normal((n, 3))
    inner = expected[np.ix_(matrix.permutation, matrix.permutation)] @ B[matrix.permutation]
    np.testing.assert_allclose(matrix.multiply_blocks(B[matrix.permutation]), inner, atol=1e-5)


@given(labels=labelings, seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_arrays_round_trip(labels, seed):
    matrix = threshold_by_label(correlation(len(labels), seed), labels)
    again = BlockMatrix.from_arrays(matrix.arrays(), len(labels))
    np.testing.assert_array_equal(again.to_dense(), matrix.to_dense())
    np.testing.assert_array_equal(again.block_sizes, matrix.block_sizes)


def test_permutation_is_sorted_by_label_and_stable():
    labels = np.array([7, 2, 7, 2, 5])
    matrix = threshold_by_label(correlation(5, 0), labels)
    assert matrix.permutation.tolist() == [1, 3, 4, 0, 2]
    assert matrix.block_sizes.tolist() == [2, 1, 2]


def test_policies_for_negatives():
    C = correlation(9, 3)
    labels = np.zeros(9, int)
    formulas = {"clip": np.maximum(C, 0), "shift": (C + 1) / 2, "abs": np.abs(C)}
    for policy, expected in formulas.items():
        matrix = threshold_by_label(C, labels, config=ThresholdConfig(negatives=policy))
        np.testing.assert_allclose(matrix.to_dense(), expected, atol=1e-6)
        assert matrix.negative_fraction == pytest.approx(np.mean(C < 0))


def test_negative_fraction_counts_used_entries_only():
    C = np.array([[1, 0.5, -0.9], [0.5, 1, -0.9], [-0.9, -0.9, 1]])
    assert threshold_by_label(C, np.array([0, 0, 1])).negative_fraction == 0
    assert threshold_by_label(C, np.zeros(3)).negative_fraction == pytest.approx(4 / 9)


class Sliced:
    """An array on disk: it can be sliced by rows and columns, and counts what is read."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.chunks = (4, 4)
        self.read: list[int] = []

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        assert all(isinstance(k, slice) for k in key)
        part = self.array[key]
        self.read.append(part.size)
        return part


def test_lazy_arrays_are_read_in_stripes_and_once(monkeypatch):
    C = correlation(23, 5)
    labels = np.repeat([0, 1], [11, 12])
    lazy = Sliced(C)
    monkeypatch.setattr(thresholding, "_STRIPE_ROWS", 5)
    np.testing.assert_array_equal(
        threshold_by_label(lazy, labels).to_dense(), threshold_by_label(C, labels).to_dense()
    )
    assert max(lazy.read) <= 4 * 23
    assert sum(lazy.read) < C.size


def test_a_zarr_array_gives_what_numpy_gives():
    C = correlation(30, 6)
    labels = np.arange(30) % 4
    stored = zarr.create_array(store={}, shape=C.shape, chunks=(8, 8), dtype="f8")
    stored[:] = C
    np.testing.assert_array_equal(
        threshold_by_label(stored, labels).to_dense(), threshold_by_label(C, labels).to_dense()
    )


def test_smooth_encoding_equals_its_formula():
    rng = np.random.default_rng(1)
    C = correlation(12, 8)
    hemispheres = np.array([0, 1] * 6)
    points = rng.random((12, 3)) * 50
    d = np.linalg.norm(points[:, None] - points[None], axis=2)
    distances = [d[hemispheres == h][:, hemispheres == h] for h in (0, 1)]
    mask = rng.random(12) > 0.2
    matrix = threshold_by_distance(C, distances, hemispheres, Gaussian(20.0), mask)
    weight = np.exp(-(d**2) / (2 * 20.0**2)) * (hemispheres[:, None] == hemispheres)
    expected = np.maximum(C, 0) * weight * np.outer(mask, mask)
    np.testing.assert_allclose(matrix.to_dense(), expected, atol=1e-6)
    assert len(matrix.blocks) == 2


def test_hardly_anything_is_left_beyond_the_reach_of_a_kernel():
    kernel = Gaussian(3.0)
    weights = kernel(np.array([0.0, kernel.reach_mm, np.inf], dtype=np.float32))
    np.testing.assert_allclose(weights, [1, 0, 0], atol=4e-6)
    assert weights.dtype == np.float32


def test_unreachable_vertices_weigh_nothing():
    C = np.ones((2, 2))
    d = np.array([[0, np.inf], [np.inf, 0]])
    dense = threshold_by_distance(C, [d], np.zeros(2), Gaussian(5.0)).to_dense()
    np.testing.assert_array_equal(dense, np.eye(2))


def test_what_cannot_be_used_is_refused():
    C = correlation(6, 0)
    with pytest.raises(FactorizationError, match="one label"):
        threshold_by_label(C, np.zeros(5))
    broken = C.copy()
    broken[1, 2] = 0.9
    with pytest.raises(FactorizationError, match="symmetric"):
        threshold_by_label(broken, np.zeros(6))
    broken[1, 2] = np.nan
    with pytest.raises(FactorizationError, match="NaN"):
        threshold_by_label(broken, np.zeros(6))
    with pytest.raises(FactorizationError, match="matrices of shapes"):
        threshold_by_distance(C, [np.zeros((5, 5))], np.zeros(6), Gaussian(5.0))
    arrays = threshold_by_label(C, np.zeros(6)).arrays()
    with pytest.raises(FactorizationError, match="36 numbers"):
        BlockMatrix.from_arrays({**arrays, "data": arrays["data"][:-1]}, 6)


def test_the_docs_open_a_stored_matrix_with_numpy_alone():
    text = (Path(__file__).parents[3] / "docs" / "method-engine.md").read_text()
    code = next(p for p in re.findall(r"```python\n(.*?)```", text, re.S) if "block_sizes" in p)
    rng = np.random.default_rng(0)
    C = np.corrcoef(rng.standard_normal((30, 9)))
    matrix = threshold_by_label(C, rng.integers(0, 4, 30), rng.random(30) > 0.2)
    scope = {"np": np, "n_vertices": 30, **matrix.arrays()}
    exec(code, scope)
    np.testing.assert_array_equal(scope["dense"], matrix.to_dense())


def test_a_smooth_encoding_is_as_local_as_a_number_of_equal_labels():
    """No limit leaves the hemispheres; no width leaves each vertex alone; between, in between."""
    x = np.arange(30.0)
    d = np.abs(x[:, None] - x)
    assert equal_labels([d, d], Gaussian(1e6)) == pytest.approx(2)
    assert equal_labels([d, d], Gaussian(1e-3)) == pytest.approx(60)
    # Three labels as walls of distance: weights are those of the labels.
    walls = np.where(np.arange(30)[:, None] // 10 == np.arange(30) // 10, 0.0, np.inf)
    assert equal_labels([walls], Gaussian(1.0)) == pytest.approx(3)
