"""Unfinished work: what was marked as done is found again, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from trend_dagster.science.connectivity.correlation import CorrelationConfig, correlate_runs
from trend_dagster.storage.scratch import ResumableMatrix


def test_marked_tiles_are_found_again_with_their_numbers(tmp_path):
    first = ResumableMatrix(tmp_path, (6, 6), 3)
    first.array[:3, :3] = 7
    first.mark((0, 0))
    again = ResumableMatrix(tmp_path, (6, 6), 3)
    assert again.done == {(0, 0)}
    assert (again.array[:3, :3] == 7).all()


def test_another_tile_size_and_a_line_cut_short_count_for_nothing(tmp_path):
    first = ResumableMatrix(tmp_path, (6, 6), 3)
    first.mark((0, 0))
    assert ResumableMatrix(tmp_path, (6, 6), 2).done == set()
    with next(tmp_path.glob("*tile3.done")).open("a") as file:
        file.write("0 3")  # no end of line: the process died while it wrote
    assert ResumableMatrix(tmp_path, (6, 6), 3).done == {(0, 0)}


def test_a_correlation_broken_off_ends_as_an_unbroken_one(tmp_path, rng):
    runs = [(rng.standard_normal((50, 12)).astype(np.float32), np.ones(50, bool)) for _ in range(3)]
    config = CorrelationConfig(tile=20)
    whole = correlate_runs(runs, config)

    def broken(tile):
        matrix.mark(tile)
        if len(matrix.done) == 2:
            raise KeyboardInterrupt

    matrix = ResumableMatrix(tmp_path, (50, 50), 20)
    with pytest.raises(KeyboardInterrupt):
        correlate_runs(runs, config, out=matrix.array, on_tile=broken, n_threads=1)
    again = ResumableMatrix(tmp_path, (50, 50), 20)
    assert len(again.done) == 2
    correlate_runs(runs, config, out=again.array, done=again.done, on_tile=again.mark)
    np.testing.assert_array_equal(again.array, whole)
