"""The average correlation against np.corrcoef, and against the machine's own matrix product.

``python -m benchmarks.correlation`` prints a table and, as its last line, one JSON object.

``fraction_of_gemm_peak`` counts each pair of vertices once: V (V + 1) / 2 pairs times the
features of all runs, two operations each, over wall time, against the fastest float32 product of
large matrices seen before and after. Reading, standardising, writing both triangles and the
diagonal are in the wall time; the memory of the output is taken from the system before the clock
starts, on both sides. Where other work shares the machine, wall times tell little:
``fraction_of_gemm_peak_by_cpu_time`` sets processor time against processor time. ``speedup`` is
against a loop of np.corrcoef in float64, at a size where that loop fits into memory.

With ``--device cuda`` the peak is still the CPU's product, so that the fraction says what the card
gains on the same machine; the card's own product stands beside it, ``device_gemm_gflops``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.measure import in_process, measure, product_speed, report, result_path, show
from trend_dagster.science._device import Device, full_float32
from trend_dagster.science.connectivity.correlation import (
    Run,
    correlate_runs,
)
from trend_dagster.science.connectivity.settings import CorrelationConfig
from trend_dagster.science.connectivity.thresholding import FloatArray

_GEMM_SIZE = 4096


@dataclass(frozen=True)
class Case:
    """One cohort."""

    n_vertices: int
    n_runs: int
    n_features: int
    budget_gib: float
    n_threads: int
    device: Device = "cpu"

    def save(self, folder: Path) -> None:
        """Write the features of all runs."""
        for seed in range(self.n_runs):
            np.save(folder / f"{seed}.npy", self.run(seed)[0])

    def runs(self, folder: Path) -> list[Callable[[], Run]]:
        """Return functions that read the features of each run."""
        mask = np.ones(self.n_vertices, dtype=bool)

        def read(path: Path) -> Run:
            return np.load(path), mask

        return [partial(read, folder / f"{seed}.npy") for seed in range(self.n_runs)]

    @property
    def config(self) -> CorrelationConfig:
        """Return the engine's settings."""
        return CorrelationConfig(memory_budget_gib=self.budget_gib, device=self.device)

    def run(self, seed: int) -> Run:
        """Make one run."""
        rng = np.random.default_rng(seed)
        features = rng.standard_normal((self.n_vertices, self.n_features), dtype=np.float32)
        return features, np.ones(self.n_vertices, dtype=bool)

    @property
    def operations(self) -> float:
        """Floating point operations with each pair of vertices counted once."""
        pairs = self.n_vertices * (self.n_vertices + 1) / 2
        return pairs * self.n_runs * self.n_features * 2


def gemm_peak(repeats: int = 5) -> tuple[float, float]:
    """Return operations per second, of wall and of processor time, of large float32 products."""
    a = np.random.default_rng(0).random((_GEMM_SIZE, _GEMM_SIZE // 2), dtype=np.float32)
    out = np.empty((_GEMM_SIZE, _GEMM_SIZE), dtype=np.float32)
    b = np.ascontiguousarray(a.T)
    found = [measure(np.matmul, a, b, out) for _ in range(repeats)]
    operations = 2 * _GEMM_SIZE**2 * (_GEMM_SIZE // 2)
    wall, cpu = (
        min(times) for times in zip(*((m.seconds, m.cpu_seconds) for m in found), strict=True)
    )
    return operations / wall, operations / cpu


def prepare(case: Case, folder: Path) -> tuple[Case, Path, FloatArray]:
    """Warm the matrix product up, and take the output's memory from the system."""
    gemm_peak(1)
    small = Case(64, 1, 8, case.budget_gib, case.n_threads, case.device)
    correlate_runs([small.run(0)], small.config)
    return case, folder, np.full((case.n_vertices, case.n_vertices), np.nan, dtype=np.float32)


def tiled(prepared: tuple[Case, Path, FloatArray]) -> None:
    """Average all runs."""
    case, folder, out = prepared
    correlate_runs(case.runs(folder), case.config, out=out, n_threads=case.n_threads)


def prepare_again(case: Case, folder: Path) -> tuple[Case, Path, FloatArray]:
    """Average all runs once before the clock starts."""
    prepared = prepare(case, folder)
    tiled(prepared)
    return prepared


def against_peak(case: Case, repeats: int = 3) -> dict[str, Any]:
    """Measure peak and average in turn; return the figures of the best of each."""
    peaks, runs, again = [], [], []
    with threadpool_limits(case.n_threads):
        peaks.append(gemm_peak())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case.save(folder)
        for _ in range(repeats):
            runs.append(in_process(prepare, tiled, case, folder, n_threads=case.n_threads))
            again.append(in_process(prepare_again, tiled, case, folder, n_threads=case.n_threads))
            with threadpool_limits(case.n_threads):
                peaks.append(gemm_peak())
    seconds = min(run.seconds for run in runs)
    cpu_seconds = min(run.cpu_seconds for run in runs)
    peak, cpu_peak = (max(of_kind) for of_kind in zip(*peaks, strict=True))
    return {
        "n_vertices": case.n_vertices,
        "n_runs": case.n_runs,
        "n_features": case.n_features,
        "seconds": seconds,
        "gemm_peak_gflops": peak / 1e9,
        "fraction_of_gemm_peak": case.operations / seconds / peak,
        "fraction_of_gemm_peak_again": case.operations / min(r.seconds for r in again) / peak,
        "fraction_of_gemm_peak_by_cpu_time": case.operations / cpu_seconds / cpu_peak,
        "peak_rss_gib": max(run.peak_mib for run in runs) / 1024,
    }


def against_corrcoef(case: Case) -> dict[str, Any]:
    """Time both ways on a smaller cohort, in turn; return speedup and largest difference."""
    runs = [case.run(seed) for seed in range(case.n_runs)]
    ours, theirs = [], []
    with threadpool_limits(case.n_threads):
        for _ in range(3):
            ours.append(
                measure(partial(correlate_runs, n_threads=case.n_threads), runs, case.config)
            )
            theirs.append(measure(loop, runs))
    seconds = min(one.seconds for one in theirs)
    return {
        "reference_vertices": case.n_vertices,
        "reference_seconds": seconds,
        "speedup": seconds / min(one.seconds for one in ours),
        "largest_difference": float(np.abs(ours[0].value - theirs[0].value).max()),
    }


def loop(runs: Sequence[Run]) -> Any:
    """Average np.corrcoef over runs in float64."""
    total = np.zeros((len(runs[0][0]),) * 2)
    for features, _ in runs:
        total += np.corrcoef(features.astype(np.float64))
    return total / len(runs)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vertices", type=int, default=20484)
    parser.add_argument("--reference-vertices", type=int, default=5124)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--budget", type=float, default=2.0, help="GiB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=get_args(Device), default="cpu")
    parser.add_argument("--keep", action="store_true", help="write figures to benchmarks/results")
    args = parser.parse_args()
    sizes = args.runs, args.features, args.budget, args.threads, args.device
    figures = against_peak(Case(args.vertices, *sizes))
    figures |= against_corrcoef(Case(args.reference_vertices, *sizes))
    if args.device == "cuda":
        with full_float32():
            speed = product_speed([(_GEMM_SIZE,) * 3], "float32", "cuda")
        figures["device_gemm_gflops"] = speed / 1e9
    show(figures)
    report(figures, result_path("correlation", args.device) if args.keep else None, args.device)


if __name__ == "__main__":
    main()
