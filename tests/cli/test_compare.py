"""`trend compare`: what differs between two parcellations, and by how much they agree."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_commands import trend  # noqa: F401 - a fixture
from tests.conftest import N_VERTICES, run
from tests.spheres import brain, write_gifti
from trend_dagster.project.folder import Project
from trend_dagster.project.tables import labels_of, sweep_cells
from trend_dagster.science.evidence.measures import adjusted_rand_index, mean_dice


def test_two_versions_differ_by_a_setting_and_are_measured(trend, finished):  # noqa: F811
    with (finished / "trend.yaml").open("a") as file:
        file.write("selection: {rule: conservative}\n")
    run(finished, select=["selected_parcellations"])
    status, out, err = trend("compare", f"{finished}:before", finished, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["settings"] == {"selection.rule": ["null_corrected", "conservative"]}
    assert [row["n_clusters"] for row in found["agreement"]] == [3, 4]
    before, after = (
        Project.open(finished).store.folder("selected_parcellations", {}).glob("2*").__iter__(),
        Project.open(finished).store.latest("selected_parcellations"),
    )
    assert len(list(before)) == 2
    assert all(0 <= row["dice"] <= 1 for row in found["agreement"])
    assert after.recipe.settings["selection"]["rule"] == "conservative"


@pytest.mark.slow
def test_a_run_that_was_left_out_is_named(trend, finished):  # noqa: F811
    settings = finished / "trend.yaml"
    one = next(iter(Project.open(finished).bold_runs))
    text = settings.read_text().replace("inputs: {", f"inputs: {{exclude: {{{one}: moved}}, ")
    settings.write_text(text)
    run(finished)
    status, out, err = trend("compare", f"{finished}:before", finished)
    assert (status, err) == (0, "")
    assert f"1 runs only in {finished}:before: {one}" in " ".join(out.split())


def test_two_cells_are_compared_by_their_labels_and_drawn(trend, finished):  # noqa: F811
    write_gifti(finished, brain(N_VERTICES // 2, radius=30.0))
    settings = finished / "trend.yaml"
    named = "inputs: {surfaces: [L.surf.gii, R.surf.gii], "
    settings.write_text(settings.read_text().replace("inputs: {", named))
    run(finished, select=["cortex"])
    cells = [f"{finished}:two/4", f"{finished}:six/6"]
    status, out, err = trend("compare", *cells, "--json")
    assert (status, err) == (0, "")
    cells_differ = {"label_file": ["two", "six"], "n_components": ["4", "6"]}
    assert json.loads(out)["settings"] == cells_differ
    stored = sweep_cells(Project.open(finished))
    for row in json.loads(out)["agreement"]:
        grid = {"alpha_W": 1e-4, "l1_ratio": 0.4, "n_clusters": row["n_clusters"]}
        one, other = (
            labels_of(stored, {"label_file": name, "n_components": k} | grid)
            for name, k in (("two", 4), ("six", 6))
        )
        assert row["ari"] == pytest.approx(adjusted_rand_index(other, one), abs=1e-4)
        assert row["dice"] == pytest.approx(mean_dice(other, one), abs=1e-4)
        with Image.open(row["picture"]) as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    status, out, _ = trend("compare", *cells)
    assert "adjusted Rand index" in out
    assert "picture: " in out


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (":two/9", "expected one of six/4, six/6, two/4, two/6, found 0 cells of that name"),
        (":before", "version 'before' of selected_parcellations"),
        (":1999", "version '1999' of selected_parcellations"),
    ],
)
def test_what_cannot_be_compared_is_named(trend, finished_once, other, message):  # noqa: F811
    folder = finished_once.folder
    status, _, err = trend("compare", folder, f"{folder}{other}")
    assert status == 1
    assert message in " ".join(err.split())


def test_a_project_is_the_same_as_its_copy(trend, finished, tmp_path):  # noqa: F811
    copy = shutil.copytree(finished, tmp_path / "copy")
    status, out, err = trend("compare", finished, copy)
    assert (status, err) == (0, "")
    assert "No setting that decides a result differs." in out
    assert out.count("1.000") == 4
