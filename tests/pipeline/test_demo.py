"""The demo, as a person runs it: networks come back, and nothing is made twice."""

from __future__ import annotations

import csv

import numpy as np
import openpyxl
import pytest

from tests.pipeline.conftest import demo
from trend_dagster.project.folder import Project
from trend_dagster.science.evidence.measures import mean_dice
from trend_dagster.validation.atlases import agreements

# One worker makes the demo and runs all that looks at it.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]


def test_it_ends_with_the_table_and_the_places(made):
    folder, done = made
    assert done.returncode == 0, done.stderr
    for header in ("silhou-", "stab-", "noise's", "trained", "untrained", "raw BOLD", "chosen"):
        assert header in done.stdout
    for name in ("Complete_Clustering.xlsx", "store", "parcellation_14_clusters.png"):
        assert str(folder / name) in done.stdout or str(folder / "outputs" / name) in done.stdout
    assert "trained model (Dice" in done.stdout


def test_the_planted_networks_come_back_far_better_than_shuffled_labels(made):
    folder, _ = made
    truth = np.load(folder / "planted_networks.npy")
    found = Project.open(folder).store.latest("selected_parcellations").read("labels")[0]
    rng = np.random.default_rng(0)
    signal = found >= 0
    shuffled = []
    for _ in range(20):
        labels = found.copy()
        labels[signal] = rng.permutation(found[signal])
        shuffled.append(mean_dice(labels, truth))
    assert mean_dice(found, truth) > max(shuffled) + 0.4


def test_an_atlas_is_compared_with_the_chosen_parcellation(made):
    folder, _ = made
    planted = folder / "planted_networks.npy"
    ((n_clusters, name, table),) = agreements(folder, [planted])
    found = Project.open(folder).store.latest("selected_parcellations").read("labels")[0]
    assert (n_clusters, name) == (14, planted.name)
    overall = table.set_index(["network", "measure"]).loc[("all", "dice")]
    assert overall["value"] == pytest.approx(mean_dice(found, np.load(planted)))
    assert overall["p"] < 0.01
    assert overall["excess"] > 0.3
    assert len(table) == 2 + 14


def test_the_controls_are_reported_beside_every_cell(made):
    folder, _ = made
    with (folder / "outputs" / "control_comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for row in rows:
        for name in ("dice_trained", "dice_untrained", "dice_bold", "silhouette_bold"):
            assert 0 < float(row[name]) < 1


def test_the_workbook_has_every_cell(made):
    folder, _ = made
    book = openpyxl.load_workbook(folder / "outputs" / "Complete_Clustering.xlsx")
    assert book["Sheet1"].max_row == 7
    assert [cell.value for cell in book["Sheet1"][1]][:4] == [
        "label_file",
        "Clustering_Algorithm",
        "Helper_Algo",
        "Alpha_W",
    ]


def test_a_second_run_says_that_nothing_has_changed(made):
    folder, _ = made
    done = demo(folder)
    assert done.returncode == 0
    assert "Nothing has changed: nothing was computed" in done.stdout
    assert " made" not in done.stdout


def test_every_cell_has_its_stability_beside_its_null(made):
    folder, done = made
    project = Project.open(folder)
    with (folder / "outputs" / "ranking.csv").open() as file:
        ranking = list(csv.DictReader(file))
    assert len(ranking) == 6
    for row in ranking:
        value, null, excess = (
            float(row[name]) for name in ("stability", "stability_null", "stability_excess")
        )
        assert excess == pytest.approx(value - null)
        assert np.isfinite(float(row["homogeneity_excess"]))
    # As many labels as clusters come back in noise, too: such cells stand behind the others.
    few = [r for r in ranking if float(r["n_labels"]) < int(r["n_clusters"])]
    assert few == ranking[: len(few)]
    first = [r for r in few if r["alive"] == r["beyond_noise"] == "True"]
    assert first == ranking[: len(first)]
    excesses = [float(row["stability_excess"]) for row in first]
    assert excesses == sorted(excesses, reverse=True)
    assert excesses[0] > 0.2
    facts = project.store.latest("selected_parcellations").facts
    assert (facts["rule_name"], facts["no_stability"]) == ("null_corrected", None)
    assert facts["split_by"] == "subject"
    assert facts["chosen"][0]["label_file"] == ranking[0]["label_file"]
    assert "two halves (by subject) agree by" in done.stdout
    book = openpyxl.load_workbook(folder / "outputs" / "Complete_Clustering.xlsx")
    header, *rows = book["Ranking"].values
    found = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["label_file"] for row in found] == [row["label_file"] for row in ranking]
    assert found[0]["stability_null"] == pytest.approx(float(ranking[0]["stability_null"]))


def test_the_report_has_the_null_beside_stability(made):
    page = (made[0] / "outputs" / "report.html").read_text()
    for text in (
        "Stability (halves by subject)",
        "noise as smooth as the data",
        "Stability, noise",
    ):
        assert text in page
