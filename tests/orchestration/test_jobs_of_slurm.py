"""What is made of jobs that end before their worker comes; `test_slurm` has real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from trend_dagster.errors import ServerError
from trend_dagster.orchestration.engines import MOST_IN_VAIN, _Jobs
from trend_dagster.project.settings import DaskConfig


@dataclass(eq=False)
class Job:
    """What a cluster knows of a job of Slurm."""

    job_id: str
    refusal: str | None = None


class Cluster:
    """Jobs as a cluster of Dask tells of them; those of which a worker came are named.

    Parameters
    ----------
    jobs : mapping of str to Job
        By the name of their worker.
    """

    def __init__(self, jobs: dict[str, Job], here: Sequence[str] = ()) -> None:
        self.workers, self.worker_spec = jobs, dict.fromkeys(jobs)
        self.came(*here)
        self.replaced: list[str] = []

    def came(self, *names: str) -> None:
        self.scheduler_info = {"workers": {name: {"name": name} for name in names}}

    def sync(self, function, names):
        return function(names)

    def scale_down(self, names):
        self.replaced += names


@pytest.fixture
def watched(monkeypatch, tmp_path):
    """Makes what watches a cluster, with the numbers of jobs that Slurm knows."""
    config = DaskConfig(cluster="slurm", queue="short", memory="1 GiB")

    def watch(cluster: Cluster, *known: str) -> _Jobs:
        monkeypatch.setattr("trend_dagster.orchestration.engines.LOOK_SECONDS", 0)
        monkeypatch.setattr(
            "trend_dagster.orchestration.engines._jobs_of_slurm", lambda: set(known)
        )
        return _Jobs(cluster, config, tmp_path)

    return watch


def test_a_job_that_ended_before_its_worker_came_is_replaced(watched):
    cluster = Cluster({"a": Job("1"), "b": Job("2"), "c": Job("3")}, here=["c"])
    watched(cluster, "2", "3").check()
    assert cluster.replaced == ["a"]


def test_a_job_whose_worker_came_and_was_lost_is_left_to_dask(watched):
    names = "abcdef"
    cluster = Cluster({name: Job(str(n)) for n, name in enumerate(names)}, here=list(names))
    jobs = watched(cluster)
    jobs.check()
    cluster.came()
    for _ in range(10):
        jobs.check()
    assert not cluster.replaced


def test_a_job_that_dask_has_given_up_or_replaced_is_left_alone(watched):
    cluster = Cluster({"a": Job("1"), "b": Job("2")})
    del cluster.worker_spec["a"]
    jobs = watched(cluster)
    given = cluster.workers

    def asked():
        cluster.workers = {**given, "b": Job("3")}  # while Slurm was asked
        return set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trend_dagster.orchestration.engines._jobs_of_slurm", asked)
        jobs.check()
    assert not cluster.replaced


def test_many_jobs_that_end_at_once_are_one_failure_and_a_worker_begins_the_count_anew(watched):
    cluster = Cluster({str(n): Job(str(n)) for n in range(20)})
    jobs = watched(cluster)
    for _ in range(MOST_IN_VAIN - 1):
        jobs.check()
    cluster.came("x")
    jobs.check()
    cluster.came()
    for _ in range(MOST_IN_VAIN - 1):
        jobs.check()
    with pytest.raises(ServerError, match="5 times in a row"):
        jobs.check()
