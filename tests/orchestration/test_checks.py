"""What checks advise."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from trend_dagster.orchestration.checks import _why_without


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
