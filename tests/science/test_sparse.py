"""Products with sparse matrices are those of SciPy, in single precision."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from trend_dagster.science.sparse import times


def test_compiled_products_are_those_of_scipy(rng: np.random.Generator) -> None:
    series = rng.normal(size=(300, 37)).astype(np.float32)
    for n_rows, dtype in ((300, np.float32), (120, np.float64)):
        near = sp.random_array((n_rows, 300), density=0.05, format="csr", dtype=dtype, rng=rng)
        near.data += 0.1
        for values in (series, series[:, :1], series.T.copy().T, series[:, ::2]):
            expected = near.astype(np.float64) @ values.astype(np.float64)
            np.testing.assert_allclose(times(near, values), expected, atol=1e-5)
