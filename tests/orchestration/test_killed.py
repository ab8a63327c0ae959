"""A process that is killed loses nothing that was finished, and nobody sees half a store."""

from __future__ import annotations

import signal
import subprocess
import sys

import dagster as dg
import pytest

from tests.conftest import run
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.instance import open_instance
from trend_dagster.orchestration.partitions import to_key
from trend_dagster.project.folder import Project

pytestmark = pytest.mark.slow

KILLED = """\
import os, signal, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from tests.conftest import run
from trend_dagster.storage import stores

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

{patch}
run(Path({folder!r}))
"""

# In the middle of the sweep: two of its four cells are published, then the process dies.
AFTER_TWO_CELLS = """\
publish, count = stores.Store.publish, 0
def counting(self, draft, *arguments, **keywords):
    global count
    if draft.asset == "nmf_sweep":
        if count == 2:
            die()
        count += 1
    return publish(self, draft, *arguments, **keywords)
stores.Store.publish = counting
"""

# While a store is being written: the arrays are there, their names are not.
WHILE_WRITING = """\
sync = stores._sync_tree
def dying(folder):
    if "average_correlation" in str(folder):
        die()
    sync(folder)
stores._sync_tree = dying
"""

# Between the moment a version is complete and the moment it becomes the current one.
BEFORE_THE_POINTER = """\
replace = stores.replace_file
def dying(path, content):
    if path.name == "current" and "sweep_summary" in str(path):
        die()
    replace(path, content)
stores.replace_file = dying
"""

# Between storing an output and telling Dagster of it.
BEFORE_THE_RECORD = """\
import dagster as dg
log = dg.OutputContext.log_event
def dying(self, event):
    if event.asset_key == dg.AssetKey("thresholded_matrix"):
        die()
    log(self, event)
dg.OutputContext.log_event = dying
"""


def run_and_be_killed(folder, patch):
    script = KILLED.format(patch=patch, folder=str(folder))
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=200)
    assert done.returncode == -signal.SIGKILL


def stored(folder, asset):
    project = Project.open(folder)
    found = (project.store.latest(asset, p) for p in ASSETS[asset].partitions(project))
    return [version for version in found if version is not None]


def test_a_killed_run_is_taken_up_where_it_stopped(project_folder):
    run_and_be_killed(project_folder, WHILE_WRITING)
    assert stored(project_folder, "average_correlation") == []
    assert len(stored(project_folder, "embeddings")) == 6

    run_and_be_killed(project_folder, AFTER_TWO_CELLS)
    cells = {v.path for v in stored(project_folder, "nmf_sweep")}
    assert len(cells) == 2

    run_and_be_killed(project_folder, BEFORE_THE_POINTER)
    assert stored(project_folder, "sweep_summary") == []

    outcomes = run(project_folder)
    made = {name: outcome.made for name, outcome in outcomes.items() if outcome.made}
    assert set(made) == {
        "sweep_summary",
        "selected_parcellations",
        "control_correlation",
        "control_sweep",
        "control_comparison",
        "parcellation_images",
        "report",
    }
    assert cells < {v.path for v in stored(project_folder, "nmf_sweep")}
    for name in ASSETS:
        for version in stored(project_folder, name):
            version.verify()
    with open_instance(project_folder) as instance:
        statuses = [run.status for run in instance.get_runs()]
        assert dg.DagsterRunStatus.STARTED not in statuses
        assert statuses.count(dg.DagsterRunStatus.FAILURE) == 3  # the three that were killed


def test_what_was_stored_but_not_recorded_is_recorded_later_and_once(finished):
    settings = (finished / "trend.yaml").read_text()
    (finished / "trend.yaml").write_text(settings + "thresholding: {negatives: abs}\n")
    run_and_be_killed(finished, BEFORE_THE_RECORD)
    outcomes = run(finished)
    assert outcomes["thresholded_matrix"].made == 1  # of two: the first was stored already
    project = Project.open(finished)
    with open_instance(finished) as instance:
        for partition in ASSETS["thresholded_matrix"].partitions(project):
            records = instance.fetch_materializations(
                dg.AssetRecordsFilter(
                    dg.AssetKey("thresholded_matrix"), asset_partitions=[to_key(partition)]
                ),
                limit=10,
            ).records
            assert len(records) == 2  # the first making, and this one
