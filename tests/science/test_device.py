"""torch gives what the compiled loops give, on the CPU and on a card."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.science.connectivity.test_correlation import cohort, plain_average
from tests.science.parcellation.test_factorization import block_matrix
from tests.science.solving import factorize
from trend_dagster.errors import CohortError, FactorizationError
from trend_dagster.science._device import full_float32
from trend_dagster.science.connectivity.correlation import CorrelationConfig, correlate_runs
from trend_dagster.science.parcellation.factorization import (
    FactorizationConfig,
    Problem,
    factorize_many,
)

has_card = torch.cuda.is_available()
DEVICES = [
    "cpu-torch",
    pytest.param("cuda", marks=pytest.mark.skipif(not has_card, reason="needs a CUDA card")),
]


@given(
    n=st.integers(6, 60),
    n_labels=st.integers(1, 12),
    k=st.integers(1, 6),
    alpha=st.sampled_from([0.0, 1e-4, 1e-2, 10.0]),
    l1_ratio=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_iterates_are_those_of_scikit_learn(n, n_labels, k, alpha, l1_ratio, seed):
    matrix = block_matrix(n, n_labels, seed).astype(np.float64)
    rng = np.random.default_rng(seed)
    start = {"W0": rng.random((n, k)), "H0": rng.random((k, n))}
    # Two sweeps: on tiny, nearly singular matrices rounding errors grow a thousandfold per sweep.
    theirs = FactorizationConfig(max_iter=2, solver="sklearn")
    ours = FactorizationConfig(max_iter=2, device="cpu-torch")
    a = factorize(matrix, k, alpha, l1_ratio, theirs, **start)
    b = factorize(matrix, k, alpha, l1_ratio, ours, **start)
    assert a.n_iter == b.n_iter
    np.testing.assert_allclose(b.W, a.W, atol=1e-6)
    np.testing.assert_allclose(b.H, a.H, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_lockstep_agrees_with_the_compiled_loops(device):
    problems = [Problem(k, a, 0.4) for k in (2, 8, 5) for a in (1e-4, 1e-2)]
    matrix = block_matrix(120, 4, 5)
    exact = dict(factorize_many(matrix.astype(np.float64), problems))
    for dtype, tolerance in ((np.float64, 1e-6), (np.float32, 5e-3)):
        config = FactorizationConfig(device=device)
        found = list(factorize_many(matrix.astype(dtype), problems, config))
        assert sorted(index for index, _ in found) == list(range(6))
        sweeps = [f.n_iter for _, f in found]
        assert sweeps == sorted(sweeps)
        for index, f in found:
            assert f.W.dtype == dtype
            assert f.converged
            np.testing.assert_allclose(f.W, exact[index].W, atol=tolerance)
            np.testing.assert_allclose(f.H, exact[index].H, atol=tolerance)
            assert f.objective == pytest.approx(exact[index].objective, rel=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("average", ["arithmetic", "fisher"])
@pytest.mark.parametrize("budget", [2.0, 1e-6])
def test_correlation_agrees_with_corrcoef(device, average, budget):
    runs = cohort(40, 4, 8)
    config = CorrelationConfig(average=average, tile=9, memory_budget_gib=budget, device=device)
    found = correlate_runs(runs, config)
    np.testing.assert_allclose(found, plain_average(runs, average == "fisher"), atol=5e-5)
    same = correlate_runs(runs, config.model_copy(update={"device": "cpu"}))
    np.testing.assert_allclose(found, same, atol=2e-6)


def test_true_float32_is_asked_for_and_given_back():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with full_float32():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(has_card, reason="there is a CUDA card")
def test_a_missing_card_is_named():
    with pytest.raises(FactorizationError, match="a CUDA card"):
        factorize(block_matrix(20, 2, 0), 2, 1e-3, 0.4, FactorizationConfig(device="cuda"))
    with pytest.raises(CohortError, match="a CUDA card"):
        correlate_runs(cohort(10, 1, 0), CorrelationConfig(device="cuda"))


@pytest.mark.parametrize("settings_", [{"solver": "sklearn"}, {"smoothness": 1.0}])
def test_what_torch_does_not_solve_is_refused(settings_):
    config = FactorizationConfig(device="cpu-torch", **settings_)
    with pytest.raises(FactorizationError, match="device"):
        factorize(block_matrix(20, 2, 0), 2, 1e-3, 0.4, config, graph=np.eye(20))
