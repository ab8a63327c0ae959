"""The demo's maps, judged by the programs they are made for."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest

from tests.delivery.test_figures import hue_of
from tests.workbench import render, wb_command
from trend_dagster.project.folder import Project
from trend_dagster.project.fsaverage import load_fsaverage

# One worker makes the demo and runs all that looks at it.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]

NAME = "selected_14_clusters"
PAGE = Path(__file__).parents[2] / "docs" / "maps.md"


@pytest.fixture
def maps(made):
    folder, done = made
    assert done.returncode == 0, done.stderr
    return folder / "outputs" / "maps"


@pytest.fixture
def labels(made):
    return Project.open(made[0]).store.latest("selected_parcellations").read("labels")[0]


def test_every_format_holds_the_stored_labels_and_0_without_signal(maps, labels):
    half = len(labels) // 2
    for side, expected in (("L", labels[:half] + 1), ("R", labels[half:] + 1)):
        gifti = nib.load(maps / f"{NAME}.{side}.label.gii").darrays[0].data
        annot, _, names = nib.freesurfer.read_annot(maps / f"{side.lower()}h.{NAME}.annot")
        np.testing.assert_array_equal(gifti, expected)
        np.testing.assert_array_equal(annot, expected)
        assert ((gifti == 0) == (expected == 0)).all()
        assert len(names) == 15
    walls = load_fsaverage(642).medial_wall
    assert (labels[walls] == -1).all()


def test_the_surface_beside_the_maps_is_the_project_s(maps):
    surface = load_fsaverage(642)
    for side, inside in (("L", surface.hemisphere == 0), ("R", surface.hemisphere == 1)):
        for kind, points in (
            ("midthickness", surface.coordinates),
            ("inflated", surface.inflated),
        ):
            mesh = nib.load(maps / f"{side}.{kind}.surf.gii")
            np.testing.assert_array_equal(mesh.agg_data("pointset"), points[inside])
            assert mesh.agg_data("triangle").max() == 641


@pytest.mark.usefixtures("workbench")
def test_workbench_accepts_every_file(maps):
    for path in sorted(maps.iterdir()):
        if path.suffix in {".gii", ".spec"} and "scene" not in path.name:
            assert "Type:" in wb_command("-file-information", path)
    shown = wb_command("-file-information", maps / f"{NAME}.L.label.gii")
    assert "CortexLeft" in shown
    assert "LH_01" in shown


@pytest.mark.usefixtures("workbench")
def test_workbench_draws_borders_around_the_networks(maps, tmp_path):
    for side in ("L", "R"):
        out = tmp_path / f"{side}.border"
        surface = maps / f"{side}.midthickness.surf.gii"
        wb_command("-label-to-border", surface, maps / f"{NAME}.{side}.label.gii", out)
        names = set(nib.load(maps / f"{NAME}.{side}.label.gii").darrays[0].data.tolist()) - {0}
        assert out.read_text().count("<Border>") + out.read_text().count("<Border ") >= len(names)


@pytest.mark.usefixtures("workbench")
def test_workbench_shows_cortex_with_the_networks_in_their_colours(maps):
    picture = render(maps / f"{NAME}.spec") / 255
    assert (picture.max(axis=2) > 0.2).mean() > 0.3, "the cortex is not there"
    # Light makes a colour paler or darker and leaves its hue. The left hemisphere is on the left.
    hues = dict(zip("LR", np.split(hue_of(picture), 2, axis=1), strict=True))
    lines = (maps / f"{NAME}.tsv").read_text().splitlines()
    for row in csv.DictReader(lines, delimiter="\t"):
        rgb = np.array([int(row["color"][i : i + 2], 16) for i in (1, 3, 5)]) / 255
        share = {
            side: (np.abs((seen - hue_of(rgb) + 3) % 6 - 3) < 0.2).mean()
            for side, seen in hues.items()
        }
        assert share[row["hemisphere"]] > 0.001, f"{row['name']} is not seen"


@pytest.mark.filterwarnings("ignore")  # what nilearn and matplotlib say of each other
def test_the_python_of_the_page_draws_a_map(maps, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(maps.parents[1])
    plt.close("all")
    exec(compile(code, str(PAGE), "exec"), {})
    (number,) = plt.get_fignums()
    assert plt.figure(number).axes[0].collections  # the mesh is in it
    plt.close("all")
