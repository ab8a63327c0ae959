"""What is written reads back equal, in every format, names and colours included."""

from __future__ import annotations

import io

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel import cifti2

from tests.workbench import wb_command
from trend_dagster.errors import StoreError
from trend_dagster.storage.label_images import (
    Network,
    annot,
    cifti_labels,
    gifti_labels,
    gifti_surface,
    keys_of,
    label_tsv,
    nifti_labels,
    spec_file,
    unique_rgb,
)

labellings = st.lists(st.integers(-1, 11), min_size=1, max_size=60).map(np.array)


def table(n: int = 12, third: str = "Réseau 3") -> list[Network]:
    rng = np.random.default_rng(n)
    rgb = unique_rgb(rng.random((n, 3)))
    names = ["LH_01", 'a <b> & "c"', third, *(f"network_{k}" for k in range(3, n))]
    return [Network(k + 1, names[k], rgb[k], "L") for k in range(n)]


def reopened(tmp_path_factory, name: str, content: bytes):
    path = tmp_path_factory.mktemp("labels") / name
    path.write_bytes(content)
    return nib.load(path)


@settings(max_examples=20, deadline=None)
@given(labellings)
def test_gifti_reads_back_equal(tmp_path_factory, labels):
    image = reopened(
        tmp_path_factory, "x.label.gii", gifti_labels(keys_of(labels), table(), "R", "14 clusters")
    )
    np.testing.assert_array_equal(image.darrays[0].data, keys_of(labels))
    assert (image.darrays[0].data == 0).tolist() == (labels < 0).tolist()
    assert image.meta["AnatomicalStructurePrimary"] == "CortexRight"
    assert image.darrays[0].meta["Name"] == "14 clusters"
    found = {label.key: label for label in image.labeltable.labels}
    assert found[0].label == "???"
    assert found[0].rgba[3] == 0
    for network in table():
        assert found[network.key].label == network.name
        np.testing.assert_allclose(
            found[network.key].rgba, np.divide([*network.rgb, 255], 255), atol=1e-6
        )


@settings(max_examples=20, deadline=None)
@given(labellings)
def test_annot_reads_back_equal(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("labels") / "lh.x.annot"
    path.write_bytes(annot(keys_of(labels), table()))
    found, colours, names = nib.freesurfer.read_annot(path)
    np.testing.assert_array_equal(found, keys_of(labels))
    assert [name.decode() for name in names] == ["unknown", *(n.name for n in table())]
    np.testing.assert_array_equal(colours[1:, :3], [n.rgb for n in table()])


@settings(max_examples=20, deadline=None)
@given(labellings)
def test_cifti_reads_back_equal_with_its_brain_models(tmp_path_factory, labels):
    n = len(labels)
    left = np.arange(0, 2 * (n // 2 + 1), 2)[: n // 2]
    right = np.arange(n - n // 2) + 3
    models = cifti2.BrainModelAxis(
        name=["CIFTI_STRUCTURE_CORTEX_LEFT"] * len(left)
        + ["CIFTI_STRUCTURE_CORTEX_RIGHT"] * len(right),
        vertex=np.concatenate([left, right]),
        nvertices={"CIFTI_STRUCTURE_CORTEX_LEFT": 99, "CIFTI_STRUCTURE_CORTEX_RIGHT": 99},
    )
    image = reopened(
        tmp_path_factory, "x.dlabel.nii", cifti_labels(keys_of(labels), table(), models, "maps")
    )
    np.testing.assert_array_equal(np.asarray(image.dataobj)[0], keys_of(labels))
    assert image.header.get_axis(1) == models
    assert image.nifti_header.get_intent()[0] == "ConnDenseLabel"
    found = image.header.get_axis(0).label[0]
    assert {k: name for k, (name, _) in found.items()} == {
        0: "???",
        **{n.key: n.name for n in table()},
    }


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_nifti_reads_back_equal(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((4, 5, 6)) < 0.5
    labels = rng.integers(-1, 12, mask.sum())
    affine = np.array([[-2, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1.0]])
    content = nifti_labels(keys_of(labels), table(), affine, mask, "14 clusters")
    image = reopened(tmp_path_factory, "x.nii.gz", content)
    volume = np.asarray(image.dataobj)
    np.testing.assert_array_equal(volume[mask], keys_of(labels))
    assert not volume[~mask].any()
    np.testing.assert_array_equal(image.affine, affine)
    assert bytes(image.header["descrip"].item()) == b"14 clusters"
    assert content == nifti_labels(keys_of(labels), table(), affine, mask, "14 clusters")


def test_a_surface_reads_back_equal(tmp_path_factory):
    points = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    triangles = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
    image = reopened(
        tmp_path_factory, "x.surf.gii", gifti_surface(points, triangles, "L", "Inflated")
    )
    np.testing.assert_array_equal(image.agg_data("pointset"), points)
    np.testing.assert_array_equal(image.agg_data("triangle"), triangles)


@pytest.mark.parametrize("n", [1, 40, 200])
def test_no_two_labels_share_a_colour(n):
    grey = [(0.5, 0.5, 0.5)] * n
    found = unique_rgb(grey)
    assert len(set(found)) == n
    assert np.abs(np.array(found) - 128).max() <= 128
    assert found[0] == (128, 128, 128)
    black = unique_rgb([(0.0, 0.0, 0.0)])
    assert black != [(0, 0, 0)]  # FreeSurfer's "no label"


def test_the_table_has_the_columns_of_bids():
    networks = [Network(1, "LH_01", (255, 0, 16), "L", 2, 40), Network(2, "network", (0, 0, 1))]
    header, *rows = [line.split("\t") for line in label_tsv(networks).decode().splitlines()]
    assert header[:3] == ["index", "name", "color"]
    assert dict(zip(header, rows[0], strict=True))["color"] == "#ff0010"
    assert rows[1] == ["2", "network", "#000001", "n/a", "n/a", "0"]


@pytest.mark.parametrize("write", [gifti_labels, annot])
def test_a_key_without_a_name_is_refused(write):
    with pytest.raises(StoreError, match="label table"):
        write(np.array([13]), table(), *(("L", "x") if write is gifti_labels else ()))


def test_a_spec_names_its_files_safely():
    import xml.etree.ElementTree as ET

    name = 'a&"<b>.L.label.gii'
    root = ET.parse(io.BytesIO(spec_file([(name, "L"), ("notes.txt", "")]))).getroot()
    (entry,) = root.findall("DataFile")
    assert entry.text == name
    assert entry.attrib == {"Structure": "CortexLeft", "DataFileType": "LABEL", "Selected": "true"}


def grayordinates() -> tuple[cifti2.BrainModelAxis, np.ndarray]:
    """Brain models of two hemispheres of 642 vertices with a medial wall, and labels for them."""
    rng = np.random.default_rng(5)
    cortex = rng.random((2, 642)) < 0.9
    models = cifti2.BrainModelAxis.from_mask(cortex[0], "CortexLeft")
    models += cifti2.BrainModelAxis.from_mask(cortex[1], "CortexRight")
    return models, rng.integers(-1, 12, cortex.sum())


@pytest.mark.usefixtures("workbench")
def test_workbench_separates_grayordinates_into_the_same_labels(tmp_path):
    models, labels = grayordinates()
    # Workbench itself leaves out of GIFTI what is not ASCII; the names that we give are.
    content = cifti_labels(keys_of(labels), table(third="third"), models, "maps")
    (tmp_path / "x.dlabel.nii").write_bytes(content)
    shown = wb_command("-file-information", tmp_path / "x.dlabel.nii")
    assert "Dense Label" in shown
    for structure, side in (("CORTEX_LEFT", "Left"), ("CORTEX_RIGHT", "Right")):
        out = tmp_path / f"{side}.label.gii"
        wb_command("-cifti-separate", tmp_path / "x.dlabel.nii", "COLUMN", "-label", structure, out)
        own = np.flatnonzero(models.name == f"CIFTI_STRUCTURE_{structure}")
        expected = np.zeros(642, dtype=int)
        expected[models.vertex[own]] = keys_of(labels)[own]
        found = nib.load(out)
        np.testing.assert_array_equal(found.darrays[0].data, expected)
        names = {label.key: label.label for label in found.labeltable.labels}
        assert names[3] == "third"


@pytest.mark.usefixtures("workbench")
def test_workbench_reads_the_label_table_of_a_volume(tmp_path):
    mask = np.ones((4, 5, 6), dtype=bool)
    labels = np.arange(120) % 13 - 1
    content = nifti_labels(keys_of(labels), table(), np.diag([2, 2, 2, 1.0]), mask, "14 clusters")
    (tmp_path / "x.nii.gz").write_bytes(content)
    shown = wb_command("-file-information", tmp_path / "x.nii.gz")
    assert "Maps with LabelTable:   true" in shown
    wb_command("-volume-label-export-table", tmp_path / "x.nii.gz", "1", tmp_path / "t.txt")
    lines = (tmp_path / "t.txt").read_text().splitlines()
    assert {n.name for n in table()} <= set(lines)
