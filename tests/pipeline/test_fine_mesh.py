"""A CIFTI cohort on a mesh of 32,492 vertices a hemisphere, from `.dtseries.nii` to `.dlabel.nii`.

The mesh is an icosphere with the density of fsLR 32k and a medial wall of a tenth, which the files
leave out. The cohort goes through `inputs.resample`, so that a test can wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from nibabel.cifti2.cifti2_axes import BrainModelAxis, SeriesAxis

from tests.conftest import run
from tests.workbench import wb_command
from trend_dagster.project.folder import Project
from trend_dagster.science.evidence.measures import mean_dice
from trend_dagster.science.resampling import icosphere
from trend_dagster.science.surface import sphere_triangles
from trend_dagster.storage.label_images import gifti_surface

pytestmark = pytest.mark.slow

N = 32492
N_RUNS, N_TIMEPOINTS = 4, 80
SETTINGS = {
    "inputs": {
        "surfaces": ["L.midthickness.surf.gii", "R.midthickness.surf.gii"],
        "spheres": ["L.sphere.surf.gii", "R.sphere.surf.gii"],
        "resample": "3k",
        "truth": "planted.npy",
    },
    "sweep": {"n_components": [20], "n_clusters": [14]},
    "controls": {"features": []},
    "validation": {"n_nulls": 0},
    "outputs": {"atlases": ["planted.npy"], "n_spins": 20},
}


@dataclass(frozen=True)
class Fine:
    """The project, what is planted in it (-1 on the wall), and what a run of it said."""

    folder: Path
    planted: np.ndarray
    outcomes: dict


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> Fine:
    folder = tmp_path_factory.mktemp("fine")
    points = icosphere(57)
    triangles = sphere_triangles(points)
    assert len(points) == N
    for side, x in (("L", -1), ("R", 1)):
        brain = points * [30, 60, 40] + [35 * x, 0, 0]
        for kind, shape in (("MidThickness", brain), ("Spherical", 100 * points)):
            name = f"{side}.{kind.lower().replace('spherical', 'sphere')}.surf.gii"
            (folder / name).write_bytes(gifti_surface(shape, triangles, side, kind))
    rng = np.random.default_rng(108)
    seeds = rng.standard_normal((7, 3))
    one = np.argmax(points @ (seeds / np.linalg.norm(seeds, axis=1, keepdims=True)).T, axis=1)
    wall = points[:, 0] > 0.8  # a tenth of the sphere
    planted = np.concatenate([np.where(wall, -1, one), np.where(wall, -1, one + 7)])
    np.save(folder / "planted.npy", planted)
    held = np.flatnonzero(~wall)
    axis = BrainModelAxis.from_surface(held, N, "CIFTI_STRUCTURE_CORTEX_LEFT")
    axis += BrainModelAxis.from_surface(held, N, "CIFTI_STRUCTURE_CORTEX_RIGHT")
    (folder / "bold").mkdir()
    for i in range(N_RUNS):
        courses = rng.standard_normal((14, N_TIMEPOINTS))
        noise = rng.standard_normal((2 * len(held), N_TIMEPOINTS))
        signal = (1000 + 10 * courses[planted[planted >= 0]] + 30 * noise).astype(np.float32)
        image = nib.Cifti2Image(signal.T, (SeriesAxis(0, 2, N_TIMEPOINTS), axis))
        image.to_filename(folder / "bold" / f"sub-{i:02d}_bold.dtseries.nii")
    (folder / "trend.yaml").write_text(yaml.safe_dump(SETTINGS))
    return Fine(folder, planted, run(folder))


def test_nothing_fails_and_all_is_computed_on_the_coarse_mesh(fine):
    assert [o.errors for o in fine.outcomes.values() if o.errors] == []
    store = Project.open(fine.folder).store
    assert store.latest("average_correlation").array("correlation").shape == (5124, 5124)
    bold = store.latest("bold", {"bold_run": "sub-00"})
    assert bold.facts["n_vertices"] == 5124
    assert bold.facts["n_vertices_of_the_files"] == 2 * N
    assert store.latest("cortex").facts["vertices_per_hemisphere"] == [2562, 2562]


def test_the_networks_come_back_on_the_mesh_of_the_files(fine):
    """What is lost are the borders."""
    labels = dense_labels(fine)
    truth = fine.planted[fine.planted >= 0]
    assert labels.shape == truth.shape
    assert (labels > 0).mean() > 0.99
    assert mean_dice(labels - 1, truth) > 0.9
    images = Project.open(fine.folder).store.latest("parcellation_images")
    np.testing.assert_array_equal(images.read("keys")[0][fine.planted >= 0], labels)
    print("Dice", mean_dice(labels - 1, truth))


def dense_labels(fine: Fine) -> np.ndarray:
    image = nib.load(fine.folder / "outputs" / "maps" / "selected_14_clusters.dlabel.nii")
    return np.asarray(image.dataobj)[0].astype(int)


def test_soft_maps_and_names_are_on_the_mesh_of_the_files(fine):
    maps = fine.folder / "outputs" / "maps"
    table = pd.read_csv(maps / "selected_14_clusters.tsv", sep="\t")
    assert set(table["name"]) == {
        f"{side}H_{k + 7 * (side == 'R')}" for side in "LR" for k in range(7)
    }
    image = nib.load(maps / "selected_14_clusters_probability.dscalar.nii")
    assert list(image.header.get_axis(0).name) == list(table["name"])
    share, labels = np.asarray(image.dataobj), dense_labels(fine)
    assert share.min() >= 0
    np.testing.assert_allclose(share.sum(axis=0)[labels > 0], 1, atol=1e-5)
    assert (share.argmax(axis=0)[labels > 0] + 1 == labels[labels > 0]).mean() > 0.95
    left = [a.data for a in nib.load(maps / "selected_14_clusters_probability.L.func.gii").darrays]
    held = fine.planted[:N] >= 0
    np.testing.assert_allclose(np.stack(left)[:, held], share[:, : held.sum()], atol=1e-6)
    assert not np.stack(left)[:, ~held].any()
    report = (fine.folder / "outputs" / "report.html").read_text()
    assert all(f">{name}<" in report for name in table["name"])


@pytest.mark.usefixtures("workbench")
def test_workbench_opens_it_on_the_surfaces_of_the_files(fine, tmp_path):
    maps = fine.folder / "outputs" / "maps"
    dense = maps / "selected_14_clusters.dlabel.nii"
    assert f"Number of Rows: {(fine.planted >= 0).sum()}" in " ".join(
        wb_command("-file-information", dense).split()
    )
    wb_command(
        "-cifti-separate", dense, "COLUMN", "-label", "CORTEX_LEFT", tmp_path / "L.label.gii"
    )
    parted = nib.load(tmp_path / "L.label.gii").darrays[0].data
    left = nib.load(maps / "selected_14_clusters.L.label.gii").darrays[0].data
    held = fine.planted[:N] >= 0
    np.testing.assert_array_equal(parted[held], left[held])
    # Borders are drawn on the surface itself: mesh and labels fit.
    wb_command(
        "-cifti-label-to-border", dense, "-border",
        maps / "L.midthickness.surf.gii", tmp_path / "L.border",
    )  # fmt: skip
    assert (tmp_path / "L.border").stat().st_size > 1000
