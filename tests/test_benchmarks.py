"""Every benchmark and experiment runs to its end, on the smallest work it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import chromium_or_skip

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SMALL = {
    "benchmarks.sweep": "--vertices 200 --labels 4 --components 3 5 --sample 3 5",
    "benchmarks.correlation": "--vertices 300 --reference-vertices 100 --runs 2 --features 8",
    "benchmarks.train_step": "--n-vertices 16 --repeats 1 --rounds 1 --growth 16",
    "benchmarks.geodesic": "--vertices 642",
    "benchmarks.read_cifti": "--volumes 3",
    "benchmarks.start": "--repeats 1",
    "benchmarks.overhead": "--n-runs 3 --n-label-files 2",
    "benchmarks.page": "--vertices 324 --seconds 1 --repeats 1",
    "benchmarks.scale": "--vertices 324 --runs 2 --timepoints 40",
    "benchmarks.individuals": "--seeds 801 --subjects 2 --quick --workers 1",
    "experiments.individuals": "transformer --seeds 1 --subjects 2 --n-epochs 1",
    "experiments.confidence_proof": "",
}
ALSO = {"experiments.individuals": "start --seeds 1 --subjects 2 --variations 0.6"}


def test_none_is_forgotten():
    modules = {
        f"{folder}.{path.stem}"
        for folder in ("benchmarks", "experiments")
        for path in (ROOT / folder).glob("*.py")
        if "def main(" in path.read_text()
    }
    assert modules == set(SMALL)


@pytest.mark.parametrize(("module", "work"), [*SMALL.items(), *ALSO.items()])
def test_it_ends_with_one_json_object(module, work):
    if module == "benchmarks.page":
        chromium_or_skip()
    kept = sorted((ROOT / "benchmarks" / "results").glob("*"))
    before = {path: path.read_bytes() for path in kept if path.is_file()}
    done = subprocess.run(
        [sys.executable, "-m", module, *work.split()],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert isinstance(found, dict)
    if module == "benchmarks.individuals":  # of two newborns: which methods are better is not asked
        assert found["dice_06"] > found["group_06"]
        assert found["false_difference_share"] == 0
        assert 0 <= found["identification"] <= 1
        assert found["seeds"] == [801]
    assert {path: path.read_bytes() for path in before} == before
