"""Partitions computed by Dask's workers: the same outputs, on the same records."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster

from tests.conftest import run
from tests.orchestration.test_workers import records
from trend_dagster.errors import RunDiedError, ServerError, SettingsError
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.engines import on_dask
from trend_dagster.project.folder import Project
from trend_dagster.project.settings import DaskConfig, load_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("collected"),
    # Dask closes its own sockets and loops when its threads get to it.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


SENT = ("bold", "embeddings", "geodesic_labels", "thresholded_matrix", "nmf_sweep", "control_sweep")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two workers, processes of their own, as `dask scheduler` and `dask worker` give them."""
    with LocalCluster(
        n_workers=2, threads_per_worker=2, dashboard_address=":0", host="127.0.0.1"
    ) as cluster:
        yield cluster
    gc.collect()


def ask_for_dask(folder: Path, dask: str) -> None:
    text = (folder / "trend.yaml").read_text()
    (folder / "trend.yaml").write_text(text + f"compute: {{engine: dask, dask: {{{dask}}}}}\n")


def all_digests(folder: Path) -> dict[tuple[str, str], str]:
    project = Project.open(folder)
    return {
        (name, str(partition)): project.store.latest(name, partition).digest
        for name in SENT
        for partition in ASSETS[name].partitions(project)
    }


def test_dask_stores_and_records_what_one_process_does(finished, cluster):
    before, on_record = all_digests(finished), records(finished)
    ask_for_dask(finished, f"address: '{cluster.scheduler_address}'")
    outcomes = run(finished, among=SENT)
    assert not any(o.made for o in outcomes.values())  # the engine is no part of the identity
    outcomes = run(finished, among=SENT, force=True)
    assert not [e for o in outcomes.values() for e in o.errors]
    assert {name: o.made for name, o in outcomes.items()} == {
        name: len(ASSETS[name].partitions(Project.open(finished))) for name in SENT
    }
    assert all_digests(finished) == before
    assert records(finished) == on_record + 4


def test_what_a_task_raises_is_raised_here(tmp_path, cluster):
    def fail() -> None:
        raise ValueError("of the task")

    with pytest.raises(ValueError, match="of the task"):
        list(on_dask([fail], DaskConfig(address=cluster.scheduler_address), tmp_path))


def _first_try_hangs(marker: Path) -> int:
    if not marker.exists():
        marker.write_text(str(os.getpid()))
        time.sleep(120)
    return os.getpid()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_task_of_a_lost_worker_is_done_by_another(tmp_path, cluster):
    marker = tmp_path / "process"

    def kill() -> None:
        while not marker.exists() or not marker.read_text():
            time.sleep(0.1)
        os.kill(int(marker.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    config = DaskConfig(address=cluster.scheduler_address)
    (found,) = on_dask([lambda: _first_try_hangs(marker)], config, tmp_path)
    killer.join()
    assert found[0] == 0
    assert found[1] != int(marker.read_text())


# The last that asks this cluster: a worker that is killed as it begins does not always come back.
def test_a_task_that_kills_every_worker_is_given_up_with_a_word(tmp_path, cluster):
    config = DaskConfig(address=cluster.scheduler_address)
    with pytest.raises(RunDiedError, match="Give them more memory"):
        list(on_dask([_die], config, tmp_path))


def test_a_scheduler_that_is_not_there_is_named(finished, monkeypatch):
    monkeypatch.setattr("trend_dagster.orchestration.engines.CONNECT_SECONDS", 1)
    config = DaskConfig(address="tcp://127.0.0.1:1")
    with pytest.raises(ServerError, match=r"compute\.dask\.address tcp://127\.0\.0\.1:1"):
        list(on_dask([_die], config, finished))
    ask_for_dask(finished, "address: 'tcp://127.0.0.1:1'")
    (error,) = run(finished, among=["bold"], force=True)["bold"].errors
    assert "expected a Dask scheduler that answers" in error


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("compute: {engine: dask}", "compute.dask beside engine dask"),
        ("compute: {dask: {}}", "either an address"),
        ("compute: {dask: {address: 'tcp://a:1', cluster: slurm}}", "either an address"),
        ("compute: {dask: {cluster: slurm, qeue: x}}", "did you mean queue"),
        ("compute: {dask: {cluster: slurm, memory: lots}}", "compute.dask.memory"),
    ],
)
def test_settings_of_dask_that_cannot_be_are_named(tmp_path, text, word):
    (tmp_path / "trend.yaml").write_text(text)
    with pytest.raises(SettingsError, match=word):
        load_settings(tmp_path)
