"""The schema describes what the science computes, name by name."""

from __future__ import annotations

from trend_dagster.science.evidence.stability import COLUMNS, MEASURES
from trend_dagster.storage.schema import SCHEMA


def test_every_measure_of_stability_is_described():
    grid = {"alpha_W", "l1_ratio", "n_clusters"}
    assert SCHEMA["stability"].keys() == grid | {*COLUMNS} | {f"{m}_nulls" for m in MEASURES}
