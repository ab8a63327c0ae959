"""Which hemisphere a file is of, by whatever tells it."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.freesurfer import write_annot

from trend_dagster.errors import InputError
from trend_dagster.storage.label_files import LabelFile, notes_on_labels, read_networks
from trend_dagster.storage.sides import (
    check_order,
    check_side,
    hemisphere_of,
    told_by_header,
    told_by_labels,
)
from trend_dagster.storage.surfaces import read_cortex_mask


@pytest.mark.parametrize(
    ("name", "side", "rest"),
    [
        ("sub-1_hemi-R_bold", "R", "sub-1_bold"),
        ("week-40_hemi-left_space-dhcpSym", "L", "week-40_space-dhcpSym"),
        ("rh.aparc", "R", "aparc"),
        ("LH.aparc", "L", "aparc"),
        ("sub-1_hemi-Right_bold", "R", "sub-1_bold"),
        ("sub-1_hemi-lh_bold", "L", "sub-1_bold"),
        ("atlas.L.32k", "L", "atlas.32k"),
        ("sub-1_task-left_hemi-R", "R", "sub-1_task-left"),
        ("right_rest", "R", "rest"),
        ("LR_rest", None, "LR_rest"),
        ("sub-LH01_rest", None, "sub-LH01_rest"),
    ],
)
def test_the_side_in_a_name(name, side, rest):
    assert hemisphere_of(name) == (side, rest)


@pytest.mark.parametrize(
    ("names", "side"),
    [
        (["L_V1_ROI", "L_V2_ROI"], "L"),
        (["7Networks_RH_Vis_1", "7Networks_RH_Cont_1"], "R"),
        (["ctx-lh-cuneus", "ctx-lh-insula"], "L"),
        (["precuneus", "insula"], None),
        (["L_V1", "R_V1"], None),
        ([], None),
    ],
)
def test_the_side_in_label_names(names, side):
    assert told_by_labels(names) == side


@pytest.mark.parametrize("where", ["image", "array"])
def test_the_side_in_a_header(where):
    meta = nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": "CortexRight"})
    array = nib.gifti.GiftiDataArray(np.zeros(3, np.float32), "NIFTI_INTENT_NONE")
    image = nib.gifti.GiftiImage(darrays=[array])
    assert told_by_header(image) == set()
    (image if where == "image" else array).meta = meta
    assert told_by_header(image) == {"R"}
    with pytest.raises(InputError, match="its header says so"):
        check_side("file", Path("L.gii"), "L", "", header=told_by_header(image))


@pytest.mark.parametrize(
    "files", [["rh.npy", "lh.npy"], ["a_hemi-L.npy", "b_left.npy"], ["a", "a"]]
)
def test_a_pair_in_the_wrong_order(files):
    with pytest.raises(InputError, match=r"inputs\.x"):
        check_order("mask", [Path(name) for name in files], "inputs.x")
    check_order("mask", [Path("lh.npy"), Path("rh.npy")], "inputs.x")
    check_order("mask", [Path("one.npy"), Path("other.npy")], "inputs.x")


def annotation(
    folder: Path, table: list[list[int]], names: list[str], rows=(0, 1, 2, 0)
) -> LabelFile:
    paths = tuple(folder / f"{side}.x.annot" for side in ("lh", "rh"))
    for path in paths:
        write_annot(path, np.array(rows), np.array(table), names, fill_ctab=True)
    return LabelFile("x", paths)


def test_labels_of_one_colour_are_refused_unless_nothing_rests_on_it(tmp_path):
    table = [[9, 9, 9, 0], [1, 2, 3, 0], [1, 2, 3, 0]]
    with pytest.raises(InputError, match="'c' with the colour of another"):
        read_networks(annotation(tmp_path, table, ["a", "b", "c"]))
    read_networks(annotation(tmp_path, table, ["a", "b", "b"]))  # one name: one label
    read_networks(annotation(tmp_path, table, ["a", "b", "c"], rows=(0, 0, 0, 0)))


def test_a_named_label_of_the_colour_of_none(tmp_path):
    table = [[9, 9, 9, 0], [1, 2, 3, 0], [0, 0, 0, 0]]
    with pytest.raises(InputError, match="'visual'"):
        read_networks(annotation(tmp_path, table, ["a", "b", "visual"]))
    found = read_networks(annotation(tmp_path, table, ["a", "b", "???"]))
    assert found[2] == -1


def test_equal_labels_in_both_hemispheres_are_said(tmp_path):
    table = [[9, 9, 9, 0], [1, 2, 3, 0], [4, 2, 3, 0]]
    (note,) = notes_on_labels(annotation(tmp_path, table, ["a", "b", "c"]))["notes"]
    assert "symmetric atlas" in note
    one = annotation(tmp_path, table, ["a", "b", "c"], rows=(1, 1, 1, 1))
    assert notes_on_labels(one) == {}


def test_the_medial_wall_of_a_label_file_is_no_cortex(tmp_path):
    """A mask of labels counts what they are called, not only their numbers."""
    axis = nib.cifti2.BrainModelAxis.from_surface(np.arange(4), 4, "CortexLeft")
    axis += nib.cifti2.BrainModelAxis.from_surface(np.arange(4), 4, "CortexRight")
    table = {
        0: ("???", (0, 0, 0, 0)),
        1: ("cortex", (1, 0, 0, 1)),
        2: ("MEDIAL WALL", (0, 1, 0, 1)),
    }
    keys = np.array([[1, 1, 2, 1, 0, 1, 1, 2]], dtype=np.int32)
    path = tmp_path / "wall.dlabel.nii"
    nib.save(nib.Cifti2Image(keys, (nib.cifti2.LabelAxis(["wall"], [table]), axis)), path)
    found = read_cortex_mask([path], 8, {"L": 4, "R": 4})
    assert found.tolist() == (keys[0] == 1).tolist()
