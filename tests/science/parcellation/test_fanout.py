"""Many encodings side by side give what each gives alone, within cores and memory."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import pytest

from benchmarks.measure import in_process
from tests.science.parcellation.test_factorization import block_matrix
from trend_dagster.errors import FactorizationError
from trend_dagster.science.connectivity.thresholding import BlockMatrix
from trend_dagster.science.cores import usable_cores
from trend_dagster.science.parcellation.fanout import count_workers, side_by_side, worker_memory
from trend_dagster.science.parcellation.sweep import Solution, SweepGrid, sweep

GRID = SweepGrid(n_components=(3, 5), alpha_W=(1e-4,), n_clusters=(3,))
TUTORIAL = SweepGrid(n_components=tuple(range(10, 41, 2)), alpha_W=(1e-3,))


def cells(n_labels: int) -> tuple[int, int, list[Solution]]:
    return os.getpid(), usable_cores(), list(sweep(block_matrix(60, n_labels, 1), GRID))


@pytest.mark.slow
def test_encodings_in_processes_give_what_each_gives_alone():
    n_labels = (1, 2, 4)
    found = dict(side_by_side([partial(cells, n) for n in n_labels], n_workers=2, n_cores=2))
    assert set(found) == {0, 1, 2}
    for number, (process, cores, there) in found.items():
        assert process != os.getpid()
        assert cores == 1  # a share of two
        here = {c.n_components: c for c in cells(n_labels[number])[2]}
        for cell in there:
            np.testing.assert_array_equal(cell.W, here[cell.n_components].W)


def broken() -> BlockMatrix:
    raise FactorizationError("file", expected="a", found="b", remedy="Mend it.")


@pytest.mark.slow
def test_what_a_worker_raises_arrives():
    with pytest.raises(FactorizationError, match="Mend it"):
        list(side_by_side([broken], n_workers=1, n_cores=1))


def test_workers_are_bounded_by_cores_files_and_memory():
    sizes = [block_matrix(60, n, 1).block_sizes for n in (1, 2, 4)]

    def needs(n_threads: int) -> list[int]:
        return [worker_memory(size, GRID, n_threads) for size in sizes]

    assert count_workers(needs, 3, 2, 100) == 2
    assert count_workers(needs, 3, 16, 100) == 3
    one = max(needs(16)) / 2**30
    assert count_workers(needs, 3, 16, 1.5 * one) == 1
    with pytest.raises(FactorizationError, match="GiB for one worker"):
        count_workers(needs, 3, 16, 0.5 * one)


def test_nothing_to_do():
    assert list(side_by_side([], 1, 1)) == []


def compiled(n: int, n_labels: int) -> BlockMatrix:
    list(sweep(block_matrix(30, 2, 0), GRID))
    return block_matrix(n, n_labels, 2)


def whole_grid(matrix: BlockMatrix) -> int:
    return len(list(sweep(matrix, TUTORIAL, n_threads=2)))


@pytest.mark.slow
@pytest.mark.parametrize("n_labels", [1, 10])
def test_a_worker_stays_within_its_memory(n_labels):
    found = in_process(compiled, whole_grid, 1200, n_labels, n_threads=2)
    assert found.value == 16
    stated = worker_memory(block_matrix(1200, n_labels, 2).block_sizes, TUTORIAL, 2) / 2**20
    assert found.peak_mib <= stated
