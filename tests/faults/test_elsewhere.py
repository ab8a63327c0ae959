"""Through the page, computed by jobs of Slurm, recorded in PostgreSQL, and disturbed: the same."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress

import psutil
import pytest

from tests.faults.test_kills import at_rest, launch_all
from tests.faults.workload import Digests, digests, make_project, not_current, seeded
from tests.service import serving, wait_until
from tests.slurm import ask
from trend_dagster.orchestration.instance import UNFINISHED, lay_records_into, open_records

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1100)]

KILLS = 6
COMPUTE = """compute:
  engine: dask
  dask: {cluster: slurm, queue: short, memory: 1500 MiB, most_jobs: 2, interface: lo}
"""


def test_slurm_and_postgres_disturbed_make_what_one_machine_makes(
    tmp_path, slurm, postgres, undisturbed: Digests
):
    folder, chance = make_project(tmp_path / "project"), seeded()
    lines = (folder / "trend.yaml").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("compute:")]
    (folder / "trend.yaml").write_text("".join(kept) + COMPUTE)
    lay_records_into(f"{postgres}/one", folder)
    killed: list[str] = []
    with serving(folder) as dev:
        launch_all(dev)
        while len(killed) < KILLS:
            time.sleep(chance.uniform(2, 8))
            jobs = ask("squeue", "-h", "-t", "RUNNING", "-o", "%i").split()
            workers = [p for p in psutil.process_iter() if _is_worker(p)]
            what = chance.choice(["job", "worker", "daemon"])
            if what == "job" and jobs:
                ask("scancel", chance.choice(jobs))
                killed.append(what)
            elif what == "worker" and workers:
                with suppress(psutil.NoSuchProcess):
                    chance.choice(workers).kill()
                    killed.append(what)
            elif what == "daemon":
                daemon = dev.part("orchestration.daemon")
                if daemon is not None and time.time() - daemon.create_time() > 8:
                    daemon.kill()
                    killed.append(what)
            if at_rest(dev):
                if not not_current(folder):
                    shutil.rmtree(folder / "store" / "nmf_sweep")  # more to be disturbed
                launch_all(dev.ready())
        for _ in range(4):
            wait_until(lambda: at_rest(dev), 300, f"the page comes to rest: {dev.said()[-2000:]}")
            if not not_current(folder):
                break
            launch_all(dev.ready())
        assert not not_current(folder)
        with open_records(folder) as records:
            assert not [run for run in records.get_runs() if run.status in UNFINISHED]
        assert dev.end() == 0
    assert digests(folder) == undisturbed
    assert list((folder / ".dagster" / "dask").glob("*.out")), "no job of Slurm has worked"


def _is_worker(process: psutil.Process) -> bool:
    """Tell a worker of Dask, below its nanny, which starts another in its place."""
    with suppress(psutil.Error):
        parent = process.parent()
        return (
            parent is not None
            and "distributed.cli.dask_worker" in parent.cmdline()
            and "multiprocessing.spawn" in " ".join(process.cmdline())
        )
    return False
