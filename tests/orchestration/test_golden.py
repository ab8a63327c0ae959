"""An output that changes while its code version does not leaves old results in stores in use.

What the golden outputs are, and how they are written anew, says ``tests/golden.py``.
"""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest

from tests import golden
from trend_dagster.orchestration.assets import ASSETS


@pytest.fixture(scope="module")
def written():
    return golden.read()


@pytest.mark.slow
def test_every_asset_makes_what_its_code_version_made_before(written):
    said = golden.complaints(written, golden.make())
    assert not said, "\n".join(said)


def test_every_asset_has_golden_outputs_with_content(written):
    assert set(written) == set(ASSETS)
    for name, entry in written.items():
        excluded = [v for key, v in entry["values"].items() if key.endswith("excluded")]
        assert excluded, name
        # Voxels come with CIFTI files alone: tests/pipeline/test_folders.py.
        if name != "subcortical_networks":
            assert not any(excluded), f"{name} is an exclusion: {excluded}"


@pytest.mark.parametrize("name", list(golden.read()))
def test_a_changed_output_of_any_asset_is_noticed_and_only_that_asset_is_named(written, name):
    found = copy.deepcopy(written)
    values = found[name]["values"]
    key = next(key for key, value in values.items() if value is not None)
    values[key] = [*values[key], 1] if isinstance(values[key], list) else "other"
    # What is made from it changes with it, and is not at fault.
    for other in found:
        if name in ASSETS[other].upstream:
            found[other]["values"]["array more"] = ["1 float64"]
    (said,) = golden.complaints(written, found)
    assert said.startswith(f"{name} makes other outputs")
    assert f"now {ASSETS[name].code_version!r}" in said
    assert "trend_dagster/orchestration/assets/" in said
    assert golden.COMMAND in said


def test_what_puts_stores_in_use_out_of_date_is_noticed(written):
    found = copy.deepcopy(written)
    found["stability"]["made_from"].append("validation.new = 1")
    (said,) = golden.complaints(written, found)
    assert said.startswith("stability is out of date in stores in use: validation.new = 1")


def test_a_raised_code_version_asks_for_new_values(written):
    found = copy.deepcopy(written)
    found["stability"]["code_version"] = "99"
    (said,) = golden.complaints(written, found)
    assert said.startswith("stability: code_version is '99'")
    assert golden.COMMAND in said


def test_an_asset_that_is_new_or_gone_is_named(written):
    before = copy.deepcopy(written)
    before["older"] = before.pop("report")
    assert golden.complaints(before, written) == [
        f"older has golden outputs and is no asset: {golden.COMMAND}",
        f"report has no golden outputs: {golden.COMMAND}",
    ]


@pytest.mark.parametrize(
    ("before", "after", "is_noticed"),
    [
        (1.0, 1.0 + 0.5 * golden.TOLERANCE, False),
        (1.0, 1.0 + 2 * golden.TOLERANCE, True),
        # Of an array the tolerance goes by its size, so that an entry near 0 may move.
        (["2 float64", 1e-9, 1.0, 0.0], ["2 float64", -1e-9, 1.0, 0.0], False),
        (["2 float64", 1e-9, 1.0, 0.0], ["2 float64", 1e-2, 1.0, 0.0], True),
        (["2 float64", 0.5, 0.0, 0.5], ["2 float64", 0.5, 1e-17, 0.5], False),
        (["2 float64", 0.0, 1.0, 0.0], ["2 float32", 0.0, 1.0, 0.0], True),
        (["2 float64", 0.0, 1.0, 0.5], ["2 float64", 0.0, 1.0, None], True),
        (True, 1.0 + 1e-9, True),
        ("kmeans", "spectral", True),
    ],
)
def test_what_counts_as_a_change(before, after, is_noticed):
    assert bool(golden.differing({"it": before}, {"it": after})) is is_noticed


def test_the_command_says_what_it_can():
    said = subprocess.run(
        [sys.executable, "-m", "tests.golden", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "--write" in said
    assert "--anyway" in said
