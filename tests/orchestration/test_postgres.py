"""Dagster's records in PostgreSQL: two projects, many runs at once, no lost event."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from tests.conftest import run
from trend_dagster.errors import SettingsError, StoreError
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.instance import lay_records_into, open_instance, open_records
from trend_dagster.project.folder import Project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("collected"),
    # A pool of connections that Dagster leaves to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def in_postgres(source: Path, target: Path, url: str) -> Path:
    """A copy of a finished project of which Dagster has no records yet."""
    shutil.copytree(source, target)
    shutil.rmtree(target / ".dagster")
    lay_records_into(url, target)
    return target


def test_a_project_with_records_in_postgres_is_the_same(finished, tmp_path, postgres):
    folder = in_postgres(finished, tmp_path / "one", f"{postgres}/one")
    outcomes = run(folder)
    assert not [e for o in outcomes.values() for e in o.errors]
    assert not any(o.made for o in outcomes.values())  # recorded, not computed
    project = Project.open(folder)
    with open_records(folder) as records:
        for name, asset in ASSETS.items():
            found = records.fetch_materializations(dg.AssetKey(name), limit=100).records
            assert len(found) == len(asset.partitions(project))
    assert not list((folder / ".dagster").glob("**/*.db"))


RUNS = """
import sys
from pathlib import Path
import dagster as dg
from trend_dagster.orchestration.instance import open_instance

@dg.asset
def counted() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"n": 1})

@dg.asset(deps=[counted])
def after() -> None: ...

with open_instance(Path(sys.argv[1])) as instance:
    for _ in range(5):
        found = dg.materialize([counted, after], instance=instance)
        print(found.run_id, len(found.all_events))
"""


def test_forty_runs_of_eight_processes_in_two_projects_lose_no_event(tmp_path, postgres):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder, name in zip(folders, ("three", "four"), strict=True):
        folder.mkdir()
        lay_records_into(f"{postgres}/{name}", folder)
        with open_instance(folder):
            pass  # makes the tables
    at_work = [
        (folder, subprocess.Popen([sys.executable, "-c", RUNS, folder], stdout=-1, text=True))
        for folder in folders
        for _ in range(4)
    ]
    told: dict[Path, list[list[str]]] = {folder: [] for folder in folders}
    for folder, process in at_work:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        told[folder] += [line.split() for line in said.splitlines()]
    for folder, runs in told.items():
        assert len(runs) == 20
        with open_records(folder) as records:
            assert {run.run_id for run in records.get_runs()} == {run for run, _ in runs}
            for run, n_events in runs:
                events = [e for e in records.all_logs(run) if e.is_dagster_event]
                assert len(events) >= int(n_events)
            for asset in ("counted", "after"):
                found = records.fetch_materializations(dg.AssetKey(asset), limit=100).records
                assert len(found) == 20


def test_a_database_of_another_project_is_refused(tmp_path, postgres):
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        lay_records_into(f"{postgres}/two", tmp_path / name)
    with open_instance(tmp_path / "mine"):
        pass
    with (
        pytest.raises(SettingsError, match=r"the records of project .*mine"),
        open_instance(tmp_path / "theirs"),
    ):
        pass
    (tmp_path / "mine").rename(tmp_path / "moved")  # a project that was moved keeps its records
    with open_instance(tmp_path / "moved"):
        pass


def test_a_server_that_is_not_there_is_named_in_words(tmp_path):
    lay_records_into("postgresql://lab@127.0.0.1:1/none", tmp_path)
    with (
        pytest.raises(StoreError, match="expected a server that lets this user in"),
        open_instance(tmp_path),
    ):
        pass


@pytest.mark.parametrize("url", ["mysql://a/b", "postgresql:", "here"])
def test_an_address_that_is_none_is_refused(tmp_path, url):
    with pytest.raises(SettingsError, match="postgresql://USER@HOST/DATABASE"):
        lay_records_into(url, tmp_path)
    lay_records_into("env:RECORDS", tmp_path)
    with pytest.raises(SettingsError, match="settings of yours"):
        lay_records_into("env:RECORDS", tmp_path)
