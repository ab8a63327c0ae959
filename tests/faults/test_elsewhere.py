"""Through the page, computed by jobs of Slurm, recorded in PostgreSQL, and disturbed: the same."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import cycle

import psutil
import pytest

from tests.faults.test_kills import KILLS, PATIENCE, at_rest, launch
from tests.faults.workload import (
    Digests,
    copy_without,
    digests,
    n_outputs,
    not_current,
    seeded,
)
from tests.service import Dev, serving, wait_until
from tests.slurm import ask
from trend_dagster.orchestration.instance import UNFINISHED, lay_records_into, open_records

pytestmark = [pytest.mark.slow, pytest.mark.faults]

KINDS = ["job", "worker", "daemon"]
LACKING = (
    "embeddings",
    "average_correlation",
    "nmf_sweep",
    "stability",
)  # each batch is a task of Dask
COMPUTE = """compute:
  engine: dask
  dask: {cluster: slurm, queue: short, memory: 1500 MiB, most_jobs: 2, interface: lo}
"""


def victims(kind: str, dev: Dev) -> list[Callable[[], object]]:
    """Return how to end each process of a kind that there is."""
    if kind == "job":
        jobs = ask("squeue", "-h", "-t", "RUNNING", "-o", "%i").split()
        return [partial(ask, "scancel", job) for job in jobs]
    if kind == "worker":
        return [process.kill for process in psutil.process_iter() if _is_worker(process, dev)]
    daemon = dev.part("orchestration.daemon")
    # One that is killed as it starts never comes to anything.
    return [daemon.kill] if daemon and time.time() - daemon.create_time() > 8 else []


def test_slurm_and_postgres_disturbed_make_what_one_machine_makes(
    tmp_path, slurm, postgres, undisturbed_folder, undisturbed: Digests
):
    folder, chance = copy_without(undisturbed_folder, tmp_path / "project", *LACKING), seeded()
    shutil.rmtree(folder / ".dagster")
    lines = (folder / "trend.yaml").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("compute:")]
    (folder / "trend.yaml").write_text("".join(kept) + COMPUTE)
    lay_records_into(f"{postgres}/one", folder)
    killed: list[str] = []
    with serving(folder) as dev:
        launch(dev, *LACKING, "report")
        for kind in cycle(KINDS):
            assert dev.process.poll() is None, dev.said()[-3000:]
            if len(killed) >= max(KILLS // 4, len(KINDS)):
                break
            time.sleep(chance.uniform(2, 8))
            if killed[-1:] == [kind]:
                continue  # a daemon that is killed again and again never has anything begun
            with suppress(psutil.NoSuchProcess, IndexError):
                chance.choice(victims(kind, dev))()
                killed.append(kind)
                print(kind, n_outputs(folder), "outputs")
            if at_rest(dev):
                if not not_current(folder):
                    shutil.rmtree(folder / "store" / "nmf_sweep")  # more to be disturbed
                launch(dev.ready(), *LACKING, "report")
        for _ in range(4):
            wait_until(lambda: at_rest(dev), PATIENCE, f"the page rests: {dev.said()[-2000:]}")
            if not not_current(folder):
                break
            launch(dev.ready(), *LACKING, "report")
        assert not not_current(folder)
        with open_records(folder) as records:
            assert not [run for run in records.get_runs() if run.status in UNFINISHED]
        assert dev.end() == 0
    assert digests(folder) == undisturbed
    assert list((folder / ".dagster" / "dask").glob("*.out")), "no job of Slurm has worked"


def _is_worker(process: psutil.Process, dev: Dev) -> bool:
    """Tell a worker of this project, below its nanny, which starts another in its place."""
    with suppress(psutil.Error):
        parent = process.parent()
        return (
            parent is not None
            and "distributed.cli.dask_worker" in parent.cmdline()
            and str(dev.folder) in " ".join(parent.cmdline())
            and "multiprocessing.spawn" in " ".join(process.cmdline())
        )
    return False
