"""Files as others write them: all are read, and what is written of them comes back equal.

Small ones are made here, of each kind that the CIFTI-2 conformance samples and published
parcellations have. With ``TREND_SAMPLE_FILES`` naming a folder, every file below it is taken too.
"""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.cifti2.cifti2_axes import (
    BrainModelAxis,
    LabelAxis,
    ParcelsAxis,
    ScalarAxis,
    SeriesAxis,
)

from trend_dagster.delivery.maps import map_files, networks_of
from trend_dagster.errors import InputError
from trend_dagster.storage.label_files import (
    NO_LABEL,
    _all_maps,
    _join,
    label_file_at,
    read_networks,
)
from trend_dagster.storage.runs import BoldRun, cortex_models, read_run
from trend_dagster.storage.space import VertexSpace
from trend_dagster.storage.template import read_template, target_of

LEFT, RIGHT = "CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT"
N = 40
NONE = {"???", "MEDIAL.WALL"}
ENDINGS = (".nii", ".annot", ".label.gii")


def written_back(folder: Path, labels: np.ndarray, space: VertexSpace) -> None:
    """Write labels in every format that fits their space; each holds them as they are."""
    folder.mkdir(parents=True)
    numbers = np.unique(labels[labels != NO_LABEL])
    clusters = np.where(labels == NO_LABEL, -1, np.searchsorted(numbers, labels))
    target = target_of(space)
    files = map_files("x", "x", clusters, networks_of(clusters, None, target), None, target)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    expected = np.where(clusters < 0, NO_LABEL, clusters + 1)
    formats = ["lh.x.annot", "x.L.label.gii"] + ["x.dlabel.nii"] * (space.source == "cifti")
    for name in formats:
        np.testing.assert_array_equal(read_networks(label_file_at(folder / name)), expected)
    tsv = files["x.tsv"].decode().splitlines()
    assert len(tsv) == len(numbers) + 1


def space_of(axis: BrainModelAxis) -> VertexSpace:
    (_, _, left, n_left), (_, _, right, n_right) = cortex_models(axis)
    held = np.zeros(n_left + n_right, dtype=bool)
    held[np.concatenate([left, n_left + right])] = True
    return VertexSpace("cifti", {"L": n_left, "R": n_right}, in_data=held)


def cortex(image) -> np.ndarray:
    """Values of the cortex, left then right, one row per map."""
    axis = image.header.get_axis(1)
    columns = np.concatenate([places for _, places, _, _ in cortex_models(axis)])
    return np.asarray(image.dataobj)[:, columns]


def dense_labels(path: Path, folder: Path) -> None:
    image = nib.load(path)
    space = space_of(image.header.get_axis(1))
    tables = image.header.get_axis(0).label
    maps = [_join(parts, apart=True) for parts in _all_maps(label_file_at(path))]
    assert len(maps) == len(tables)
    for i, (labels, raw, table) in enumerate(zip(maps, cortex(image), tables, strict=True)):
        found = labels[space.in_data]
        labelled = found != NO_LABEL
        np.testing.assert_array_equal(found[labelled], raw[labelled])
        assert (labels[~space.in_data] == NO_LABEL).all()
        assert {table[k][0] for k in np.unique(raw[~labelled])} <= NONE
        written_back(folder / str(i), labels, space)


def dense_numbers(path: Path, folder: Path) -> None:
    """A scalar or a series says what grayordinates are; maps are written on them."""
    image = nib.load(path)
    axis = image.header.get_axis(1)
    target = read_template(path)
    assert len(target) == cortex(image).shape[1]
    np.testing.assert_array_equal(target.brain_models.vertex, axis.vertex[target_columns(axis)])
    labels = np.arange(len(target)) % 7 - 1
    networks = networks_of(labels, None, target)
    folder.mkdir(parents=True)
    content = map_files("x", "x", labels, networks, None, target)["x.dlabel.nii"]
    (folder / "x.dlabel.nii").write_bytes(content)
    written = nib.load(folder / "x.dlabel.nii")
    np.testing.assert_array_equal(np.asarray(written.dataobj)[0], labels + 1)
    assert written.header.get_axis(1) == target.brain_models
    if isinstance(image.header.get_axis(0), SeriesAxis):
        raw = read_run(BoldRun("x", (path,), "cifti", {}))
        np.testing.assert_array_equal(raw.signal[raw.space.in_data], cortex(image).T)
        assert raw.repetition_time == image.header.get_axis(0).step


def target_columns(axis: BrainModelAxis) -> np.ndarray:
    return np.isin(axis.name, [LEFT, RIGHT])


def parcels(path: Path, folder: Path) -> None:
    axis = nib.load(path).header.get_axis(1)
    (parts,) = _all_maps(label_file_at(path))
    labels = _join(parts, apart=True)
    for i, vertices in enumerate(axis.vertices):
        inside = np.flatnonzero(labels == i + 1)
        if axis.name[i] in NONE:
            assert len(inside) == 0
            continue
        expected = [v + (axis.nvertices[LEFT] if s == RIGHT else 0) for s, v in vertices.items()]
        assert inside.tolist() == sorted(np.concatenate([[], *expected]).tolist())
    space = VertexSpace("gifti", {"L": axis.nvertices[LEFT], "R": axis.nvertices[RIGHT]})
    written_back(folder / "0", labels, space)
    with pytest.raises(InputError, match="Give the dense series"):
        read_run(BoldRun("x", (path,), "cifti", {}))


def pairs(path: Path, folder: Path) -> None:
    file = label_file_at(path)
    counts = [len(raw_pair(p)) for p in file.files]
    source = "gifti" if path.suffix == ".gii" else "freesurfer"
    space = VertexSpace(source, dict(zip("LR", counts, strict=True)))
    for i, parts in enumerate(_all_maps(file)):
        labels = _join(parts, apart=True)
        written_back(folder / str(i), labels, space)
        for found, p in zip(np.split(labels, counts[:1]), file.files, strict=True):
            raw = raw_pair(p, i)
            labelled = found != NO_LABEL
            assert len({*zip(found[labelled], raw[labelled], strict=True)}) == len(
                np.unique(raw[labelled])
            )


def raw_pair(path: Path, i: int = 0) -> np.ndarray:
    if path.suffix == ".annot":
        return nib.freesurfer.read_annot(path)[0]
    return nib.load(path).darrays[i].data


def read_and_write_back(path: Path, folder: Path) -> None:
    if path.suffix in {".annot", ".gii"}:
        return pairs(path, folder)
    maps, rows = (nib.load(path).header.get_axis(i) for i in range(2))
    if isinstance(rows, ParcelsAxis):
        return parcels(path, folder)
    return (dense_labels if isinstance(maps, LabelAxis) else dense_numbers)(path, folder)


# Small files of each kind


def brain_models(subcortex: bool = False) -> BrainModelAxis:
    axis = BrainModelAxis.from_surface(np.arange(0, N, 2), N, LEFT)
    axis += BrainModelAxis.from_surface(np.arange(3, N), N, RIGHT)
    if subcortex:
        voxels = np.zeros((4, 4, 4), dtype=bool)
        voxels[1:3, 1, :2] = True
        axis += BrainModelAxis.from_mask(voxels, "CIFTI_STRUCTURE_THALAMUS_LEFT", np.eye(4))
    return axis


def write_small_files(folder: Path) -> None:
    rng = np.random.default_rng(5)
    axis = brain_models()
    two = rng.random((2, len(axis))).astype(np.float32)
    nib.save(nib.Cifti2Image(two, (ScalarAxis(["a", "b"]), axis)), folder / "two.dscalar.nii")
    nib.save(nib.Cifti2Image(two, (SeriesAxis(0, 1, 2), axis)), folder / "two.dtseries.nii")
    whole = brain_models(subcortex=True)
    ones = np.ones((1, len(whole)), np.float32)
    nib.save(nib.Cifti2Image(ones, (ScalarAxis(["ones"]), whole)), folder / "ones.dscalar.nii")
    names = {0: "???", 1: "MEDIAL.WALL", 2: "BA2", 3: "BA1", 9: "far"}
    table = {key: (name, (0.1 * key, 0.5, 0.5, 1.0)) for key, name in names.items()}
    for name, maps in (("many.dlabel.nii", ["lh", "rh", ""]), ("dense.nii", [""])):
        keys = rng.choice(list(names), (len(maps), len(axis))).astype(np.int32)
        image = nib.Cifti2Image(keys, (LabelAxis(maps, [table] * len(maps)), axis))
        nib.save(image, folder / name)
    parcel = ParcelsAxis(
        ["MEDIAL.WALL", "a", "b"],
        [np.empty((0, 3), dtype=int)] * 3,
        [{LEFT: np.arange(9, 12)}, {LEFT: np.array([1, 2, 5])}, {RIGHT: np.array([0, 7])}],
        nvertices={LEFT: N, RIGHT: N},
    )
    series = rng.random((2, 3)).astype(np.float32)
    nib.save(nib.Cifti2Image(series, (SeriesAxis(0, 1, 2), parcel)), folder / "two.ptseries.nii")
    for side, hemisphere in (("L", "lh"), ("R", "rh")):
        keys = rng.integers(0, 4, N).astype(np.int32)
        colours = np.array([[25, 5, 25, 0], [1, 2, 3, 0], [4, 5, 6, 0], [7, 8, 9, 0]])
        labels = ["Background+FreeSurfer_Defined_Medial_Wall", "Vis_1", "Vis_2", "Default"]
        nib.freesurfer.write_annot(
            folder / f"fsa5_{hemisphere}_three.annot", keys, colours, labels, fill_ctab=True
        )
        gifti_table = nib.gifti.GiftiLabelTable()
        for key, name in enumerate(labels):
            label = nib.gifti.GiftiLabel(key, *(colours[key] / 255))
            label.label = name
            gifti_table.labels.append(label)
        array = nib.gifti.GiftiDataArray(keys, "NIFTI_INTENT_LABEL")
        image = nib.gifti.GiftiImage(darrays=[array], labeltable=gifti_table)
        nib.save(image, folder / f"three.{side}.fsaverage5.label.gii")


def test_small_files_of_each_kind(tmp_path):
    (tmp_path / "in").mkdir()
    write_small_files(tmp_path / "in")
    paths = sorted((tmp_path / "in").iterdir())
    assert len(paths) == 10
    for path in paths:
        read_and_write_back(path, tmp_path / "out" / path.name)


def samples() -> list[Path]:
    folder = os.environ.get("TREND_SAMPLE_FILES")
    found = sorted(Path(folder).rglob("*")) if folder else []
    return [path for path in found if path.name.endswith(ENDINGS)]


@pytest.mark.slow
@pytest.mark.skipif(not samples(), reason="TREND_SAMPLE_FILES names no folder with files")
@pytest.mark.filterwarnings("ignore:Extension size is not a multiple:UserWarning")  # nibabel
@pytest.mark.parametrize("path", samples() or [None], ids=lambda path: path and path.name)
def test_sample_files(path, tmp_path):
    read_and_write_back(path, tmp_path / "out")
