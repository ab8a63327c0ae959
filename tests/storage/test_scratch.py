"""Unfinished work: what was marked as done is found again, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from trend_dagster.science.connectivity.correlation import CorrelationConfig, correlate_runs
from trend_dagster.storage.provenance import Recipe
from trend_dagster.storage.stores import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def draft(store):
    with store.draft("average_correlation") as draft:
        yield draft


def resume(draft, n, tile, tmp_path):
    return draft.resume("correlation", (n, n), (tile, tile), tmp_path / "scratch")


def test_marked_tiles_are_found_again_with_their_numbers(draft, tmp_path):
    first = resume(draft, 6, 3, tmp_path)
    first.array[:3, :3] = 7
    first.mark((0, 0))
    again = resume(draft, 6, 3, tmp_path)
    assert again.done == {(0, 0)}
    assert (again.array[:3, :3] == 7).all()


def test_a_tile_of_zeros_is_work_done_as_any_other(draft, tmp_path):
    first = resume(draft, 6, 3, tmp_path)
    first.array[:3, :3] = 0
    first.mark((0, 0))
    assert resume(draft, 6, 3, tmp_path).done == {(0, 0)}


def test_a_tile_that_is_noted_and_gone_is_to_be_made_again(draft, tmp_path):
    first = resume(draft, 6, 3, tmp_path)
    first.array[:3, 3:] = first.array[3:, :3] = 7
    first.mark((0, 3))
    (tmp_path / "scratch/correlation/c/1/0").unlink()  # its mirror image
    assert resume(draft, 6, 3, tmp_path).done == set()


def test_another_tile_size_and_a_line_cut_short_count_for_nothing(draft, tmp_path):
    first = resume(draft, 6, 3, tmp_path)
    first.array[...] = 7
    first.mark((0, 0))
    with (tmp_path / "scratch/correlation.done").open("a") as file:
        file.write("0 3")  # no end of line: the process died while it wrote
    assert resume(draft, 6, 3, tmp_path).done == {(0, 0)}
    assert resume(draft, 6, 2, tmp_path).done == set()
    assert resume(draft, 6, 3, tmp_path).done == set()


def test_what_is_adopted_is_published_without_a_copy_and_stays_when_the_scratch_goes(
    store, tmp_path, rng
):
    values = rng.standard_normal((5, 5)).astype(np.float32)
    with store.draft("average_correlation") as draft:
        matrix = resume(draft, 5, 3, tmp_path)
        matrix.array[...] = values
        draft.adopt(matrix)
        draft.write("vertex_mask", np.ones(5, bool))
        draft.write("run_masks", np.ones((1, 5), bool))
        chunk = draft.path / "correlation/c/0/0"
        assert chunk.samefile(matrix.folder / "c/0/0")
        version = store.publish(draft, {}, Recipe("average_correlation", "1", {}, {}))
    for path in [matrix.folder / "c/0/0", matrix.folder / "c/1/1"]:
        path.unlink()
    np.testing.assert_array_equal(version.read("correlation"), values)
    version.verify()


def test_a_correlation_broken_off_ends_as_an_unbroken_one(draft, tmp_path, rng):
    runs = [(rng.standard_normal((50, 12)).astype(np.float32), np.ones(50, bool)) for _ in range(3)]
    config = CorrelationConfig(tile=20)
    whole = correlate_runs(runs, config)

    def broken(tile):
        matrix.mark(tile)
        if len(matrix.done) == 2:
            raise KeyboardInterrupt

    matrix = resume(draft, 50, 20, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        correlate_runs(runs, config, out=matrix.array, on_tile=broken, n_threads=1)
    again = resume(draft, 50, 20, tmp_path)
    assert len(again.done) == 2
    correlate_runs(runs, config, out=again.array, done=again.done, on_tile=again.mark)
    np.testing.assert_array_equal(again.array[...], whole)
