"""Images that say what the rows of the BOLD are."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel import cifti2

from trend_dagster.errors import InputError
from trend_dagster.storage.template import Grayordinates, Voxels, read_space

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
    space = read_space(tmp_path / "x.dtseries.nii")
    assert isinstance(space, Grayordinates)
    assert len(space) == 5
    assert space.brain_models == brain_models(subcortex=False)
    assert space.hemisphere.tolist() == [0, 0, 0, 1, 1]
    keys = np.array([7, 8, 9, 5, 6])
    assert space.on_mesh(keys, "L").tolist() == [7, 0, 8, 9, 0, 0]
    assert space.on_mesh(keys, "R").tolist() == [0, 5, 0, 0, 6, 0]


def test_one_hemisphere_is_enough(tmp_path):
    write_dtseries(tmp_path / "x.dtseries.nii", brain_models()[:3])
    assert read_space(tmp_path / "x.dtseries.nii").on_mesh(np.array([1, 2, 3]), "R") is None


def test_voxels_are_those_of_the_mask(tmp_path):
    mask = np.random.default_rng(0).random((3, 4, 5)) < 0.5
    affine = np.diag([2.0, 2, 2, 1])
    nib.Nifti1Image(mask.astype(np.uint8), affine).to_filename(tmp_path / "mask.nii.gz")
    space = read_space(tmp_path / "mask.nii.gz")
    assert isinstance(space, Voxels)
    assert len(space) == mask.sum()
    np.testing.assert_array_equal(space.mask, mask)
    np.testing.assert_array_equal(space.affine, affine)


def refused(path) -> str:
    with pytest.raises(InputError) as error:
        read_space(path)
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
