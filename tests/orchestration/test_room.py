"""A step that has not the memory or the disk that it needs says so before it begins."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.conftest import run
from trend_dagster.errors import SettingsError, StoreError
from trend_dagster.orchestration import room
from trend_dagster.project.folder import Project


def test_memory_that_is_there_is_enough_and_no_more():
    there = room.memory_of_machine()
    room.check_memory("stability", int(there * 2**30), there)
    with pytest.raises(SettingsError, match=r"memory_gib: expected at least 12 GiB .* stability"):
        room.check_memory("stability", 12 * 2**30, 11.9)


def test_a_container_may_have_less_than_its_machine(tmp_path, monkeypatch):
    machine = room.memory_of_machine()
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text(f"{2**28}\n")
    limits = [str(tmp_path / name) for name in ("none", "max", "limit")]
    monkeypatch.setattr(room, "_CGROUP_LIMITS", limits[:2])
    assert room.memory_of_machine() >= machine
    monkeypatch.setattr(room, "_CGROUP_LIMITS", limits)
    assert room.memory_of_machine() == 0.25


def test_disk_is_measured_where_the_project_will_be(tmp_path, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    room.check_disk("average_correlation", 2**30, tmp_path / "not" / "there")
    with pytest.raises(StoreError, match="expected 33 GiB free for average_correlation, found 1 "):
        room.check_disk("average_correlation", 33 * 2**30, tmp_path)


def test_every_large_asset_is_refused_before_it_begins_and_nothing_is_lost(finished, monkeypatch):
    store = Project.open(finished).store
    before = store.latest("average_correlation").digest
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    (finished / "trend.yaml").write_text(
        (finished / "trend.yaml").read_text() + "compute: {memory_gib: 0.01}\n"
    )
    among = ["average_correlation", "thresholded_matrix", "nmf_sweep"]
    outcomes = run(finished, among=among, force=True)
    found = [error for name in among for error in outcomes[name].errors]
    assert "GiB free for average_correlation" in found[0]
    for name in among[1:]:
        assert outcomes[name].made == 0
        assert any("compute.memory_gib" in error and name in error for error in found)
    assert store.latest("average_correlation").digest == before
