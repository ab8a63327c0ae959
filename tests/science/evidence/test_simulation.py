"""What is planted is there, and only that."""

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csgraph

from tests.spheres import measure_distances
from trend_dagster.errors import SettingsError
from trend_dagster.science.evidence.measures import mean_dice
from trend_dagster.science.evidence.simulation import (
    SimulationConfig,
    haemodynamic_response,
    network_covariance,
    network_signals,
    plan_networks,
    plant_networks,
    simulate_cohort,
)
from trend_dagster.science.surface import Surface, edge_graph


def patches_per_network(surface: Surface, labels: np.ndarray) -> list[int]:
    graph = edge_graph(surface)
    return [
        csgraph.connected_components(graph[labels == k][:, labels == k])[0]
        for k in np.unique(labels[labels >= 0])
    ]


def correlation_of(bold: np.ndarray) -> np.ndarray:
    return np.corrcoef(bold.astype(np.float64))


def excess_within(correlation: np.ndarray, labels: np.ndarray) -> float:
    """Mean correlation within networks minus between those of one hemisphere."""
    n = labels.max() // 2 + 1
    same = labels[:, None] == labels
    np.fill_diagonal(same, False)
    other = (labels[:, None] != labels) & (labels[:, None] // n == labels // n)
    return float(correlation[same].mean() - correlation[other].mean())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_networks", [7, 19])
def test_networks_cover_the_cortex(surface: Surface, seed: int, n_networks: int) -> None:
    config = SimulationConfig(n_networks=n_networks, seed=seed)
    truth, _ = simulate_cohort(surface, config)
    assert truth.shape == (surface.n_vertices,)
    assert set(truth) == set(range(-1, 2 * n_networks))
    left = surface.hemisphere == 0
    assert truth[left].max() < n_networks
    assert surface.medial_wall is not None
    assert (truth[surface.medial_wall] == -1).all()
    assert (truth == -1).sum() < surface.medial_wall.sum() + 10
    sizes = np.bincount(truth[truth >= 0])
    assert sizes.max() > 2 * sizes.min()  # unequal


def test_compact_networks_are_single_patches(surface: Surface) -> None:
    for seed in range(5):
        config = SimulationConfig(distributed=0, seed=seed)
        truth, _ = simulate_cohort(surface, config)
        assert patches_per_network(surface, truth) == [1] * 14


def test_distributed_networks_are_several_patches(surface: Surface) -> None:
    config = SimulationConfig(distributed=0.3, seed=5)
    truth, _ = simulate_cohort(surface, config)
    counts = patches_per_network(surface, truth)
    assert counts[2:7] == counts[9:] == [1] * 5
    assert min(counts[:2]) > 1
    assert min(counts[7:9]) > 1


def test_newborns_share_networks_but_not_borders(surface: Surface) -> None:
    config = SimulationConfig()
    plan = plan_networks(surface, config)
    group = plant_networks(surface, config, plan)
    own = [plant_networks(surface, config, plan, subject) for subject in range(3)]
    for labels in own:
        assert 0.7 < mean_dice(labels, group) < 0.99
    assert mean_dice(own[0], own[1]) < 0.99
    rigid = SimulationConfig(border_variation=0)
    np.testing.assert_array_equal(plant_networks(surface, rigid, plan, 1), group)


def test_same_seed_same_cohort_and_runs_do_not_depend_on_each_other(surface: Surface) -> None:
    config = SimulationConfig(n_subjects=2, n_timepoints=20)
    truth, runs = simulate_cohort(surface, config)
    again, more = simulate_cohort(surface, config.model_copy(update={"n_subjects": 3}))
    np.testing.assert_array_equal(truth, again)
    first, longer = dict(runs), dict(more)
    assert list(first) == [
        "sub-01_ses-1_run-1", "sub-01_ses-1_run-2", "sub-02_ses-1_run-1", "sub-02_ses-1_run-2",
    ]  # fmt: skip
    for name, bold in first.items():
        np.testing.assert_array_equal(bold, longer[name])
    assert not np.allclose(first["sub-01_ses-1_run-1"], first["sub-01_ses-1_run-2"])
    other, _ = simulate_cohort(surface, config.model_copy(update={"seed": 109}))
    assert mean_dice(other, truth) < 0.6


def test_bold_is_finite_single_precision_and_silent_without_cortex(surface: Surface) -> None:
    truth, runs = simulate_cohort(surface, SimulationConfig(n_timepoints=30, n_subjects=1))
    for _, bold in runs:
        assert bold.dtype == np.float32
        assert bold.shape == (1284, 30)
        assert np.isfinite(bold).all()
        assert (bold[truth < 0] == 0).all()
        assert (bold[truth >= 0].std(axis=1) > 0).all()


def test_correlation_within_networks_grows_with_snr_and_vanishes_at_zero(surface: Surface) -> None:
    def excess(**settings: Any) -> float:
        config = SimulationConfig(
            n_subjects=1, runs_per_subject=1, n_timepoints=400, border_variation=0, motion=0,
            smoothness=0, **settings,
        )  # fmt: skip
        truth, runs = simulate_cohort(surface, config)
        _, bold = next(runs)
        return excess_within(correlation_of(bold[truth >= 0]), truth[truth >= 0])

    nothing, weak, strong = excess(snr=0), excess(snr=0.3), excess(snr=1.0)
    assert abs(nothing) < 0.005
    assert weak > nothing + 0.02
    assert strong > weak + 0.1
    # Signal 1, noise 1, no loss of signal, unrelated networks: half of the variance is shared.
    known = excess(snr=1.0, signal_loss=0, network_correlation=0)
    assert known == pytest.approx(0.5, abs=0.04)


def test_noise_is_smooth_along_the_cortex_and_in_time(surface: Surface) -> None:
    config = SimulationConfig(
        snr=0, motion=0, n_subjects=1, runs_per_subject=1, n_timepoints=600, smoothness=16.0,
        noise_autocorrelation=0.5,
    )  # fmt: skip
    truth, runs = simulate_cohort(surface, config)
    _, bold = next(runs)
    bold = bold.astype(np.float64)
    cortex = np.flatnonzero(truth >= 0)
    assert bold[cortex].var() == pytest.approx(1.0, abs=0.05)
    lag_one = [np.corrcoef(bold[v, 1:], bold[v, :-1])[0, 1] for v in cortex[:200]]
    assert np.mean(lag_one) == pytest.approx(0.5, abs=0.03)
    distance = measure_distances(surface, cortex[:300])[:, cortex]
    correlation = correlation_of(bold[cortex])[:300]
    near, far = (distance > 0) & (distance < 10), distance > 60
    assert correlation[near].mean() > 0.15
    assert abs(correlation[far].mean()) < 0.02


def test_networks_are_akin_or_opposed_and_partners_homotopic() -> None:
    config = SimulationConfig(homotopic_correlation=0.6, network_correlation=0.4)
    covariance = network_covariance(config)
    assert np.linalg.eigvalsh(covariance).min() > 0
    within = covariance[:7, :7]
    np.testing.assert_allclose(np.diag(covariance), 1)
    np.testing.assert_allclose(covariance[:7, 7:], 0.6 * within)
    apart = within[~np.eye(7, dtype=bool)]
    assert -0.4 <= apart.min() < -0.1
    assert 0.1 < apart.max() <= 0.4
    unrelated = network_covariance(config.model_copy(update={"network_correlation": 0}))
    np.testing.assert_allclose(unrelated, np.kron([[1, 0.6], [0.6, 1]], np.eye(7)))


def test_network_signals_have_their_covariance() -> None:
    config = SimulationConfig(n_networks=3, n_timepoints=20_000)
    signals = network_signals(config, np.random.default_rng(0))
    np.testing.assert_allclose(np.cov(signals), network_covariance(config), atol=0.06)


def test_haemodynamic_response_peaks_after_five_seconds() -> None:
    response = haemodynamic_response(0.1)
    assert response.argmax() * 0.1 == pytest.approx(5.0, abs=0.2)
    assert response.min() < 0
    assert np.linalg.norm(response) == pytest.approx(1.0)


def test_more_networks_than_the_mesh_holds_are_refused(surface: Surface) -> None:
    with pytest.raises(SettingsError, match="n_networks"):
        simulate_cohort(surface, SimulationConfig(n_networks=150))


def test_settings_of_another_surface_are_refused(surface: Surface) -> None:
    with pytest.raises(SettingsError, match="n_vertices_per_hemisphere"):
        simulate_cohort(surface, SimulationConfig(n_vertices_per_hemisphere=2562))
