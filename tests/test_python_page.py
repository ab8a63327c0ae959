"""docs/python.md does what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from trend_dagster.science.evidence.measures import mean_dice

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


@pytest.mark.slow
def test_the_code_of_the_page_runs_and_finds_what_was_planted():
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
