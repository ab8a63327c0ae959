"""Spatial encodings by distance: beside the label files, through the whole way."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import MEDIAL_WALL, N_VERTICES, run
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.lineage import Lineage
from trend_dagster.project.folder import Project
from trend_dagster.science.connectivity.thresholding import BlockMatrix

HALF = N_VERTICES // 2
CELL = {"label_file": "two", "n_components": "4"}
SMOOTH = {"label_file": "smooth_12.5mm"}
SPATIAL = (
    "inputs: {truth: planted_networks.npy, geodesic_distances: [left.npy, right.npy]}\n"
    "thresholding: {smooth_sigma_mm: [12.5]}\n"
)


def distances(step: float) -> np.ndarray:
    """Vertices of one hemisphere on a line, ``step`` mm apart."""
    x = step * np.arange(HALF, dtype=np.float32)
    return np.abs(x[:, None] - x)


def ask_for_smooth(folder, extra: str = "") -> None:
    """Give distances and ask for one smooth encoding."""
    np.save(folder / "left.npy", distances(1.0))
    np.save(folder / "right.npy", distances(2.0))
    old = "inputs: {truth: planted_networks.npy}\n"
    text = (folder / "trend.yaml").read_text()
    (folder / "trend.yaml").write_text(text.replace(old, SPATIAL) + extra)


def status_of(folder, asset: str) -> dict[tuple[str, ...], str]:
    """Status of each partition of an asset."""
    found = Lineage(Project.open(folder)).states(ASSETS[asset])
    return {tuple(s.partition.values()): s.status for s in found}


def test_without_smooth_encodings_no_distances_are_needed(finished):
    assert status_of(finished, "geodesic_distances") == {(): "current"}
    excluded = Project.open(finished).store.latest("geodesic_distances").excluded
    assert "nothing asks for geodesic distances" in excluded


@pytest.mark.slow
def test_a_smooth_encoding_goes_through_the_whole_way_and_changes_nothing_else(finished):
    before = Project.open(finished).store.latest(
        "nmf_sweep", {"label_file": "two", "n_components": "4"}
    )
    ask_for_smooth(finished)
    outcomes = run(finished)
    assert [o.errors for o in outcomes.values() if o.errors] == []
    made = {name: o.made for name, o in outcomes.items() if o.made}
    # What the label files gave is kept: no recipe of theirs names the distances.
    assert {n: made[n] for n in ("geodesic_distances", "geodesic_labels", "nmf_sweep")} == {
        "geodesic_distances": 1,
        "geodesic_labels": 1,
        "nmf_sweep": 2,
    }
    project = Project.open(finished)
    store = project.store
    assert store.latest("nmf_sweep", before.partition).path == before.path
    stored = store.latest("thresholded_matrix", SMOOTH)
    dense = BlockMatrix.from_arrays(
        {n: stored.read(n) for n in stored.names()}, N_VERTICES
    ).to_dense()
    weights = np.zeros((N_VERTICES, N_VERTICES))
    weights[:HALF, :HALF] = np.exp(-(distances(1.0).astype(float) ** 2) / (2 * 12.5**2))
    weights[HALF:, HALF:] = np.exp(-(distances(2.0).astype(float) ** 2) / (2 * 12.5**2))
    correlation = store.latest("average_correlation").read("correlation")
    assert np.allclose(dense, np.maximum(correlation, 0) * weights, atol=1e-6)
    assert stored.facts["n_labels"] == round(N_VERTICES**2 / weights.sum())
    summary = store.latest("sweep_summary")
    rows = [f == "smooth_12.5mm" for f in summary.facts["label_files"]]
    assert sum(rows) == 4  # two n_components by two n_clusters
    assert np.isfinite(summary.read("silhouette")[rows]).all()
    assert set(store.latest("control_comparison").facts["label_files"]) == {
        "two",
        "six",
        "smooth_12.5mm",
    }
    assert all(o.made == 0 for o in run(finished).values())


@pytest.mark.slow
def test_changed_distances_put_only_smooth_encodings_out_of_date(finished):
    ask_for_smooth(finished)
    run(finished)
    np.save(finished / "right.npy", distances(3.0))
    assert status_of(finished, "geodesic_distances") == {(): "out of date"}
    assert status_of(finished, "thresholded_matrix") == {
        ("two",): "current",
        ("six",): "current",
        ("smooth_12.5mm",): "out of date",
    }


def test_distances_that_cannot_be_used_are_named(finished):
    ask_for_smooth(finished)
    np.save(finished / "right.npy", distances(1.0)[:, :-1])
    (error,) = run(finished, among=["geodesic_distances"])["geodesic_distances"].errors
    assert "geodesic distance file" in error
    assert "right.npy" in error
    (finished / "trend.yaml").write_text(
        (finished / "trend.yaml")
        .read_text()
        .replace(", geodesic_distances: [left.npy, right.npy]", "")
    )
    (error,) = run(finished, among=["geodesic_distances"])["geodesic_distances"].errors
    assert "inputs.geodesic_distances" in error


def test_a_label_file_with_the_name_of_a_smooth_encoding_is_refused(finished):
    ask_for_smooth(finished)
    labels = finished / "geodesic_labels"
    (labels / "two.npy").rename(labels / "smooth_12.5mm.npy")
    with pytest.raises(Exception, match="Rename the file"):
        Project.open(finished).keys("label_file")


@pytest.mark.slow
def test_smooth_loadings_need_distances_and_are_smoother(finished):
    before = Project.open(finished).store.latest("nmf_sweep", CELL).read("W")
    ask_for_smooth(finished, "factorization: {smoothness: 30.0, smoothness_sigma_mm: 2.0}\n")
    outcomes = run(finished)
    assert [o.errors for o in outcomes.values() if o.errors] == []
    smooth = Project.open(finished).store.latest("nmf_sweep", CELL).read("W")
    kept = np.delete(np.arange(HALF), MEDIAL_WALL[MEDIAL_WALL < HALF])

    def roughness(W):
        return (np.diff(W[0, kept], axis=0) ** 2).sum() / (W[0, kept] ** 2).sum()

    assert roughness(smooth) < 0.5 * roughness(before)


def test_more_components_than_vertices_fail_only_their_own_cell(finished):
    text = (finished / "trend.yaml").read_text()
    (finished / "trend.yaml").write_text(text.replace("[4, 6]", "[4, 6, 85]"))
    outcome = run(finished, among=["nmf_sweep"])["nmf_sweep"]
    assert (outcome.made, outcome.kept) == (0, 4)
    assert any("between 1 and the 84 vertices with signal, found 85" in e for e in outcome.errors)
