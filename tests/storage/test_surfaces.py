"""Surfaces as labs have them: read as they are, refused with what is wrong."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import nibabel as nib
import numpy as np
import pytest
from nibabel.cifti2 import Cifti2Image
from nibabel.cifti2.cifti2_axes import BrainModelAxis, ScalarAxis

from tests.spheres import brain, halves, write_freesurfer, write_gifti
from trend_dagster.errors import InputError
from trend_dagster.science.surface import check_hemisphere
from trend_dagster.storage import surfaces
from trend_dagster.storage.label_images import CIFTI_STRUCTURE, gifti_surface
from trend_dagster.storage.surfaces import read_cortex_mask

read_surfaces = partial(surfaces.read_surfaces, check=check_hemisphere)

N = 60


@pytest.fixture
def surface():
    return brain(N)


@pytest.mark.parametrize(
    ("write", "kind"), [(write_gifti, "midthickness"), (write_freesurfer, "pial")]
)
def test_what_is_written_is_read(surface, tmp_path, write, kind):
    found = read_surfaces(write(tmp_path, surface))
    np.testing.assert_array_equal(found.coordinates, surface.coordinates)
    np.testing.assert_array_equal(found.triangles, surface.triangles)
    np.testing.assert_array_equal(found.hemisphere, surface.hemisphere)
    assert found.kind == kind
    assert found.inflated is None
    assert {found.coordinates.dtype, found.triangles.dtype} == {
        np.dtype("float32"),
        np.dtype("int32"),
    }


def test_hemispheres_may_differ_in_size(tmp_path):
    left, right = write_gifti(tmp_path, brain(N))[0], tmp_path / "rh.white"
    points, triangles = halves(brain(70))[1]
    nib.freesurfer.write_geometry(right, points, triangles)
    found = read_surfaces([left, right])
    assert np.bincount(found.hemisphere).tolist() == [N, 70]
    assert found.triangles.max() == N + 69
    assert found.kind == "anatomical"


def test_an_inflated_surface_is_for_drawing(surface, tmp_path):
    files = write_freesurfer(tmp_path, surface)
    blown_up = replace(surface, coordinates=2 * surface.coordinates)
    found = read_surfaces(files, write_freesurfer(tmp_path, blown_up, "inflated"))
    np.testing.assert_array_equal(found.coordinates, surface.coordinates)
    np.testing.assert_array_equal(found.inflated, 2 * surface.coordinates)


def test_a_sphere_is_kept_if_it_is_one_and_of_this_mesh(surface, tmp_path):
    files = write_freesurfer(tmp_path, surface)
    about_one_origin = surface.coordinates - np.repeat(
        [surface.coordinates[surface.hemisphere == side].mean(axis=0) for side in (0, 1)],
        60,
        axis=0,
    )
    about_one_origin *= 100 / np.linalg.norm(about_one_origin, axis=1, keepdims=True)
    round_one = replace(surface, coordinates=about_one_origin.astype(np.float32))
    spheres = write_freesurfer(tmp_path, round_one, "sphere")
    found = read_surfaces(files, spheres=spheres)
    np.testing.assert_array_equal(found.sphere, round_one.coordinates)
    with pytest.raises(InputError, match=r"sphere surface file.*about the origin.*inputs\.spheres"):
        read_surfaces(files, spheres=files)
    order = np.random.default_rng(0).permutation(60)
    turned = round_one.coordinates[np.concatenate([order, 60 + order])]
    shuffled = write_freesurfer(tmp_path, replace(round_one, coordinates=turned), "shuffled")
    with pytest.raises(InputError, match=r"cover it .* times: vertices in another order"):
        read_surfaces(files, spheres=shuffled)
    others = write_freesurfer(tmp_path, brain(70), "other")
    with pytest.raises(InputError, match=r"sphere surface file.*found 136 between"):
        read_surfaces(files, spheres=others)


def test_an_inflated_surface_of_another_mesh_is_refused(surface, tmp_path):
    files = write_freesurfer(tmp_path, surface)
    with pytest.raises(InputError, match=r"inflated.*116 between 60 vertices.*found 136 between"):
        read_surfaces(files, write_freesurfer(tmp_path, brain(70), "inflated"))


# What is refused


def spoilt(points, triangles, how):
    """A hemisphere with something wrong."""
    points, triangles = points.copy(), triangles.copy()
    if how == "nan":
        points[3, 1] = np.nan
    elif how == "hole":
        triangles = np.delete(triangles, 5, axis=0)
    elif how == "non-manifold":
        triangles = np.concatenate([triangles, [[0, 20, 40]], triangles[:1, [0, 2, 1]]])
    elif how == "unused":
        points = np.concatenate([points, [[0, 0, 0]]])
    elif how == "pieces":
        triangles = np.concatenate([triangles, triangles + len(points)])
        points = np.concatenate([points, points + 200])
    elif how == "flat":
        triangles = np.concatenate([triangles, [[3, 3, 4]]])
    elif how == "beyond":
        triangles[0, 0] = 1000
    return points.astype(np.float32), triangles.astype(np.int32)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "finite coordinates, found NaN or infinity at 1 vertices"),
        ("hole", "a closed surface, found 3 edges of one triangle only"),
        ("non-manifold", "two triangles at each edge, found 3 edges with more"),
        ("unused", "no vertex without a triangle, found 1 unused vertices"),
        ("pieces", "one connected surface, found 2 pieces"),
        ("flat", "triangles with an area, found 1 triangles without"),
        ("beyond", "triangles between vertices 0 to 59, found 0 to 1000"),
    ],
)
@pytest.mark.parametrize("side", [0, 1])
def test_a_bad_mesh_is_refused_with_its_file_and_what_is_wrong(
    surface, tmp_path, how, message, side
):
    files = write_freesurfer(tmp_path, surface)
    points, triangles = spoilt(*halves(surface)[side], how)
    nib.freesurfer.write_geometry(files[side], points, triangles)
    with pytest.raises(InputError, match=message) as error:
        read_surfaces(files)
    assert str(files[side]) in str(error.value)


def test_swapped_hemispheres_are_refused_by_header_by_name_and_by_place(surface, tmp_path):
    gifti = write_gifti(tmp_path, surface)
    with pytest.raises(InputError, match=r"the left hemisphere, found the right one \(its header"):
        read_surfaces(gifti[::-1])
    freesurfer = write_freesurfer(tmp_path, surface)
    with pytest.raises(InputError, match=r"the left hemisphere, found the right one \(its name"):
        read_surfaces(freesurfer[::-1])
    silent = [path.rename(tmp_path / name) for path, name in zip(freesurfer, "ab", strict=True)]
    read_surfaces(silent)
    with pytest.raises(InputError, match="found one that lies 120 mm to the right"):
        read_surfaces(silent[::-1])
    exchanged = [path.rename(tmp_path / f"{s}.pial") for path, s in zip(silent, "RL", strict=True)]
    with pytest.raises(InputError, match="to the right of the other, whatever name and header say"):
        read_surfaces(exchanged[::-1])


def test_one_mesh_twice_is_refused(surface, tmp_path):
    points, triangles = halves(surface)[0]
    files = [tmp_path / "lh.pial", tmp_path / "rh.pial"]
    for path in files:
        nib.freesurfer.write_geometry(path, points, triangles)
    with pytest.raises(InputError, match="found the same mesh twice"):
        read_surfaces(files)


@pytest.mark.parametrize("name", ["L.surf.gii", "lh.pial"])
@pytest.mark.parametrize("keep", [0, 3, 500])
def test_a_truncated_file_is_refused(surface, tmp_path, name, keep):
    write = write_gifti if name.endswith("gii") else write_freesurfer
    files = write(tmp_path, surface)
    files[0].write_bytes(files[0].read_bytes()[:keep])
    with pytest.raises(InputError, match=name.replace(".", r"\.") + ".*cannot be read"):
        read_surfaces(files)


def test_data_on_a_mesh_is_no_mesh(surface, tmp_path):
    files = write_gifti(tmp_path, surface)
    array = nib.gifti.GiftiDataArray(np.zeros(N, np.float32), "NIFTI_INTENT_SHAPE")
    nib.save(nib.gifti.GiftiImage(darrays=[array]), files[1])
    with pytest.raises(InputError, match="one array of coordinates and one of triangles, found 0"):
        read_surfaces(files)


def test_a_header_that_says_nothing_leaves_it_to_the_name(surface, tmp_path):
    points, triangles = halves(surface)[1]
    image = nib.gifti.GiftiImage.from_bytes(gifti_surface(points, triangles, "R", "MidThickness"))
    image.darrays[0].meta.clear()
    nib.save(image, tmp_path / "sub-01_hemi-R_midthickness.surf.gii")
    left = write_gifti(tmp_path, surface)[0]
    right = tmp_path / "sub-01_hemi-R_midthickness.surf.gii"
    assert len(read_surfaces([left, right]).coordinates) == 2 * N
    with pytest.raises(InputError, match="its name"):
        read_surfaces([right, left])


# Where there is cortex

WALL = np.arange(0, 2 * N, 7)
CORTEX = ~np.isin(np.arange(2 * N), WALL)


def write_mask(folder, form):
    """The same mask in every form that is read."""
    left, right = CORTEX[:N], CORTEX[N:]
    if form == "npy":
        np.save(folder / "cortex.npy", CORTEX)
        return [folder / "cortex.npy"]
    if form == "cifti":
        axes = [
            BrainModelAxis.from_mask(part, name=CIFTI_STRUCTURE[side])
            for side, part in (("L", left), ("R", right))
        ]
        models = axes[0] + axes[1]
        image = Cifti2Image(np.zeros((1, len(models)), np.float32), (ScalarAxis(["x"]), models))
        nib.save(image, folder / "cortex.dscalar.nii")
        return [folder / "cortex.dscalar.nii"]
    paths = []
    for side, part in (("lh", left), ("rh", right)):
        path = folder / f"{side}.cortex.{form}"
        if form == "shape.gii":
            array = nib.gifti.GiftiDataArray(part.astype(np.float32), "NIFTI_INTENT_SHAPE")
            nib.save(nib.gifti.GiftiImage(darrays=[array]), path)
        elif form == "label":
            listed = np.flatnonzero(part)
            lines = [f"{v} 0.0 0.0 0.0 0.0" for v in listed]
            path.write_text("\n".join(["#!ascii label", str(len(listed)), *lines]) + "\n")
        paths.append(path)
    return paths


@pytest.mark.parametrize("form", ["npy", "cifti", "shape.gii", "label"])
def test_a_cortex_mask_says_the_same_in_every_form(tmp_path, form):
    files = write_mask(tmp_path, form)
    np.testing.assert_array_equal(read_cortex_mask(files, 2 * N, {"L": N, "R": N}), CORTEX)


def test_nan_is_no_cortex(tmp_path):
    np.save(tmp_path / "mask.npy", np.where(CORTEX, 1.0, np.nan))
    np.testing.assert_array_equal(read_cortex_mask([tmp_path / "mask.npy"], 2 * N, {}), CORTEX)


@pytest.mark.parametrize("form", ["npy", "cifti", "shape.gii", "label"])
def test_a_mask_of_another_mesh_is_refused(tmp_path, form):
    files = write_mask(tmp_path, form)
    with pytest.raises(InputError, match=r"cortex mask .*(vertices|vertex)"):
        read_cortex_mask(files, 2 * N - 20, {"L": N - 10, "R": N - 10})


def test_a_list_of_vertices_needs_to_know_how_many_there_are(tmp_path):
    files = write_mask(tmp_path, "label")
    with pytest.raises(InputError, match="found a size that nothing tells"):
        read_cortex_mask(files, 2 * N, {})


@pytest.mark.parametrize("n_lines", [0, 2, 20])
def test_a_list_of_vertices_that_was_cut_is_refused(tmp_path, n_lines):
    files = write_mask(tmp_path, "label")
    lines = files[1].read_text().splitlines()[:n_lines]
    files[1].write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(
        InputError, match=r"rh\.cortex\.label: expected a complete FreeSurfer label"
    ):
        read_cortex_mask(files, 2 * N, {"L": N, "R": N})


def test_a_list_of_vertices_below_zero_is_refused(tmp_path):
    files = write_mask(tmp_path, "label")
    files[0].write_text(files[0].read_text().replace("\n1 0.0", "\n-1 0.0"))
    with pytest.raises(InputError, match="found vertex -1"):
        read_cortex_mask(files, 2 * N, {"L": N, "R": N})


def test_a_mask_without_cortex_is_refused(tmp_path):
    np.save(tmp_path / "mask.npy", np.zeros(2 * N))
    with pytest.raises(InputError, match="Turn the mask around"):
        read_cortex_mask([tmp_path / "mask.npy"], 2 * N, {})


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "mask.txt").write_text("1 0 1")
    with pytest.raises(InputError, match=r"found the ending '\.txt'"):
        read_cortex_mask([tmp_path / "mask.txt"], 2 * N, {})
