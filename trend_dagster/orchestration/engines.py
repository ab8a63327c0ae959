"""Where batches of an asset are computed, if not by the process of the run: Dask's workers.

What belongs here: getting tasks done elsewhere and their results back. What does not: which tasks
there are and what becomes of results (``production``): only the process of the run talks to
Dagster. A task publishes by itself what it makes, so it may be done twice.

See https://distributed.dask.org/en/stable/ and https://jobqueue.dask.org/en/stable/.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trend_dagster.errors import RunDiedError, ServerError, SettingsError
from trend_dagster.project.settings import DaskConfig
from trend_dagster.science.cores import limit_cores

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")

CONNECT_SECONDS = 30
WAIT_SECONDS = 0.1
MOST_LOST_WORKERS = 5
"""So many workers may be lost over one task before it is given up; Dask's own default is 3."""

LOOK_SECONDS = 15
"""How often Slurm is asked which jobs there are."""

MOST_IN_VAIN = 5
"""So many looks in a row may find that jobs have ended, and no worker that came."""

_ONE_AT_A_TIME = threading.Lock()


def on_dask(
    tasks: Sequence[Callable[[], T]], config: DaskConfig, project: Path
) -> Iterator[tuple[int, T]]:
    """Have tasks done by Dask's workers, one at a time in each, with all cores that it has.

    The task of a worker that was lost is done again by another.

    Parameters
    ----------
    tasks : sequence of callable
        Each must survive a journey to another process, and so must what it returns.
    config : DaskConfig
        Which workers.
    project : Path
        Folder of the project; workers that are started for it log there.

    Yields
    ------
    tuple of int and object
        Number of the task and what it returned, as soon as it is finished.

    Raises
    ------
    SettingsError
        If Dask is not installed.
    ServerError
        If the scheduler does not answer, Slurm takes no job (any more), or jobs end as they begin.
    RunDiedError
        If workers were lost again and again over the same task.
    Exception
        What a task raised. Tasks that have not begun are not begun.
    """
    try:
        from distributed import KilledWorker, as_completed
    except ImportError as error:
        raise _not_installed() from error
    cores = config.cores if config.cluster else None
    with _client(config, project) as client:
        alone = [partial(_alone, task, cores) for task in tasks]
        # Not pure: what was computed before is not taken for what is asked for now.
        futures = [client.submit(task, pure=False) for task in alone]
        number = {future.key: i for i, future in enumerate(futures)}
        try:
            finished = as_completed(futures, loop=client.loop)
            jobs = _Jobs(client.cluster, config, project) if config.cluster else None
            while not finished.is_empty():
                for future in finished.next_batch(block=False):
                    yield number[future.key], future.result()
                if jobs is not None:
                    jobs.check()
                time.sleep(WAIT_SECONDS)
        except KilledWorker as error:
            raise RunDiedError(
                f"task of {project} on {error.last_worker.address}",
                expected="a worker that lives until the task is done",
                found=f"{MOST_LOST_WORKERS} workers lost over it, one after another",
                remedy="Give them more memory or time (compute.dask), and run again: what was "
                "finished is kept.",
            ) from error
        except BaseException:
            client.cancel(futures, force=True)
            raise


def _alone(task: Callable[[], T], cores: int | None) -> T:
    """Do a task in a worker: compiled loops are not safe in two threads at once."""
    from distributed import get_worker

    with _ONE_AT_A_TIME:
        limit_cores(cores or get_worker().state.nthreads)
        return task()


@contextmanager
def _client(config: DaskConfig, project: Path) -> Iterator[Client]:
    import dask
    from distributed import Client

    patience = {"distributed.scheduler.allowed-failures": MOST_LOST_WORKERS - 1}
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(patience))
        logging.getLogger("distributed").setLevel(logging.ERROR)
        if config.cluster is None:
            assert config.address is not None
            where: Any = config.address
        else:
            where = stack.enter_context(_slurm(config, project))
        try:
            client = stack.enter_context(
                Client(where, timeout=CONNECT_SECONDS, set_as_default=False)
            )
        except (OSError, TimeoutError, ValueError) as error:
            raise ServerError(
                f"compute.dask.address {config.address}",
                expected=f"a Dask scheduler that answers within {CONNECT_SECONDS} s",
                found=" ".join(str(error).split()) or type(error).__name__,
                remedy="Start one (`dask scheduler`, and `dask worker ADDRESS` on each machine), "
                "or set compute.engine to local.",
            ) from error
        yield client


class _Jobs:
    """The jobs of a cluster; Dask itself waits for ever for one that ends before its worker comes.

    Parameters
    ----------
    cluster : SLURMCluster
        From `_slurm`.
    config : DaskConfig
        Which jobs were asked for.
    project : Path
        Folder of the project.
    """

    def __init__(self, cluster: Any, config: DaskConfig, project: Path) -> None:
        self._cluster, self._project = cluster, project
        # `squeue` lists the jobs of this cluster, not of another that they were sent to.
        self._listed = not any(o.startswith(("-M", "--cluster")) for o in config.slurm_options)
        self._came: set[str] = set()  # numbers of jobs; their names are given to others later
        self._looked = time.monotonic()
        self._in_vain = 0

    def check(self) -> None:
        """Give up what Slurm refuses; replace jobs that ended before their worker came."""
        jobs = dict(self._cluster.workers)
        refusals = [job.refusal for job in jobs.values()]
        if refusals and None not in refusals:
            raise self._error("a Slurm that takes jobs like this one", refusals[0])
        workers = list(self._cluster.scheduler_info.get("workers", {}).values())
        here = {str(worker["name"]) for worker in workers}
        self._came |= {job.job_id for name, job in jobs.items() if str(name) in here}
        if here:
            self._in_vain = 0
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        waited_for = {n: j for n, j in jobs.items() if j.job_id and j.job_id not in self._came}
        if not waited_for or not self._listed or (known := _jobs_of_slurm()) is None:
            return
        ended = [name for name, job in waited_for.items() if job.job_id not in known]
        # Not those that Dask has given up meanwhile, nor another job that has the name by now.
        ended = [
            name
            for name in ended
            if name in self._cluster.worker_spec and self._cluster.workers.get(name) is jobs[name]
        ]
        if not ended:
            return
        self._in_vain += not here
        if self._in_vain >= MOST_IN_VAIN:
            raise self._error(
                "a job that lives until its worker has come",
                f"{self._in_vain} times in a row jobs that ended before; "
                + self._last_words([jobs[name].job_id for name in ended]),
            )
        self._cluster.sync(self._cluster.scale_down, ended)  # others are asked for in their place

    def _last_words(self, jobs: Sequence[str]) -> str:
        logs = self._project / ".dagster" / "dask"
        for file in (file for job in jobs for file in logs.glob(f"*-{job}.err")):
            with suppress(OSError):
                said = [line for line in file.read_text(errors="replace").split("\n") if line]
                if said:
                    return f"one said last: {said[-1]} ({file})"
        return f"they said nothing in {logs}"

    @staticmethod
    def _error(expected: str, found: str) -> ServerError:
        return ServerError(
            "compute.dask (cluster: slurm)",
            expected=expected,
            found=" ".join(found.split()),
            remedy="Set queue, cores, memory, walltime and slurm_options to what `sinfo` offers, "
            "or set compute.engine to local.",
        )


def _jobs_of_slurm() -> set[str] | None:
    """Numbers of this user's jobs that wait or run; None if Slurm does not answer."""
    command = ["squeue", "--me", "--noheader", "--format=%i"]
    # What a user wants to see of the queue otherwise is not what is asked for here.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=CONNECT_SECONDS, env=plain
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return set(said.stdout.split())


@contextmanager
def _slurm(config: DaskConfig, project: Path) -> Iterator[Any]:
    """Jobs of Slurm, one worker each: as many as there is work for, and none afterwards."""
    try:
        from dask_jobqueue.slurm import SLURMCluster, SLURMJob
        from distributed import Status
    except ImportError as error:
        raise _not_installed() from error

    class Job(SLURMJob):
        """A job that remembers why Slurm refused it (Dask takes it for one that waits)."""

        refusal: str | None = None

        async def start(self) -> None:
            try:
                await super().start()
            except (OSError, RuntimeError) as error:
                self.refusal = str(error).rpartition("stderr:")[2]
                self.status = Status.running

        async def close(self) -> None:
            await super().close()
            self.status = Status.closed  # which Dask makes sure of when the cluster is closed

    logs = project / ".dagster" / "dask"
    logs.mkdir(parents=True, exist_ok=True)
    with SLURMCluster(
        job_cls=Job,  # type: ignore[arg-type]  # the parameter is annotated as an instance
        queue=config.queue,
        cores=1,  # one task at a time; how many cores that is for, Slurm is told below
        job_cpu=config.cores,
        memory=config.memory,
        walltime=config.walltime,
        interface=config.interface,
        python=sys.executable,
        log_directory=str(logs),
        job_extra_directives=list(config.slurm_options),
        worker_extra_args=["--no-dashboard"],
        # Workers load no module from the folder they are in (a site may not pass variables on).
        job_script_prologue=["export PYTHONSAFEPATH=1"],
        # Whoever reaches the port of a scheduler could run code: each cluster has keys of its own.
        security=True,
        shared_temp_directory=str(logs),
        scheduler_options={"dashboard": False, "dashboard_address": ":0"},
    ) as cluster:
        # Not `scale`, which does not replace a job that was cancelled.
        cluster.adapt(minimum_jobs=0, maximum_jobs=config.most_jobs, target_duration="100ms")
        yield cluster


def _not_installed() -> SettingsError:
    return SettingsError(
        "compute.engine",
        expected="local, or Dask installed",
        found="dask, which is not installed",
        remedy="pip install 'trend_dagster[cluster]', or set compute.engine to local.",
    )
