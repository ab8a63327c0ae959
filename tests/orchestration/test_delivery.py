"""Parcellations as files: names, colours, and the cells that a person asks for."""

from __future__ import annotations

import colorsys
import csv
import io
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from nibabel import cifti2

from tests.conftest import N_VERTICES, run
from tests.delivery.test_figures import hue_of
from tests.workbench import render, wb_command
from trend_dagster.delivery.export import export_cells
from trend_dagster.delivery.figures.surface import homologous_labels
from trend_dagster.delivery.maps import map_files, networks_of
from trend_dagster.errors import MissingUpstreamError, SettingsError
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import publish_alone
from trend_dagster.project.folder import Project
from trend_dagster.project.tables import Parcellations, labels_of, sweep_cells
from trend_dagster.project.target import map_space
from trend_dagster.science.surface import cut_into_labels
from trend_dagster.storage.label_images import cifti_labels, keys_of, label_tsv
from trend_dagster.storage.provenance import Recipe
from trend_dagster.storage.space import VertexSpace
from trend_dagster.storage.template import target_of


def hue(rgb: tuple[int, int, int]) -> float:
    return colorsys.rgb_to_hsv(*(c / 255 for c in rgb))[0]


def rows_of(tsv: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(tsv.decode()), delimiter="\t"))


def test_homologous_networks_share_a_number_and_a_hue(surface):
    left = cut_into_labels(surface, 5)
    _, mirror = np.unique(left, return_inverse=True)
    rng = np.random.default_rng(3)
    labels = rng.permutation(10)[mirror]
    labels[surface.medial_wall] = -1
    networks = networks_of(labels, surface)
    assert [n.key for n in networks] == list(range(1, 11))
    assert sum(n.n_vertices for n in networks) == (labels >= 0).sum()
    assert len({n.name for n in networks}) == len({n.rgb for n in networks}) == 10
    pairs = [(n, networks[n.homologue - 1]) for n in networks if n.homologue]
    assert len(pairs) == 10
    for one, other in pairs:
        assert other.homologue == one.key
        assert {one.hemisphere, other.hemisphere} == {"L", "R"}
        assert one.name[3:] == other.name[3:]
        turn = hue(one.rgb) - hue(other.rgb)
        assert abs((turn + 0.5) % 1 - 0.5) < 0.02
        inside = labels == one.key - 1
        assert (surface.hemisphere[inside] == "LR".index(one.hemisphere)).all()


def test_networks_of_both_hemispheres_and_missing_ones_have_their_rows(surface):
    labels = cut_into_labels(surface, 3) % 3
    labels[labels == 1] = 4
    networks = networks_of(labels, surface)
    assert [n.hemisphere for n in networks] == ["LR", "", "LR", "", "LR"]
    assert [n.n_vertices == 0 for n in networks] == [False, True, False, True, False]
    files = map_files("x", "x", labels, networks, surface)
    assert rows_of(files["x.tsv"])[1]["n_vertices"] == "0"


def test_without_a_surface_there_is_the_table(surface):
    labels = np.array([0, 0, 2, -1])
    networks = networks_of(labels, None)
    assert [n.n_vertices for n in networks] == [2, 0, 1]
    assert map_files("x", "x", labels, networks, None) == {"x.tsv": label_tsv(networks)}


def test_the_files_of_a_map_agree(surface, tmp_path):
    labels = np.where(surface.medial_wall, -1, cut_into_labels(surface, 4))
    files = map_files("x", "8 clusters", labels, networks_of(labels, surface), surface)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    keys = [nib.load(tmp_path / f"x.{side}.label.gii").darrays[0].data for side in "LR"]
    np.testing.assert_array_equal(np.concatenate(keys), keys_of(labels))
    named = [line for line in files["x.spec"].decode().split("<") if line.startswith("DataFile")]
    assert len(named) == 6
    assert all(entry.split(">")[1].strip() in files for entry in named)


def test_the_chosen_parcellations_are_delivered(finished):
    project = Project.open(finished)
    images = project.store.latest("parcellation_images")
    labels = project.store.latest("selected_parcellations").read("labels")
    np.testing.assert_array_equal(images.read("keys"), labels + 1)
    for c in (3, 4):
        rows = rows_of((project.outputs / f"maps/selected_{c}_clusters.tsv").read_bytes())
        assert len(rows) == c
        assert sum(int(row["n_vertices"]) for row in rows) == (labels[c - 3] >= 0).sum()


def test_networks_keep_their_numbers_when_they_are_found_anew(finished, monkeypatch):
    project = Project.open(finished)
    before = project.store.latest("selected_parcellations")
    assert "numbered_like" not in before.facts

    def renamed(cells, row):
        labels = labels_of(cells, row)
        return np.where(labels < 0, -1, row["n_clusters"] - 1 - labels).astype(np.int32)

    monkeypatch.setattr("trend_dagster.orchestration.assets.parcellation.labels_of", renamed)
    assert run(finished, select=["selected_parcellations"], force=True)
    after = project.store.latest("selected_parcellations")
    assert after.path != before.path
    np.testing.assert_array_equal(after.read("labels"), before.read("labels"))
    assert after.facts["numbered_like"] == before.path.name
    assert after.facts["dice_with_it"] == {"3": 1.0, "4": 1.0}


def test_names_and_colours_stay_where_mirror_images_are_known(surface):
    labels = cut_into_labels(surface, 4)
    labels[surface.medial_wall] = -1
    before = networks_of(labels, surface)
    pairs = homologous_labels(surface, labels)
    other = dict(zip(pairs, np.roll([*pairs.values()], 1).tolist(), strict=True))
    kept = networks_of(labels, surface, partner=pairs)
    assert [(n.name, n.rgb) for n in kept] == [(n.name, n.rgb) for n in before]
    assert [n.name for n in networks_of(labels, surface, partner=other)] != [n.name for n in kept]


def test_a_chosen_cell_is_exported_with_the_numbers_of_its_maps(finished, tmp_path):
    project = Project.open(finished)
    stored = Parcellations.of(project.store.latest("selected_parcellations"))
    turned = stored.labels.max(axis=1, keepdims=True) - stored.labels
    turned[stored.labels < 0] = -1
    chosen = replace(stored, labels=turned)
    for path, labels in zip(export(project, {}, tmp_path, chosen), turned, strict=True):
        sizes = [int(row["n_vertices"]) for row in rows_of(path.read_bytes())]
        assert sizes == np.bincount(labels[labels >= 0]).tolist()


def export(project, wanted, folder, selected=None):
    cells = sweep_cells(project)
    n_vertices = cells[0].array("labels").shape[-1]
    selected = selected or Parcellations.of(project.store.latest("selected_parcellations"))
    space = map_space(project, project.store.latest("cortex"), n_vertices)
    return list(export_cells(cells, selected, wanted, space, folder))


def test_any_cell_can_be_exported(finished, tmp_path):
    project = Project.open(finished)
    wanted = {"label_file": "six", "n_components": 6, "n_clusters": None}
    paths = export(project, wanted, tmp_path)
    assert [p.name for p in paths] == [f"six_6_components_{c}_clusters.tsv" for c in (3, 4)]
    stored = project.store.latest("nmf_sweep", {"label_file": "six", "n_components": "6"})
    sizes = stored.read("cluster_sizes")[0, 1]
    rows = rows_of(paths[1].read_bytes())
    assert [int(row["n_vertices"]) for row in rows] == sizes.tolist()
    assert sizes.sum() < N_VERTICES


def test_by_default_the_chosen_ones_are_exported(finished, tmp_path):
    project = Project.open(finished)
    chosen = project.store.latest("selected_parcellations").facts["chosen"]
    names = [p.name for p in export(project, {}, tmp_path)]
    assert len(names) == len(chosen) == 2
    for cell, name in zip(chosen, names, strict=True):
        assert name.startswith(f"{cell['label_file']}_{cell['n_components']}_components_")


def test_a_cell_that_is_not_there_is_named_with_those_that_are(finished, tmp_path):
    with pytest.raises(SettingsError, match=r"n_components 4, 6.*none with n_components 5"):
        export(Project.open(finished), {"n_components": 5}, tmp_path)
    assert not list(tmp_path.glob("*.tsv"))


def test_without_a_sweep_there_is_nothing_to_export(project_folder, tmp_path):
    with pytest.raises(MissingUpstreamError, match="trend run"):
        export(Project.open(project_folder), {}, tmp_path)


def with_template(folder, image) -> Project:
    """The project, with an image that says what its rows are."""
    image.to_filename(folder / "template.nii")
    settings = folder / "trend.yaml"
    settings.write_text(
        settings.read_text().replace("inputs: {", "inputs: {template: template.nii, ")
    )
    return Project.open(folder)


def dense(left: int, right: int) -> cifti2.Cifti2Image:
    axis = cifti2.BrainModelAxis.from_surface(np.arange(left) + 7, 60, "CortexLeft")
    axis += cifti2.BrainModelAxis.from_surface(np.arange(right), 60, "CortexRight")
    names = cifti2.ScalarAxis(["any"])
    return cifti2.Cifti2Image(np.zeros((1, left + right), np.float32), (names, axis))


@pytest.mark.usefixtures("workbench")
def test_grayordinates_come_out_as_they_went_in(finished, tmp_path):
    image = dense(45, N_VERTICES - 45)
    project = with_template(finished, image)
    assert run(finished)["parcellation_images"].made == 1
    labels = project.store.latest("selected_parcellations").read("labels")[0]
    path = project.outputs / "maps" / "selected_3_clusters.dlabel.nii"
    written = nib.load(path)
    np.testing.assert_array_equal(np.asarray(written.dataobj)[0], labels + 1)
    assert written.header.get_axis(1) == image.header.get_axis(1)
    wb_command("-cifti-separate", path, "COLUMN", "-label", "CORTEX_LEFT", tmp_path / "l.label.gii")
    separated = nib.load(tmp_path / "l.label.gii").darrays[0].data
    ours = nib.load(project.outputs / "maps" / "selected_3_clusters.L.label.gii").darrays[0].data
    np.testing.assert_array_equal(separated, ours)
    np.testing.assert_array_equal(ours, np.pad(labels[:45] + 1, (7, 8)))


def test_voxels_come_out_as_they_went_in(finished):
    mask = np.zeros((9, 10, 4), dtype=np.uint8)
    mask[:, :, 1] = 1
    affine = np.diag([2.0, 2, 2, 1])
    project = with_template(finished, nib.Nifti1Image(mask, affine))
    assert run(finished, select=["parcellation_images"])["parcellation_images"].made == 1
    labels = project.store.latest("selected_parcellations").read("labels")[0]
    written = nib.load(project.outputs / "maps" / "selected_3_clusters.nii.gz")
    volume = np.asarray(written.dataobj)
    np.testing.assert_array_equal(volume[mask > 0], labels + 1)
    assert not volume[mask == 0].any()
    np.testing.assert_array_equal(written.affine, affine)


def test_a_template_of_another_size_is_named(finished):
    with_template(finished, dense(45, 44))
    (error,) = run(finished, select=["parcellation_images"])["parcellation_images"].errors
    assert "template.nii: expected 90 entries" in error
    assert "found 89" in error


@pytest.mark.slow
def test_cifti_bold_comes_out_as_cifti_without_a_template(project_folder, tmp_path):
    image = dense(45, N_VERTICES - 45)
    models, series = image.header.get_axis(1), cifti2.SeriesAxis(0, 2, 40)
    for path in sorted((project_folder / "bold").glob("*.npy")):
        bold = cifti2.Cifti2Image(np.load(path).T, (series, models))
        bold.to_filename(path.with_suffix(".dtseries.nii"))
        path.unlink()
    held = np.concatenate([np.pad(np.ones(45), (7, 8)), np.pad(np.ones(45), (0, 15))]) > 0
    # One label file and the planted networks as CIFTI, the other one over both meshes.
    labels_folder = project_folder / "geodesic_labels"
    for path in (labels_folder / "six.npy", project_folder / "planted_networks.npy"):
        labels = np.load(path)
        content = cifti_labels(labels + 1, networks_of(labels, None), models, path.stem)
        path.with_suffix(".dlabel.nii").write_bytes(content)
        path.unlink()
    two = np.zeros(len(held), dtype=np.int64)
    two[held] = np.load(labels_folder / "two.npy")
    np.save(labels_folder / "two.npy", two)
    settings = project_folder / "trend.yaml"
    settings.write_text(settings.read_text().replace("networks.npy", "networks.dlabel.nii"))
    outcomes = run(project_folder)
    assert [o.errors for o in outcomes.values() if o.errors] == []
    project = Project.open(project_folder)
    labels = project.store.latest("selected_parcellations").read("labels")[0]
    written = nib.load(project.outputs / "maps" / "selected_3_clusters.dlabel.nii")
    np.testing.assert_array_equal(np.asarray(written.dataobj)[0], labels[held] + 1)
    assert written.header.get_axis(1) == models
    assert (labels[~held] == -1).all()
    six = project.store.latest("geodesic_labels", {"label_file": "six"})
    assert ((six.read("labels") >= 0) == held).all()
    assert six.facts["n_labels"] == 6
    assert project.store.latest("control_comparison").facts["has_truth"]
    wanted = {"label_file": "six", "n_components": 4, "n_clusters": 4}
    (spec,) = export(project, wanted, tmp_path / "cell")
    cell = nib.load(spec.with_suffix(".dlabel.nii"))
    stored = project.store.latest("nmf_sweep", {"label_file": "six", "n_components": "4"})
    expected = stored.read("labels")[0, 1]
    np.testing.assert_array_equal(np.asarray(cell.dataobj)[0], expected[held] + 1)


def remade_maps(folder, write) -> tuple[np.ndarray, dict[str, object]]:
    """Give the runs in another format and make the maps again; labels, and files by name."""
    for path in sorted((folder / "bold").glob("*.npy")):
        write(path, np.load(path))
        path.unlink()
    outcomes = run(folder, select=["bold", "parcellation_images"])
    assert [o.errors for o in outcomes.values() if o.errors] == []
    project = Project.open(folder)
    labels = project.store.latest("selected_parcellations").read("labels")[0]
    maps = project.outputs / "maps"
    return labels, {path.name: path for path in maps.glob("*selected_3*")}


@pytest.mark.slow
@pytest.mark.usefixtures("workbench")
def test_bold_in_pairs_comes_out_in_pairs_without_a_mesh(finished):
    def write(path, bold):
        for side, part in zip(("lh", "rh"), np.split(bold, [40]), strict=True):
            image = nib.MGHImage(part[:, None, None, :], np.eye(4))
            nib.save(image, path.with_name(f"{path.stem}.{side}.mgz"))

    labels, files = remade_maps(finished, write)
    name = "selected_3_clusters"
    parts = dict(zip("LR", np.split(labels + 1, [40]), strict=True))
    for side, keys in parts.items():
        path = files[f"{name}.{side}.label.gii"]
        np.testing.assert_array_equal(nib.load(path).darrays[0].data, keys)
        assert "Type:" in wb_command("-file-information", path)
        found = nib.freesurfer.read_annot(files[f"{side.lower()}h.{name}.annot"])[0]
        np.testing.assert_array_equal(found, keys)
        assert ((found == 0) == (keys == 0)).all()
    assert set(files) == {
        f"{name}.tsv", f"{name}.spec", f"{name}.L.label.gii", f"{name}.R.label.gii",
        f"lh.{name}.annot", f"rh.{name}.annot",
        f"{name}_probability.L.func.gii", f"{name}_probability.R.func.gii",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("workbench")
def test_volumes_come_out_as_volumes_without_a_template(finished):
    mask = np.zeros((5, 6, 4), dtype=bool)
    mask.flat[np.random.default_rng(2).permutation(120)[:N_VERTICES]] = True
    affine = np.diag([2.0, 2, 2, 1])

    def write(path, bold):
        volume = np.zeros((*mask.shape, bold.shape[1]), dtype=np.float32)
        volume[mask] = bold
        nib.save(nib.Nifti1Image(volume, affine), path.with_suffix(".nii.gz"))
        image = nib.Nifti1Image(mask.astype(np.uint8), affine)
        nib.save(image, path.with_name(f"{path.stem}_desc-brain_mask.nii.gz"))

    labels, files = remade_maps(finished, write)
    path = files["selected_3_clusters.nii.gz"]
    written = nib.load(path)
    np.testing.assert_array_equal(np.asarray(written.dataobj)[mask], labels + 1)
    assert not np.asarray(written.dataobj)[~mask].any()
    np.testing.assert_array_equal(written.affine, affine)
    assert "Type:" in wb_command("-file-information", path)
    assert not [name for name in files if name.endswith((".gii", ".annot"))]


@pytest.mark.slow
@pytest.mark.usefixtures("workbench")
def test_workbench_opens_grayordinates_and_mesh_together(surface, tmp_path):
    labels = np.where(surface.medial_wall, -1, cut_into_labels(surface, 5))
    space = VertexSpace("cifti", {"L": 642, "R": 642}, in_data=~surface.medial_wall)
    target = target_of(space)
    networks = networks_of(labels, surface, target)
    files = map_files("x", "10 clusters", labels, networks, surface, target)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        if name.endswith((".gii", ".nii", ".spec")):
            assert "Type:" in wb_command("-file-information", tmp_path / name)
    for side, structure in (("L", "CORTEX_LEFT"), ("R", "CORTEX_RIGHT")):
        ours, mesh = tmp_path / f"x.{side}.label.gii", tmp_path / f"{side}.midthickness.surf.gii"
        wb_command("-label-to-border", mesh, ours, tmp_path / "x.border")
        assert "Border" in (tmp_path / "x.border").read_text()
        separated = tmp_path / f"separated.{side}.label.gii"
        dense = tmp_path / "x.dlabel.nii"
        wb_command("-cifti-separate", dense, "COLUMN", "-label", structure, separated)
        keys = nib.load(ours).darrays[0].data
        np.testing.assert_array_equal(nib.load(separated).darrays[0].data, keys)
        inside = surface.hemisphere == "LR".index(side)
        np.testing.assert_array_equal(keys == 0, surface.medial_wall[inside])
    picture = render(tmp_path / "x.spec") / 255
    assert (picture.max(axis=2) > 0.2).mean() > 0.3
    for network in networks:
        near = np.abs((hue_of(picture) - hue_of(np.array(network.rgb) / 255) + 3) % 6 - 3) < 0.2
        assert near.mean() > 0.001, network.name


def test_empty_folders_go_with_the_files_of_what_is_excluded(project_folder):
    project, of = Project.open(project_folder), {"subject": "sub-01"}
    asset, outputs = ASSETS["individual_maps"], project.outputs
    files = {
        "maps/sub-01/a.txt": b"a",
        "maps/sub-01/deep/b.txt": b"b",
        "maps/c.txt": b"c",
        "d.txt": b"d",
    }
    arrays = {"n_clusters": np.array([2]), "keys": np.ones((1, N_VERTICES), dtype=np.int32)}
    publish_alone(asset, project, of, Result(arrays=arrays, files=files), Recipe(asset.name, "1"))
    (outputs / "maps" / "sub-01" / "a.txt").write_text("changed by somebody: theirs")
    publish_alone(asset, project, of, Result(excluded="moved"), Recipe(asset.name, "2"))
    assert [p.name for p in sorted(outputs.rglob("*"))] == ["maps", "sub-01", "a.txt"]
    (outputs / "maps" / "sub-01" / "a.txt").unlink()
    publish_alone(asset, project, of, Result(arrays=arrays, files=files), Recipe(asset.name, "3"))
    publish_alone(asset, project, of, Result(excluded="moved"), Recipe(asset.name, "4"))
    assert list(outputs.rglob("*")) == [outputs / "maps"]
