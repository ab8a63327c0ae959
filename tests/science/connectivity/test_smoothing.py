"""Correlations smoothed along the cortex: the plain formula, without near pairs."""

import numpy as np
import scipy.sparse as sp

from trend_dagster.science.connectivity.smoothing import Smoothing, near_pairs, smoother
from trend_dagster.science.surface import Surface, gaussian_weights


def test_smoothing_is_the_plain_formula_without_the_diagonal(
    surface: Surface, rng: np.random.Generator
) -> None:
    n = surface.n_vertices
    correlation = np.corrcoef(rng.normal(size=(n, 30))).astype(np.float32)
    mask = np.ones(n, dtype=bool)
    lazy = Smoothing.along(surface, mask, 24.0, 0)(correlation)
    hollow = correlation - np.eye(n)
    weights = gaussian_weights(surface, 24 / 2.354820045).toarray()
    averages = weights / weights.sum(axis=1, keepdims=True)
    expected = averages @ hollow @ averages.T
    rows, columns = slice(200, 500), slice(100, 1200)
    np.testing.assert_allclose(lazy[rows, columns], expected[rows, columns], atol=1e-6)


def test_vertices_without_signal_neither_give_nor_take(surface: Surface) -> None:
    mask = np.ones(surface.n_vertices, dtype=bool)
    mask[:100] = False
    S = smoother(surface, mask, 24.0)
    assert S[:100].nnz == 0
    assert S[:, :100].nnz == 0
    np.testing.assert_allclose(S[100:].sum(axis=1), 1)


def test_near_pairs_do_not_count(surface: Surface) -> None:
    near = near_pairs(surface, 12.0)
    n = surface.n_vertices
    only_near = near.astype(np.float32).toarray()
    smoothed = Smoothing(sp.csr_array(sp.eye_array(n)), near)(only_near)
    assert not smoothed[slice(0, n), slice(0, n)].any()
