"""What one output costs beside its computation, and how a project of 1,000 runs answers.

``python -m benchmarks.overhead`` makes a project of runs so small that nothing is computed, and
makes all of `bold` and `geodesic_labels` (1,040 outputs), and asks after everything: 1,000 runs, 40
label files and 16 n_components. Each sensor ticks when all files are new to it, and once more when
none is. The last line is one JSON object; ``seconds_per_cell`` is for one output of the two assets.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np

from benchmarks.measure import report

N_VERTICES, N_TIMEPOINTS = 24, 12
SENSORS = ("new_input_files", "changed_input_files")
LONG_AGO = 1.6e9  # a sensor lets a file be that was written just now: it may still be copied
SETTINGS = """\
profile: default
sweep: {{n_components: [{components}], alpha_W: [1.0e-4], n_clusters: [2]}}
"""


@dataclass(frozen=True)
class Size:
    """How many of each there are."""

    n_runs: int = 1000
    n_label_files: int = 40
    n_components: int = 16


def write_project(folder: Path, size: Size) -> None:
    """Write inputs as small as they may be."""
    rng = np.random.default_rng(0)
    for name in ("bold", "geodesic_labels"):
        (folder / name).mkdir(parents=True)
    for run in range(size.n_runs):
        signal = rng.standard_normal((N_VERTICES, N_TIMEPOINTS)).astype(np.float32)
        np.save(folder / "bold" / f"sub-{run // 2:04d}_ses-{run % 2}.npy", signal)
    for number in range(size.n_label_files):
        labels = np.arange(N_VERTICES, dtype=np.int64) % (2 + number % 3)
        np.save(folder / "geodesic_labels" / f"labels-{number:02d}.npy", labels)
    for file in folder.glob("*/*.npy"):
        os.utime(file, (LONG_AGO, LONG_AGO))
    components = ", ".join(str(k) for k in range(2, 2 + size.n_components))
    (folder / "trend.yaml").write_text(SETTINGS.format(components=components))


def measure(folder: Path, size: Size) -> dict[str, float]:
    """Make the outputs, then ask after them.

    Parameters
    ----------
    folder : Path
        Where the project is made.
    size : Size
        Of the project.

    Returns
    -------
    dict of str to float
        Seconds.
    """
    from trend_dagster.definitions import build_definitions
    from trend_dagster.orchestration.instance import open_instance
    from trend_dagster.orchestration.overview import overview
    from trend_dagster.orchestration.running import Wish, run_all
    from trend_dagster.project.folder import Project

    write_project(folder, size)
    project = Project.open(folder)
    seconds: dict[str, float] = {}
    made = 0
    with open_instance(folder) as instance:
        seconds |= ticks(folder, instance, "before")
        for again in ("", "_again"):
            definitions = build_definitions(folder)
            for asset in ("bold", "geodesic_labels"):
                began = time.perf_counter()
                (outcome,) = run_all(project, definitions, instance, Wish(select=[asset]))
                seconds[f"{asset}{again}"] = round(time.perf_counter() - began, 3)
                made += outcome.made
                if outcome.errors:
                    raise SystemExit(outcome.errors[0])
        seconds |= ticks(folder, instance, "after")
    began = time.perf_counter()
    overview(Project.open(folder))
    seconds["status"] = round(time.perf_counter() - began, 3)
    seconds["seconds_per_cell"] = round((seconds["bold"] + seconds["geodesic_labels"]) / made, 4)
    return seconds


def ticks(folder: Path, instance: dg.DagsterInstance, when: str) -> dict[str, float]:
    """Let each sensor look at the folders twice; the seconds of each look."""
    from trend_dagster.definitions import build_definitions
    from trend_dagster.orchestration.resources import ProjectResource

    seconds, definitions = {}, build_definitions(folder)
    for name in SENSORS:
        cursor = None
        for again in ("", "_again"):
            began = time.perf_counter()
            resources = {"project": ProjectResource(folder)}
            context = dg.build_sensor_context(instance, cursor, resources=resources)
            found = definitions.resolve_sensor_def(name)(context)
            seconds[f"{name}_{when}{again}"] = round(time.perf_counter() - began, 3)
            assert isinstance(found, dg.SensorResult)
            cursor = found.cursor
    return seconds


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in vars(Size()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    size = Size(**vars(parser.parse_args()))
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        seconds = measure(Path(scratch) / "project", size)
    report({**vars(size), **seconds}, keep=None)


if __name__ == "__main__":
    main()
