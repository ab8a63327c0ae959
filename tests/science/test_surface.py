"""Distances against exact ones; labels that are connected, equal and reproducible."""

import subprocess
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csgraph

from tests.spheres import halves, measure_distances, sphere
from trend_dagster.errors import InputError, SettingsError
from trend_dagster.project.fsaverage import load_fsaverage
from trend_dagster.science.surface import (
    Surface,
    check_hemisphere,
    cut_into_labels,
    distance_rows,
    edge_graph,
    gaussian_weights,
    geodesic_neighbours,
    step_graph,
    vertex_areas,
)


@pytest.fixture(scope="module")
def fsaverage3() -> Surface:
    return load_fsaverage(642)


def test_triangles_of_a_sphere_close_it_and_face_outwards(fsaverage3: Surface) -> None:
    surface = sphere(400, 100.0, 1)
    assert surface.triangles.shape == (2 * (2 * 400 - 4), 3)
    assert vertex_areas(surface).sum() == pytest.approx(2 * 4 * np.pi * 100**2, rel=0.02)
    a, b, c = np.moveaxis(surface.coordinates[surface.triangles], 1, 0)
    assert (np.einsum("ij,ij->i", np.cross(b - a, c - a), a) > 0).all()


def test_distances_on_a_sphere_are_great_circles() -> None:
    surface = sphere(1000, 80.0, 2)
    sources = np.array([0, 17, 999])
    found = measure_distances(surface, sources)[:, :1000]
    unit = surface.coordinates[:1000] / 80.0
    exact = 80.0 * np.arccos(np.clip(unit[sources] @ unit.T, -1, 1))
    ratio = (found / np.maximum(exact, 1e-9))[exact > 10]
    # Chords cut through the sphere, zigzags make paths longer.
    assert ratio.min() > 0.99
    assert np.median(ratio) == pytest.approx(1.0, abs=0.02)
    assert np.quantile(ratio, 0.95) < 1.05


@pytest.mark.usefixtures("workbench")
def test_distances_are_those_of_workbench(fsaverage3: Surface, tmp_path: Path) -> None:
    left = fsaverage3.hemisphere == 0
    mesh = nib.gifti.GiftiImage(
        darrays=[
            nib.gifti.GiftiDataArray(fsaverage3.coordinates[left], "NIFTI_INTENT_POINTSET"),
            nib.gifti.GiftiDataArray(fsaverage3.triangles[:1280], "NIFTI_INTENT_TRIANGLE"),
        ]
    )
    mesh.meta["AnatomicalStructurePrimary"] = "CortexLeft"
    nib.save(mesh, tmp_path / "left.surf.gii")
    for source in (0, 301, 641):
        out = tmp_path / f"{source}.func.gii"
        command = ["wb_command", "-surface-geodesic-distance", tmp_path / "left.surf.gii"]
        subprocess.run([*command, str(source), out], check=True, capture_output=True)
        expected = nib.load(out).darrays[0].data
        found = measure_distances(fsaverage3, np.array([source]))[0, left]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_distances_are_a_metric_within_a_hemisphere(fsaverage3: Surface) -> None:
    distance = measure_distances(fsaverage3)
    left = fsaverage3.hemisphere == 0
    assert np.isinf(distance[np.ix_(left, ~left)]).all()
    within = distance[np.ix_(left, left)].astype(np.float64)
    assert np.isfinite(within).all()
    np.testing.assert_allclose(within, within.T, rtol=1e-6)
    assert (np.diag(within) == 0).all()
    third = np.random.default_rng(0).integers(0, left.sum(), 50)
    for k in third:
        assert (within <= within[:, [k]] + within[[k], :] + 1e-3).all()
    straight = np.linalg.norm(
        fsaverage3.coordinates[left][:, None] - fsaverage3.coordinates[left][None], axis=2
    )
    assert (within >= straight - 1e-3).all()


def test_unfolding_only_shortens(fsaverage3: Surface) -> None:
    along_edges = csgraph.dijkstra(edge_graph(fsaverage3), indices=[5])
    across_faces = csgraph.dijkstra(edge_graph(fsaverage3, unfold=True), indices=[5])
    left = fsaverage3.hemisphere == 0
    assert (across_faces <= along_edges + 1e-9).all()
    assert np.median(along_edges[:, left] - across_faces[:, left]) > 1.0  # mm


def test_neighbours_are_the_distances_up_to_the_radius(fsaverage3: Surface) -> None:
    full = measure_distances(fsaverage3)
    near = geodesic_neighbours(fsaverage3, 30.0).toarray()
    np.testing.assert_array_equal(near > 0, (full > 0) & (full <= 30.0))
    np.testing.assert_array_equal(near[near > 0], full[near > 0])

    some = np.random.default_rng().choice(len(full), 40, replace=False)
    rows = geodesic_neighbours(fsaverage3, 30.0, some, with_itself=True)
    assert rows.has_sorted_indices
    np.testing.assert_array_equal(np.diff(rows.indptr), (full[some] <= 30.0).sum(axis=1))
    np.testing.assert_array_equal(rows.toarray(), near[some])


def test_rows_are_those_of_the_whole_matrix_up_to_the_limit(fsaverage3: Surface) -> None:
    full = measure_distances(fsaverage3)
    for side in (0, 1):
        own = fsaverage3.hemisphere == side
        steps = step_graph(fsaverage3, side)
        rows = np.concatenate([distance_rows(steps, a, b, 40.0) for a, b in ((0, 200), (200, 642))])
        within = full[np.ix_(own, own)]
        np.testing.assert_array_equal(rows, np.where(within <= 40.0, within, np.inf))


def test_gaussian_weights_are_the_formula(fsaverage3: Surface) -> None:
    full = measure_distances(fsaverage3).astype(np.float64)
    expected = np.where(full <= 24.0, np.exp(-(full**2) / (2 * 8.0**2)), 0)
    np.testing.assert_allclose(gaussian_weights(fsaverage3, 8.0).toarray(), expected, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 60), walled=st.booleans())
def test_labels_are_connected_equal_and_apart(fsaverage3: Surface, n: int, walled: bool) -> None:
    assert fsaverage3.medial_wall is not None
    mask = ~fsaverage3.medial_wall if walled else None
    labels = cut_into_labels(fsaverage3, n, mask)
    np.testing.assert_array_equal(np.unique(labels), np.arange(2 * n))
    assert set(labels[fsaverage3.hemisphere == 0]) == set(range(n))
    graph = edge_graph(fsaverage3)
    for name in range(2 * n):
        own = np.flatnonzero(labels == name)
        assert csgraph.connected_components(graph[own][:, own])[0] == 1
    area = vertex_areas(fsaverage3)
    share = np.bincount(labels, weights=area if mask is None else area * mask)
    # One vertex is the least by which a border can move.
    slack = 3 * np.percentile(area, 95)
    for side in (share[:n], share[n:]):
        assert np.abs(side - side.mean()).max() < slack


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), holes=st.floats(0.0, 0.6))
def test_labels_of_a_speckled_mask_cover_everything(
    fsaverage3: Surface, seed: int, holes: float
) -> None:
    mask = np.random.default_rng(seed).random(fsaverage3.n_vertices) >= holes
    labels = cut_into_labels(fsaverage3, 4, mask)
    np.testing.assert_array_equal(np.unique(labels), np.arange(8))
    np.testing.assert_array_equal(labels >= 4, fsaverage3.hemisphere == 1)
    graph = edge_graph(fsaverage3)
    for name in range(8):
        own = np.flatnonzero(labels == name)
        assert csgraph.connected_components(graph[own][:, own])[0] == 1


def test_pieces_of_mesh_out_of_reach_get_the_nearest_label(fsaverage3: Surface) -> None:
    island = np.isin(fsaverage3.triangles, [0]).any(axis=1)
    cut = replace(fsaverage3, triangles=fsaverage3.triangles[~island])
    labels = cut_into_labels(cut, 5)
    nearest = np.linalg.norm(cut.coordinates[1:642] - cut.coordinates[0], axis=1).argmin() + 1
    assert labels[0] == labels[nearest]


def test_labels_do_not_change_between_calls(fsaverage3: Surface) -> None:
    first, second = cut_into_labels(fsaverage3, 9), cut_into_labels(fsaverage3, 9)
    np.testing.assert_array_equal(first, second)


def test_one_label_is_the_hemisphere(fsaverage3: Surface) -> None:
    np.testing.assert_array_equal(cut_into_labels(fsaverage3, 1), fsaverage3.hemisphere)


def test_more_labels_than_a_byte_holds(fsaverage3: Surface) -> None:
    assert cut_into_labels(fsaverage3, 140).max() == 279


@pytest.mark.parametrize("n", [0, -1, 161])
def test_too_many_or_no_labels_are_refused(fsaverage3: Surface, n: int) -> None:
    with pytest.raises(SettingsError, match="n_labels_per_hemisphere"):
        cut_into_labels(fsaverage3, n)


@pytest.mark.parametrize("n", [642, 2562, 10242])
def test_fsaverage_is_two_closed_hemispheres(n: int) -> None:
    surface = load_fsaverage(n)
    assert surface.n_vertices == 2 * n
    assert surface.triangles.shape == (2 * (2 * n - 4), 3)
    pieces, _ = csgraph.connected_components(edge_graph(surface))
    assert pieces == 2
    assert surface.medial_wall is not None
    assert 0.05 < surface.medial_wall.mean() < 0.1
    # About the cortical area of an adult hemisphere; a coarse mesh cuts corners.
    assert 40_000 < vertex_areas(surface)[:n].sum() < 100_000


def test_unknown_resolution_is_refused() -> None:
    with pytest.raises(SettingsError, match="642"):
        load_fsaverage(1000)


def test_good_surfaces_pass(fsaverage3: Surface) -> None:
    for surface in (fsaverage3, sphere(100, 50.0, 3)):
        for points, triangles in halves(surface):
            check_hemisphere("a sphere", points, triangles)


def test_a_bad_surface_is_refused_by_name(fsaverage3: Surface) -> None:
    points, triangles = halves(fsaverage3)[0]
    with pytest.raises(InputError, match="the left one: expected a closed surface, found 3 edges"):
        check_hemisphere("the left one", points, triangles[1:])


def test_distances_around_a_hole_are_longer(fsaverage3: Surface) -> None:
    assert fsaverage3.medial_wall is not None
    walled = fsaverage3.medial_wall[fsaverage3.triangles].any(axis=1)
    cut = replace(fsaverage3, triangles=fsaverage3.triangles[~walled])
    source = int(np.flatnonzero(~fsaverage3.medial_wall)[0])
    whole, around = (measure_distances(s, np.array([source]))[0] for s in (fsaverage3, cut))
    reached = np.isfinite(around)
    assert (around[reached] >= whole[reached] - 1e-3).all()
    assert (around[reached] > whole[reached] + 1.0).any()
