"""docs/python.md does what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from trend_dagster.science.evidence.measures import mean_dice

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "python.md"


@pytest.mark.slow
def test_the_code_of_the_page_runs_and_finds_what_was_planted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tutorial = (DOCS / "tutorials" / "fmriprep.md").read_text()
    stand_in = re.search(r"^python - <<'EOF'\n(.*?)^EOF$", tutorial, flags=re.DOTALL | re.MULTILINE)
    assert stand_in is not None
    exec(compile(stand_in[1], "the tutorial's stand-in", "exec"), {})
    # The first two blocks read a project: tests/test_snippets.py runs them.
    _, _, *blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    shown: dict = {}
    for code in blocks:
        exec(compile(code, str(PAGE), "exec"), shown)
    labels, planted = shown["labels"], shown["planted"]
    np.testing.assert_array_equal(labels >= 0, planted >= 0)
    assert mean_dice(labels, planted) > 0.9
    np.testing.assert_array_equal(shown["cells"][0].clusterings[0].labels, labels)
    assert (shown["W"].shape[1], shown["H"].shape[0]) == (20, 20)
    assert (shown["unsmoothed"][20][0].clusterings[0].labels != labels).any()
    stability = shown["found"][20]
    assert stability["stability_excess"][0, 0] > 5 * stability["stability_null_sd"][0, 0] > 0
    networks, simulated = shown["networks"], shown["bold_of"]
    assert len(simulated) == len(list(tmp_path.rglob("*_hemi-L_*.func.gii"))) == 8
    left = nib.load(next(iter(tmp_path.rglob("sub-02_*_run-1_hemi-L_*.func.gii"))))
    run = simulated["sub-02_ses-1_task-rest_run-1"]
    np.testing.assert_allclose(run[:642][planted[:642] >= 0], left.agg_data()[planted[:642] >= 0])
    assert all(run.shape == (1284, 120) for run in simulated.values())
    assert mean_dice(networks, planted) > 0.9
