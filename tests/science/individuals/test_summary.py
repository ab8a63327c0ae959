"""The table of networks against the measures of a whole correlation matrix."""

from dataclasses import replace

import numpy as np
import pytest

from tests.science.individuals.conftest import Newborns
from trend_dagster.science.evidence.measures import functional_homogeneity, functional_silhouette
from trend_dagster.science.individuals.summary import network_table


def test_measures_are_those_of_the_whole_correlation(varied: Newborns) -> None:
    run, labels = varied.runs[0][0], varied.own[0]
    correlation = np.corrcoef(run.series)
    confidence = np.linspace(0, 1, len(labels))
    table = network_table([run], labels, confidence, varied.cortex, 9)
    known = table[:8]
    sizes = known["n_vertices"]
    assert sizes.tolist() == np.bincount(labels).tolist()
    mean = np.average(known["homogeneity"], weights=sizes)
    assert mean == pytest.approx(functional_homogeneity(correlation, labels), abs=1e-5)
    mean = np.average(known["silhouette"], weights=sizes)
    assert mean == pytest.approx(functional_silhouette(correlation, labels), abs=1e-5)
    assert known["area_mm2"].sum() == pytest.approx(varied.cortex.area.sum(), rel=1e-4)
    assert known["confidence"][0] == pytest.approx(confidence[labels == 0].mean())
    missing = table.iloc[8]
    assert missing["n_vertices"] == 0
    assert np.isnan(missing["homogeneity"])


def test_vertices_without_signal_in_a_run_do_not_count(varied: Newborns) -> None:
    run, labels = varied.runs[0][0], varied.own[0]
    confidence, dead = np.ones(len(labels)), np.zeros(len(labels), dtype=bool)
    dead[np.flatnonzero(labels == 0)[1:]] = True  # one vertex is left of the first network
    dead[np.flatnonzero(labels == 1)[::2]] = True
    partly = replace(run, series=np.where(dead[:, None], 0, run.series))
    alone = network_table([partly], labels, confidence, varied.cortex, 8)
    assert alone[["homogeneity", "silhouette"]].iloc[0].isna().all()
    C = np.corrcoef(run.series[(labels == 1) & ~dead])
    expected = C[~np.eye(len(C), dtype=bool)].mean()
    assert alone["homogeneity"][1] == pytest.approx(expected, abs=1e-5)
    whole = network_table([run], labels, confidence, varied.cortex, 8)
    both = network_table([run, partly], labels, confidence, varied.cortex, 8)
    assert both["homogeneity"][0] == pytest.approx(whole["homogeneity"][0])


def test_runs_count_by_their_length(varied: Newborns) -> None:
    pair, labels = varied.runs[0], varied.own[0]
    confidence = np.ones(len(labels))
    both, *each = (
        network_table(runs, labels, confidence, varied.cortex, 8)["homogeneity"]
        for runs in (pair, pair[:1], pair[1:])
    )
    np.testing.assert_allclose(both, (each[0] + each[1]) / 2, rtol=1e-6)
