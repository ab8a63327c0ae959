"""`trend doctor` and `trend gc`, each as a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.service import TREND, Dev, trend, wait_until
from trend_dagster.orchestration.examination import examine
from trend_dagster.project.folder import Project
from trend_dagster.storage.provenance import Recipe
from trend_dagster.storage.stores import Store

pytestmark = pytest.mark.slow  # every command starts a process

RUN = {"bold_run": "sub-01_run-1"}


@pytest.fixture
def project(project_folder: Path) -> Path:
    """A project with three versions of one output, not made by its own code."""
    store = Store(project_folder / "store", keep_versions=9)
    for value in range(3):
        publish(store, RUN, value)
    return project_folder


def publish(store: Store, partition: dict[str, str], value: float) -> None:
    with store.draft("bold", partition) as draft:
        draft.write("bold", np.full((3, 4), value, np.float32))
        draft.write("vertex_mask", np.ones(3, bool))
        store.publish(draft, partition, Recipe("bold", "0", {}, {}))


def found(folder: Path, *options: str) -> dict[str, str]:
    done = trend("gc", folder, "--json", *options)
    assert done.returncode == 0, done.stderr
    return {one["path"]: one["what"] for one in json.loads(done.stdout)["found"]}


def test_dev_that_is_ended_before_it_is_up_says_that_it_starts_and_ends_with_0(project):
    dev = Dev(project)
    wait_until(lambda: "Starting" in dev.said(), 60, "a first line")
    assert dev.end() == 0
    assert "Traceback" not in dev.said()


def old(path: Path) -> Path:
    """Let a folder or file look as if it was written to two hours ago."""
    then = time.time() - 7200
    for one in [*path.rglob("*"), path]:
        os.utime(one, (then, then))
    return path


def test_gc_says_what_is_needed_no_more_and_removes_it_only_when_told(project):
    output = project / "store" / "bold" / "bold_run=sub-01_run-1"
    versions = sorted(p for p in output.iterdir() if p.is_dir())
    scratch = output / ".scratch-0000000000000000"
    scratch.mkdir()
    (scratch / "matrix.npy").write_bytes(b"0" * 5000)
    partial = output / ".partial-20200101T000000.000000-00000000"
    shutil.copytree(versions[0], partial)
    elsewhere = project / "store" / "no_such_asset"
    shutil.copytree(output, elsewhere / "run=1")
    at_work = output / ".scratch-1111111111111111"
    at_work.mkdir()
    for path in (scratch, partial, elsewhere):
        old(path)
    wanted = {*versions[:2], scratch, partial, elsewhere}
    assert set(found(project)) == {str(path) for path in wanted}
    assert set(found(project, "--keep", "2")) == {str(p) for p in wanted - {versions[1]}}

    said = trend("gc", project)  # nobody can be asked
    assert "Remove 5 of these" in said.stdout
    assert "--yes" in said.stdout
    assert all(path.exists() for path in wanted)

    done = trend("gc", project, "--yes")
    assert "5 removed" in done.stdout
    assert not any(path.exists() for path in wanted)
    assert at_work.exists()
    assert Project.open(project).store.latest("bold", RUN).read("bold")[0, 0] == 2
    assert "Nothing" in trend("gc", project).stdout


def test_gc_takes_outputs_without_their_file_only_on_request(project):
    (project / "bold" / "sub-01_run-1.npy").unlink()
    folder = old(project / "store" / "bold" / "bold_run=sub-01_run-1")
    assert str(folder) not in found(project)
    assert found(project, "--outdated")[str(folder)].endswith("asked for no more")
    held = Project.open(project).store.latest("bold", RUN)
    assert "in use" in trend("gc", project, "--outdated", "--yes").stderr
    held.verify()
    shutil.move(project / "bold", project / "away")  # one that is not mounted asks for nothing
    assert str(folder) not in found(project, "--outdated")
    shutil.move(project / "away", project / "bold")
    del held
    trend("gc", project, "--outdated", "--yes")
    assert not folder.exists()


def test_gc_leaves_what_is_being_read(project):
    store = Project.open(project).store
    held = store.latest("bold", RUN)
    assert held.read("bold")[0, 0] == 2
    publish(store, RUN, 3)
    said = trend("gc", project, "--yes")
    assert "in use" in said.stderr
    assert held.path.exists()


def test_an_output_that_takes_no_more_is_said_in_words(project):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*TREND, "status", str(project)], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert "the output of this command: expected room on the disk" in done.stderr


def test_doctor_looks_at_everything_and_changes_nothing(project):
    before = sorted(project.rglob("*"))
    done = trend("doctor", project, "--json")
    assert done.returncode == 0, done.stdout
    subjects = {one["subject"] for one in json.loads(done.stdout)}
    assert subjects == {
        "settings", "inputs", "permissions", "file system", "space", "versions", "runs", "threads"
    }  # fmt: skip
    assert sorted(project.rglob("*")) == before


def test_doctor_names_what_is_wrong_and_says_the_rest(project):
    (project / "trend.yaml").write_text("training: {n_epoch: 3}")
    (project / ".dagster").mkdir()
    (project / ".dagster" / "run.lock").write_text(
        json.dumps({"process": 2**22 + 1, "host": os.uname().nodename, "since": 0.0, "what": {}})
    )
    done = trend("doctor", project, OMP_NUM_THREADS="1")
    assert done.returncode == 1
    assert "did you mean n_epochs?" in done.stdout
    assert "`trend run` was killed; the next one goes on" in done.stdout
    assert "threads" in done.stdout


def test_associations_that_will_be_left_out_are_said_before_anything_is_computed(project_folder):
    with (project_folder / "trend.yaml").open("a") as file:
        file.write("individuals: {associate: [age_at_scan], participants: people.tsv}\n")
    settings = project_folder / "trend.yaml"
    settings.write_text(settings.read_text().replace("inputs: {", "inputs: {surface: fsaverage3, "))
    table = project_folder / "people.tsv"
    table.write_text("participant_id\tage_at_scn\n" + "sub-01\t40\nsub-02\t41\n")
    expected = "no association with age_at_scan: individuals.associate names age_at_scan, which is "
    expected += "no column of individuals.csv (did you mean age_at_scn?)"
    told = [f for f in examine(project_folder) if expected in f.words]
    assert [(f.subject, f.level) for f in told] == [("inputs", "note")]
    done = trend("run", project_folder, "--select", "individuals")
    assert done.stdout.startswith(f"note {expected}")
    table.write_text("participant_id\tage_at_scan\nsub-01\t40\nsub-02\t41\n")
    words = "5 newborns are needed, and 2 have age_at_scan"
    assert [f.level for f in examine(project_folder) if words in f.words] == ["note"]
    table.unlink()
    wrong = [f for f in examine(project_folder) if "participants table" in f.words]
    assert [f.level for f in wrong] == ["wrong"]
