"""Data sets that other software takes, judged by the validator of BIDS."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from trend_dagster.delivery.bids import (
    Chosen,
    Person,
    Place,
    bids_files,
    export_bids,
    export_xcpd,
    place_of,
)
from trend_dagster.delivery.maps import VoxelLabels, networks_of
from trend_dagster.errors import InputError, SettingsError
from trend_dagster.science.surface import cut_into_labels
from trend_dagster.storage.label_images import Overlap, voxel_models
from trend_dagster.storage.space import Subcortex, VertexSpace
from trend_dagster.storage.template import target_of


def problems(folder: Path) -> tuple[list[str], list[str]]:
    """Errors and warnings that the validator finds."""
    validator = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run(
        [validator, folder, "--format", "json"], capture_output=True, text=True, check=False
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    said = [(i["severity"], f"{i['code']} {i.get('subCode')} {i['location']}") for i in issues]
    return tuple([text for kind, text in said if kind == wanted] for wanted in ("error", "warning"))


@pytest.fixture
def labels(surface) -> np.ndarray:
    return np.where(surface.medial_wall, -1, cut_into_labels(surface, 4))


@pytest.fixture
def on_surface(surface, labels) -> Chosen:
    overlaps = [(Overlap("atlas", "V1", 0.8, 0.005),)] * 8
    networks = networks_of(labels, surface, None, overlaps)
    persons = [Person(label, labels[None]) for label in ("01", "CC00050XX01")]
    place = Place("fsaverage")
    return Chosen("study", place, labels[None], [8], [networks], surface, None, [None], persons)


def grayordinates(labels) -> tuple:
    space = VertexSpace("cifti", {"L": 642, "R": 642}, in_data=labels >= 0)
    target = target_of(space)
    voxels = np.argwhere(np.ones((2, 2, 2)))
    names = np.array(["CIFTI_STRUCTURE_THALAMUS_LEFT"] * 8)
    models = voxel_models(Subcortex(voxels, names, (4, 4, 4), np.eye(4)))
    part = np.arange(8, dtype=np.int32)
    return target, VoxelLabels(models, part, part / 10, part / 20)


def test_no_two_networks_have_one_name(surface, labels):
    def like(name):
        return (Overlap("atlas", name, 0.8, 0.0001),)

    plain = [n.name for n in networks_of(labels, surface, None, [()] * 8)]
    left = [i for i, name in enumerate(plain) if name.startswith("LH_")]
    overlaps = [()] * 8
    overlaps[left[0]] = like(plain[left[1]].removeprefix("LH_"))
    overlaps[left[2]] = like("视觉")
    overlaps[left[3]] = like("?")
    names = [n.name for n in networks_of(labels, surface, None, overlaps)]
    assert len(set(names)) == 8
    assert names[left[2]] == "LH_视觉"
    assert names[left[3]] == plain[left[3]]


def test_two_newborns_of_one_label_are_refused(on_surface, labels, tmp_path):
    persons = [Person("s111", labels[None])] * 2
    with pytest.raises(InputError, match="several that become sub-s111"):
        list(export_bids(replace(on_surface, persons=persons), tmp_path / "bids"))
    assert not (tmp_path / "bids").exists()


@pytest.mark.slow
def test_maps_of_surfaces_and_newborns_are_valid(on_surface, labels, tmp_path):
    written = list(export_bids(on_surface, tmp_path))
    errors, warnings = problems(tmp_path)
    assert errors == []
    assert {w.split()[0] for w in warnings} <= {"TOO_FEW_AUTHORS"}, warnings
    stem = tmp_path / "tpl-fsaverage" / "tpl-fsaverage"
    left = nib.load(f"{stem}_hemi-L_atlas-TReND_seg-8networks_den-642_dseg.label.gii")
    np.testing.assert_array_equal(left.darrays[0].data, labels[:642] + 1)
    table = pd.read_csv(f"{stem}_atlas-TReND_seg-8networks_dseg.tsv", sep="\t")
    metadata = json.loads(Path(f"{stem}_atlas-TReND_seg-8networks_dseg.json").read_text())
    assert metadata["Density"] == {"642": "642 vertices in each hemisphere"}
    assert set(table) - {"index", "name", "color"} <= set(metadata)
    assert table["name"].str.contains("V1").all()
    assert (tmp_path / "sub-CC00050XX01/anat").is_dir()
    assert written[-1].name == "dataset_description.json"


@pytest.mark.slow
@pytest.mark.parametrize("cohort", [None, "40"])
def test_maps_of_grayordinates_and_volumes_are_valid(on_surface, labels, tmp_path, cohort):
    target, voxels = grayordinates(labels)
    place = Place("dhcpSym" if cohort else "fsLR", cohort)
    dense = replace(on_surface, place=place, target=target, surface=None, voxels=[voxels])
    list(export_bids(dense, tmp_path / "dense"))
    errors, _ = problems(tmp_path / "dense")
    assert errors == []
    (image,) = (tmp_path / "dense" / place.folder).glob("*_dseg.dlabel.nii")
    assert np.asarray(nib.load(image).dataobj).shape == (1, (labels >= 0).sum() + 8)
    if cohort:
        return
    inside = np.flatnonzero(np.ones(1284))
    space = VertexSpace("nifti", {}, None, (12, 12, 12), np.eye(4), inside)
    volume = replace(on_surface, place=Place("MNIInfant"), target=target_of(space), surface=None)
    list(export_bids(volume, tmp_path / "volume"))
    errors, _ = problems(tmp_path / "volume")
    assert errors == []
    assert list((tmp_path / "volume" / "tpl-MNIInfant").glob("*_dseg.nii.gz"))


def test_xcp_d_finds_an_atlas_by_its_names(on_surface, labels, tmp_path):
    """As its `collect_atlases` looks for them, and with the columns that its versions read."""
    n = 32492
    fine = np.full(2 * n, -1, dtype=labels.dtype)
    fine[: len(labels) // 2], fine[n : n + len(labels) // 2] = np.split(labels, 2)
    space = VertexSpace("cifti", {"L": n, "R": n}, in_data=fine >= 0)
    _, voxels = grayordinates(labels)
    dense = replace(
        on_surface,
        place=Place("fsLR"),
        labels=fine[None],
        target=target_of(space),
        surface=None,
        voxels=[voxels],
    )
    list(export_xcpd(dense, tmp_path))
    assert json.loads((tmp_path / "dataset_description.json").read_text())["DatasetType"] == "atlas"
    folder = tmp_path / "atlas-TReND8"
    image = nib.load(folder / "atlas-TReND8_space-fsLR_den-32k_dseg.dlabel.nii")
    table = pd.read_csv(folder / "atlas-TReND8_dseg.tsv", sep="\t")
    of_image = image.header.get_axis(0).label[0]
    for column in ("name", "label", "cifti_label"):
        assert {k: name for k, (name, _) in of_image.items() if k} == dict(
            zip(table["index"], table[column], strict=True)
        )
    inside = np.flatnonzero(np.ones(1284))
    volume = VertexSpace("nifti", {}, None, (12, 12, 12), np.eye(4), inside)
    place = Place("MNIInfant", "2")
    list(export_xcpd(replace(dense, place=place, labels=labels[None], target=target_of(volume)),
                     tmp_path / "volume"))  # fmt: skip
    name = "atlas-TReND8_space-MNIInfant_cohort-2_dseg.nii.gz"
    assert (tmp_path / "volume" / "atlas-TReND8" / name).is_file()


def test_what_xcp_d_would_not_find_is_refused(on_surface, labels, tmp_path):
    target, voxels = grayordinates(labels)
    coarse = replace(on_surface, place=Place("fsLR"), target=target, surface=None, voxels=[voxels])
    for chosen, found in (
        (on_surface, "surfaces on fsaverage, which are no dense labels"),
        (coarse, "grayordinates of fsLR, 642"),
        (replace(coarse, place=Place("dhcpSym", "40")), "grayordinates of dhcpSym, 642"),
    ):
        with pytest.raises(SettingsError, match=found):
            list(export_xcpd(chosen, tmp_path))
    assert not list(tmp_path.iterdir())


def test_another_data_set_is_left_alone(on_surface, tmp_path):
    (tmp_path / "dataset_description.json").write_text('{"Name": "theirs"}')
    with pytest.raises(SettingsError, match="another data set"):
        list(export_bids(on_surface, tmp_path))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("surface", "names", "place"),
    [
        ("fsaverage4", [{}], Place("fsaverage")),
        (None, [{"space": "fsaverage5"}], Place("fsaverage")),
        (None, [{"sub": "1"}, {"space": "MNIInfant", "cohort": "2"}], Place("MNIInfant", "2")),
        (None, [{}], Place("custom")),
    ],
)
def test_the_template_is_told_by_settings_or_names(surface, names, place):
    assert place_of(surface, names) == place


def test_what_the_user_says_of_the_data_goes_along(on_surface):
    readme = bids_files(replace(on_surface, note="Simulated, of nobody."))["README.md"].decode()
    assert "**Simulated, of nobody.**" in readme


def test_networks_are_named_by_what_is_more_than_chance_among_all_of_them(surface, labels):
    def names(p):
        overlaps = [(Overlap("atlas", "V1", 0.8, each),) for each in p]
        return [n.name for n in networks_of(labels, surface, None, overlaps) if "V1" in n.name]

    assert names([0.04, *[0.5] * 7]) == []  # one of eight is so by chance
    assert len(names([0.005, *[0.5] * 7])) == 1
    assert len(names([0.04] * 8)) == 8
    assert len(names([float("nan")] * 8)) == 8  # no turns: by the Dice
