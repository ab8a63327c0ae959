"""A place is held by one process at a time, whether or not the file system has locks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time

import pytest

from trend_dagster.storage import locks
from trend_dagster.storage.locks import (
    Holder,
    TakenError,
    began,
    has_locks,
    hold,
    is_alive,
    is_free,
)


@pytest.fixture(params=["locks", "no locks", "locks of this machine"])
def kind(request, monkeypatch, tmp_path, tmp_path_factory):
    """As it is, as on a file system without flock, and as on one whose locks nobody else sees."""
    if request.param == "no locks":

        def none(handle, kind):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", none)
    device = tmp_path.stat().st_dev
    options = "rw,vers=3,nolock" if request.param == "locks of this machine" else "rw"
    mounts = tmp_path_factory.mktemp("proc") / "mountinfo"
    where = f"{os.major(device)}:{os.minor(device)}"
    mounts.write_text(f"36 35 {where} / /mnt rw,noatime shared:1 - nfs host:/x {options}\n")
    monkeypatch.setattr(locks, "MOUNTS", mounts)
    locks._of_this_machine.cache_clear()
    yield request.param
    locks._of_this_machine.cache_clear()


def test_it_is_found_out_whether_there_are_locks(tmp_path, kind):
    assert has_locks(tmp_path) == (kind == "locks")


def test_a_place_is_held_by_one_which_is_named(tmp_path, kind):
    file = tmp_path / "place"
    with hold(file, {"page": "here"}):
        with pytest.raises(TakenError) as taken, hold(file, {}):
            pass
        assert taken.value.holder.process == os.getpid()
        assert taken.value.holder.what == {"page": "here"}
    with hold(file, {}):  # free again
        pass


def test_the_place_of_a_dead_process_is_free(tmp_path, kind):
    file = tmp_path / "place"
    script = (
        "import os, sys; from pathlib import Path; from trend_dagster.storage.locks import hold\n"
        "with hold(Path(sys.argv[1]), {}): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(file)], check=False)
    assert not Holder.read(file).alive
    with hold(file, {}):
        pass


def test_one_that_waits_gets_the_place_when_it_is_free(tmp_path):
    file = tmp_path / "place"
    script = (
        "import sys, time; from pathlib import Path; from trend_dagster.storage.locks import hold\n"
        "with hold(Path(sys.argv[1]), {}): print('held', flush=True); time.sleep(1)"
    )
    arguments = [sys.executable, "-c", script, str(file)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with hold(file, {}, wait=True):
            assert other.wait(5) == 0


def test_whether_a_place_is_free_is_told_without_taking_it(tmp_path, kind):
    file = tmp_path / "place"
    assert is_free(file)
    with hold(file, {}):
        assert not is_free(file)
    assert is_free(file)


def test_a_process_that_only_has_the_same_id_is_another():
    assert is_alive(os.getpid(), time.time())
    assert not is_alive(os.getpid(), since=0.0)
    # Where it is known when it began, the time of day says nothing.
    assert is_alive(os.getpid(), 0.0, began(os.getpid()))
    assert not is_alive(os.getpid(), time.time(), began(os.getpid()) - 60)
