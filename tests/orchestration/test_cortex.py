"""The surface as an input: its mesh, distances on it, labels cut from it, through to maps."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest
from scipy.sparse import csgraph

from tests.conftest import MEDIAL_WALL, N_VERTICES, run, simulate_run, write_project
from tests.spheres import brain, measure_distances, write_freesurfer, write_gifti
from tests.workbench import wb_command
from trend_dagster.errors import SettingsError
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.lineage import Lineage
from trend_dagster.project.folder import Project
from trend_dagster.project.settings import load_settings
from trend_dagster.science.surface import edge_graph, vertex_areas
from trend_dagster.storage.arrays import read_labels

HALF = N_VERTICES // 2
SURFACE = brain(HALF, radius=30.0)
WALL = np.isin(np.arange(N_VERTICES), MEDIAL_WALL)
TRUTH = "inputs: {truth: planted_networks.npy}\n"
NAMED = "inputs: {truth: planted_networks.npy, surfaces: [L.surf.gii, R.surf.gii]}\n"


def name_surface(folder, extra: str = "", inputs: str = NAMED) -> None:
    """Write the mesh, and settings that name it."""
    write_gifti(folder, SURFACE)
    settings = folder / "trend.yaml"
    settings.write_text(settings.read_text().replace(TRUTH, inputs) + extra)


def status_of(folder, asset: str) -> dict[tuple[str, ...], str]:
    found = Lineage(Project.open(folder)).states(ASSETS[asset])
    return {tuple(s.partition.values()): s.status for s in found}


def errors_of(outcomes) -> list[str]:
    return [error for outcome in outcomes.values() for error in outcome.errors]


# From BOLD and a surface alone


@pytest.fixture(scope="module")
def without_label_files(tmp_path_factory):
    """BOLD and a surface, no label file; everything made once."""
    folder = write_project(tmp_path_factory.mktemp("surface") / "project")
    shutil.rmtree(folder / "geodesic_labels")
    small = "validation: {n_nulls: 1}\ncontrols: {features: [bold]}\n"
    name_surface(folder, "geodesic_labels: {n_labels_per_hemisphere: [1, 3]}\n" + small)
    return folder, run(folder)


@pytest.mark.slow
def test_bold_and_a_surface_are_enough_for_maps(without_label_files):
    folder, outcomes = without_label_files
    assert errors_of(outcomes) == []
    project = Project.open(folder)
    assert project.keys("label_file") == ["surface_002", "surface_006"]
    labels = project.store.latest("selected_parcellations").read("labels")[0]
    chosen = project.store.latest("selected_parcellations").facts["chosen"][0]["n_clusters"]
    maps = folder / "outputs" / "maps"
    for side, own in (("L", slice(0, HALF)), ("R", slice(HALF, None))):
        written = nib.load(maps / f"selected_{chosen}_clusters.{side}.label.gii")
        np.testing.assert_array_equal(written.darrays[0].data, labels[own] + 1)
        mesh = nib.load(maps / f"{side}.midthickness.surf.gii")
        np.testing.assert_array_equal(mesh.agg_data("pointset"), SURFACE.coordinates[own])
    assert (folder / "outputs" / "report.html").stat().st_size > 100_000
    assert (labels[WALL] == -1).all()


@pytest.mark.slow
def test_nothing_is_made_twice(without_label_files):
    folder, _ = without_label_files
    assert {name: o.made for name, o in run(folder).items() if o.made} == {}


@pytest.mark.slow
def test_cortex_holds_the_mesh_and_the_wall_of_the_data(without_label_files):
    cortex = Project.open(without_label_files[0]).store.latest("cortex")
    np.testing.assert_array_equal(cortex.read("coordinates"), SURFACE.coordinates)
    np.testing.assert_array_equal(cortex.read("triangles"), SURFACE.triangles)
    np.testing.assert_array_equal(cortex.read("medial_wall"), WALL)
    np.testing.assert_allclose(cortex.read("vertex_area"), vertex_areas(SURFACE))
    assert cortex.facts["vertices_per_hemisphere"] == [HALF, HALF]
    assert cortex.facts["medial_wall_told_by"] == "signal of 6 BOLD runs"
    assert {"file surface left", "file surface right"} <= cortex.recipe.inputs.keys()


@pytest.mark.slow
def test_labels_from_the_surface_are_connected_apart_and_written_for_both_uses(without_label_files):
    folder, _ = without_label_files
    store = Project.open(folder).store
    graph = edge_graph(SURFACE)
    for key, n in (("surface_002", 2), ("surface_006", 6)):
        labels = store.latest("geodesic_labels", {"label_file": key}).read("labels")
        assert set(labels) == set(range(n))
        assert set(labels[:HALF]).isdisjoint(labels[HALF:])
        for name in range(n):
            own = np.flatnonzero(labels == name)
            assert csgraph.connected_components(graph[own][:, own])[0] == 1
        written = folder / "outputs" / "geodesic_labels" / key
        # What the tutorial reads, and so does the platform, as a label file like any other.
        np.testing.assert_array_equal(read_labels(written / f"{key}.npy"), labels)
        for side, own in (("L", slice(0, HALF)), ("R", slice(HALF, None))):
            keys = nib.load(written / f"{key}.{side}.label.gii").darrays[0].data
            np.testing.assert_array_equal(keys, np.where(WALL, 0, labels + 1)[own])


@pytest.mark.slow
@pytest.mark.usefixtures("workbench")
def test_workbench_accepts_labels_from_the_surface(without_label_files, tmp_path):
    written = without_label_files[0] / "outputs" / "geodesic_labels" / "surface_006"
    for side, structure in (("L", "CortexLeft"), ("R", "CortexRight")):
        labels = written / f"surface_006.{side}.label.gii"
        assert structure in wb_command("-file-information", labels)
        mesh = without_label_files[0] / f"{side}.surf.gii"
        wb_command("-label-to-border", mesh, labels, tmp_path / f"{side}.border")


@pytest.mark.slow
def test_another_surface_remakes_only_what_is_made_from_it(without_label_files, tmp_path):
    folder = shutil.copytree(without_label_files[0], tmp_path / "project")
    (folder / "geodesic_labels").mkdir()
    np.save(folder / "geodesic_labels" / "own.npy", np.arange(N_VERTICES) // HALF)
    run(folder, among=["geodesic_labels"])
    write_gifti(folder, brain(HALF, radius=30.0, seed=7))
    assert status_of(folder, "cortex") == {(): "out of date"}
    assert status_of(folder, "average_correlation") == {(): "current"}
    assert status_of(folder, "geodesic_labels") == {
        ("own",): "current",
        ("surface_002",): "out of date",
        ("surface_006",): "out of date",
    }
    (folder / "geodesic_labels" / "own.npy").rename(folder / "geodesic_labels" / "surface_002.npy")
    with pytest.raises(Exception, match="Rename the file"):
        Project.open(folder).keys("label_file")


# Beside label files


def test_without_a_surface_there_is_no_cortex_to_make(finished):
    excluded = Project.open(finished).store.latest("cortex").excluded
    assert excluded == "the settings name no surface"


@pytest.mark.slow
def test_a_surface_leaves_the_sweep_as_it_is_where_nothing_is_smoothed(finished):
    plain = "thresholding: {smoothing_fwhm_mm: 0}\ngeodesic_labels: {n_labels_per_hemisphere: []}\n"
    settings = finished / "trend.yaml"
    settings.write_text(settings.read_text() + plain)
    assert errors_of(run(finished)) == []
    before = Project.open(finished).store.latest(
        "nmf_sweep", {"label_file": "two", "n_components": "4"}
    )
    name_surface(finished, "validation: {n_nulls: 1}\n")
    outcomes = run(finished)
    assert errors_of(outcomes) == []
    made = {name: o.made for name, o in outcomes.items() if o.made}
    assert {"cortex", "selected_parcellations", "parcellation_images", "report"} <= made.keys()
    assert made.keys().isdisjoint(
        {"bold", "trained_model", "average_correlation", "thresholded_matrix", "nmf_sweep"}
    )
    assert Project.open(finished).store.latest("nmf_sweep", before.partition).path == before.path


@pytest.mark.slow
def test_distances_are_measured_as_far_as_the_kernels_reach(finished):
    name_surface(finished, "thresholding: {smooth_sigma_mm: [6]}\n")
    outcomes = run(finished, among=["cortex", "geodesic_distances", "geodesic_labels"])
    assert errors_of(outcomes) == []
    stored = Project.open(finished).store.latest("geodesic_distances")
    expected = measure_distances(SURFACE)
    expected[expected > 30.0] = np.inf
    for name, own in (("left", slice(0, HALF)), ("right", slice(HALF, None))):
        np.testing.assert_allclose(stored.read(name), expected[own, own], rtol=1e-6)
        assert 0.2 < np.isfinite(stored.read(name)).mean() < 0.8
    assert stored.recipe.settings["derived"] == {"reach_mm": 30.0}
    # A narrower kernel beside the wide one asks for nothing new.
    text = (finished / "trend.yaml").read_text()
    (finished / "trend.yaml").write_text(text.replace("[6]", "[6, 4]"))
    assert status_of(finished, "geodesic_distances") == {(): "current"}
    assert status_of(finished, "geodesic_labels")[("smooth_4mm",)] == "missing"


@pytest.mark.slow
def test_a_mask_of_the_cortex_takes_the_wall_out_of_the_bold(project_folder):
    for path in sorted((project_folder / "bold").glob("*.npy")):
        bold = simulate_run(int(path.stem[4:6]))
        bold[WALL] = np.nan  # as some write it
        np.save(path, bold)
    (outcome,) = run(project_folder, among=["bold"]).values()
    assert len(outcome.excluded) == 6
    np.save(project_folder / "cortex.npy", ~WALL)
    name_surface(project_folder, inputs=NAMED.replace("}", ", cortex_mask: [cortex.npy]}"))
    outcomes = run(project_folder, among=["bold", "cortex"])
    assert errors_of(outcomes) == []
    assert not outcomes["bold"].excluded
    store = Project.open(project_folder).store
    np.testing.assert_array_equal(store.latest("cortex").read("medial_wall"), WALL)
    run_1 = store.latest("bold", {"bold_run": "sub-01_run-1"})
    np.testing.assert_array_equal(run_1.read("vertex_mask"), ~WALL)
    assert "file cortex mask 1" in run_1.recipe.inputs


@pytest.mark.slow
def test_a_surface_of_another_density_is_refused(project_folder):
    name_surface(project_folder)
    write_freesurfer(project_folder, brain(50))
    (project_folder / "trend.yaml").write_text(
        (project_folder / "trend.yaml")
        .read_text()
        .replace("L.surf.gii, R.surf.gii", "lh.pial, rh.pial")
    )
    (error,) = run(project_folder, among=["bold", "cortex"])["cortex"].errors
    assert "surface lh.pial, rh.pial: expected 90 vertices, as the BOLD has, found 100" in error


@pytest.mark.slow
def test_labels_without_a_surface_are_refused_with_what_to_do(project_folder):
    with (project_folder / "trend.yaml").open("a") as file:
        file.write("geodesic_labels: {n_labels_per_hemisphere: [2]}\n")
    (error,) = run(project_folder, among=["cortex"])["cortex"].errors
    assert "n_labels_per_hemisphere asks for labels on it, found none. Name it" in error


# Settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("geodesic_labels: {n_labels_per_hemisphere: [501]}", r"from 1 to 500 .*1,000 in all"),
        ("geodesic_labels: {n_labels_per_hemisphere: [0]}", "from 1 to 500"),
        ("geodesic_labels: {n_labels_per_hemisphere: [2, 2]}", "without repeated values"),
        ("inputs: {surface: fsaverage9}", "'fsaverage3', 'fsaverage4' or 'fsaverage5', found"),
        ("inputs: {surfaces: [one.surf.gii]}", "two files, left and right"),
        ("inputs: {cortex_mask: [a, b, c]}", "one file, or two"),
        ("inputs: {surface: fsaverage3, surfaces: [a, b]}", "one mesh: either"),
        ("inputs: {inflated: [a, b]}", r"inputs\.surfaces beside inputs\.inflated"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(tmp_path, text, message):
    (tmp_path / "trend.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        load_settings(tmp_path)
