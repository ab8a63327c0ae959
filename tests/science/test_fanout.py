"""Many encodings side by side give what each gives alone, within cores and memory."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import pytest

from benchmarks.measure import in_process
from tests.science.test_factorization import block_matrix
from trend_dagster.errors import FactorizationError
from trend_dagster.science.block_matrix import BlockMatrix
from trend_dagster.science.fanout import Encoding, count_workers, sweep_encodings, worker_memory
from trend_dagster.science.sweep import SweepGrid, sweep

GRID = SweepGrid(n_components=(3, 5), alpha_W=(1e-4,), n_clusters=(3,))


def encoding(n: int, n_labels: int) -> Encoding:
    load = partial(block_matrix, n, n_labels, 1)
    return Encoding(load().block_sizes, load)


@pytest.mark.slow
def test_encodings_in_processes_give_what_each_gives_alone():
    encodings = {f"L{n}": encoding(60, n) for n in (1, 2, 4)}
    found = dict(sweep_encodings(encodings, GRID, memory_gib=4, n_cores=2))
    assert set(found) == set(encodings)
    for name, cells in found.items():
        alone = {c.n_components: c for c in sweep(encodings[name].load(), GRID)}
        for cell in cells:
            np.testing.assert_array_equal(cell.W, alone[cell.n_components].W)


def broken(parent: int) -> BlockMatrix:
    if os.getpid() != parent:
        raise FactorizationError("file", expected="a", found="b", remedy="Mend it.")
    return block_matrix(30, 2, 0)


@pytest.mark.slow
def test_what_a_worker_raises_arrives():
    bad = Encoding(np.array([15, 15]), partial(broken, os.getpid()))
    with pytest.raises(FactorizationError, match="Mend it"):
        list(sweep_encodings({"bad": bad}, GRID, memory_gib=4, n_cores=1))


def test_workers_are_bounded_by_cores_files_and_memory():
    encodings = {str(n): encoding(60, n) for n in (1, 2, 4)}
    assert count_workers(encodings, GRID, 100, 2) == 2
    assert count_workers(encodings, GRID, 100, 16) == 3
    one = worker_memory(encodings["1"].block_sizes, GRID, 16) / 2**30
    assert count_workers(encodings, GRID, 1.5 * one, 16) == 1
    with pytest.raises(FactorizationError, match="GiB for one worker"):
        count_workers(encodings, GRID, 0.5 * one, 16)


def test_nothing_to_do():
    assert list(sweep_encodings({}, memory_gib=1)) == []


def compiled(n: int, n_labels: int) -> BlockMatrix:
    list(sweep(block_matrix(30, 2, 0), GRID))
    return block_matrix(n, n_labels, 2)


def whole_grid(matrix: BlockMatrix) -> int:
    return len(list(sweep(matrix, SweepGrid(alpha_W=(1e-3,)), n_threads=2)))


@pytest.mark.slow
@pytest.mark.parametrize("n_labels", [1, 10])
def test_a_worker_stays_within_its_memory(n_labels):
    found = in_process(compiled, whole_grid, 1200, n_labels, n_threads=2)
    assert found.value == 16
    stated = worker_memory(block_matrix(1200, n_labels, 2).block_sizes, SweepGrid(), 2) / 2**20
    assert found.peak_mib <= stated
