"""The disk gets full at each kind of write: it is said in words, and nothing is half-written."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.test_kills import PATIENCE, at_rest, launch
from tests.faults.workload import (
    Digests,
    copy_without,
    digests,
    leavings,
    not_current,
    shown_as_in_progress,
)
from tests.service import serving, trend, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults]

MIB = 2**20


class Disk:
    """A small real disk.

    Parameters
    ----------
    folder : Path
        Where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.filler = folder, folder / "filler"

    def leave(self, n_bytes: int) -> None:
        """Fill it up to that room."""
        self.filler.unlink(missing_ok=True)
        # What is at work there may take the room first: full is full.
        with suppress(OSError), self.filler.open("wb") as file:
            file.write(bytes(max(0, shutil.disk_usage(self.folder).free - n_bytes)))

    def free(self) -> None:
        self.filler.unlink(missing_ok=True)

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)


@contextmanager
def small_disk(folder: Path, size: str = "96m") -> Iterator[Disk]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


# Where the room ends: with the first records, in the middle of training, of stores, of outputs.
@pytest.mark.parametrize(
    ("lacking", "room"),
    [
        (("bold", "embeddings"), 20_000),
        (("trained_model", "embeddings"), 300_000),
        (("average_correlation", "thresholded_matrix"), 150_000),
        (("nmf_sweep", "sweep_summary"), 200_000),
        (("parcellation_images", "report"), 250_000),
    ],
)
def test_a_run_that_finds_no_room_says_so_and_the_next_goes_on(
    disk, undisturbed_folder, undisturbed: Digests, lacking, room
):
    folder = copy_without(undisturbed_folder, disk.folder / "project", *lacking)
    before = digests(folder)
    disk.leave(room)
    done = trend("run", folder)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "room on the disk" in said
    assert "should not happen" not in said
    assert "Traceback" not in said
    after = digests(folder)
    assert all(after[output] == digest for output, digest in before.items())
    assert not leavings(folder)
    disk.free()
    done = trend("run", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert digests(folder) == undisturbed


def test_a_page_on_a_full_disk_ends_its_runs_and_goes_on_when_there_is_room(
    disk, undisturbed_folder, undisturbed: Digests
):
    lacking = ("embeddings", "average_correlation", "nmf_sweep")
    folder = copy_without(undisturbed_folder, disk.folder / "project", *lacking)
    with serving(folder) as dev:
        launch(dev, *lacking, "report")
        time.sleep(5)
        disk.leave(100_000)
        time.sleep(30)
        disk.free()
        wait_until(lambda: at_rest(dev), PATIENCE, f"nothing hangs: {dev.said()[-3000:]}")
        launch(dev.ready(), *lacking, "report")
        wait_until(lambda: at_rest(dev), PATIENCE, f"the next ends: {dev.said()[-3000:]}")
        assert not not_current(folder)
        assert not shown_as_in_progress(folder)
        assert dev.end() == 0
    assert digests(folder) == undisturbed


def test_a_project_that_cannot_be_written_to_is_read(disk, undisturbed_folder):
    folder = copy_without(undisturbed_folder, disk.folder / "project")
    disk.remount("ro")
    assert trend("status", folder).returncode == 0
    shown = trend("show", "sweep_summary", "--folder", folder)
    assert shown.returncode == 0, shown.stderr
    exported = trend("export", folder, "--to", disk.folder.parent / "exported")
    assert exported.returncode == 0, exported.stderr
    found = trend("doctor", folder)
    assert found.returncode == 0, found.stdout
    done = trend("run", folder)
    assert done.returncode == 1
    assert "expected a file system that can be written to" in done.stderr
    with serving(folder, "--read-only") as dev:
        assert dev.ask("{ assetNodes { assetKey { path } } }")["assetNodes"]
        assert dev.end() == 0


NO_LOCKS = """\
import errno, fcntl, os
def flock(handle, kind):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = flock
"""


def test_without_locks_everything_is_made_nothing_is_collected_and_that_is_said(
    tmp_path, undisturbed_folder, undisturbed: Digests
):
    folder = copy_without(undisturbed_folder, tmp_path / "project", "nmf_sweep", "sweep_summary")
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(NO_LOCKS)
    without = {"PYTHONPATH": str(tmp_path / "without")}
    found = trend("doctor", folder, **without)
    assert "has no locks (flock)" in found.stdout
    done = trend("run", folder, **without)
    assert done.returncode == 0, done.stderr
    assert digests(folder) == undisturbed
    versions = len(list(folder.glob("store/nmf_sweep/*/*/*/zarr.json")))
    for _ in range(3):
        forced = trend("run", folder, "--force", "--select", "sweep_summary", **without)
        assert forced.returncode == 0, forced.stderr
    assert len(list(folder.glob("store/sweep_summary/*/zarr.json"))) == 4
    assert len(list(folder.glob("store/nmf_sweep/*/*/*/zarr.json"))) == versions
