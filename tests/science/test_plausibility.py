"""Ranges of what is recorded: what is usual passes, and what another unit makes of it does not."""

from __future__ import annotations

import pytest

from trend_dagster.science.plausibility import REPETITION_TIME, TABLE, doubts, outlying

BOLD = {
    "repetition_time_s": 0.392,
    "n_timepoints": 2300,
    "n_vertices": 64984,
    "n_vertices_without_signal": 5400,
    "n_vertices_outside_cortex_mask": 0,
    "temporal_snr": 40.0,
}
CORTEX = {
    "n_vertices": 1284,
    "n_medial_wall": 110,
    "vertices_per_hemisphere": [642, 642],
    "area_cm2": {"left": 650.0, "right": 660.0},
}


def test_usual_values_and_older_facts_raise_no_doubt():
    assert doubts("bold", BOLD) == []
    assert doubts("bold", BOLD | {"repetition_time_s": None, "temporal_snr": 0.001}) == []
    assert doubts("cortex", CORTEX) == []
    assert doubts("bold", {}) == doubts("cortex", {}) == []


@pytest.mark.parametrize(
    ("asset", "change", "said"),
    [
        ("bold", {"repetition_time_s": 0.002}, "repetition time is 0.002 s"),
        ("bold", {"repetition_time_s": 2000.0}, "repetition time is 2e+03 s"),
        ("bold", {"n_timepoints": 2}, "number of volumes is 2"),
        ("bold", {"n_vertices_without_signal": 40000}, "share of vertices with signal is 0.384"),
        (
            "bold",
            {"n_vertices_outside_cortex_mask": 5400, "n_vertices_without_signal": 30000},
            "0.587",
        ),
        ("bold", {"temporal_snr": 2.0}, "temporal SNR is 2"),
        ("cortex", {"area_cm2": {"left": 0.0007, "right": 660.0}}, "area of the left hemisphere"),
        ("cortex", {"vertices_per_hemisphere": [60, 642]}, "mean length of edges of the left"),
        ("cortex", {"n_medial_wall": 0}, "share of vertices on the medial wall is 0"),
        ("cortex", {"n_medial_wall": 800}, "inputs.cortex_mask"),
        ("geodesic_distances", {"nearest_mm": 0.004}, "nearest vertex is 0.004 mm"),
    ],
)
def test_a_value_out_of_its_range_is_said(asset, change, said):
    found = doubts(asset, (BOLD if asset == "bold" else CORTEX) | change)
    assert any(said in each for each in found)


def test_a_run_of_another_repetition_time_than_its_subject_s_others_is_named():
    """Another subject may come from another scanner."""
    times = {"a1": 2.0, "a2": 1.0, "a3": 2.0, "b1": 0.8, "b2": None}
    found = outlying(
        {key: {"subject": key[0], "repetition_time_s": time} for key, time in times.items()}
    )
    assert list(found) == ["a2"]
    assert "repetition time is 1 s, where other runs of a have 2 s" in found["a2"][0]


def test_what_was_noticed_comes_first():
    assert doubts("geodesic_labels", {"notes": ["odd"]}) == ["odd"]


def test_every_row_says_why_and_where_from():
    assert REPETITION_TIME in TABLE
    assert all(row.why and row.source and row.low < row.high for row in TABLE)
