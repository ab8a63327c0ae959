"""Products with sparse matrices are those of SciPy, in single precision."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from trend_dagster.science import sparse
from trend_dagster.science.sparse import compact, products_of_near, times


def test_compiled_products_are_those_of_scipy(rng: np.random.Generator) -> None:
    series = rng.normal(size=(300, 37)).astype(np.float32)
    for n_rows, dtype in ((300, np.float32), (120, np.float64)):
        near = sp.random_array((n_rows, 300), density=0.05, format="csr", dtype=dtype, rng=rng)
        near.data += 0.1
        widths = [series[:, :n] for n in (0, 1, 7, 8, 9, 16, 23, 24, 31, 32, 33)]
        for values in (series, *widths, series.T.copy().T, series[:, ::2], series.astype(float)):
            expected = near.astype(np.float64) @ values.astype(np.float64)
            np.testing.assert_allclose(times(near, values), expected, atol=1e-5)


def test_rows_made_side_by_side_are_those_made_one_after_the_other(rng, monkeypatch) -> None:
    near = sp.random_array((3000, 900), density=0.02, format="csr", dtype=np.float32, rng=rng)
    near = sp.csr_array(sp.vstack([near[:100], sp.csr_array((500, 900)), near[100:]]))
    for n_columns in (5, 40):
        values = rng.normal(size=(900, n_columns)).astype(np.float32)
        expected = times(near, values)
        own = rng.normal(size=(len(expected), n_columns)).astype(np.float32)
        with monkeypatch.context() as patched:
            patched.setattr(sparse, "_WORTH_A_THREAD", 10**5)
            patched.setattr(sparse, "usable_cores", lambda: 3)
            np.testing.assert_array_equal(times(near, values), expected)
            found = products_of_near(own, values, near).data
        np.testing.assert_array_equal(found, products_of_near(own, values, near).data)


def test_compact_matrices_are_the_same_in_fewer_bits(rng) -> None:
    near = sp.random_array((40, 30), density=0.1, format="csr", rng=rng)
    near.indices, near.indptr = near.indices.astype(np.int64), near.indptr.astype(np.int64)
    found = compact(near)
    assert found.indices.dtype == found.indptr.dtype == np.int32
    assert (found != near).nnz == 0
    assert found.dtype == near.dtype


def test_matrices_that_do_not_fit_are_refused(rng) -> None:
    near = sp.random_array((30, 30), density=0.1, format="csr", rng=rng)
    with pytest.raises(ValueError, match="csr of"):
        times(near, np.ones((31, 2)))
    with pytest.raises(ValueError, match="csc of"):
        times(near.tocsc(), np.ones((30, 2)))


def test_products_of_what_is_near_are_those_of_all(rng: np.random.Generator) -> None:
    near = sp.random_array((300, 300), density=0.05, format="csr", dtype=np.float32, rng=rng)
    near.data += 0.1
    series = rng.normal(size=(300, 37)).astype(np.float32)
    other = rng.normal(size=(300, 37)).astype(np.float32)
    every = series.astype(np.float64) @ other.T.astype(np.float64)
    expected = every * (near != 0).toarray()
    np.testing.assert_allclose(products_of_near(series, other, near).toarray(), expected, atol=2e-5)
