"""Usable time series: mask, exclusion, standardisation, and runs that fit together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn.signal import clean as nilearn_clean
from pydantic import ValidationError
from scipy import stats

from trend_dagster.errors import CohortError, SettingsError
from trend_dagster.science.bold import (
    BoldConfig,
    CohortConfig,
    check_same_vertices,
    clean,
    common_length,
    prepare,
    same_recordings,
    signal_mask,
    temporal_snr,
    usable_series,
    volumes_to_drop,
    why_unusable,
)

ZSCORE = BoldConfig(standardize="zscore", global_signal="keep")
AS_IT_IS = BoldConfig(standardize="none", global_signal="keep")
ERROR, CROP = CohortConfig(lengths="error"), CohortConfig(lengths="crop")


@pytest.fixture
def bold(rng) -> np.ndarray:
    """Ten vertices in a scanner's units, of which 2 and 7 are constant."""
    signal = 10_000 + rng.standard_normal((10, 60))
    signal[2], signal[7] = 0, 812.5
    return signal.astype(np.float32)


# The mask


def test_constant_vertices_are_masked_at_whatever_value(bold):
    assert np.flatnonzero(~signal_mask(bold)).tolist() == [2, 7]


def test_one_timepoint_that_differs_is_signal_and_rounding_is_none():
    bold = np.full((3, 50), 4.0, dtype=np.float32)
    bold[1, -1] = np.nextafter(np.float32(4), np.float32(5))
    bold[2, 0] = 3
    assert signal_mask(bold).tolist() == [False, False, True]


@pytest.mark.parametrize("share", [3e-5, 1e-3])
def test_rounding_noise_on_the_wall_is_no_signal_in_any_unit(rng, share):
    bold = rng.standard_normal((60, 80)) * rng.uniform(0.2, 5, (60, 1))
    bold[50:] = share * rng.standard_normal((10, 80))
    for scale, offset in ((1, 0), (1e4, 1e4), (1e-3, 0)):
        mask = signal_mask((offset + scale * bold).astype(np.float32))
        assert np.flatnonzero(~mask).tolist() == list(range(50, 60))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: 3 * x + 7,
        lambda x: 7 - 3 * x,
        lambda x: x[:, :50],
        lambda x: x[:, 4:],
        lambda x: x[:, 30:60],
        lambda x: np.concatenate([np.random.default_rng().standard_normal((16, 30)), x], axis=1),
    ],
)
def test_a_recording_is_known_again_whatever_its_unit_and_length(rng, change):
    shared = rng.standard_normal((16, 80))  # what two recordings of a task have in common
    series = {k: shared + 1.5 * rng.standard_normal((16, 80)) for k in "abc"}
    assert same_recordings(series) == []
    series["copy"] = change(series["b"]).astype(np.float32)
    assert same_recordings(series) == [("b", "copy")]


def test_a_recording_that_begins_later_is_known_though_one_vertex_tells_nothing(rng):
    series = {k: rng.standard_normal((32, 80)) for k in "abc"}
    series["copy"] = series["b"][:, 7:].copy()
    series["copy"][0] = rng.standard_normal(73)
    assert same_recordings(series) == [("b", "copy")]


def test_the_mask_does_not_depend_on_unit_or_order_of_time(bold, rng):
    mask = signal_mask(bold)
    assert np.array_equal(signal_mask(bold * 2 - 64), mask)
    assert np.array_equal(signal_mask(bold[:, rng.permutation(60)]), mask)
    order = rng.permutation(10)
    assert np.array_equal(signal_mask(bold[order]), mask[order])


def test_rounding_is_all_that_is_left_of_one_series_without_the_global_signal(rng):
    common = 1000 + 10 * rng.standard_normal(60)
    bold = np.outer(rng.uniform(1, 2, 20), common).astype(np.float32)
    assert not prepare(bold, signal_mask(bold), BoldConfig()).any()
    bold[3] += rng.standard_normal(60).astype(np.float32)
    assert prepare(bold, signal_mask(bold), BoldConfig())[3].std() > 0.99


# Exclusion


def test_a_run_with_signal_in_one_vertex_is_usable(bold):
    assert why_unusable(bold) is None
    bold[1:] = 0
    assert why_unusable(bold) is None


def test_what_is_not_finite_is_counted():
    bold = np.arange(20, dtype=np.float32).reshape(4, 5)
    bold[0, 1] = bold[0, 2] = bold[3, 0] = np.nan
    bold[2, 2], bold[2, 3] = np.inf, -np.inf
    assert why_unusable(bold) == "NaN or infinite values in 3 of 4 vertices"


@pytest.mark.parametrize("value", [0, 1000, -3.5])
def test_a_run_in_which_nothing_varies_is_unusable(value):
    bold = np.full((4, 5), value, dtype=np.float32)
    assert why_unusable(bold) == "all vertices are constant over time"


def test_vertices_that_differ_only_from_each_other_are_constant(rng):
    bold = np.repeat(rng.standard_normal((6, 1), dtype=np.float32), 9, axis=1)
    assert why_unusable(bold) == "all vertices are constant over time"


def test_one_timepoint_is_no_time_series():
    assert why_unusable(np.ones((4, 1), dtype=np.float32)) == "only one timepoint"


# Standardisation


def test_zscore_is_scipys(bold):
    mask = signal_mask(bold)
    found = prepare(bold, mask, ZSCORE)
    assert found.dtype == np.float32
    expected = stats.zscore(bold[mask].astype(np.float64), axis=1)
    np.testing.assert_allclose(found[mask], expected, rtol=1e-6, atol=1e-6)


def test_vertices_without_signal_are_zero_after_zscore_and_never_nan(bold):
    found = prepare(bold, signal_mask(bold), ZSCORE)
    assert not found[[2, 7]].any()
    assert np.isfinite(found).all()


def test_zscore_keeps_its_precision_where_the_mean_is_huge(rng):
    fluctuation = rng.integers(-8, 9, (5, 200))
    far = (2.0**20 + fluctuation).astype(np.float32)  # exact: 2**20 + 8 has 21 bits
    found = prepare(far, signal_mask(far), ZSCORE)
    np.testing.assert_allclose(found, stats.zscore(fluctuation, axis=1), atol=1e-6)


def test_zscore_does_not_depend_on_the_unit_of_the_file(bold):
    mask = signal_mask(bold)
    rescaled = prepare(bold * 4, mask, ZSCORE)
    np.testing.assert_allclose(rescaled, prepare(bold, mask, ZSCORE), atol=1e-6)


def test_without_standardisation_nothing_is_changed(bold):
    before = bold.copy()
    assert np.array_equal(prepare(bold, signal_mask(bold), AS_IT_IS), before)


def test_preparing_does_not_change_what_it_is_given(bold):
    before = bold.copy()
    prepare(bold, signal_mask(bold), ZSCORE)
    assert np.array_equal(bold, before)


def test_temporal_snr_is_the_median_of_mean_over_deviation(bold):
    mask = signal_mask(bold)
    signal = bold[mask].astype(np.float64)
    assert temporal_snr(bold, mask) == pytest.approx(
        np.median(signal.mean(axis=1) / signal.std(axis=1))
    )
    assert temporal_snr(bold, mask) > 5000
    demeaned = (signal - signal.mean(axis=1, keepdims=True)).astype(np.float32)
    assert temporal_snr(demeaned, np.ones(len(demeaned), dtype=bool)) < 1e-3


# Runs that fit together


def test_runs_on_one_mesh_pass():
    check_same_vertices({"a": 642, "b": 642})
    check_same_vertices({"a": 642})


def test_runs_on_another_mesh_than_most_are_named():
    with pytest.raises(CohortError) as caught:
        check_same_vertices({"a": 642, "b": 2562, "c": 642, "d": 10242})
    error = caught.value
    assert error.subject == "BOLD runs b, d"
    assert error.expected == "642 vertices, as most runs have"
    assert error.found == "2562 in b, 10242 in d"
    assert "one mesh" in error.remedy


def test_runs_of_one_length_are_used_whole():
    for config in (ERROR, CROP):
        assert common_length({"a": 200, "b": 200}, config) == 200


def test_runs_of_other_lengths_than_most_are_named_with_the_way_out():
    with pytest.raises(CohortError) as caught:
        common_length({"a": 163, "b": 200, "c": 200}, ERROR)
    error = caught.value
    assert error.subject == "BOLD runs a"
    assert error.expected == "200 timepoints, as most runs have"
    assert error.found == "163 in a"
    assert "lengths: crop" in error.remedy
    assert "first 163 timepoints" in error.remedy


@given(st.dictionaries(st.text(max_size=3), st.integers(2, 500), min_size=1, max_size=8))
def test_cropping_takes_what_the_shortest_run_has(lengths):
    assert common_length(lengths, CROP) == min(lengths.values())


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.randoms())
def test_who_is_named_does_not_depend_on_the_order_of_runs(counts, random):
    runs = {f"run-{i}": n for i, n in enumerate(counts)}
    shuffled = list(runs.items())
    random.shuffle(shuffled)

    def named(lengths: dict[str, int]) -> set[str]:
        try:
            common_length(lengths, ERROR)
        except CohortError as error:
            return set(error.subject.removeprefix("BOLD runs ").split(", "))
        return set()

    assert named(runs) == named(dict(shuffled))
    assert bool(named(runs)) == (len(set(counts)) > 1)
    assert len(named(runs)) < len(runs)  # never all of them


@pytest.mark.parametrize("wrong", [{"standardize": "psc"}, {"standardise": "none"}])
def test_only_known_settings_are_taken(wrong):
    with pytest.raises(ValidationError):
        BoldConfig(**wrong)


# Cleaning


def test_nothing_is_taken_out_by_default(rng):
    bold = rng.standard_normal((5, 40)).astype(np.float32)
    assert clean(bold, signal_mask(bold), BoldConfig(), None) is bold


def test_cleaning_in_blocks_is_the_regression_and_the_filter(rng, monkeypatch):
    monkeypatch.setattr("trend_dagster.science.bold.BLOCK_VERTICES", 3)
    time = np.arange(400) * 0.5
    confounds = rng.standard_normal((400, 2))
    slow, kept, fast = (np.sin(2 * np.pi * f * time) for f in (0.002, 0.05, 0.4))
    bold = np.tile(3 * slow + kept + 2 * fast + confounds @ [1, -2] + 0.01 * time, (8, 1))
    bold = (bold * np.arange(8)[:, None]).astype(np.float32)
    mask = signal_mask(bold)
    config = BoldConfig(detrend=True, high_pass_hz=0.01, low_pass_hz=0.1, confounds=("a", "b"))
    found = clean(bold, mask, config, 0.5, confounds)
    assert (found[0] == 0).all()
    whole = nilearn_clean(
        bold[1:].T.astype(np.float64),
        detrend=True,
        standardize=None,
        confounds=confounds,
        high_pass=0.01,
        low_pass=0.1,
        t_r=0.5,
    ).T
    np.testing.assert_allclose(found[1:], whole, atol=1e-4)
    window = np.hanning(400)
    at = {f: abs(np.exp(-2j * np.pi * f * time) @ (window * found[1])) for f in (0.002, 0.05, 0.4)}
    assert at[0.4] < 0.01 * at[0.05]
    assert at[0.002] < 0.2 * at[0.05]  # 3 times as large as it before


def test_confounds_alone_leave_the_residual_of_least_squares(rng):
    bold = rng.standard_normal((4, 50)).astype(np.float32)
    confounds = rng.standard_normal((50, 3))
    found = clean(bold, signal_mask(bold), BoldConfig(confounds=("a",)), None, confounds)
    design = np.column_stack([np.ones(50), confounds])
    residual = bold.T - design @ np.linalg.lstsq(design, bold.T, rcond=None)[0]
    centred = found - found.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(centred, residual.T, atol=1e-5)


@pytest.mark.parametrize("time", [None, 10.0])
def test_a_filter_needs_a_repetition_time_that_allows_it(rng, time):
    bold = rng.standard_normal((4, 50)).astype(np.float32)
    with pytest.raises(SettingsError):
        clean(bold, signal_mask(bold), BoldConfig(low_pass_hz=0.1), time)


@pytest.mark.parametrize("removed", ["remove", "keep"])
@pytest.mark.parametrize("standardize", ["zscore", "none"])
def test_blocks_of_vertices_change_nothing(rng, monkeypatch, removed, standardize):
    bold = (1000 + rng.standard_normal((10, 60)) + rng.standard_normal(60)).astype(np.float32)
    bold[3] = 7
    config = BoldConfig(standardize=standardize, global_signal=removed)
    mask = signal_mask(bold)
    whole, snr = prepare(bold, mask, config), temporal_snr(bold, mask)
    monkeypatch.setattr("trend_dagster.science.bold.BLOCK_VERTICES", 4)
    np.testing.assert_allclose(prepare(bold, mask, config), whole, atol=1e-4)
    assert temporal_snr(bold, mask) == pytest.approx(snr)


def test_what_is_taken_out_is_said_in_words():
    assert BoldConfig().taken_out == ("global signal",)
    assert BoldConfig(global_signal="keep").taken_out == ()
    everything = BoldConfig(
        detrend=True, high_pass_hz=0.01, low_pass_hz=0.1, confounds=("trans_x", "csf")
    )
    assert everything.taken_out == (
        "global signal",
        "linear trend",
        "frequencies outside 0.01 to 0.1 Hz",
        "trans_x",
        "csf",
    )
    one = BoldConfig(global_signal="keep", low_pass_hz=0.1)
    assert one.taken_out == ("frequencies above 0.1 Hz",)


# Volumes that are left out


@pytest.mark.parametrize("mirrored", [[], [81, 82], [117, 118, 119]])
def test_censored_volumes_change_nothing_else(rng, mirrored):
    """Whatever a censored volume holds, the others come out the same, filters included."""
    bold = 100 + rng.standard_normal((12, 120)).cumsum(axis=1).astype(np.float32)
    mask = signal_mask(bold)
    kept = np.ones(120, dtype=bool)
    kept[[0, 1, 2, 40, 41, 90]] = False
    kept[mirrored] = False
    confounds = rng.standard_normal((120, 2))
    config = BoldConfig(high_pass_hz=0.01, low_pass_hz=0.1, confounds=("a", "b"))
    found = usable_series(bold, mask, config, 2.0, confounds, kept)
    assert found.shape == (12, kept.sum())
    spoiled = bold.copy()
    spoiled[:, ~kept] += 1e4
    again = usable_series(spoiled, mask, config, 2.0, confounds, kept)
    np.testing.assert_allclose(again, found, atol=1e-4)
    if mirrored:
        return  # nilearn interpolates in the places counted from the end
    from nilearn.signal import clean as reference

    wanted = reference(
        bold[:, 3:].T.astype(np.float64),
        detrend=False,
        standardize=None,
        confounds=confounds[3:],
        high_pass=0.01,
        low_pass=0.1,
        t_r=2.0,
        sample_mask=np.flatnonzero(kept[3:]),
    ).T
    np.testing.assert_allclose(
        clean(bold[:, 3:], mask, config, 2.0, confounds[3:], kept[3:]), wanted, atol=1e-4
    )


def test_without_filters_what_is_left_out_is_only_left_out(rng):
    bold = 100 + rng.standard_normal((12, 60)).astype(np.float32)
    mask, kept = signal_mask(bold), rng.random(60) < 0.7
    found = usable_series(bold, mask, ZSCORE, None, None, kept)
    np.testing.assert_array_equal(found, prepare(bold[:, kept], mask, ZSCORE))
    everything = usable_series(bold, mask, ZSCORE, None, None, None)
    np.testing.assert_array_equal(everything, prepare(bold, mask, ZSCORE))


@pytest.mark.parametrize(
    ("drop", "time", "n"), [(0, None, 0), (4, None, 4), ("8 s", 2.0, 4), ("9s", 2.0, 5)]
)
def test_volumes_or_seconds_are_cut_off(drop, time, n):
    assert volumes_to_drop(BoldConfig(drop_first=drop), time) == n


@pytest.mark.parametrize("drop", ["8", "two", -1])
def test_a_cut_that_is_none(drop):
    with pytest.raises(ValueError, match="volumes"):
        BoldConfig(drop_first=drop)


def test_seconds_need_a_repetition_time():
    with pytest.raises(SettingsError, match=r"bold.drop_first in seconds need"):
        volumes_to_drop(BoldConfig(drop_first="8 s"), None)
