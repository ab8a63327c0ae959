"""Persons on the graph: a newborn's networks, and that a new newborn makes only its own."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from tests.conftest import run
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.overview import overview
from trend_dagster.project.folder import Project
from trend_dagster.science.evidence.measures import match_labels
from trend_dagster.science.evidence.simulation import (
    SimulationConfig,
    plan_networks,
    plant_networks,
    simulate_cohort,
)
from trend_dagster.science.surface import Surface

COHORT = SimulationConfig(seed=4, snr=0.5, n_networks=3, n_subjects=4, border_variation=0.6)
BY_SUBJECT = (
    "individual_networks",
    "individual_maps",
    "network_series",
    "network_connectivity",
    "individual_page",
)
SETTINGS = """\
inputs: {surface: fsaverage3}
validation: {n_nulls: 0}
sweep: {n_components: [12], n_clusters: [6]}
individuals:
  {pages: true, participants: participants.tsv, associate: [age_at_scan], covariates: []}
bold: {repetition_time: 2.0}
outputs: {atlases: [atlas.npy], n_spins: 0}
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def cohort(tmp_path: Path, surface: Surface) -> Path:
    """Three of four newborns: two with two runs, one with a single run without a subject."""
    folder = tmp_path / "project"
    (folder / "bold").mkdir(parents=True)
    (folder / "later").mkdir()
    planted, runs = simulate_cohort(surface, COHORT)
    np.save(folder / "atlas.npy", planted)
    for name, bold in runs:
        later = name.startswith("sub-04")
        np.save(folder / ("later" if later else "bold") / f"{name}.npy", bold)
    (folder / "bold" / "sub-03_ses-1_run-1.npy").unlink()
    (folder / "bold" / "sub-03_ses-1_run-2.npy").rename(folder / "bold" / "anonymous.npy")
    people = pd.DataFrame({"participant_id": [f"sub-0{i}" for i in range(1, 5)]})
    people["age_at_scan"] = [38.0, 39.5, 41.0, 40.0]
    people.to_csv(folder / "participants.tsv", sep="\t", index=False)
    (folder / "trend.yaml").write_text(SETTINGS.replace("associate: [age_at_scan], ", ""))
    return folder


def networks_in(file: Path) -> dict[int, tuple[str, str]]:
    """Name and colour of each number, as a map has them."""
    table = nib.load(file).labeltable.labels
    return {row.key: (row.label, to_hex(row.rgba[:3])) for row in table if row.key}


def people_of(cohort: Path) -> pd.DataFrame:
    """The table of all newborns."""
    return pd.read_csv(cohort / "outputs" / "individuals.csv")


def assert_named_as_the_cohort(outputs: Path, key: str) -> None:
    """A network's number, name and colour are the cohort's in the maps, table, page and series."""
    cohort = networks_in(outputs / "maps" / "selected_6_clusters.L.label.gii")
    assert any(not re.fullmatch(r"[LR]H_\d\d", name) for name, _ in cohort.values())
    assert networks_in(outputs / "maps" / key / f"{key}_6_clusters.R.label.gii") == cohort
    for name in ("selected_6_clusters.tsv", f"{key}/{key}_6_clusters.tsv"):
        table = pd.read_csv(outputs / "maps" / name, sep="\t", index_col="index")
        assert dict(table[["name", "color"]].apply(tuple, axis=1)) == cohort
    columns = json.loads((outputs / "individuals" / key / f"{key}_seg-own6_timeseries.json")
                         .read_text())  # fmt: skip
    assert columns == {f"network_{k:02d}": {"LongName": name} for k, (name, _) in cohort.items()}
    people = pd.read_csv(outputs / "individuals.csv").query("subject == @key")
    assert all(cohort[row.network][0] == row.name for row in people.itertuples(index=False))
    rows = re.findall(r"<tr><td>(\d+)</td><td>(\w+)</td>",
                      (outputs / "individuals" / f"{key}.html").read_text())  # fmt: skip
    assert {int(number): name for number, name in rows} == {
        row.network: row.name for row in people.itertuples(index=False)
    }


def test_without_any_newborn_there_is_one_error(cohort: Path) -> None:
    outcomes = run(cohort, select=["individuals"])
    assert "the networks of at least one newborn" in str(outcomes["individuals"].errors)


def test_each_newborn_has_its_own_networks_and_a_new_one_makes_only_its_own(
    cohort: Path, surface: Surface
) -> None:
    outcomes = run(cohort)
    assert [o.errors for o in outcomes.values() if o.errors] == []
    assert {name: outcomes[name].made for name in BY_SUBJECT} == dict.fromkeys(BY_SUBJECT, 3)
    project = Project.open(cohort)
    assert project.keys("subject") == ["anonymous", "sub-01", "sub-02"]
    plan = plan_networks(surface, COHORT)
    for person, key in enumerate(("sub-01", "sub-02")):
        found = project.store.latest("individual_networks", {"subject": key})
        planted = plant_networks(surface, COHORT, plan, person)
        own, group = found.read("labels")[0], found.read("cohort_labels")[0]
        mask = planted >= 0
        right = {
            name: (match_labels(labels, planted) == planted)[mask].mean()
            for name, labels in (("own", own), ("cohort", group))
        }
        assert right["own"] > max(0.9, right["cohort"] + 0.02)
        assert found.facts["different"] == [True]
        assert found.facts["minutes"] == 8.0
        series = project.store.latest("network_series", {"subject": key})
        assert series.read("mean").shape == (2, 1, 240, 6)
        connectivity = project.store.latest("network_connectivity", {"subject": key})
        first = np.corrcoef(series.read("mean")[1, 0, :120].T)
        np.testing.assert_allclose(connectivity.read("run_correlation")[1, 0, 0], first, atol=1e-6)
        table = pd.read_csv(
            cohort / "outputs" / "individuals" / key
            / f"{key}_ses-1_run-1_seg-own6_stat-mean_timeseries.tsv",
            sep="\t",
        )  # fmt: skip
        np.testing.assert_allclose(table.to_numpy(), series.read("mean")[1, 0, :120], rtol=1e-4)
        assert_named_as_the_cohort(cohort / "outputs", key)
        page = (cohort / "outputs" / "individuals" / f"{key}.html").read_text()
        assert found.facts["findings"][0] in page.replace("&#39;", "'")
        assert f"{key}_ses-1_run-2" in page
        assert "120 of 120 volumes kept" in page
        assert f'href="individuals/{key}.html"' in (cohort / "outputs/report.html").read_text()
    said = {a.asset: a.findings for a in overview(project)}["individual_networks"]
    assert "beyond its null" in said["individual_networks[subject=sub-01]"][0]
    people = pd.read_csv(cohort / "outputs" / "individuals.csv")
    assert len(people) == 3 * 6
    ages = people.groupby("subject")["age_at_scan"].first()
    assert ages[["sub-01", "sub-02"]].tolist() == [38.0, 39.5]
    assert people["agreement_between_runs"].isna().sum() == 6  # of the one with a single run

    assert {n for n, o in run(cohort).items() if o.made} == set()
    before = {k: project.store.latest("individual_networks", {"subject": k}).path
              for k in ("anonymous", "sub-01", "sub-02")}  # fmt: skip
    for file in (cohort / "later").iterdir():
        file.rename(cohort / "bold" / file.name)
    outcomes = run(cohort)
    assert [o.errors for o in outcomes.values() if o.errors] == []
    assert {name: outcomes[name].made for name in BY_SUBJECT} == dict.fromkeys(BY_SUBJECT, 1)
    project = Project.open(cohort)
    for key, path in before.items():
        assert project.store.latest("individual_networks", {"subject": key}).path == path
    outcomes = run(cohort, retrain=True, select=["individual_prior"])
    assert outcomes["individual_prior"].made == 1

    (cohort / "trend.yaml").write_text(SETTINGS)
    outcomes = run(cohort)
    assert [o.errors for o in outcomes.values() if o.errors] == []
    assert outcomes["individuals"].made == outcomes["report"].made == 1
    assert list(outcomes["individuals"].doubts) == [
        "individuals: no association with age_at_scan: 5 newborns are needed, and 3 have "
        "age_at_scan",
        "individuals: participants.tsv has no row of 1 of 4 newborns: anonymous; their columns "
        "stay empty",
    ]
    for note in outcomes["individuals"].doubts:
        assert note.removeprefix("individuals: ") in (cohort / "outputs/report.html").read_text()
    assert not (cohort / "outputs" / "individuals_associations.csv").exists()
    assert len(pd.read_csv(cohort / "outputs" / "individuals.csv")) == 4 * 6

    # Motion comes into the table, also of confounds that come later.
    assert people_of(cohort)["mean_fd"].isna().all()
    for number, moved in ((1, 0.1), (2, 0.3)):
        rows = ["framewise_displacement", "n/a", *[str(moved)] * 119]
        name = f"sub-01_ses-1_run-{number}_desc-confounds_timeseries.tsv"
        (cohort / "bold" / name).write_text("\n".join(rows) + "\n")
    outcomes = run(cohort)
    made = {name for name, o in outcomes.items() if o.made}
    assert {"bold", "individuals", "report"} <= made
    assert "individual_networks" not in made
    moved = people_of(cohort).groupby("subject")["mean_fd"].first()
    assert moved.dropna().to_dict() == {"sub-01": 0.2}


def test_a_prior_of_an_older_version_is_named(cohort: Path) -> None:
    (cohort / "trend.yaml").write_text(
        SETTINGS.replace("associate: [age_at_scan], ", "").replace("pages: true", "n_nulls: 3")
    )
    run(cohort)
    prior = Project.open(cohort).store.latest("individual_prior")
    shutil.rmtree(prior.path / "n_exchanged")
    outcomes = run(cohort, select=["individual_networks"], force=True)
    (error,) = set(outcomes["individual_networks"].errors)
    assert "store of individual_prior" in error
    assert "no array 'n_exchanged'" in error
    assert "trend run --force --select individual_prior" in error


def test_a_subject_is_made_from_its_own_runs_only(cohort: Path) -> None:
    project = Project.open(cohort)
    asset = ASSETS["individual_networks"]
    for key, n in (("sub-01", 2), ("anonymous", 1)):
        wanted = asset.wanted(project, {"subject": key}, ASSETS["bold"])
        assert len(wanted) == n
        assert all(p["bold_run"].startswith(key) for p in wanted)
