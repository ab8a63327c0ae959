"""Partitions computed by jobs of a real Slurm."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.conftest import run
from tests.orchestration.test_engines import all_digests, ask_for_dask
from tests.service import wait_until
from tests.slurm import ask
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.engines import on_dask
from trend_dagster.project.folder import Project
from trend_dagster.project.settings import DaskConfig

pytestmark = [
    pytest.mark.slow,
    # Dask closes its own sockets and loops when its threads get to it.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

JOBS = "cluster: slurm, queue: short, cores: 1, memory: 1500 MiB, most_jobs: 1, interface: lo"
LARGE = {"bold", "embeddings", "nmf_sweep"}


def test_jobs_of_slurm_store_what_one_process_does(finished, slurm):
    before = all_digests(finished)
    ask_for_dask(finished, JOBS)
    outcomes = run(finished, among=LARGE, force=True)
    assert not [e for o in outcomes.values() for e in o.errors]
    assert {name: o.made for name, o in outcomes.items()} == {
        name: len(ASSETS[name].partitions(Project.open(finished))) for name in LARGE
    }
    assert all_digests(finished) == before
    assert list((finished / ".dagster" / "dask").glob("*.out")), "no job of Slurm has worked"
    wait_until(lambda: not ask("squeue", "-h"), 30, "no job is left")


def _first_try_hangs(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        time.sleep(120)
    return "done"


def test_a_job_that_is_cancelled_is_replaced_and_its_task_done_again(tmp_path, slurm):
    marker = tmp_path / "begun"

    def cancel() -> None:
        while not marker.exists():
            time.sleep(0.2)
        ask("scancel", "--user=root")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    config = DaskConfig(cluster="slurm", queue="short", memory="1 GiB", most_jobs=1, interface="lo")
    assert list(on_dask([lambda: _first_try_hangs(marker)], config, tmp_path)) == [(0, "done")]
    canceller.join()
