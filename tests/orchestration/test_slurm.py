"""Partitions computed by jobs of a real Slurm."""

from __future__ import annotations

import shlex
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import run
from tests.faults.workload import leavings, make_project
from tests.orchestration.test_engines import all_digests, ask_for_dask
from tests.service import TREND, wait_until
from tests.slurm import ask
from trend_dagster.errors import ServerError
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.engines import on_dask
from trend_dagster.project.folder import Project
from trend_dagster.project.settings import DaskConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("collected"),
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

    canceller = threading.Thread(target=cancel, daemon=True)
    canceller.start()
    config = DaskConfig(cluster="slurm", queue="short", memory="1 GiB", most_jobs=1, interface="lo")
    assert list(on_dask([lambda: _first_try_hangs(marker)], config, tmp_path)) == [(0, "done")]
    canceller.join()


def test_jobs_that_end_before_their_worker_comes_are_replaced(tmp_path, slurm, monkeypatch):
    cancelled: list[str] = []
    # No worker comes before two jobs have been cancelled.
    gate, late = tmp_path / "gate", tmp_path / "late-python"
    late.write_text(
        f'#!/bin/sh\nuntil [ -e {gate} ]; do sleep 0.1; done\nexec {sys.executable} "$@"\n'
    )
    late.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(late))

    def cancel() -> None:
        while len(cancelled) < 2:
            # Killed at once, as one is that its machine takes with it; but not before its script
            # has begun, for Slurm may then start it all the same.
            found = set(ask("squeue", "-h", "-t", "RUNNING", "-o", "%i").split())
            for job in found - set(cancelled):
                if list(tmp_path.glob(f".dagster/dask/*-{job}.err")):
                    ask("scancel", job)
                    cancelled.append(job)
        gate.touch()

    canceller = threading.Thread(target=cancel, daemon=True)
    canceller.start()
    config = DaskConfig(cluster="slurm", queue="short", memory="1 GiB", most_jobs=1, interface="lo")
    assert list(on_dask([lambda: "done"], config, tmp_path)) == [(0, "done")]
    assert len(cancelled) == 2


def test_jobs_that_always_end_before_their_worker_comes_are_an_error(tmp_path, slurm, monkeypatch):
    monkeypatch.setattr("trend_dagster.orchestration.engines.LOOK_SECONDS", 1)
    monkeypatch.setattr("sys.executable", "/no/such/python")
    config = DaskConfig(cluster="slurm", queue="short", memory="1 GiB", most_jobs=1, interface="lo")
    with pytest.raises(ServerError, match=r"found.*5 times in a row.*/no/such/python"):
        list(on_dask([lambda: None], config, tmp_path))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"queue": "nobodys"}, "invalid partition specified: nobodys"),
        ({"memory": "900 GiB"}, "Requested node configuration is not available"),
    ],
)
def test_a_job_that_slurm_refuses_is_an_error_and_not_a_wait(tmp_path, slurm, wrong, said):
    asked = {"queue": "short", "memory": "1 GiB", "most_jobs": 1, "interface": "lo", **wrong}
    config = DaskConfig(cluster="slurm", **asked)
    with pytest.raises(ServerError, match=f"found.*{said}"):
        list(on_dask([lambda: None], config, tmp_path))


def test_a_job_that_has_to_wait_for_a_machine_is_not_refused(tmp_path, slurm):
    node = ask("sinfo", "-h", "-o", "%n").strip()
    ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    back = ["scontrol", "update", f"nodename={node}", "state=resume"]
    later = threading.Timer(5, lambda: ask(*back))
    later.start()
    config = DaskConfig(cluster="slurm", queue="short", memory="1 GiB", most_jobs=1, interface="lo")
    assert list(on_dask([lambda: "done"], config, tmp_path)) == [(0, "done")]
    later.join()


SCRIPT = Path(__file__).parents[2] / "docs" / "trend.sbatch"


def submit(project: Path, folder: Path) -> tuple[str, Path]:
    """Submit the script of the docs, as a user does; number of the job, and its log."""
    trend = folder / "trend"
    trend.write_text(f'#!/bin/sh\nexec {shlex.join(TREND)} "$@"\n')
    trend.chmod(0o755)
    said = ask(
        "sbatch",
        "--parsable",
        f"--chdir={folder}",
        f"--export=ALL,TREND={trend}",
        "--mem=2G",
        str(SCRIPT),
        str(project),
    )
    return said.strip(), folder / f"trend-{said.strip()}.log"


def test_the_script_of_the_docs_makes_a_project(finished, tmp_path, slurm):
    job, log = submit(finished, tmp_path)
    wait_until(lambda: job not in ask("squeue", "-h", "-o", "%i"), 240, "the job ends")
    assert "nothing was computed" in log.read_text()


def test_the_script_is_ended_in_order_by_the_signal_that_it_asks_for(tmp_path, slurm):
    project = make_project(tmp_path / "project")
    job, log = submit(project, tmp_path)
    wait_until(lambda: log.exists() and "bold" in log.read_text(), 240, "it works")
    ask("scancel", "--signal=INT", "--batch", job)
    wait_until(lambda: job not in ask("squeue", "-h", "-o", "%i"), 60, "the job ends")
    assert "Stopped. What was finished is kept" in log.read_text()
    assert not leavings(project)
