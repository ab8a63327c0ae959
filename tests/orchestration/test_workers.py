"""Label files swept side by side in processes: the same outputs, on the same records."""

from __future__ import annotations

import dagster as dg
import pytest

from tests.conftest import run
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.instance import open_instance
from trend_dagster.project.folder import Project


def digests(folder) -> dict[tuple[str, ...], str]:
    project = Project.open(folder)
    return {
        tuple(p.values()): project.store.latest("nmf_sweep", p).digest
        for p in ASSETS["nmf_sweep"].partitions(project)
    }


def records(folder) -> int:
    with open_instance(folder) as instance:
        return len(instance.fetch_materializations(dg.AssetKey("nmf_sweep"), limit=100).records)


def ask_for_workers(folder, more: str) -> None:
    text = (folder / "trend.yaml").read_text()
    (folder / "trend.yaml").write_text(text + f"compute: {{workers: 2{more}}}\n")


@pytest.mark.slow
def test_workers_store_and_record_what_one_process_does(finished):
    before, on_record = digests(finished), records(finished)
    ask_for_workers(finished, "")
    assert run(finished, among=["nmf_sweep"])["nmf_sweep"].made == 0  # no part of the identity
    outcome = run(finished, among=["nmf_sweep"], force=True)["nmf_sweep"]
    assert (outcome.made, outcome.errors) == (4, ())
    assert digests(finished) == before
    assert records(finished) == on_record + 4


def test_workers_without_memory_say_how_much_they_need(finished):
    ask_for_workers(finished, ", memory_gib: 0.01")
    outcome = run(finished, among=["nmf_sweep"], force=True)["nmf_sweep"]
    assert outcome.made == 0
    (error,) = outcome.errors
    assert "compute.memory_gib: expected at least" in error
