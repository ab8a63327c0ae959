"""To a coarser mesh on the same sphere, and back: areas, labels, and what planted networks lose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.spheres import sphere
from trend_dagster.errors import InputError
from trend_dagster.science.resampling import coarser, icosphere
from trend_dagster.science.surface import Surface, sphere_triangles, vertex_areas


@pytest.fixture
def rng() -> np.random.Generator:
    seed = int(np.random.default_rng().integers(2**31))
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def fine_mesh(rng: np.random.Generator, n: int = 2000) -> Surface:
    """Two irregular spheres, whose cortex is an ellipsoid."""
    mesh = sphere(n, 100.0, int(rng.integers(1000)))
    cortex = mesh.coordinates * np.array([0.4, 0.6, 0.5], dtype=np.float32)
    return replace(mesh, coordinates=cortex, inflated=2 * cortex, sphere=mesh.coordinates)


@pytest.mark.parametrize("frequency", [1, 3, 8])
def test_an_icosphere_has_its_points_once_and_evenly(frequency):
    points = icosphere(frequency)
    assert points.shape == (10 * frequency**2 + 2, 3)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
    triangles = sphere_triangles(points)
    assert len(triangles) == 20 * frequency**2
    areas = np.linalg.norm(np.cross(*(points[triangles[:, 1:]] - points[triangles[:, :1]])
                                    .transpose(1, 0, 2)), axis=1)  # fmt: skip
    assert areas.max() < 2.1 * areas.min()


def test_a_triangle_without_area_on_the_sphere_holds_no_point(rng):
    fine = fine_mesh(rng)
    same = fine.sphere.copy()
    a, b, _ = fine.triangles[int(rng.integers(len(fine.triangles)))]
    same[a] = same[b]  # two of its corners, as in some registered spheres
    way, before = coarser(replace(fine, sphere=same), 6), coarser(fine, 6)
    np.testing.assert_allclose(way.down.sum(axis=0), vertex_areas(fine), rtol=1e-5)
    np.testing.assert_allclose(way.up.sum(axis=1), 1, rtol=1e-5)
    moved = np.linalg.norm(way.surface.coordinates - before.surface.coordinates, axis=1)
    assert (moved > 1e-3).sum() < 10


def test_all_area_arrives_and_constants_and_slow_waves_stay(rng):
    fine = fine_mesh(rng)
    way = coarser(fine, 6)
    assert way.surface.n_vertices == 2 * 362
    np.testing.assert_allclose(way.down.sum(axis=0), vertex_areas(fine), rtol=1e-5)
    np.testing.assert_allclose(way.up.sum(axis=1), 1, rtol=1e-5)
    mask = np.ones(fine.n_vertices, dtype=bool)
    # A signal linear in the position on the cortex is, at a coarse vertex, that at its position.
    signal = np.column_stack([fine.coordinates @ rng.standard_normal((3, 4)), np.full(4000, 7.0)])
    series, inside = way.series_down(signal, mask)
    assert inside.all()
    np.testing.assert_allclose(series[:, 4], 7, rtol=1e-5)
    expected, _ = way.series_down(fine.coordinates, mask)
    # Averages lie inside the ellipsoid by what the surface bends within a coarse vertex.
    assert np.linalg.norm(expected - way.surface.coordinates, axis=1).max() < 3
    assert np.corrcoef(series[:, 0], way.surface.coordinates @ np.linalg.lstsq(
        fine.coordinates, signal[:, 0], rcond=None)[0])[0, 1] > 0.999  # fmt: skip


def test_an_average_is_the_weighted_mean_of_what_has_signal(rng):
    fine = fine_mesh(rng)
    way = coarser(fine, 4)
    signal = rng.standard_normal((fine.n_vertices, 5))
    mask = rng.random(fine.n_vertices) > 0.4
    signal[~mask] = np.nan
    series, inside = way.series_down(signal, mask)
    weights = way.down.toarray().astype(np.float64)
    share = weights[:, mask].sum(axis=1) / weights.sum(axis=1)
    assert np.array_equal(inside, share >= 0.5)
    expected = weights[:, mask] @ signal[mask] / weights[:, mask].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(series[inside], expected[inside], atol=1e-4)
    assert not series[~inside].any()


def test_labels_go_down_and_up_by_the_largest_share(rng):
    fine = fine_mesh(rng)
    way = coarser(fine, 6)
    labels = rng.integers(-1, 5, fine.n_vertices)
    for weights, given, found in (
        (way.down, labels, way.labels_down(labels)),
        (way.up, labels[:724], way.labels_up(labels[:724])),
    ):
        shares = np.stack([weights.toarray()[:, given == k].sum(axis=1) for k in range(-1, 5)])
        best = shares.max(axis=0)
        np.testing.assert_allclose(shares[found + 1, np.arange(len(found))], best, rtol=1e-4)


def test_large_regions_come_back_but_for_their_borders(rng):
    fine = fine_mesh(rng, 4000)
    way = coarser(fine, 12)
    regions = np.argmax(fine.sphere @ rng.standard_normal((3, 6)), axis=1)
    regions[fine.sphere[:, 2] > 90] = -1
    back = way.labels_up(way.labels_down(regions))
    assert (back == regions).mean() > 0.93
    found, size = np.unique(regions, return_counts=True)
    # A region of a coarse vertex or two in each hemisphere may vanish.
    large = found[size > 4 * len(regions) / way.surface.n_vertices]
    assert set(large) <= set(np.unique(back)) <= set(found)


def test_what_has_no_sphere_or_is_no_finer_is_refused(rng):
    fine = fine_mesh(rng, 500)
    with pytest.raises(InputError, match=r"spheres.*none.*inputs\.spheres"):
        coarser(replace(fine, sphere=None), 4)
    with pytest.raises(InputError, match=r"more than 642 vertices.*500"):
        coarser(fine, 8)


def test_all_that_a_mesh_carries_goes_along(rng):
    fine = fine_mesh(rng)
    depth = fine.coordinates[:, 0].copy()
    wall = fine.sphere[:, 2] > 70
    way = coarser(replace(fine, sulcal_depth=depth, medial_wall=wall), 8)
    coarse = way.surface
    np.testing.assert_allclose(coarse.inflated, 2 * coarse.coordinates, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(coarse.sulcal_depth, coarse.coordinates[:, 0], atol=1e-3)
    assert (coarse.medial_wall == (coarse.sphere[:, 2] > 70)).mean() > 0.97
    assert vertex_areas(coarse).sum() == pytest.approx(vertex_areas(fine).sum(), rel=0.03)
