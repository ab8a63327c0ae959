"""Label files as labs have them: found, paired, read as what was written; and what is refused."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.cifti2.cifti2_axes import BrainModelAxis, LabelAxis, ParcelsAxis, ScalarAxis

from trend_dagster.errors import InputError
from trend_dagster.storage.label_files import (
    MAX_LABELS,
    NO_LABEL,
    find_label_files,
    label_file_at,
    read_atlas,
    read_geodesic_labels,
    read_networks,
    unread_label_files,
)
from trend_dagster.storage.label_images import (
    Network,
    annot,
    cifti_labels,
    gifti_labels,
    keys_of,
    unique_rgb,
)

N_LEFT, N_RIGHT = 30, 20
SIDES = {"L": "CIFTI_STRUCTURE_CORTEX_LEFT", "R": "CIFTI_STRUCTURE_CORTEX_RIGHT"}


def table(n: int, prefix: str = "network") -> list[Network]:
    colours = unique_rgb(np.random.default_rng(n).random((n, 3)))
    return [Network(k + 1, f"{prefix}_{k + 1}", colours[k]) for k in range(n)]


def write_gifti(path: Path, keys, names: dict[int, str], maps: int = 1) -> None:
    labels = nib.gifti.GiftiLabelTable()
    for key, name in names.items():
        label = nib.gifti.GiftiLabel(key, 1, 0, 0, 1)
        label.label = name
        labels.labels.append(label)
    arrays = [
        nib.gifti.GiftiDataArray(
            np.asarray(keys, dtype=np.int32), "NIFTI_INTENT_LABEL", meta={"Name": f"map {i}"}
        )
        for i in range(maps)
    ]
    nib.save(nib.gifti.GiftiImage(darrays=arrays, labeltable=labels), path)


def models(left=None, right=None) -> BrainModelAxis:
    """Brain models of both hemispheres and two voxels of the thalamus."""
    left = np.arange(N_LEFT) if left is None else left
    right = np.arange(N_RIGHT) if right is None else right
    voxels = np.zeros((4, 4, 4), dtype=bool)
    voxels[1, 1, :2] = True
    return (
        BrainModelAxis.from_surface(left, N_LEFT, SIDES["L"])
        + BrainModelAxis.from_surface(right, N_RIGHT, SIDES["R"])
        + BrainModelAxis.from_mask(voxels, "CIFTI_STRUCTURE_THALAMUS_LEFT", np.eye(4))
    )


def the_file(folder: Path):
    (file,) = find_label_files(folder).values()
    return file


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_geodesic_labels(the_file(folder))
    assert all((caught.value.expected, caught.value.found, caught.value.remedy))
    return str(caught.value)


# What is read


@pytest.fixture
def keys(rng) -> np.ndarray:
    """Keys 0 (none) to 6 of both hemispheres, each of which has all of them."""
    return np.concatenate([rng.permutation(np.arange(n) % 7) for n in (N_LEFT, N_RIGHT)])


def write_pair(folder: Path, ending: str, keys: np.ndarray) -> None:
    left, right = np.split(keys, [N_LEFT])
    for side, hemisphere, part in (("L", "lh", left), ("R", "rh", right)):
        if ending == ".annot":
            (folder / f"{hemisphere}.seven.annot").write_bytes(annot(part, table(6)))
        else:
            content = gifti_labels(part, table(6), side, "seven")
            (folder / f"seven.{side}.label.gii").write_bytes(content)


@pytest.mark.parametrize("ending", [".annot", ".label.gii"])
def test_hemispheres_with_a_file_each_share_no_geodesic_label(tmp_path, keys, ending):
    write_pair(tmp_path, ending, keys)
    file = the_file(tmp_path)
    labels = read_geodesic_labels(file)
    assert (file.key, len(file.files)) == ("seven", 2)
    assert ((labels == NO_LABEL) == (keys == 0)).all()
    left, right = np.split(labels, [N_LEFT])
    assert not (set(left) & set(right)) - {NO_LABEL}
    for found, expected in zip((left, right), np.split(keys, [N_LEFT]), strict=True):
        same = found[:, None] == found
        assert np.array_equal(same, expected[:, None] == expected)  # the same partition


@pytest.mark.parametrize("ending", [".annot", ".label.gii"])
def test_a_network_of_one_name_lies_in_both_hemispheres(tmp_path, keys, ending):
    write_pair(tmp_path, ending, keys)
    (first,) = (p for p in tmp_path.iterdir() if "L." in p.name or "lh." in p.name)
    networks = read_networks(label_file_at(first))
    assert np.array_equal(networks, np.where(keys == 0, NO_LABEL, keys))


def test_networks_of_one_number_and_two_names_are_two(tmp_path):
    for side, name in (("L", "LH_Vis"), ("R", "RH_Vis")):
        write_gifti(tmp_path / f"x.{side}.label.gii", [1, 1, 0], {0: "???", 1: name})
    found = read_networks(the_file(tmp_path))
    assert found.tolist() == [1, 1, NO_LABEL, 3, 3, NO_LABEL] or len(set(found)) == 3
    assert not set(found[:2]) & set(found[3:5])


def test_grayordinates_take_their_place_on_the_full_mesh(tmp_path, rng):
    left, right = np.arange(0, N_LEFT, 2), np.arange(5, N_RIGHT)
    axis = models(left, right)
    keys = rng.integers(0, 7, len(axis))
    (tmp_path / "x.dlabel.nii").write_bytes(cifti_labels(keys, table(6), axis, "x"))
    labels = read_geodesic_labels(the_file(tmp_path))
    rows = np.concatenate([left, N_LEFT + right])
    expected = np.full(N_LEFT + N_RIGHT, NO_LABEL)
    expected[rows] = np.where(keys[: len(rows)] == 0, NO_LABEL, keys[: len(rows)])
    assert np.array_equal(labels, expected)  # one number is one label there


@pytest.mark.parametrize(
    "none",
    ["???", "unknown", "Unknown", "lh.unknown", "MEDIAL.WALL", "Medial_wall", "corpuscallosum",
     "Background+FreeSurfer_Defined_Medial_Wall", "none", ""],
)  # fmt: skip
def test_names_that_say_that_there_is_no_label(tmp_path, none):
    for side in "LR":
        write_gifti(tmp_path / f"x.{side}.label.gii", [0, 4, 4, 7], {0: "a", 4: none, 7: "b"})
    labels = read_geodesic_labels(the_file(tmp_path))
    assert (labels == NO_LABEL).tolist() == [False, True, True, False] * 2


def test_without_a_table_0_is_no_label(tmp_path):
    for side in "LR":
        write_gifti(tmp_path / f"x.{side}.label.gii", [0, 1, 2], {})
    assert read_geodesic_labels(the_file(tmp_path)).tolist() == [-1, 1, 2, -1, 4, 5]


def test_vertices_without_an_entry_in_an_annotation(tmp_path):
    colours = np.array([[1, 2, 3, 0, 0], [9, 8, 7, 0, 0]])
    for hemisphere in ("lh", "rh"):
        path = tmp_path / f"{hemisphere}.x.annot"
        nib.freesurfer.write_annot(path, np.array([0, -1, 1]), colours, ["a", "b"], fill_ctab=True)
    labels = read_geodesic_labels(the_file(tmp_path))
    assert (labels == NO_LABEL).tolist() == [False, True, False] * 2


def test_every_value_of_an_npy_is_a_label(tmp_path):
    np.save(tmp_path / "x.npy", [0, 3, 3, 0])
    assert read_geodesic_labels(the_file(tmp_path)).tolist() == [0, 3, 3, 0]
    np.save(tmp_path / "x.npy", [-1, 3, 3, 0])
    assert read_networks(the_file(tmp_path)).tolist() == [-1, 3, 3, 0]


def test_parcels_are_labels(tmp_path, rng):
    axis = ParcelsAxis(
        ["a", "b"],
        [np.empty((0, 3), dtype=int)] * 2,
        [
            {SIDES["L"]: np.array([1, 2]), SIDES["R"]: np.array([0])},
            {SIDES["R"]: np.array([4, 5])},
        ],
        affine=np.eye(4),
        volume_shape=(4, 4, 4),
        nvertices={SIDES["L"]: N_LEFT, SIDES["R"]: N_RIGHT},
    )
    image = nib.Cifti2Image(rng.random((1, 2)).astype(np.float32), (ScalarAxis(["x"]), axis))
    nib.save(image, tmp_path / "x.pscalar.nii")
    labels = read_geodesic_labels(the_file(tmp_path))
    assert np.flatnonzero(labels == 1).tolist() == [1, 2, N_LEFT]
    assert np.flatnonzero(labels == 2).tolist() == [N_LEFT + 4, N_LEFT + 5]
    assert (labels == NO_LABEL).sum() == N_LEFT + N_RIGHT - 5


def test_our_own_maps_come_back_as_what_they_were(tmp_path, rng):
    labels = rng.integers(-1, 6, N_LEFT + N_RIGHT)
    write_pair(tmp_path, ".label.gii", keys_of(labels))
    networks = read_networks(the_file(tmp_path))
    assert np.array_equal(networks, np.where(labels < 0, NO_LABEL, labels + 1))


# Names


@pytest.mark.parametrize(
    ("names", "key"),
    [
        (("lh.aparc.annot", "rh.aparc.annot"), "aparc"),
        (("fsa5_lh_schaefer_100.annot", "fsa5_rh_schaefer_100.annot"), "fsa5_schaefer_100"),
        (("RSN.L.fsaverage5.label.gii", "RSN.R.fsaverage5.label.gii"), "RSN.fsaverage5"),
        (
            ("sub-1_hemi-L_space-x_dseg.label.gii", "sub-1_hemi-R_space-x_dseg.label.gii"),
            "sub-1_space-x_dseg",
        ),
        (("Conte69.32k_fs_LR.dlabel.nii",), "Conte69.32k_fs_LR"),
        (("Icosahedron.nii",), "Icosahedron"),
        (("hemi-L.npy",), "hemi-L"),
    ],
)
def test_the_key_is_the_name_without_hemisphere_and_ending(tmp_path, names, key):
    for name in reversed(names):
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    file = the_file(tmp_path)
    assert file.key == key
    assert [path.name for path in file.files] == list(names)
    assert label_file_at(tmp_path / names[-1]) == file


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (("lh.a.annot",), "other hemisphere"),
        (("a.label.gii",), "other hemisphere"),
        (("a.npy", "a.dlabel.nii"), "same key 'a'"),
        (("lh.a.annot", "rh.a.annot", "a.npy"), "same key 'a'"),
        (("lh.a.annot", "a_lh.annot", "rh.a.annot"), "same key 'a'"),
        (("lh.a.annot", "R.a.label.gii"), "same key 'a'"),
        ((), "0 entries"),
        (("a.txt",), "1 entries"),
    ],
)
def test_files_that_do_not_go_together(tmp_path, names, word):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=word):
        find_label_files(tmp_path)


def test_a_name_that_is_not_utf8(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.dlabel.nii")).touch()
    with pytest.raises(InputError, match="UTF-8") as caught:
        find_label_files(tmp_path)
    str(caught.value).encode()


def test_a_path_that_is_no_label_file(tmp_path):
    with pytest.raises(InputError, match=r"label\.gii"):
        label_file_at(tmp_path / "x.func.gii")


# What is refused


def test_more_than_a_thousand_labels(tmp_path):
    for n in (MAX_LABELS, MAX_LABELS + 1):
        np.save(tmp_path / "x.npy", np.arange(n))
        if n == MAX_LABELS:
            assert len(read_geodesic_labels(the_file(tmp_path))) == n
    message = refused(tmp_path)
    assert "at most 1,000, found 1,001" in message
    assert "Correlations are kept within a label" in message


def test_a_file_without_any_label(tmp_path):
    for side in "LR":
        write_gifti(tmp_path / f"x.{side}.label.gii", [0, 0], {0: "???"})
    assert "at least one label" in refused(tmp_path)


def test_several_maps_are_named(tmp_path):
    for side in "LR":
        write_gifti(tmp_path / f"x.{side}.label.gii", [1, 2], {1: "a", 2: "b"}, maps=2)
    message = refused(tmp_path)
    assert "found 2: 'map 0', 'map 1'" in message
    assert "-label-merge" in message


def test_hemispheres_with_other_numbers_of_maps(tmp_path):
    for i, side in enumerate("LR"):
        write_gifti(tmp_path / f"x.{side}.label.gii", [1, 2], {1: "a", 2: "b"}, maps=i + 1)
    assert "expected 1 maps, as x.L.label.gii has, found 2" in refused(tmp_path)


def test_numbers_that_are_no_labels(tmp_path):
    for side in "LR":
        array = nib.gifti.GiftiDataArray(np.ones(3, np.float32), "NIFTI_INTENT_SHAPE")
        nib.save(nib.gifti.GiftiImage(darrays=[array]), tmp_path / f"x.{side}.label.gii")
    assert "another intent" in refused(tmp_path)


def test_a_dense_file_that_holds_no_labels(tmp_path, rng):
    values = rng.random((1, len(models()))).astype(np.float32)
    nib.save(nib.Cifti2Image(values, (ScalarAxis(["x"]), models())), tmp_path / "x.nii")
    assert "ScalarAxis, BrainModelAxis" in refused(tmp_path)


def test_one_hemisphere_alone(tmp_path):
    axis = BrainModelAxis.from_surface(np.arange(N_LEFT), N_LEFT, SIDES["L"])
    image = nib.Cifti2Image(
        np.ones((1, N_LEFT), np.int32), (LabelAxis(["x"], [{1: ("a", (1, 0, 0, 1))}]), axis)
    )
    nib.save(image, tmp_path / "x.dlabel.nii")
    assert "left and right cortex" in refused(tmp_path)


def test_dense_labels_without_a_table(tmp_path):
    axis = LabelAxis(["x"], [{}])
    image = nib.Cifti2Image(np.ones((1, len(models())), np.int32), (axis, models()))
    nib.save(image, tmp_path / "x.dlabel.nii")
    assert "a table of labels, found none" in refused(tmp_path)


def test_a_volume_is_no_label_file(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.int16), np.eye(4)), tmp_path / "x.nii")
    assert "CIFTI-2" in refused(tmp_path)


def test_cifti_1_is_named_with_its_converter(tmp_path):
    path = tmp_path / "x.dlabel.nii"
    content = cifti_labels(np.ones(len(models()), int), table(1), models(), "x")
    path.write_bytes(content.replace(b'<CIFTI Version="2', b'<CIFTI Version="1'))
    message = refused(tmp_path)
    assert message.startswith("label file")
    assert "-cifti-version-convert" in message


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("ending", [".annot", ".label.gii", ".dlabel.nii"])
def test_truncated_files(tmp_path, keys, ending, share):
    if ending == ".dlabel.nii":
        content = cifti_labels(np.append(keys, [0, 0]), table(6), models(), "x")
        (tmp_path / "x.dlabel.nii").write_bytes(content)
    else:
        write_pair(tmp_path, ending, keys)
    path = min(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert path.name in refused(tmp_path)


def test_a_colour_that_the_table_lacks(tmp_path):
    colours = np.array([[1, 2, 3, 0], [9, 8, 7, 0]])
    for hemisphere in ("lh", "rh"):
        path = tmp_path / f"{hemisphere}.x.annot"
        nib.freesurfer.write_annot(path, np.array([0, 1, 1]), colours, ["a", "b"], fill_ctab=True)
    content = bytearray(path.read_bytes())
    content[16:20] = (77).to_bytes(4, "big", signed=True)  # of the second vertex
    content[24:28] = (77).to_bytes(4, "big", signed=True)
    path.write_bytes(bytes(content))
    assert "1 colours without one" in refused(tmp_path)


def test_an_annotation_without_a_table(tmp_path):
    for hemisphere in ("lh", "rh"):
        vertices = np.array([2, 0, 5, 1, 5, 0], dtype=">i4")
        (tmp_path / f"{hemisphere}.x.annot").write_bytes(vertices.tobytes())
    assert "Color table not found" in refused(tmp_path)


# Atlases


@pytest.mark.parametrize("form", ["annot", "dlabel", "npy"])
def test_an_atlas_network_of_both_hemispheres_is_one_by_its_name(tmp_path, keys, form):
    names = ["V1", "M1", "Default mode"]
    keys %= 4
    left, right = np.split(keys, [N_LEFT])
    if form == "npy":
        np.save(tmp_path / "atlas.npy", keys - 1)
        expected_names = ["0", "1", "2"]
    else:
        expected_names = names
        two = [[f"{s}_{n}" for n in names] for s in "LR"]
        if form == "annot":
            for hemisphere, part, own in (("lh", left, two[0]), ("rh", right, two[1])):
                networks = [Network(k + 1, n, (10 * k + 1, 2, 3)) for k, n in enumerate(own)]
                (tmp_path / f"{hemisphere}.atlas.annot").write_bytes(annot(part, networks))
        else:
            apart = np.concatenate([left, np.where(right, right + 3, 0)])
            networks = [
                Network(k + 1, n, (10 * k + 1, 2, 3)) for k, n in enumerate([*two[0], *two[1]])
            ]
            axis = models()[: N_LEFT + N_RIGHT]
            (tmp_path / "atlas.dlabel.nii").write_bytes(cifti_labels(apart, networks, axis, "a"))
    labels, found = read_atlas(the_file(tmp_path))
    assert sorted(found) == sorted(expected_names)
    for key, name in enumerate(expected_names, 1):
        assert ((labels == found.index(name)) == (keys == key)).all()
    assert ((labels == NO_LABEL) == (keys == 0)).all()


def test_numbers_with_one_name_are_one_network_whatever_the_others_are_called(tmp_path):
    names = {"L": {1: "Vis", 2: "Mot", 3: "Aud"}, "R": {1: "Vis", 2: "Mot", 3: "Lang", 4: "Sal"}}
    for side, n in (("L", N_LEFT), ("R", N_RIGHT)):
        own = names[side]
        write_gifti(tmp_path / f"a.{side}.label.gii", 1 + np.arange(n) % len(own), own)
    left, right = np.split(read_networks(the_file(tmp_path)), [N_LEFT])
    assert set(left.tolist()) & set(right.tolist()) == {1, 2}
    assert len(np.unique([*left, *right])) == 5


def test_what_macos_puts_beside_each_file_is_no_label_file(tmp_path):
    for side, n in (("L", N_LEFT), ("R", N_RIGHT)):
        write_gifti(tmp_path / f"a.{side}.label.gii", np.ones(n), {1: "one"})
        (tmp_path / f"._a.{side}.label.gii").write_bytes(b"\x00\x05\x16\x07")
    assert label_file_at(tmp_path / "a.L.label.gii") == the_file(tmp_path)
    assert len(the_file(tmp_path).files) == 2


def test_a_compressed_label_file_is_read_as_it_was_before(tmp_path):
    for side, n in (("L", N_LEFT), ("R", N_RIGHT)):
        write_gifti(tmp_path / f"a.{side}.label.gii", 1 + np.arange(n) % 2, {1: "one", 2: "two"})
    before = read_geodesic_labels(the_file(tmp_path))
    for path in list(tmp_path.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert the_file(tmp_path).key == "a"
    assert np.array_equal(read_geodesic_labels(the_file(tmp_path)), before)


def test_what_looks_like_labels_and_is_not_read_is_named(tmp_path):
    read = ("a.npy", "lh.b.annot", "c.dlabel.nii", "d.L.label.gii.gz")
    other = ("README.md", "e.tsv", "f.json", "._lh.b.annot", "colours.ctab")
    unread = ("lh.g.gii", "h.nii.gz", "i.mgz", "j.npz", "lh.k.ANNOT")
    for name in (*read, *other, *unread):
        (tmp_path / name).touch()
    assert set(unread_label_files(tmp_path)) == set(unread)
    assert unread_label_files(tmp_path / "none") == {}


def test_names_of_an_atlas_stand_on_one_line(tmp_path):
    for side, n in (("L", N_LEFT), ("R", N_RIGHT)):
        names = {1: "V1\tof\nArea", 2: " \n ", 3: "Größe (=1)"}
        write_gifti(tmp_path / f"a.{side}.label.gii", 1 + np.arange(n) % 3, names)
    labels, names = read_atlas(the_file(tmp_path))
    assert names == ["V1 of Area", "Größe (=1)"]
    assert (labels == -1).sum() == 17


def test_labels_without_a_number_are_refused(tmp_path):
    values = np.ones(N_LEFT + N_RIGHT + 2)
    values[3] = np.nan
    axes = (LabelAxis(["a"], {1: ("one", (1, 0, 0, 1))}), models())
    nib.save(nib.Cifti2Image(values[None].astype(np.float32), axes), tmp_path / "a.dlabel.nii")
    assert "expected whole numbers, found NaN or infinity" in refused(tmp_path)


@pytest.mark.parametrize("vertices", [[4, 2, 0, 1, 3], [0, 1, 2, 3, 5], [0, 1, 1, 2, 3]])
def test_an_annotation_says_of_which_vertex_each_colour_is(tmp_path, vertices):
    keys = np.array([1, 1, 2, 2, 1])
    for name in ("lh.a.annot", "rh.a.annot"):
        content = annot(keys, table(2))
        pairs = np.frombuffer(content, ">i4", 10, offset=4).reshape(5, 2).copy()
        pairs[:, 0] = vertices
        (tmp_path / name).write_bytes(content[:4] + pairs.tobytes() + content[44:])
    if sorted(vertices) == list(range(5)):
        found = read_geodesic_labels(the_file(tmp_path))
        assert found[:5].tolist() == keys[np.argsort(vertices)].tolist()
    else:
        assert "expected a colour for each vertex from 0 to 4" in refused(tmp_path)
