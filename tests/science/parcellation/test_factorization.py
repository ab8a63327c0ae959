"""The block solver is scikit-learn's coordinate descent, only sooner."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.decomposition import NMF

from tests.science.solving import factorize
from trend_dagster.errors import FactorizationError
from trend_dagster.science.connectivity.thresholding import BlockMatrix, threshold_by_label
from trend_dagster.science.evidence.measures import adjusted_rand_index
from trend_dagster.science.parcellation import factorization
from trend_dagster.science.parcellation._compressed import Compressed, compress
from trend_dagster.science.parcellation.factorization import (
    _TIE,
    Factorization,
    FactorizationConfig,
    Problem,
    factorize_many,
    leading_eigenpairs,
    nndsvda,
    objective,
    penalties,
)
from trend_dagster.science.parcellation.graph_factorization import neighbour_graph
from trend_dagster.science.parcellation.spectral import find_networks

SKLEARN = FactorizationConfig(solver="sklearn")


def networks(n: int, n_networks: int, seed: int) -> np.ndarray:
    """Correlation of simulated vertices that belong to networks."""
    rng = np.random.default_rng(seed)
    series = rng.standard_normal((n_networks, 60))
    noise = 0.7 * rng.standard_normal((n, 60))
    return np.corrcoef(series[rng.integers(0, n_networks, n)] + noise).reshape(n, n)


def block_matrix(n: int, n_labels: int, seed: int) -> BlockMatrix:
    labels = np.random.default_rng(seed).integers(0, n_labels, n)
    return threshold_by_label(networks(n, 5, seed), labels)


def full_start(matrix: BlockMatrix, k: int) -> tuple[np.ndarray, np.ndarray]:
    """NNDSVDa in vertex order."""
    Wt, H = nndsvda(matrix, leading_eigenpairs(matrix, k), k)
    W0 = np.zeros((matrix.n_vertices, k), matrix.dtype)
    H0 = np.zeros((k, matrix.n_vertices), matrix.dtype)
    W0[matrix.permutation], H0[:, matrix.permutation] = Wt.T, H
    return W0, H0


@given(
    n=st.integers(6, 60),
    n_labels=st.integers(1, 12),
    k=st.integers(1, 6),
    alpha=st.sampled_from([0.0, 1e-4, 1e-3, 1e-2]),
    l1_ratio=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_iterates_are_those_of_scikit_learn(n, n_labels, k, alpha, l1_ratio, seed):
    matrix = block_matrix(n, n_labels, seed).astype(np.float64)
    rng = np.random.default_rng(seed)
    W0, H0 = rng.random((n, k)), rng.random((k, n))
    # Two sweeps: on tiny, nearly singular matrices rounding errors grow a thousandfold per sweep.
    config = FactorizationConfig(max_iter=2)
    ours = factorize(matrix, k, alpha, l1_ratio, config, W0=W0, H0=H0)
    theirs = factorize(
        matrix, k, alpha, l1_ratio, config.model_copy(update={"solver": "sklearn"}), W0=W0, H0=H0
    )
    assert ours.n_iter == theirs.n_iter
    np.testing.assert_allclose(ours.W, theirs.W, atol=1e-6)
    np.testing.assert_allclose(ours.H, theirs.H, atol=1e-6)
    assert ours.objective == pytest.approx(theirs.objective, rel=1e-6)


@pytest.mark.parametrize("n_labels", [1, 2, 7])
def test_converged_solutions_are_those_of_scikit_learn(n_labels):
    matrix = block_matrix(150, n_labels, 3).astype(np.float64)
    W0, H0 = full_start(matrix, 8)
    ours = factorize(matrix, 8, 1e-4, 0.4, W0=W0, H0=H0)
    theirs = factorize(matrix, 8, 1e-4, 0.4, SKLEARN, W0=W0, H0=H0)
    assert ours.n_iter == theirs.n_iter > 10
    np.testing.assert_allclose(ours.W, theirs.W, atol=1e-6)
    np.testing.assert_allclose(ours.H, theirs.H, atol=1e-6)


def test_one_label_equals_the_nmf_class_of_scikit_learn():
    C = np.maximum(networks(40, 4, 1), 0)
    matrix = threshold_by_label(C, np.zeros(40)).astype(np.float64)
    W0, H0 = full_start(matrix, 5)
    model = NMF(5, init="custom", alpha_W=1e-3, l1_ratio=0.4, tol=1e-4, max_iter=10000)
    W = model.fit_transform(matrix.to_dense(), W=W0.copy(), H=H0.copy())
    ours = factorize(matrix, 5, 1e-3, 0.4, W0=W0, H0=H0)
    assert ours.n_iter == model.n_iter_
    np.testing.assert_allclose(ours.W, W, atol=1e-8)
    np.testing.assert_allclose(ours.H, model.components_, atol=1e-8)


def test_sklearn_solver_is_the_tutorials_call():
    matrix = block_matrix(50, 3, 2)
    model = NMF(
        4, init="nndsvda", random_state=108, l1_ratio=0.4, max_iter=10000, tol=1e-4, alpha_W=1e-3
    )
    W = model.fit_transform(matrix.to_dense())
    ours = factorize(matrix, 4, 1e-3, 0.4, SKLEARN)
    np.testing.assert_allclose(ours.W, W, atol=1e-5)


def test_objective_is_the_formula_and_never_rises():
    matrix = block_matrix(60, 3, 4).astype(np.float64)
    rng = np.random.default_rng(0)
    W0, H0 = rng.random((60, 5)), rng.random((5, 60))
    l1, l2 = penalties(matrix, 1e-3, 0.4)
    X = matrix.to_dense()
    values = []
    for max_iter in range(1, 25):
        f = factorize(matrix, 5, 1e-3, 0.4, FactorizationConfig(max_iter=max_iter), W0=W0, H0=H0)
        squares = (f.W**2).sum() + (f.H**2).sum()
        plain = 0.5 * np.linalg.norm(X - f.W @ f.H) ** 2
        plain += l1 * (f.W.sum() + f.H.sum()) + 0.5 * l2 * squares
        assert f.objective == pytest.approx(plain, rel=1e-10)
        values.append(f.objective)
    assert values[0] < objective(matrix, W0, H0, l1, l2)
    assert np.all(np.diff(values) <= 1e-9 * values[0])


def test_lockstep_equals_one_by_one():
    matrix = block_matrix(80, 4, 5)
    problems = [Problem(k, a, 0.4) for k in (2, 5, 8) for a in (1e-4, 1e-2)]
    together = dict(factorize_many(matrix, problems, n_threads=2))
    pairs = leading_eigenpairs(matrix, 8)
    assert sorted(together) == list(range(6))
    for i, problem in enumerate(problems):
        alone = factorize(matrix, problem.n_components, problem.alpha_W, 0.4, eigenpairs=pairs)
        assert together[i].n_iter == pytest.approx(alone.n_iter, abs=1)
        np.testing.assert_allclose(together[i].W, alone.W, atol=1e-3)
        assert together[i].objective == pytest.approx(alone.objective, rel=1e-5)


def test_threads_do_not_change_the_result():
    matrix = block_matrix(90, 3, 6)
    one = factorize(matrix, 6, 1e-3, 0.4, n_threads=1)
    two = factorize(matrix, 6, 1e-3, 0.4, n_threads=2)
    np.testing.assert_array_equal(one.W, two.W)


def test_finished_factorisations_come_first():
    matrix = block_matrix(80, 4, 7)
    problems = [Problem(k, 1e-4, 0.4) for k in (8, 2, 5)]
    sweeps = [f.n_iter for _, f in factorize_many(matrix, problems)]
    assert sweeps == sorted(sweeps)


@given(seed=st.integers(0, 200))
@settings(max_examples=15, deadline=None)
def test_permuting_vertices_permutes_the_factors(seed):
    rng = np.random.default_rng(seed)
    C, labels = networks(40, 4, seed), rng.integers(0, 3, 40)
    order = rng.permutation(40)
    config = FactorizationConfig(max_iter=30)
    a = factorize(threshold_by_label(C, labels).astype(np.float64), 4, 1e-4, 0.4, config)
    shuffled = threshold_by_label(C[np.ix_(order, order)], labels[order]).astype(np.float64)
    b = factorize(shuffled, 4, 1e-4, 0.4, config)
    np.testing.assert_allclose(b.W, a.W[order], atol=1e-6)
    np.testing.assert_allclose(b.H, a.H[:, order], atol=1e-6)


def test_renaming_labels_changes_nothing():
    C, labels = networks(60, 4, 9), np.random.default_rng(9).integers(0, 4, 60)
    renamed = np.array([30, 10, 40, 20])[labels]
    a = factorize(threshold_by_label(C, labels), 5, 1e-4, 0.4)
    b = factorize(threshold_by_label(C, renamed), 5, 1e-4, 0.4)
    np.testing.assert_allclose(a.W, b.W, atol=1e-4)
    assert a.n_iter == b.n_iter


def test_float32_agrees_with_float64():
    matrix = block_matrix(100, 4, 10)
    single = factorize(matrix, 6, 1e-4, 0.4)
    double = factorize(matrix.astype(np.float64), 6, 1e-4, 0.4)
    assert single.W.dtype == np.float32
    assert single.objective == pytest.approx(double.objective, rel=1e-4)
    np.testing.assert_allclose(single.W, double.W, atol=5e-3)


def test_blocks_of_one_vertex_and_labels_of_zeros():
    C = np.eye(7)
    C[:2, :2] = 0.8 + 0.2 * np.eye(2)
    C[5:, 5:] = 0
    matrix = threshold_by_label(C, np.array([0, 0, 1, 2, 3, 4, 4])).astype(np.float64)
    W0, H0 = full_start(matrix, 3)
    ours = factorize(matrix, 3, 1e-3, 0.4, W0=W0, H0=H0)
    theirs = factorize(matrix, 3, 1e-3, 0.4, SKLEARN, W0=W0, H0=H0)
    np.testing.assert_allclose(ours.W, theirs.W, atol=1e-8)
    assert np.isfinite(ours.W).all()
    np.testing.assert_array_equal(ours.W[5:], 0)


def test_vertices_without_signal_have_zero_factors_and_no_part():
    C, labels = networks(30, 3, 11), np.random.default_rng(11).integers(0, 2, 30)
    mask = np.random.default_rng(12).random(30) > 0.3
    masked = factorize(threshold_by_label(C, labels, mask), 3, 1e-3, 0.4)
    cut = factorize(threshold_by_label(C[np.ix_(mask, mask)], labels[mask]), 3, 1e-3, 0.4)
    np.testing.assert_array_equal(masked.W[~mask], 0)
    np.testing.assert_array_equal(masked.H[:, ~mask], 0)
    np.testing.assert_array_equal(masked.W[mask], cut.W)


def test_a_penalty_too_large_empties_w_without_an_error():
    ours = factorize(block_matrix(40, 4, 13), 4, 10.0, 0.4)
    assert not ours.W.any()
    assert ours.converged


def test_giving_up_is_told():
    config = FactorizationConfig(max_iter=2)
    ours = factorize(block_matrix(40, 2, 14), 4, 1e-4, 0.4, config)
    assert (ours.n_iter, ours.converged) == (2, False)
    sklearn = config.model_copy(update={"solver": "sklearn"})
    assert not factorize(block_matrix(40, 2, 14), 4, 1e-4, 0.4, sklearn).converged


# --- Eigenpairs and NNDSVDa


@given(n=st.integers(3, 50), n_labels=st.integers(1, 8), seed=st.integers(0, 500))
@example(n=13, n_labels=6, seed=475)
@settings(max_examples=30, deadline=None)
def test_eigenpairs_of_blocks_are_those_of_the_matrix(n, n_labels, seed):
    matrix = block_matrix(n, n_labels, seed).astype(np.float64)
    k = min(n, 6)
    pairs = leading_eigenpairs(matrix, k)
    spectrum = np.linalg.eigvalsh(matrix.to_dense())
    expected = np.sort(np.abs(spectrum))[::-1][:k]
    # Values as near as this count as equal, and which of them come first is another rule's.
    np.testing.assert_allclose(np.abs(pairs.values), expected, atol=_TIE * expected[0] * k)
    rows = list(matrix.slices())
    for value, vector, block in zip(pairs.values, pairs.vectors, pairs.block, strict=True):
        assert len(vector) == rows[block].stop - rows[block].start
        residual = matrix.blocks[block] @ vector - value * vector
        assert np.linalg.norm(residual) < 1e-8


def test_large_blocks_take_lanczos_to_the_same_pairs():
    C = networks(200, 12, 15)
    matrix = threshold_by_label(C, np.zeros(200)).astype(np.float64)
    pairs = leading_eigenpairs(matrix, 5)
    expected = np.sort(np.abs(np.linalg.eigvalsh(matrix.to_dense())))[::-1][:5]
    np.testing.assert_allclose(np.abs(pairs.values), expected, rtol=1e-8)


@pytest.mark.parametrize("block", [np.zeros((120, 120)), np.eye(120), np.ones((120, 120))])
def test_large_blocks_without_a_spectrum_to_iterate_on(block):
    matrix = threshold_by_label(block, np.zeros(120)).astype(np.float64)
    pairs = leading_eigenpairs(matrix, 4)
    expected = np.sort(np.abs(np.linalg.eigvalsh(block)))[::-1][:4]
    np.testing.assert_allclose(np.abs(pairs.values), expected, atol=1e-8)
    for value, vector in zip(pairs.values, pairs.vectors, strict=True):
        np.testing.assert_allclose(block @ vector, value * vector, atol=1e-6)


def test_nndsvda_beginning_is_shared():
    matrix = block_matrix(50, 3, 16)
    pairs = leading_eigenpairs(matrix, 8)
    large, small = nndsvda(matrix, pairs, 8), nndsvda(matrix, pairs, 3)
    for a, b in zip(large, small, strict=True):
        np.testing.assert_array_equal(a[:3], b)


def test_nndsvda_is_scikit_learns_on_an_exact_svd():
    matrix = threshold_by_label(networks(40, 5, 17), np.zeros(40)).astype(np.float64)
    Wt, H = nndsvda(matrix, leading_eigenpairs(matrix, 4), 4)
    # With as many components as the randomised SVD can be exact for, scikit-learn starts alike.
    model = NMF(4, init="nndsvda", max_iter=1, tol=1e30, random_state=0)
    from sklearn.decomposition._nmf import _initialize_nmf

    W_ref, H_ref = _initialize_nmf(matrix.to_dense(), 4, init=model.init, random_state=0)
    np.testing.assert_allclose(Wt.T, W_ref, atol=1e-3)
    np.testing.assert_allclose(H, H_ref, atol=1e-3)


def test_sign_rule_for_a_negative_eigenvalue():
    # Spectrum 1, -1 on (1, 1) / sqrt 2 and (1, -1) / sqrt 2: no part is longer, so the largest
    # entry, the first if equal, is the positive one; W takes it, and H the other.
    matrix = threshold_by_label(np.array([[0.0, 1.0], [1.0, 0.0]]), np.zeros(2))
    pairs = leading_eigenpairs(matrix.astype(np.float64), 2)
    np.testing.assert_allclose(pairs.values, [1, -1], atol=1e-12)
    Wt, H = nndsvda(matrix.astype(np.float64), pairs, 2)
    np.testing.assert_allclose(Wt[1], [np.sqrt(0.5), matrix.mean()])
    np.testing.assert_allclose(H[1], [matrix.mean(), np.sqrt(0.5)])


def test_equal_eigenvalues_go_by_first_vertex():
    C = np.zeros((6, 6))
    for pair in ((0, 3), (1, 4), (2, 5)):
        C[np.ix_(pair, pair)] = 0.5 + 0.5 * np.eye(2)
    for labels in (np.array([0, 1, 2, 0, 1, 2]), np.array([2, 0, 1, 2, 0, 1])):
        matrix = threshold_by_label(C, labels)
        pairs = leading_eigenpairs(matrix, 3)
        first = [int(list(matrix.members())[b][0]) for b in pairs.block]
        assert first == [0, 1, 2]


# --- Penalty scaled to the data


@given(scale=st.floats(0.05, 20), seed=st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_scaled_penalty_does_not_see_the_scale_of_the_data(scale, seed):
    matrix = block_matrix(40, 3, seed).astype(np.float64)
    scaled = BlockMatrix(
        tuple(scale * b for b in matrix.blocks), matrix.permutation, matrix.n_vertices
    )
    config = FactorizationConfig(penalty="scaled", max_iter=15)
    rng = np.random.default_rng(seed)
    W0, H0 = rng.random((40, 4)), rng.random((4, 40))
    a = factorize(matrix, 4, 1e-2, 0.4, config, W0=W0, H0=H0)
    root = np.sqrt(scale)
    b = factorize(scaled, 4, 1e-2, 0.4, config, W0=root * W0, H0=root * H0)
    np.testing.assert_allclose(b.W, root * a.W, atol=1e-7 * root)


def test_scaled_penalty_equals_the_absolute_one_on_a_matrix_of_ones():
    matrix = threshold_by_label(np.ones((20, 20)), np.zeros(20))
    assert penalties(matrix, 1e-3, 0.4, "scaled") == pytest.approx(penalties(matrix, 1e-3, 0.4))


def test_scaled_penalty_does_not_tighten_with_the_number_of_labels():
    C = np.ones((40, 40))
    shares = []
    for n_labels in (1, 2, 4, 8):
        matrix = threshold_by_label(C, np.arange(40) % n_labels)
        l1, _ = penalties(matrix, 1e-1, 1.0, "scaled")
        # What a component over one whole label gets from X, against what it has to pay.
        shares.append(l1 / (40 / n_labels))
    np.testing.assert_allclose(shares, shares[0])


def test_too_many_components_and_wrong_starts_are_refused():
    matrix = block_matrix(10, 2, 0)
    with pytest.raises(FactorizationError, match="n_components"):
        factorize(matrix, 11, 1e-3, 0.4)
    with pytest.raises(FactorizationError, match="W0 and H0"):
        factorize(matrix, 2, 1e-3, 0.4, W0=np.ones((10, 3)), H0=np.ones((2, 10)))
    negative = BlockMatrix(tuple(-b for b in matrix.blocks), matrix.permutation, 10)
    with pytest.raises(FactorizationError, match="not negative"):
        factorize(negative, 2, 1e-3, 0.4)


# --- Smooth loadings


def ring(n: int) -> sparse.csr_array:
    """Join each vertex to its two neighbours on a ring, rows summing to 1."""
    one = sparse.csr_array(
        (np.full(n, 0.5), (np.arange(n), np.roll(np.arange(n), 1))), shape=(n, n)
    )
    return one + one.T


def line(n: int, step: float) -> np.ndarray:
    """Distances between points on a line."""
    x = step * np.arange(n)
    return np.abs(x[:, None] - x)


def test_the_graph_is_a_gaussian_of_distance_cut_at_three_sigma():
    """Stripes, both hemispheres, zero diagonal, none across, mean row sum 1."""
    distances = [line(700, 2.0), line(30, 3.0)]
    graph = neighbour_graph(distances, 4.0).toarray()
    dense = np.zeros((730, 730))
    for at, d in ((0, distances[0]), (700, distances[1])):
        inside = slice(at, at + len(d))
        dense[inside, inside] = np.where(d <= 12.0, np.exp(-(d**2) / 32), 0) - np.eye(len(d))
    np.testing.assert_allclose(graph, dense * 730 / dense.sum(), rtol=1e-5)
    assert graph.sum() / 730 == pytest.approx(1)
    with pytest.raises(FactorizationError, match="smoothness_sigma_mm"):
        neighbour_graph([line(5, 100.0)], 4.0)


@given(scale=st.floats(1e-2, 1e2))
@settings(max_examples=5, deadline=None)
def test_one_lambda_means_the_same_whatever_the_scale_of_the_matrix(scale):
    matrix = block_matrix(40, 2, 5).astype(np.float64)
    blocks = tuple(scale * block for block in matrix.blocks)
    scaled = BlockMatrix(blocks, matrix.permutation, matrix.n_vertices)
    config = FactorizationConfig(smoothness=2.0, max_iter=50)
    W0, H0 = full_start(matrix, 3)
    one = factorize(matrix, 3, 0.0, 0.4, config, W0=W0, H0=H0, graph=ring(40))
    other = factorize(scaled, 3, 0.0, 0.4, config, W0=scale * W0, H0=H0, graph=ring(40))
    np.testing.assert_allclose(other.W / scale, one.W, rtol=1e-6, atol=1e-9)


def roughness(W: np.ndarray) -> float:
    """Share of the loadings' variation that lies between neighbours."""
    return float(((W - np.roll(W, 1, axis=0)) ** 2).sum() / (W**2).sum())


def test_the_smooth_objective_never_rises():
    matrix = block_matrix(60, 3, 21).astype(np.float64)
    values = []
    for max_iter in range(1, 20):
        config = FactorizationConfig(smoothness=3.0, max_iter=max_iter)
        f = factorize(matrix, 4, 1e-4, 0.4, config, graph=ring(60))
        l1, l2 = penalties(matrix, 1e-4, 0.4)
        W, H = f.W, f.H
        plain = 0.5 * np.linalg.norm(matrix.to_dense() - W @ H) ** 2
        plain += l1 * (W.sum() + H.sum()) + 0.5 * l2 * ((W**2).sum() + (H**2).sum())
        plain += 3.0 / 2 * 0.5 * ((W - np.roll(W, 1, axis=0)) ** 2).sum()
        assert f.objective == pytest.approx(plain, rel=1e-10)
        np.testing.assert_allclose(np.linalg.norm(H, axis=1), 1)
        values.append(f.objective)
    assert np.all(np.diff(values) <= 1e-10 * values[0])
    assert values[-1] < values[0]


def test_more_smoothness_gives_smoother_loadings():
    matrix = threshold_by_label(networks(60, 4, 22), np.zeros(60))
    rough = [
        roughness(factorize(matrix, 4, 0.0, 0.4, FactorizationConfig(smoothness=s), graph=g).W)
        for s, g in ((0.0, None), (1.0, ring(60)), (30.0, ring(60)))
    ]
    assert rough == sorted(rough, reverse=True)
    assert rough[2] < 0.2 * rough[0]


def test_a_graph_reaches_over_labels_and_skips_vertices_without_signal():
    rng = np.random.default_rng(0)
    mask = rng.random(40) > 0.2
    matrix = threshold_by_label(networks(40, 3, 23), rng.integers(0, 4, 40), mask)
    found = factorize(matrix, 3, 1e-4, 0.4, FactorizationConfig(smoothness=5.0), graph=ring(40))
    assert found.converged
    np.testing.assert_array_equal(found.W[~mask], 0)


def test_smoothness_needs_a_graph_and_the_block_solver():
    matrix = block_matrix(20, 2, 0)
    with pytest.raises(FactorizationError, match="a graph over 20 vertices"):
        factorize(matrix, 2, 1e-4, 0.4, FactorizationConfig(smoothness=1.0))
    with pytest.raises(FactorizationError, match="solver='block'"):
        factorize(
            matrix, 2, 1e-4, 0.4,
            FactorizationConfig(smoothness=1.0, solver="sklearn"), graph=ring(20),
        )  # fmt: skip


# --- A large block by a product of low rank first ---------------------------------------------


def smooth_networks(n: int, n_networks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of series that are smooth along a line, without negative entries."""
    rng = np.random.default_rng(seed)
    planted = np.arange(n) * n_networks // n
    series = rng.standard_normal((n_networks, 200))[planted] + rng.standard_normal((n, 200))
    width = np.exp(-((np.arange(n)[:, None] - np.arange(n)) ** 2) / (2 * 8.0**2))
    return np.clip(np.corrcoef(width @ series), 0, None), planted


def test_a_compressed_block_ends_in_a_solution_for_the_block_itself(rng):
    C, planted = smooth_networks(480, 6, int(rng.integers(2**31)))
    matrix = threshold_by_label(C, np.arange(480) // 240)
    exact, short = (
        factorize(matrix, 8, 1e-4, 0.4, FactorizationConfig(compress_above=above))
        for above in (None, 100)
    )
    assert short.converged
    assert short.objective == pytest.approx(exact.objective, rel=1e-3)
    found = [find_networks(solution.W, solution.H, 6) for solution in (exact, short)]
    assert adjusted_rand_index(*found) >= 0.99
    assert adjusted_rand_index(found[1], planted) > 0.9


def test_few_sweeps_need_a_compressed_block_itself_and_all_problems_end_at_its_solution(
    rng, monkeypatch
):
    C, _ = smooth_networks(960, 6, int(rng.integers(2**31)))
    matrix = threshold_by_label(C, np.arange(960) // 480)
    problems = [Problem(k, alpha, 0.4) for k in (4, 7, 10) for alpha in (1e-5, 1e-4)]
    exact = dict(factorize_many(matrix, problems, FactorizationConfig(compress_above=None)))
    with_X = []
    sweep = factorization._Lockstep.sweep
    monkeypatch.setattr(
        factorization._Lockstep, "sweep", lambda self: with_X.append(self.exact) or sweep(self)
    )
    short = dict(factorize_many(matrix, problems, FactorizationConfig(compress_above=100)))
    assert sum(with_X) < len(with_X) / 4
    X = matrix.to_dense()
    for number, solution in short.items():
        assert solution.converged
        # Another path may end in another optimum, as good or better.
        assert solution.objective < 1.05 * exact[number].objective
        # The stop rule holds for X itself as it does where nothing stands for it.
        assert slope(X, solution) < 3 * slope(X, exact[number])


def slope(X: np.ndarray, found: Factorization) -> float:
    """Sum of the absolute projected gradients of W and H."""
    l1, l2 = (found.alpha_W * len(X) * share for share in (found.l1_ratio, 1 - found.l1_ratio))
    total = 0.0
    for one, other in ((found.W.T, found.H), (found.H, found.W.T)):
        gradient = other @ other.T @ one - other @ X + l2 * one + l1
        total += np.abs(np.where(one > 0, gradient, np.minimum(gradient, 0))).sum()
    return total


def test_what_stands_for_a_block_has_its_leading_eigenpairs(rng):
    C, _ = smooth_networks(480, 6, int(rng.integers(2**31)))
    with ThreadPoolExecutor(2) as pool:
        thin = compress(C, 6, pool)
    values, vectors = np.linalg.eigh(C)
    order = np.argsort(-np.abs(values))[:6]
    np.testing.assert_allclose(thin.values[:6], values[order], rtol=1e-6)
    inner = np.abs((thin.vectors[:, :6] * vectors[:, order]).sum(axis=0))
    np.testing.assert_allclose(inner, 1, rtol=1e-6)
    np.testing.assert_allclose(thin.rows, thin.values[:, None] * thin.vectors.T, atol=1e-12)


def test_what_stands_for_some_blocks_and_not_for_others_is_never_undone(rng, monkeypatch):
    C, _ = smooth_networks(600, 6, int(rng.integers(2**31)))
    matrix = threshold_by_label(C, np.repeat([0, 1], [500, 100]))
    monkeypatch.setattr(factorization._Lockstep, "go_back", lambda *_: pytest.fail("undone"))
    exact, found = (
        factorize(matrix, 8, 1e-4, 0.4, FactorizationConfig(compress_above=above))
        for above in (None, 200)
    )
    assert found.converged
    assert found.objective < 1.02 * exact.objective  # another start may end in another optimum


@pytest.mark.parametrize("factor", [-1.0, 0.6, 1.6])
def test_a_stand_in_that_leads_away_is_given_up(rng, monkeypatch, factor):
    C, _ = smooth_networks(480, 6, int(rng.integers(2**31)))
    matrix = threshold_by_label(C, np.zeros(480, dtype=int))
    exact = factorize(matrix, 8, 1e-4, 0.4, FactorizationConfig(compress_above=None))

    def misleading(X, n_components, pool):
        found = compress(X, n_components, pool)
        return Compressed(factor * found.values, found.vectors, factor * found.rows)

    monkeypatch.setattr(factorization, "compress", misleading)
    found = factorize(matrix, 8, 1e-4, 0.4, FactorizationConfig(compress_above=100))
    assert found.converged
    # Another start may end in another optimum, where the stop rule holds for X as well.
    assert slope(matrix.to_dense(), found) < 3 * slope(matrix.to_dense(), exact)
    assert found.objective < 1.5 * exact.objective
    too_much = factorize(matrix, 8, 1e3, 0.4, FactorizationConfig(compress_above=100))
    assert not too_much.W.any()


def test_a_block_that_is_of_no_low_rank_is_used_itself(rng):
    noise = np.corrcoef(rng.standard_normal((200, 1000))) ** 2
    matrix = threshold_by_label(noise, np.zeros(200, dtype=int))
    exact, other = (
        factorize(matrix, 5, 1e-5, 0.4, FactorizationConfig(compress_above=above))
        for above in (None, 100)
    )
    assert other.n_iter == exact.n_iter
    np.testing.assert_array_equal(other.W, exact.W)
