"""Images that say what the rows of the BOLD are."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel import cifti2

from trend_dagster.errors import InputError
from trend_dagster.storage.runs import load_cifti
from trend_dagster.storage.space import VertexSpace
from trend_dagster.storage.template import Grayordinates, Voxels, read_template, target_of

LEFT, RIGHT = np.array([0, 2, 3]), np.array([1, 4])


def brain_models(subcortex: bool = True) -> cifti2.BrainModelAxis:
    """Three vertices on the left, two on the right, and a thalamus of four voxels."""
    axis = cifti2.BrainModelAxis.from_surface(LEFT, 6, "CortexLeft")
    axis += cifti2.BrainModelAxis.from_surface(RIGHT, 6, "CortexRight")
    if subcortex:
        mask = np.zeros((2, 2, 2))
        mask[0] = 1
        axis += cifti2.BrainModelAxis.from_mask(mask, "thalamus_left", np.eye(4))
    return axis


def write_dtseries(path, axis) -> None:
    series = cifti2.SeriesAxis(0, 0.5, 7)
    cifti2.Cifti2Image(np.zeros((7, len(axis)), np.float32), (series, axis)).to_filename(path)


def test_grayordinates_are_the_cortex_in_the_file_s_order(tmp_path):
    write_dtseries(tmp_path / "x.dtseries.nii", brain_models())
    space = read_template(tmp_path / "x.dtseries.nii")
    assert isinstance(space, Grayordinates)
    assert len(space) == 5
    assert space.brain_models == brain_models(subcortex=False)
    assert space.hemisphere.tolist() == [0, 0, 0, 1, 1]
    keys = np.array([7, 8, 9, 5, 6])
    assert space.on_mesh(keys, "L").tolist() == [7, 0, 8, 9, 0, 0]
    assert space.on_mesh(keys, "R").tolist() == [0, 5, 0, 0, 6, 0]


def test_one_hemisphere_is_enough(tmp_path):
    write_dtseries(tmp_path / "x.dtseries.nii", brain_models()[:3])
    space = read_template(tmp_path / "x.dtseries.nii")
    assert space.on_mesh(np.array([1, 2, 3]), "R") is None
    assert space.n_mesh == 6
    write_dtseries(tmp_path / "right.dtseries.nii", brain_models()[3:5])
    assert read_template(tmp_path / "right.dtseries.nii").vertices.tolist() == [1, 4]


def test_voxels_are_those_of_the_mask(tmp_path):
    mask = np.random.default_rng(0).random((3, 4, 5)) < 0.5
    affine = np.diag([2.0, 2, 2, 1])
    nib.Nifti1Image(mask.astype(np.uint8), affine).to_filename(tmp_path / "mask.nii.gz")
    space = read_template(tmp_path / "mask.nii.gz")
    assert isinstance(space, Voxels)
    assert len(space) == mask.sum()
    np.testing.assert_array_equal(space.mask, mask)
    np.testing.assert_array_equal(space.affine, affine)


def refused(path) -> str:
    with pytest.raises(InputError) as error:
        read_template(path)
    return error.value.found


def test_anything_else_is_refused_with_what_it_is(tmp_path):
    assert "no such file" in refused(tmp_path / "none.nii")
    (tmp_path / "text.nii").write_text("no image")
    assert refused(tmp_path / "text.nii")
    nib.Nifti1Image(np.ones((2, 2, 2, 3)), np.eye(4)).to_filename(tmp_path / "bold.nii")
    assert "(2, 2, 2, 3)" in refused(tmp_path / "bold.nii")
    nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4)).to_filename(tmp_path / "empty.nii")
    assert "(2, 2, 2)" in refused(tmp_path / "empty.nii")
    write_dtseries(tmp_path / "thalamus.dtseries.nii", brain_models()[5:])
    assert "without cortex" in refused(tmp_path / "thalamus.dtseries.nii")
    whole = (tmp_path / "empty.nii").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b" + whole[:20])
    assert refused(tmp_path / "cut.nii.gz")
    (tmp_path / "cut.nii").write_bytes(whole[:-8])
    assert "Expected 64 bytes" in refused(tmp_path / "cut.nii")
    nib.gifti.GiftiImage().to_filename(tmp_path / "mesh.surf.gii")
    assert "a GiftiImage" in refused(tmp_path / "mesh.surf.gii")


@pytest.mark.parametrize(("old", "new"), [(b"<BrainModel", b"<LabelTable"), (b"", b"")])
def test_a_damaged_header_of_cifti_is_refused_as_a_template_and_as_bold(tmp_path, old, new):
    path = tmp_path / "x.dtseries.nii"
    write_dtseries(path, brain_models())
    content = path.read_bytes()
    path.write_bytes(content.replace(old, new, 1) if old else content[:1000])
    assert refused(path)
    with pytest.raises(InputError, match="expected a complete CIFTI-2 file"):
        load_cifti(path)


def test_rows_of_whole_meshes_become_the_grayordinates_that_the_file_held():
    held = np.isin(np.arange(12), [*LEFT, *(RIGHT + 6)])
    target = target_of(VertexSpace("cifti", {"L": 6, "R": 6}, in_data=held))
    assert target.brain_models == brain_models(subcortex=False)
    assert len(target) == 12
    assert target.dense
    keys = np.where(held, np.arange(12) + 1, 0)
    assert keys[target.rows].tolist() == (np.flatnonzero(held) + 1).tolist()
    np.testing.assert_array_equal(target.on_mesh(keys, "L"), keys[:6])
    np.testing.assert_array_equal(target.on_mesh(keys, "R"), keys[6:])


def test_meshes_of_other_formats_are_not_cifti_and_npy_does_not_tell():
    target = target_of(VertexSpace("gifti", {"L": 3, "R": 2}))
    assert not target.dense
    assert target.hemisphere.tolist() == [0, 0, 0, 1, 1]
    assert target.on_mesh(np.arange(5), "R").tolist() == [3, 4]
    assert target_of(VertexSpace("npy", {})) is None


def test_voxels_of_a_run_are_its_mask():
    mask = np.random.default_rng(1).random((3, 4, 5)) < 0.5
    space = VertexSpace(
        "nifti", {}, volume_shape=(3, 4, 5), affine=np.eye(4), voxels=np.flatnonzero(mask)
    )
    np.testing.assert_array_equal(target_of(space).mask, mask)
