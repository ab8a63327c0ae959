"""The default settings from BOLD to maps on meshes of any size: time, memory and disk per asset.

``python -m benchmarks.scale`` goes through 1284, 5124, 20484 and 64984 vertices (icosahedra, a
tenth of each hemisphere a medial wall, no files from elsewhere) and fits how each asset grows;
``--vertices N --runs R --timepoints T`` measures one size. Networks are planted, so that it is
seen whether they are found as well on a fine mesh, and on the same cohort brought to a coarser one
(``inputs.resample``). Each size has a process of its own. The last line is one JSON object.

Peak memory is what is resident, mapped files included. ``smoothing_share`` is the share of making
the blocks of a matrix that goes into smoothing: measuring the kernel, smoothing the features, and
taking off the pairs that are near, against the same without; the fastest of three each.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from benchmarks.measure import in_process, measure, report, result_path
from benchmarks.meshes import cortex
from benchmarks.sweep import exponent
from trend_dagster.science.cores import usable_cores
from trend_dagster.science.surface import Surface, hemisphere_triangles

SIZES = (1284, 5124, 20484, 64984)
COARSE = {20484: "3k", 64984: "10k"}
"""Sizes that ``inputs.resample`` has a coarser mesh for."""

HEMISPHERES: tuple[tuple[str, Literal["L", "R"]], ...] = (("left", "L"), ("right", "R"))

SETTINGS = """\
inputs:
  surfaces: [left.surf.gii, right.surf.gii]
  spheres: [left.sphere.surf.gii, right.sphere.surf.gii]
"""


@dataclass(frozen=True)
class Case:
    """A cohort, one run each.

    Parameters
    ----------
    vertices : int
        Of both hemispheres.
    runs, timepoints : int
        How many runs, and volumes of each.
    coarse : bool
        Whether it goes through the coarser mesh as well.
    """

    vertices: int
    runs: int
    timepoints: int
    coarse: bool


def write_project(folder: Path, case: Case) -> None:
    """Write meshes, BOLD with planted networks, settings."""
    from trend_dagster.science.evidence.simulation import SimulationConfig, simulate_cohort

    surface = cortex(case.vertices)
    (folder / "bold").mkdir(parents=True)
    for side in (0, 1):
        _write_mesh(folder, surface, side)
    config = SimulationConfig(
        n_vertices_per_hemisphere=case.vertices // 2,
        n_subjects=case.runs,
        runs_per_subject=1,
        n_timepoints=case.timepoints,
    )
    truth, runs = simulate_cohort(surface, config)
    np.save(folder / "planted.npy", truth)
    for name, bold in runs:
        np.save(folder / "bold" / f"{name}.npy", bold)
    (folder / "trend.yaml").write_text(SETTINGS)


def _write_mesh(folder: Path, surface: Surface, side: int) -> None:
    from trend_dagster.storage.label_images import gifti_surface

    inside, triangles = hemisphere_triangles(surface, side)
    assert surface.sphere is not None
    name, letter = HEMISPHERES[side]
    for ending, kind, points in (
        ("surf", "MidThickness", surface.coordinates),
        ("sphere.surf", "Spherical", surface.sphere),
    ):
        content = gifti_surface(points[inside], triangles, letter, kind)
        (folder / f"{name}.{ending}.gii").write_bytes(content)


def run_project(folder: Path) -> Iterator[dict[str, Any]]:
    """Make every asset; yield what each cost."""
    from trend_dagster.definitions import build_definitions
    from trend_dagster.orchestration.instance import open_instance
    from trend_dagster.orchestration.running import Wish, run_all
    from trend_dagster.project.folder import Project

    project = Project.open(folder)
    with open_instance(folder) as instance:
        outcomes = run_all(project, build_definitions(folder), instance, Wish())
        while (cost := measure(next, outcomes, None)).value is not None:
            outcome = cost.value
            if outcome.errors:
                raise SystemExit(f"{outcome.asset}: {outcome.errors[0]}")
            if outcome.nothing_to_do is None:
                yield {
                    "asset": outcome.asset,
                    "seconds": cost.seconds,
                    "cpu_seconds": cost.cpu_seconds,
                    "peak_gib": cost.peak_mib / 1024,
                    "disk_gib": project.store.size(outcome.asset) / 2**30,
                }


def dice_of(folder: Path) -> float:
    """How well the planted networks are found, on the mesh of the files."""
    from trend_dagster.project.folder import Project
    from trend_dagster.science.evidence.measures import mean_dice

    images = Project.open(folder).store.latest("parcellation_images")
    assert images is not None
    truth = np.load(folder / "planted.npy")
    n_planted = len(np.unique(truth[truth >= 0]))
    chosen = images.read("n_clusters").tolist().index(n_planted)
    return float(mean_dice(images.read("keys")[chosen] - 1, truth))


def smoothing_share(folder: Path) -> float:
    """Share of making blocks that smoothing takes."""
    from trend_dagster.project.folder import Project
    from trend_dagster.project.mesh import mesh_of
    from trend_dagster.science.connectivity.from_runs import RunCorrelation
    from trend_dagster.science.connectivity.smoothing import Smoothing

    project = Project.open(folder)
    versions = [project.store.latest("embeddings", p) for p in
                project.store.stored("embeddings", ("bold_run",))]  # fmt: skip
    runs = [lambda v=v: (v.read("features"), v.read("vertex_mask")) for v in versions if v]
    surface = mesh_of(project.store.latest("cortex"))
    assert surface is not None
    source = RunCorrelation(runs)
    mask = source.mask
    members = [np.flatnonzero(mask & (surface.hemisphere == side)) for side in (0, 1)]
    width = project.settings.thresholding.smoothing_fwhm_mm

    def smoothed() -> None:
        smoothing = Smoothing.along(surface, mask, width, 0.0)
        source.smoothed(smoothing).symmetric_blocks(members)

    seconds: dict[str, list[float]] = {"smoothed": [], "plain": []}
    for _ in range(3):  # in turn: the machine may do something else in between
        for name, make in (
            ("smoothed", smoothed),
            ("plain", lambda: source.smoothed(None).symmetric_blocks(members)),
        ):
            began = time.perf_counter()
            make()
            seconds[name].append(time.perf_counter() - began)
    return 1 - min(seconds["plain"]) / min(seconds["smoothed"])


def measure_case(case: Case) -> dict[str, Any]:
    """Make a cohort and run it; return the rows of its assets and the figures of the whole."""
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "fine"
        write_project(folder, case)
        rows = []
        for row in run_project(folder):
            rows.append(row)
            print({k: v if k == "asset" else round(v, 2) for k, v in row.items()}, flush=True)
        figures = {
            **{name: getattr(case, name) for name in ("vertices", "runs", "timepoints")},
            "seconds": sum(row["seconds"] for row in rows),
            "peak_rss_gib": max(row["peak_gib"] for row in rows),
            "disk_gib": sum(row["disk_gib"] for row in rows),
            "smoothing_share": smoothing_share(folder),
            "dice": dice_of(folder),
            "dice_coarse": None,
        }
        if case.coarse and case.vertices in COARSE:
            figures["dice_coarse"] = _coarse(folder, COARSE[case.vertices])
    return {"rows": rows, "figures": figures}


def _coarse(folder: Path, size: str) -> float:
    """The same cohort through the resampling."""
    other = folder.with_name("coarse")
    other.mkdir()
    for path in folder.iterdir():
        if path.name not in {"store", "outputs", "trend.yaml"} and not path.name.startswith("."):
            (other / path.name).symlink_to(path)
    (other / "trend.yaml").write_text(f"{SETTINGS}  resample: {size}\n")
    for _ in run_project(other):
        pass
    return dice_of(other)


def growth(cases: list[Case]) -> dict[str, Any]:
    """Measure all sizes; the exponents of each asset over those where it takes a second."""
    found = [
        in_process(_itself, measure_case, case, n_threads=usable_cores()).value for case in cases
    ]
    rows = [{"vertices": one["figures"]["vertices"], **row} for one in found for row in one["rows"]]
    print(pd.DataFrame(rows).round(2).to_string(index=False))
    exponents = {}
    for asset in dict.fromkeys(row["asset"] for row in rows):
        long = [row for row in rows if row["asset"] == asset and row["seconds"] > 1]
        exponents[asset] = exponent(long, "vertices", "seconds")
    return {**found[-1]["figures"], "sizes": [one["figures"] for one in found], "rows": rows,
            "seconds_exponent_in_vertices": exponents}  # fmt: skip


def _itself(case: Case) -> Case:
    return case


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vertices", type=int, nargs="+", default=SIZES)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--timepoints", type=int, default=163)
    parser.add_argument("--no-coarse", action="store_true", help="without the coarser mesh")
    parser.add_argument("--keep", action="store_true", help="write figures to benchmarks/results")
    args = parser.parse_args()
    cases = [Case(n, args.runs, args.timepoints, not args.no_coarse) for n in args.vertices]
    report(growth(cases), result_path("scale") if args.keep else None)


if __name__ == "__main__":
    main()
