"""Stability through the platform: what is cut in two, what it is compared with, what it may see."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from tests.conftest import N_VERTICES, run
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.lineage import Lineage
from trend_dagster.orchestration.production import produce
from trend_dagster.project.folder import Project
from trend_dagster.project.fsaverage import load_fsaverage
from trend_dagster.science import method
from trend_dagster.science.connectivity.correlation import correlate_runs
from trend_dagster.science.connectivity.smoothing import Smoothing
from trend_dagster.science.connectivity.thresholding import threshold_by_label
from trend_dagster.science.evidence.nulls import Smoothness, SurrogateMaker
from trend_dagster.science.evidence.simulation import SimulationConfig, simulate_cohort
from trend_dagster.science.features.model_settings import AutoencoderConfig
from trend_dagster.science.parcellation.spectral import find_networks
from trend_dagster.science.parcellation.sweep import Solution, sweep
from trend_dagster.science.surface import cut_into_labels
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


def swept(bold: list[np.ndarray], mask: np.ndarray, labels: np.ndarray, settings) -> Solution:
    """The one cell of the grid, with the matrix of a half made whole and then smoothed."""
    width = settings.thresholding.smoothing_fwhm_mm
    smoothing = Smoothing.along(load_fsaverage(642), mask, width, 0.0)
    smooth = smoothing(correlate_runs([(run, mask) for run in bold]))
    matrix = threshold_by_label(smooth, labels, mask, settings.thresholding)
    grid, how = settings.sweep, (settings.factorization, settings.clustering)
    find = partial(find_networks, random_state=settings.clustering.random_state)
    return next(sweep(matrix, grid, *how, find=find))


def surrogates(project: Project, null: Version, names: list[str], cohort: int) -> list[np.ndarray]:
    """The runs of a half of a surrogate cohort, made once more from the seed."""
    maker, seed = SurrogateMaker(load_fsaverage(642)), project.settings.validation.random_state
    measured = np.stack([null.read(name) for name in ("common", "neighbours", "sigma")], axis=1)
    smooth = dict(zip(null.facts["runs"], measured.tolist(), strict=True))
    return [
        maker.surrogate(
            project.store.latest("bold", {"bold_run": name}).read("bold"),
            Smoothness(*smooth[name]),
            np.random.default_rng([seed, cohort, *name.encode()]),
        )
        for name in names
    ]


@pytest.mark.slow
def test_one_run_is_cut_in_time_and_says_so(tmp_path):
    bold, split = made(on_a_mesh(tmp_path / "p", 1, 1), "bold", "split_correlation")
    assert split.facts["split_by"] == "time"
    kept = bold.read("vertex_mask")
    np.testing.assert_array_equal(split.read("vertex_mask"), [kept, kept])


@pytest.mark.slow
def test_one_subject_is_cut_by_run_and_says_so(tmp_path):
    folder = on_a_mesh(tmp_path / "p", 1, 2)
    (split,) = made(folder, "split_correlation")
    assert split.facts["split_by"] == "run"
    assert sorted(n for half in split.facts["halves"] for n in half) == Project.open(folder).keys(
        "bold_run"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("n_subjects", "split_by"), [(3, "subject"), (1, "time")])
def test_no_subject_is_on_both_sides_and_stability_is_what_two_sweeps_give(
    tmp_path, n_subjects, split_by
):
    folder = on_a_mesh(tmp_path / "p", n_subjects, 2 if n_subjects > 1 else 1)
    split, null, cell = made(folder, "split_correlation", "null_correlation", "stability")
    assert split.facts["split_by"] == cell.facts["split_by"] == split_by
    halves = split.facts["halves"]
    if split_by == "subject":
        people = [{name[:6] for name in half} for half in halves]
        assert not people[0] & people[1]
        assert len(people[0] | people[1]) == 3
    project = Project.open(folder)
    labels = np.load(folder / "geodesic_labels" / "four.npy")
    masks = split.read("vertex_mask")
    data = [
        [project.store.latest("bold", {"bold_run": name}).read("bold") for name in half]
        for half in halves
    ]
    noise = [surrogates(project, null, half, 0) for half in halves]
    parts = [slice(0, 20), slice(20, 40)] if split_by == "time" else [slice(None)] * 2
    for cohort, found in (
        (data, cell.read("stability")[0, 0]),
        (noise, cell.read("stability_nulls")[0, 0, 0]),
    ):
        one, other = (
            swept([run[:, parts[h]] for run in cohort[h]], masks[h], labels, project.settings)
            for h in (0, 1)
        )
        loaded = one.W.any(axis=1) & other.W.any(axis=1)
        expected = adjusted_rand_score(
            one.clusterings[0].labels[loaded], other.clusterings[0].labels[loaded]
        )
        assert found == pytest.approx(expected, abs=0.02)  # a vertex may fall to the other side
    excess = cell.read("stability") - cell.read("stability_nulls")[0]
    np.testing.assert_allclose(cell.read("stability_excess"), excess)
    assert np.isnan(cell.read("stability_z")).all()
    assert "it takes 3 surrogate cohorts, there are 1" in cell.facts["z"]
    # Nothing of vertices by vertices is kept, and nothing unfinished is left.
    largest = max(f.stat().st_size for a in ("split_correlation", "null_correlation", "stability")
                  for f in (folder / "store" / a).rglob("*") if f.is_file())  # fmt: skip
    assert largest < 1284**2
    assert not list((folder / "store" / "stability").rglob(".scratch-*"))


@pytest.mark.slow
def test_an_interrupted_stability_goes_on_after_the_last_cohort_it_finished(tmp_path, monkeypatch):
    folder = on_a_mesh(tmp_path / "p", 2, 1)
    made(folder, "null_correlation")
    measure, calls = method._between_halves, []

    def stopped(*args):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(args)
        return measure(*args)

    monkeypatch.setattr(method, "_between_halves", stopped)
    asset, project = ASSETS["stability"], Project.open(folder)
    partition = asset.partitions(project)[0]
    how = {"force": False, "run_id": "", "log": print}
    with pytest.raises(KeyboardInterrupt):
        list(produce(asset, project, [partition], **how))
    again = []
    monkeypatch.setattr(method, "_between_halves", lambda *args: again.append(1) or measure(*args))
    (published,) = produce(asset, project, [partition], **how)
    assert len(again) == 1  # the surrogate cohort; the data was measured before
    assert np.isfinite(published.version.read("stability_excess")).all()


@pytest.mark.slow
def test_surrogates_are_as_smooth_as_the_data_and_are_embedded_like_it(tmp_path):
    more = "training: {n_epochs: 1}\n"
    folder = on_a_mesh(tmp_path / "p", 2, 1)
    text = (folder / "trend.yaml").read_text().replace("features: {source: bold}\n", more)
    (folder / "trend.yaml").write_text(text)
    null, cell = made(folder, "null_correlation", "stability")
    assert any(name.startswith("trained_model") for name in cell.recipe.inputs)
    project = Project.open(folder)
    (name, *_) = null.facts["runs"]
    (noise,) = surrogates(project, null, [name], 0)
    bold = project.store.latest("bold", {"bold_run": name})
    maker = SurrogateMaker(load_fsaverage(642))
    assert maker.measure(noise).neighbours == pytest.approx(
        maker.measure(np.where(bold.read("vertex_mask")[:, None], bold.read("bold"), 0)).neighbours,
        abs=0.1,
    )


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
    from trend_dagster.project.tables import beside_noise

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
    choice |= {"stability_null": None, "stability_margin": None}
    (said,) = ask(project, chosen)
    assert "has no null for 3 clusters" in said
    assert "it is not known whether that is chance" in beside_noise(choice, "subject")


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
