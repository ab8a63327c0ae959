"""Stability through the platform: what is cut in two, what it is compared with, what it may see."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.sparse import coo_array
from sklearn.metrics import adjusted_rand_score

from tests.conftest import N_VERTICES, run
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.lineage import Lineage
from trend_dagster.project.folder import Project
from trend_dagster.project.fsaverage import load_fsaverage
from trend_dagster.science.connectivity.smoothing import Smoothing
from trend_dagster.science.connectivity.thresholding import threshold_by_label
from trend_dagster.science.evidence.simulation import SimulationConfig, simulate_cohort
from trend_dagster.science.features.model_settings import AutoencoderConfig
from trend_dagster.science.parcellation.spectral import find_networks
from trend_dagster.science.parcellation.sweep import Solution, sweep
from trend_dagster.science.surface import cut_into_labels, edge_graph
from trend_dagster.storage.stores import Version

TO_STABILITY = ["bold", "cortex", "trained_model", "embeddings", "geodesic_labels"]
TO_STABILITY += ["split_correlation", "null_correlation", "stability"]
CELL = {"label_file": "four", "n_components": "5"}

SETTINGS = """\
profile: demo
inputs: {surface: fsaverage3}
features: {source: bold}
sweep: {n_components: [5], alpha_W: [0.0], n_clusters: [4]}
validation: {n_nulls: 1}
"""


def on_a_mesh(folder: Path, n_subjects: int, runs_per_subject: int, more: str = "") -> Path:
    """A small project whose mesh is known."""
    config = SimulationConfig(
        n_subjects=n_subjects, runs_per_subject=runs_per_subject, n_timepoints=40, snr=1.0
    )
    surface = load_fsaverage(642)
    _, runs = simulate_cohort(surface, config)
    (folder / "bold").mkdir(parents=True)
    (folder / "geodesic_labels").mkdir()
    for name, bold in runs:
        np.save(folder / "bold" / f"{name}.npy", bold)
    np.save(folder / "geodesic_labels" / "four.npy", cut_into_labels(surface, 2))
    (folder / "trend.yaml").write_text(SETTINGS + more)
    return folder


def made(folder: Path, *assets: str) -> list[Version]:
    """Make what leads to these assets; their first versions."""
    last = max(TO_STABILITY.index(asset) for asset in assets)
    outcomes = run(folder, among=TO_STABILITY[: last + 1])
    assert [o.errors for o in outcomes.values() if o.errors] == []
    project = Project.open(folder)
    return [project.store.latest(asset, ASSETS[asset].partitions(project)[0]) for asset in assets]


def swept(correlation: np.ndarray, mask: np.ndarray, labels: np.ndarray, settings) -> Solution:
    """The one cell of the grid, as the science makes it."""
    width = settings.thresholding.smoothing_fwhm_mm
    smooth = Smoothing.along(load_fsaverage(642), mask, width, 0.0)(correlation)
    matrix = threshold_by_label(smooth, labels, mask, settings.thresholding)
    grid, how = settings.sweep, (settings.factorization, settings.clustering)
    find = partial(find_networks, random_state=settings.clustering.random_state)
    return next(sweep(matrix, grid, *how, find=find))


def correlation_of(bold: Version, part: slice) -> np.ndarray:
    mask = bold.read("vertex_mask")
    return np.corrcoef(bold.read("bold")[mask][:, part].astype(np.float64))


@pytest.mark.slow
def test_one_run_is_cut_in_time_and_says_so(tmp_path):
    bold, split = made(on_a_mesh(tmp_path / "p", 1, 1), "bold", "split_correlation")
    assert split.facts["split_by"] == "time"
    kept = bold.read("vertex_mask")
    for half, part in enumerate((slice(0, 20), slice(20, 40))):
        found = split.read("correlation")[half][np.ix_(kept, kept)]
        np.testing.assert_allclose(found, correlation_of(bold, part), atol=1e-5)
        assert np.array_equal(split.read("vertex_mask")[half], kept)


@pytest.mark.slow
def test_one_subject_is_cut_by_run_and_says_so(tmp_path):
    folder = on_a_mesh(tmp_path / "p", 1, 2)
    (split,) = made(folder, "split_correlation")
    assert split.facts["split_by"] == "run"
    project = Project.open(folder)
    for half, names in enumerate(split.facts["halves"]):
        bold = project.store.latest("bold", {"bold_run": names[0]})
        kept = bold.read("vertex_mask")
        found = split.read("correlation")[half][np.ix_(kept, kept)]
        np.testing.assert_allclose(found, correlation_of(bold, slice(None)), atol=1e-5)


@pytest.mark.slow
def test_no_subject_is_on_both_sides_and_stability_is_what_two_sweeps_give(tmp_path):
    folder = on_a_mesh(tmp_path / "p", 3, 2)
    split, null, cell = made(folder, "split_correlation", "null_correlation", "stability")
    assert split.facts["split_by"] == cell.facts["split_by"] == "subject"
    people = [{name[:6] for name in half} for half in split.facts["halves"]]
    assert not people[0] & people[1]
    assert len(people[0] | people[1]) == 3
    project = Project.open(folder)
    labels = np.load(folder / "geodesic_labels" / "four.npy")
    masks = split.read("vertex_mask")
    for version, pair, found in (
        (split, split.read("correlation"), cell.read("stability")[0, 0]),
        (null, null.read("correlation")[0], cell.read("stability_nulls")[0, 0, 0]),
    ):
        assert version.read("vertex_mask").shape == masks.shape
        one, other = (swept(pair[h], masks[h], labels, project.settings) for h in (0, 1))
        loaded = one.W.any(axis=1) & other.W.any(axis=1)
        expected = adjusted_rand_score(
            one.clusterings[0].labels[loaded], other.clusterings[0].labels[loaded]
        )
        assert found == pytest.approx(expected)
    excess = cell.read("stability") - cell.read("stability_nulls")[0]
    np.testing.assert_allclose(cell.read("stability_excess"), excess)
    assert np.isnan(cell.read("stability_z")).all()
    assert "it takes 3 surrogate cohorts, there are 1" in cell.facts["z"]


@pytest.mark.slow
def test_surrogates_are_as_smooth_as_the_data_and_are_embedded_like_it(tmp_path):
    more = "training: {n_epochs: 1}\n"
    folder = on_a_mesh(tmp_path / "p", 2, 1)
    text = (folder / "trend.yaml").read_text().replace("features: {source: bold}\n", more)
    (folder / "trend.yaml").write_text(text)
    split, null = made(folder, "split_correlation", "null_correlation")
    assert null.facts["null_features"] == "input_projection"
    edges = coo_array(edge_graph(load_fsaverage(642)))
    mask = split.read("vertex_mask").all(axis=0)
    first, second = (e[mask[edges.coords[0]] & mask[edges.coords[1]]] for e in edges.coords)
    data = split.read("correlation")[:, first, second].mean()
    noise = null.read("correlation")[0][:, first, second].mean()
    assert noise == pytest.approx(data, abs=0.1)


@pytest.mark.slow
def test_label_files_measured_side_by_side_are_the_same(tmp_path):
    folder = on_a_mesh(tmp_path / "p", 2, 1)
    np.save(folder / "geodesic_labels" / "two.npy", load_fsaverage(642).hemisphere.astype(int))
    made(folder, "stability")

    def digests():
        project = Project.open(folder)
        partitions = ASSETS["stability"].partitions(project)
        return [project.store.latest("stability", p).digest for p in partitions]

    before = digests()
    (folder / "trend.yaml").write_text(SETTINGS + "compute: {workers: 2}\n")
    outcome = run(folder, among=["stability"], force=True)["stability"]
    assert (outcome.made, outcome.errors) == (3, ())  # two files, and whole hemispheres
    assert digests() == before


# What chooses


def test_without_a_mesh_the_conservative_rule_chooses_and_says_why(finished_once):
    store = Project.open(finished_once.folder).store
    facts = store.latest("selected_parcellations").facts
    assert (facts["rule_name"], facts["rule_asked_for"]) == ("conservative", "null_corrected")
    assert "inputs.surface" in facts["no_stability"]
    assert "stability" not in store.latest("sweep_summary").names()
    page = (finished_once.folder / "outputs" / "report.html").read_text()
    assert "Stability played no part here: no mesh is named" in page


def current(folder: Path) -> set[str]:
    project = Project.open(folder)
    return {
        name
        for name, asset in ASSETS.items()
        if {s.status for s in Lineage(project).states(asset)} == {"current"}
    }


def test_altered_planted_networks_change_the_comparison_and_no_choice(finished):
    before = current(finished)
    np.save(finished / "planted_networks.npy", np.arange(N_VERTICES, dtype=np.int64) % 3)
    assert before - current(finished) == {"control_comparison", "report"}


def test_nothing_that_leads_to_the_choice_reads_planted_networks(finished_once):
    project = Project.open(finished_once.folder)
    names, todo = set(), ["selected_parcellations"]
    while todo:
        asset = ASSETS[todo.pop()]
        names.add(asset.name)
        todo += [name for name in asset.upstream if name not in names]
        for partition in asset.partitions(project):
            read = asset.files(project, partition) if asset.files else {}
            assert "planted_networks.npy" not in {path.name for path in read.values()}, asset.name
    assert {"stability", "null_correlation"} < names
    assert "control_comparison" not in names


def test_a_cell_that_noise_matches_is_named_by_a_check(finished_once):
    from trend_dagster.orchestration.checks import QUESTIONS

    choice = {"n_clusters": 3, "stability": 0.4, "stability_null": 0.5}
    chosen = SimpleNamespace(facts={"chosen": [choice]})
    ask = QUESTIONS["selected_parcellations"]["beyond_noise"]
    project = Project.open(finished_once.folder)
    assert list(ask(project, chosen)) == []  # not known
    choice |= {"stability_margin": 0.1, "beyond_noise": False}
    (said,) = ask(project, chosen)
    assert "3 clusters: halves agree by 0.400, noise as smooth by 0.500" in said
    choice["beyond_noise"] = True
    assert list(ask(project, chosen)) == []


def test_the_model_sees_nothing_of_the_other_half_but_its_mean(rng):
    from trend_dagster.science.evidence.stability import timepoints_of
    from trend_dagster.science.features.autoencoder import initial_model
    from trend_dagster.science.method import FeatureMaker

    config = AutoencoderConfig(
        d_model=16, n_heads=2, n_encoder_layers=1, n_decoder_layers=1, dim_feedforward=16
    )
    features = FeatureMaker("input_projection", initial_model(config, 10, 0), 10)
    mask = np.arange(6) > 0
    bold = rng.normal(size=(6, 12)).astype(np.float32)
    shuffled = bold.copy()
    shuffled[:, 5:10] = bold[:, [9, 5, 7, 6, 8]]
    one, other = (
        [features(run, mask, timepoints_of(half, "time", 10)) for half in (0, 1)]
        for run in (bold, shuffled)
    )
    np.testing.assert_allclose(one[0], other[0], atol=1e-6)
    assert not np.allclose(one[1], other[1], atol=1e-2)
    assert not one[0][0].any()
