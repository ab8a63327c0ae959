"""The table of networks against the measures of a whole correlation matrix."""

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


def test_runs_count_by_their_length(varied: Newborns) -> None:
    pair, labels = varied.runs[0], varied.own[0]
    confidence = np.ones(len(labels))
    both, *each = (
        network_table(runs, labels, confidence, varied.cortex, 8)["homogeneity"]
        for runs in (pair, pair[:1], pair[1:])
    )
    np.testing.assert_allclose(both, (each[0] + each[1]) / 2, rtol=1e-6)
