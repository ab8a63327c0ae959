"""Surrogates keep what needs no networks, and lose the networks."""

import numpy as np
import pytest
import scipy.sparse as sp

from trend_dagster.errors import InputError
from trend_dagster.science.evidence.measures import adjusted_rand_index
from trend_dagster.science.evidence.nulls import Smoothness, SurrogateMaker, turned, turns
from trend_dagster.science.evidence.simulation import SimulationConfig, simulate_cohort
from trend_dagster.science.surface import Surface, geodesic_neighbours


@pytest.fixture(scope="module")
def maker(surface: Surface) -> SurrogateMaker:
    return SurrogateMaker(surface)


@pytest.fixture(scope="module")
def run(surface: Surface) -> tuple[np.ndarray, np.ndarray]:
    config = SimulationConfig(snr=1.0, n_timepoints=300, smoothness=20, motion=0.5)
    truth, runs = simulate_cohort(surface, config)
    return truth, 5.0 + 3.0 * next(runs)[1] * (truth >= 0)[:, None]


def spectrum(bold: np.ndarray) -> np.ndarray:
    z = bold - bold.mean(axis=1, keepdims=True)
    z /= z.std(axis=1, keepdims=True)
    return np.square(np.abs(np.fft.rfft(z, axis=1))).mean(axis=0)


def test_surrogate_is_as_smooth_as_the_data_in_space_and_time(
    maker: SurrogateMaker, run: tuple[np.ndarray, np.ndarray]
) -> None:
    truth, bold = run
    measured = maker.measure(bold)
    surrogate = maker.surrogate(bold, measured, np.random.default_rng(0))
    assert surrogate.dtype == np.float32
    again = maker.measure(surrogate)
    assert again.neighbours == pytest.approx(measured.neighbours, abs=0.05)
    assert again.common == pytest.approx(measured.common, abs=0.08)
    inside = truth >= 0
    original, copied = spectrum(bold[inside]), spectrum(surrogate[inside])
    assert np.corrcoef(original[1:], copied[1:])[0, 1] > 0.9
    np.testing.assert_allclose(surrogate.mean(axis=1), bold.mean(axis=1), rtol=1e-3)
    np.testing.assert_allclose(surrogate.std(axis=1), bold.std(axis=1), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("smoothness", [0.0, 8.0, 16.0])
def test_correlation_of_a_surrogate_falls_with_distance_as_that_of_noise_does(
    maker: SurrogateMaker, surface: Surface, smoothness: float
) -> None:
    config = SimulationConfig(snr=0, n_timepoints=400, smoothness=smoothness)
    truth, runs = simulate_cohort(surface, config)
    bold = next(runs)[1]
    inside = truth >= 0
    pairs = sp.coo_array(sp.triu(geodesic_neighbours(surface, 36.0), k=1))
    first, second = pairs.coords
    both = inside[first] & inside[second]
    near = np.digitize(pairs.data[both], [10, 14, 18, 24, 30])

    def by_distance(data: np.ndarray) -> np.ndarray:
        z = data - data.mean(axis=1, keepdims=True)
        z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
        r = np.einsum("ij,ij->i", z[first[both]], z[second[both]])
        return np.bincount(near, r) / np.bincount(near)

    surrogate = maker.surrogate(bold, maker.measure(bold), np.random.default_rng(0))
    np.testing.assert_allclose(by_distance(surrogate), by_distance(bold), atol=0.05)


def test_surrogate_has_no_networks(
    maker: SurrogateMaker, run: tuple[np.ndarray, np.ndarray]
) -> None:
    truth, bold = run
    inside = np.flatnonzero(truth >= 0)
    surrogate = maker.surrogate(bold, maker.measure(bold), np.random.default_rng(1))
    # Partners across hemispheres: the same network, no smoothness between them.
    left, right = inside[truth[inside] < 7], inside[truth[inside] >= 7]
    partners = truth[left][:, None] == truth[right] - 7

    def partnership(data: np.ndarray) -> float:
        across = np.corrcoef(data[np.concatenate([left, right])])[: len(left), len(left) :]
        return float(across[partners].mean() - across[~partners].mean())

    assert partnership(bold) > 0.1
    assert abs(partnership(surrogate)) < 0.03


def test_vertices_without_signal_stay_constant(
    maker: SurrogateMaker, run: tuple[np.ndarray, np.ndarray]
) -> None:
    truth, bold = run
    surrogate = maker.surrogate(bold, maker.measure(bold), np.random.default_rng(2))
    np.testing.assert_allclose(surrogate[truth < 0], 5.0)


def test_white_noise_is_measured_as_white(maker: SurrogateMaker, surface: Surface) -> None:
    noise = np.random.default_rng(3).normal(size=(surface.n_vertices, 400))
    measured = maker.measure(noise)
    assert abs(measured.common) < 0.01
    assert measured.neighbours < 0.02


def test_a_surrogate_is_the_formula_in_double_precision(
    maker: SurrogateMaker, surface: Surface, rng: np.random.Generator
) -> None:
    bold = rng.normal(size=(surface.n_vertices, 90)) * 3 + 100
    smoothness = Smoothness(common=0.2, neighbours=0.6, sigma=5.0)
    found = maker.surrogate(bold, smoothness, np.random.default_rng(6))
    again = np.random.default_rng(6)
    white, shared = again.normal(size=bold.shape), again.normal(size=90)
    noise = np.sqrt(0.8) * (maker._smoother(5.0) @ white) + np.sqrt(0.2) * shared
    z = (bold - bold.mean(axis=1, keepdims=True)) / bold.std(axis=1, keepdims=True)
    amplitude = np.sqrt(np.square(np.abs(np.fft.rfft(z, axis=1))).mean(axis=0))
    amplitude[0] = 0
    coloured = np.fft.irfft(np.fft.rfft(noise, axis=1) * amplitude, n=90, axis=1)
    coloured /= coloured.std(axis=1, keepdims=True)
    expected = bold.mean(axis=1, keepdims=True) + bold.std(axis=1, keepdims=True) * coloured
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_surrogates_follow_their_seed(
    maker: SurrogateMaker, run: tuple[np.ndarray, np.ndarray]
) -> None:
    _, bold = run
    smoothness = maker.measure(bold)
    one, same, other = (
        maker.surrogate(bold, smoothness, np.random.default_rng(seed)) for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


def test_spinning_moves_labels_and_keeps_their_sizes(surface: Surface) -> None:
    truth, _ = simulate_cohort(surface, SimulationConfig())
    sizes = np.bincount(truth + 1)
    agreement = []
    for seed in range(8):
        spun = turned(truth, next(turns(surface, 1, seed)))
        left = surface.hemisphere == 0
        assert spun[left].max() < 7
        assert set(spun[~left]) <= {-1, *range(7, 14)}
        np.testing.assert_allclose(np.bincount(spun + 1, minlength=15), sizes, rtol=0.35, atol=8)
        agreement.append(adjusted_rand_index(spun, truth))
    # Hemispheres never mix, so agreement is above zero by chance; it is far from perfect.
    assert np.mean(agreement) < 0.5


def test_hemispheres_turn_as_mirror_images(surface: Surface) -> None:
    assert surface.sphere is not None
    # Height above the equator of the left sphere, of the mirrored right one.
    top = np.where(surface.sphere[:, 2] > 0, 1, 0)
    spun = turned(top, next(turns(surface, 1, 6)))
    points = surface.sphere.astype(np.float64)
    left = surface.hemisphere == 0
    axis_left = points[left & (spun == 1)].mean(axis=0)
    axis_right = points[~left & (spun == 1)].mean(axis=0)
    np.testing.assert_allclose(axis_left * [-1, 1, 1], axis_right, atol=5.0)


def test_spinning_needs_a_sphere(surface: Surface) -> None:
    bare = Surface(surface.coordinates, surface.triangles, surface.hemisphere)
    with pytest.raises(InputError, match="spher"):
        next(turns(bare, 1, 0))
