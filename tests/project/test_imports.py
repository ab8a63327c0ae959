"""What is light to import stays light: reading settings or a store must not load the science."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trend_dagster.science.connectivity import settings as connectivity
from trend_dagster.storage import label_files

# scipy itself is light: it loads a part, and with it linear algebra, when it is first asked for.
HEAVY = (
    *("dagster", "matplotlib", "nibabel", "numba", "pandas"),
    *("scipy.linalg", "scipy.sparse", "scipy.stats", "sklearn", "torch"),
)


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*set({HEAVY!r}) & set(sys.modules))"
    python = [sys.executable, "-c", code]
    return {*subprocess.run(python, capture_output=True, text=True, check=True).stdout.split()}


@pytest.mark.parametrize(
    "module",
    [
        "trend_dagster.project.settings",
        "trend_dagster.storage.stores",
        "trend_dagster.storage.schema",
        "trend_dagster.cli",
    ],
)
def test_no_heavy_library_is_loaded(module):
    assert loaded_by(module) == set()


def test_the_assets_load_dagster_and_no_library_that_computes_or_draws():
    assert loaded_by("trend_dagster.orchestration.assets") == {"dagster"}


def test_files_may_have_as_many_labels_as_the_settings_may_ask_for():
    assert label_files.MAX_LABELS == connectivity.MAX_LABELS
