"""The method as one: arrays in, networks out."""

from __future__ import annotations

import numpy as np
import pytest

from trend_dagster.errors import CohortError, InputError
from trend_dagster.science.bold import BoldConfig, signal_mask
from trend_dagster.science.connectivity.smoothing import Smoothing
from trend_dagster.science.connectivity.thresholding import threshold_by_label
from trend_dagster.science.evidence.measures import mean_dice
from trend_dagster.science.evidence.simulation import SimulationConfig, simulate_cohort
from trend_dagster.science.features.autoencoder import embed, initial_model
from trend_dagster.science.method import (
    Correlation,
    Encoding,
    FeatureMaker,
    MethodSettings,
    correlate_bold,
    encode,
    parcellate,
    possible_components,
    prepare_run,
    stability_beside_noise,
    sweep_arrays,
)

SMALL = MethodSettings.model_validate(
    {
        "autoencoder": {
            "d_model": 16,
            "n_heads": 2,
            "n_encoder_layers": 1,
            "n_decoder_layers": 1,
            "dim_feedforward": 16,
        },
        "training": {"n_epochs": 1, "precision": "32"},
        "sweep": {"n_components": [20], "n_clusters": [14]},
        "factorization": {"max_iter": 50},
    }
)


def changed(**sections):
    values = SMALL.model_dump()
    for name, own in sections.items():
        values[name] |= own
    return MethodSettings.model_validate(values)


@pytest.fixture(scope="module")
def cohort(surface):
    config = SimulationConfig(n_subjects=2, runs_per_subject=1, snr=1.0)
    truth, runs = simulate_cohort(surface, config)
    return truth, dict(runs)


def test_arrays_become_networks(surface, cohort):
    truth, runs = cohort
    correlation = correlate_bold(runs, SMALL)
    np.testing.assert_array_equal(correlation.mask, truth >= 0)
    ((k, (cell,)),) = parcellate(correlation, Encoding.hemispheres(surface), SMALL)
    assert k == 20
    assert mean_dice(cell.clusterings[0].labels, truth) > 0.7


def test_runs_that_cannot_be_used_are_named_and_the_others_averaged(rng):
    runs = {name: rng.standard_normal((30, 20)).astype(np.float32) for name in "abc"}
    runs["b"][3, 4] = np.nan
    with pytest.warns(
        UserWarning, match=r"run b is left out \(NaN.*in 1 of 30 vertices.*2 of 3 runs are used"
    ):
        found = correlate_bold(runs, SMALL, subjects=["1", "2", "3"])
    kept = correlate_bold([runs["a"], runs["c"]], SMALL)
    np.testing.assert_array_equal(found.matrix, kept.matrix)
    with pytest.raises(CohortError, match="found run-0000: NaN or infinite"):
        correlate_bold([runs["b"]], SMALL)
    with pytest.raises(CohortError, match="no run"):
        correlate_bold([], SMALL)


def test_runs_the_wrong_way_round_are_refused_or_doubted(rng):
    right = (1000 * rng.random((30, 1)) + rng.standard_normal((30, 20))).astype(np.float32)
    with pytest.raises(InputError, match=r"run-0000: .*the wrong way round"):
        correlate_bold([right.T, right.T], SMALL)
    noise = rng.standard_normal((20, 30)).astype(np.float32)
    with pytest.warns(UserWarning, match="more timepoints"):
        correlate_bold([noise], SMALL)


def test_encode_is_smoothing_then_cutting(surface, cohort):
    _, runs = cohort
    correlation = correlate_bold(runs, SMALL)
    encoding = Encoding.hemispheres(surface)
    smoothing = Smoothing.along(surface, correlation.mask, 16, 0)
    by_hand = threshold_by_label(
        smoothing(correlation.matrix), surface.hemisphere, correlation.mask
    )
    found = encode(correlation, encoding, SMALL)
    for block, expected in zip(found.blocks, by_hand.blocks, strict=True):
        np.testing.assert_array_equal(block, expected)
    assert encoding.smoothing(correlation.mask, SMALL.thresholding) is encoding.smoothing(
        correlation.mask.copy(), SMALL.thresholding
    )


def test_vertices_without_label_are_left_out_and_another_mesh_is_refused(rng):
    encoding = Encoding(np.array([0, 0, -1, 1, 1]), name="label file two.npy")
    source = Correlation(np.eye(5), np.array([True, True, True, True, False]))
    np.testing.assert_array_equal(encode(source, encoding, SMALL).permutation, [0, 1, 3])
    with pytest.raises(InputError, match=r"two\.npy: expected 4 labels"):
        encode(Correlation(np.eye(4), np.ones(4, bool)), encoding, SMALL)


@pytest.mark.parametrize(
    ("n_labels", "blamed"), [(7, r"seven\.npy: expected 5 labels.*7"), (5, "surface: expected 5")]
)
def test_labels_of_another_mesh_are_blamed_before_the_surface(surface, n_labels, blamed):
    encoding = Encoding(np.zeros(n_labels, int), surface=surface, name="label file seven.npy")
    with pytest.raises(InputError, match=blamed):
        encode(Correlation(np.eye(5), np.ones(5, bool)), encoding, SMALL)


def test_cleaning_changes_what_is_found(surface, cohort):
    _, runs = cohort
    run = next(iter(runs.values()))
    ramp = np.linspace(0, 1, run.shape[1], dtype=np.float32) * run.std()
    drift = np.where(signal_mask(run)[:, None], run + ramp, run)
    kept, mask = prepare_run(drift, BoldConfig(global_signal="keep"))
    cleaned, _ = prepare_run(drift, BoldConfig(global_signal="keep", detrend=True))
    plain, _ = prepare_run(run, BoldConfig(global_signal="keep", detrend=True))
    assert np.abs(cleaned - kept)[mask].max() > 0.1
    np.testing.assert_allclose(cleaned, plain, atol=1e-3)


def test_features_are_those_of_the_model_where_there_is_signal(rng):
    bold = rng.standard_normal((30, 24)).astype(np.float32)
    mask = rng.random(30) < 0.8
    model = initial_model(SMALL.autoencoder, 20, 1)
    found = FeatureMaker("encoder", model, 20)(bold, mask)
    np.testing.assert_array_equal(found[mask], embed(model, bold[mask, :20], source="encoder"))
    assert not found[~mask].any()


def test_half_of_a_run_leaves_the_other_half_without_influence(rng):
    bold = rng.standard_normal((30, 20)).astype(np.float32)
    other = bold.copy()
    other[:, 10:] = rng.permuted(bold[:, 10:], axis=1)
    mask = np.ones(30, dtype=bool)
    for maker in (FeatureMaker(), FeatureMaker("encoder", initial_model(SMALL.autoencoder, 20, 1))):
        one, two = (maker(run, mask, slice(0, 10)) for run in (bold, other))
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_model_features_are_trained_on_the_runs(surface, cohort):
    _, runs = cohort
    trained = correlate_bold(runs, changed(features={"source": "input_projection"}))
    signal = correlate_bold(runs, SMALL)
    assert np.abs(trained.matrix - signal.matrix).max() > 0.01


def test_stability_of_halves_that_agree_and_noise_that_does_not(surface, cohort, rng):
    _, runs = cohort
    encoding = Encoding.hemispheres(surface)
    half = correlate_bold(runs, SMALL)
    shape = next(iter(runs.values())).shape
    noise = [
        correlate_bold([np.where(half.mask[:, None], rng.standard_normal(shape), 0)], SMALL)
        for _ in range(2)
    ]
    found = stability_beside_noise((half, half), [(noise[0], noise[1])], encoding, SMALL)
    assert found[20]["stability"][0, 0] == 1
    assert found[20]["stability_null"][0, 0] < 0.5


def test_cells_of_one_n_components_as_arrays(surface, cohort):
    _, runs = cohort
    settings = changed(sweep={"alpha_W": (0.0, 1e-4), "n_clusters": (3, 14)})
    ((_, cells),) = parcellate(
        correlate_bold(runs, settings), Encoding.hemispheres(surface), settings
    )
    arrays = sweep_arrays(cells)
    np.testing.assert_array_equal(arrays["alpha_W"], [0.0, 1e-4])
    np.testing.assert_array_equal(arrays["labels"][1, 0], cells[1].clusterings[0].labels)
    assert arrays["cluster_sizes"].shape == (2, 2, 14)
    assert arrays["silhouette"].shape == (2, 2)


def test_numbers_of_components_beyond_the_vertices_are_named():
    possible, errors = possible_components([2, 5, 9], 6)
    assert possible == [2, 5]
    assert "between 1 and the 6 vertices" in str(errors[9])
