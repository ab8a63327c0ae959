"""What was computed elsewhere becomes an output: checked, on record, and current."""

from __future__ import annotations

import dagster as dg
import numpy as np
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from tests.conftest import MEDIAL_WALL, N_VERTICES, run
from trend_dagster.definitions import build_definitions
from trend_dagster.errors import InputError
from trend_dagster.orchestration.assets import ASSETS, named_assets, select_assets
from trend_dagster.orchestration.importing import import_file, read_correlation, read_embeddings
from trend_dagster.orchestration.instance import open_instance
from trend_dagster.orchestration.lineage import Lineage, ancestry
from trend_dagster.project.folder import Project
from trend_dagster.storage.provenance import digest_of_file

N_RUNS = 6


@pytest.fixture
def embeddings(rng):
    features = rng.standard_normal((N_RUNS, N_VERTICES, 5))
    features[:, MEDIAL_WALL] = 0
    return features


@pytest.fixture
def correlation(embeddings):
    with np.errstate(invalid="ignore"):
        return np.mean([np.corrcoef(run) for run in embeddings], axis=0)  # NaN on the wall


def bring(folder, array, read):
    """Import an array as a file."""
    path = folder.parent / "TF_emb.npy"
    np.save(path, array)
    project = Project.open(folder)
    with open_instance(folder) as instance:
        return path, import_file(project, instance, path, read)


def status(folder, asset):
    return {s.status for s in Lineage(Project.open(folder)).states(ASSETS[asset])}


@pytest.mark.slow
def test_an_imported_correlation_replaces_all_that_leads_to_it(project_folder, correlation):
    for path in (project_folder / "bold").iterdir():
        path.unlink()  # who comes from the notebook may bring the matrix alone
    path, (version,) = bring(project_folder, correlation, read_correlation)
    wall = np.isin(np.arange(N_VERTICES), MEDIAL_WALL)
    assert np.array_equal(version.read("vertex_mask"), ~wall)
    np.testing.assert_allclose(version.read("correlation"), np.nan_to_num(correlation), atol=1e-6)

    outcomes = run(project_folder)
    assert [o.errors for o in outcomes.values() if o.errors] == []
    assert outcomes["nmf_sweep"].made == 4
    assert outcomes["selected_parcellations"].made == 1
    assert outcomes["trained_model"].made == 0
    assert status(project_folder, "average_correlation") == {"current"}
    assert status(project_folder, "trained_model") == {"not needed"}
    assert all(o.made == 0 and not o.errors for o in run(project_folder).values())

    project = Project.open(project_folder)
    lines = [line for _, line in ancestry(project, project.store.latest("nmf_sweep", {
        "label_file": "two", "n_components": "4"}))]  # fmt: skip
    assert any(f"imported from {path.name}" in line for line in lines)
    assert any(f"file {path.name} {digest_of_file(path)}" in line for line in lines)


def test_imported_embeddings_are_averaged_and_the_model_is_left_out(project_folder, embeddings):
    _, versions = bring(project_folder, embeddings, read_embeddings)
    assert [v.partition["bold_run"] for v in versions] == Project.open(project_folder).keys(
        "bold_run"
    )
    for path in (project_folder / "geodesic_labels").iterdir():
        path.unlink()  # nothing that is selected is made from them
    words = ["+average_correlation"]
    outcomes = run(project_folder, select=select_assets(words), named=named_assets(words))
    assert outcomes["average_correlation"].made == 1
    made = {name for name, o in outcomes.items() if o.made or o.errors}
    assert made == {"bold", "average_correlation"}  # controls take the BOLD; no model is trained
    kept = ~np.isin(np.arange(N_VERTICES), MEDIAL_WALL)
    found = Project.open(project_folder).store.latest("average_correlation").read("correlation")
    expected = np.mean([np.corrcoef(run[kept]) for run in embeddings], axis=0)
    np.testing.assert_allclose(found[np.ix_(kept, kept)], expected, atol=1e-5)
    assert status(project_folder, "embeddings") == {"current"}
    assert status(project_folder, "trained_model") == {"not needed"}


def test_it_is_on_record_with_its_origin_and_not_stale_for_dagster(finished, correlation):
    before = Project.open(finished).store.latest("average_correlation")
    path, (version,) = bring(finished, correlation, read_correlation)
    assert version.digest != before.digest
    graph = build_definitions(finished).resolve_asset_graph()
    key = dg.AssetKey("average_correlation")
    with open_instance(finished) as instance:
        (record,) = instance.fetch_materializations(key, limit=1).records
        resolver = CachingStaleStatusResolver(
            instance, graph, loading_context=LoadingContextForTest(instance)
        )
        assert resolver.get_status(key, None) == StaleStatus.FRESH
    metadata = record.asset_materialization.metadata
    assert metadata["imported_from"].value == path.name
    assert metadata["recipe"].value["inputs"] == {f"file {path.name}": digest_of_file(path)}
    assert status(finished, "thresholded_matrix") == {"out of date"}


@pytest.mark.slow
def test_it_is_made_anew_only_if_it_is_named(finished, correlation):
    bring(finished, correlation, read_correlation)
    assert run(finished, select=["average_correlation"])["average_correlation"].made == 0
    assert run(finished, force=True)["average_correlation"].made == 0
    assert run(finished, select=["average_correlation"], force=True)["average_correlation"].made
    assert not Project.open(finished).store.latest("average_correlation").imported


def _with(place, value):
    def change(array):
        array = np.nan_to_num(array)
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda c: c[:80, :80], "found 80"),
        (lambda c: c[:, :80], "found shape"),
        (lambda c: c[0], "found type float64, shape"),
        (lambda c: np.nan_to_num(c).astype(int), "found type int"),
        (lambda c: np.zeros_like(c), "only zeros"),
        (_with((1, 2), 0.9), "differs from its transpose"),
        (_with((1, 2), np.nan), "NaN or infinity"),
        (_with((1, 1), 0.5), "diagonal"),
        (_with((1, 1), 0), "found some"),
        (lambda c: np.nan_to_num(3 * c), "values up to 3"),
    ],
)
def test_a_correlation_that_is_none_is_refused_and_nothing_changes(
    project_folder, correlation, change, found
):
    with pytest.raises(InputError, match=found):
        bring(project_folder, change(correlation), read_correlation)
    assert Project.open(project_folder).store.latest("average_correlation") is None


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda e: e[:5], "expected 6 runs"),
        (lambda e: e[:, :80], "found 80"),
        (lambda e: e[0], "found type float64, shape"),
        (lambda e: e.swapaxes(1, 2), r"found 5, in an array of shape \(6, 5, 90\)"),
        (_with((3, 7, 1), np.inf), "NaN or infinity in 1 vertices of run sub-02_run-2"),
        (_with((3,), 1.0), "equal ones in every vertex of run sub-02_run-2"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused_and_nothing_changes(
    project_folder, embeddings, change, found
):
    with pytest.raises(InputError, match=found):
        bring(project_folder, change(embeddings), read_embeddings)
    project = Project.open(project_folder)
    assert project.store.latest("embeddings", {"bold_run": "sub-01_run-1"}) is None


def test_the_size_is_that_of_files_where_no_bold_is_made_and_no_label_file_is_there(
    project_folder, embeddings
):
    for path in (project_folder / "geodesic_labels").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="expected 90 vertices, as BOLD run sub-01_run-1 has"):
        bring(project_folder, embeddings[:, :80], read_embeddings)


def test_runs_are_those_of_a_list_of_files_if_one_is_given(project_folder, embeddings, tmp_path):
    path, order = tmp_path / "emb.npy", tmp_path / "files.txt"
    np.save(path, embeddings)
    project = Project.open(project_folder)
    backwards = sorted((p.name for p in (project_folder / "bold").iterdir()), reverse=True)
    order.write_text("\n".join(f"FBP/data/{name}" for name in backwards) + "\n")
    for (partition, result), run_, name in zip(
        read_embeddings(project, path, order).outputs, embeddings, backwards, strict=True
    ):
        assert partition == {"bold_run": name.removesuffix(".npy")}
        np.testing.assert_allclose(result.arrays["features"], run_, rtol=1e-6)
    order.write_text("\n".join([*backwards[1:], "sub-04.npy"]))
    with pytest.raises(InputError, match=r"sub-04.npy; not in the list: sub-03_run-2"):
        read_embeddings(project, path, order)


@pytest.mark.slow
def test_a_failed_import_is_not_followed_by_a_training_nobody_asked_for(project_folder, embeddings):
    def trained(**wish):
        return run(project_folder, among=["bold", "trained_model"], **wish)["trained_model"]

    with pytest.raises(InputError):
        bring(project_folder, embeddings[1:], read_embeddings)
    (error,) = trained().errors
    assert "the last import failed (embeddings file" in error
    assert f"trend run {project_folder} --select +trained_model" in error
    assert trained().made == 0
    bring(project_folder, embeddings, read_embeddings)
    assert trained().errors == ()
    with pytest.raises(InputError):
        bring(project_folder, embeddings[1:], read_embeddings)
    assert run(project_folder, select=["trained_model"])["trained_model"].made == 1
