"""What checks advise."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from trend_dagster.orchestration import checks
from trend_dagster.orchestration.checks import _are_their_own, _why_without
from trend_dagster.project.folder import Project
from trend_dagster.project.recordings import copies
from trend_dagster.storage.stores import Recipe


@pytest.mark.parametrize(
    ("n_labels", "n_dead", "advice"),
    [
        (24, 0, "20 components do not cover 24 labels, whatever alpha_W"),
        (20, 0, "Raise sweep.n_components"),
        (24, 20, "Lower sweep.alpha_W"),  # the penalty killed components
        (4, 0, "Lower sweep.alpha_W"),
    ],
)
def test_rows_without_loadings_are_told_by_their_cause(n_labels, n_dead, advice):
    matrix = SimpleNamespace(read=lambda _: np.ones(n_labels))
    project = SimpleNamespace(store=SimpleNamespace(latest=lambda *_: matrix))
    cell = SimpleNamespace(partition={"label_file": "a", "n_components": "20"})
    assert advice in _why_without(project, cell, n_dead)


def test_runs_that_are_one_recording_are_looked_for_once_and_not_for_each_run(
    tmp_path, rng, monkeypatch
):
    (tmp_path / "trend.yaml").touch()
    project = Project.open(tmp_path)
    series = {name: rng.standard_normal((40, 50)).astype(np.float32) for name in "abc"}
    for name, bold in [*series.items(), ("d", series["b"])]:
        with project.store.draft("bold", key := {"bold_run": name}) as draft:
            draft.write("bold", bold)
            draft.write("vertex_mask", np.ones(len(bold), dtype=bool))
            project.store.publish(draft, key, Recipe("bold", "1"), facts={"n_timepoints": 50})
    asked: list[list[str]] = []
    monkeypatch.setattr(checks, "copies", lambda p, runs: asked.append(runs) or copies(p, runs))
    found = _are_their_own(project)
    assert asked == [["a", "b", "c", "d"]]
    assert not found.passed
    assert found.description.startswith("b and d are the same\n")
