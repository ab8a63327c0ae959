"""Associations against known slopes, other formulas and nothing at all."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from trend_dagster.science.individuals.association import COLUMNS, associate, why_not


def table(rng: np.random.Generator, slope: float = 0.0, n: int = 40) -> pd.DataFrame:
    """Network 0 grows with age; networks of half of all newborns are larger by what motion adds."""
    age, motion = rng.normal(38, 2, n), rng.normal(size=n)
    rows = [
        {
            "subject": f"{person:02d}",
            "network": network,
            "area_mm2": 100 + (network == 0) * slope * age[person] + 5 * motion[person] + e,
            "age": age[person],
            "motion": motion[person],
            "minutes": 8.0,
        }
        for person in range(n)
        for network, e in enumerate(rng.normal(size=10))
    ]
    return pd.DataFrame(rows)


def test_a_planted_slope_comes_back_and_no_other(rng: np.random.Generator) -> None:
    found = associate(table(rng, slope=2.0), ["area_mm2"], "age", ["motion", "minutes"])
    assert list(found.columns) == list(COLUMNS)
    first = found.iloc[0]
    assert first["slope"] == pytest.approx(2.0, abs=0.3)
    half = stats.t.ppf(0.975, 40 - 3) * first["slope"] / first["t"]  # minutes are left out
    assert first["slope_high"] - first["slope"] == pytest.approx(half)
    assert first["slope"] - first["slope_low"] == pytest.approx(half)
    assert first["q"] < 0.001
    assert (found["q"][1:] > 0.05).all()
    assert (found["n"] == 40).all()


def test_without_covariates_it_is_the_simple_regression(rng: np.random.Generator) -> None:
    data = table(rng, slope=1.0)
    found = associate(data, ["area_mm2"], "age")
    for network, own in data.groupby("network"):
        plain = stats.linregress(own["age"], own["area_mm2"])
        row = found[found["network"] == network].iloc[0]
        assert row["slope"] == pytest.approx(plain.slope)
        assert row["partial_r"] == pytest.approx(plain.rvalue)
        assert row["p"] == pytest.approx(plain.pvalue)
    expected = stats.false_discovery_control(found["p"])
    np.testing.assert_allclose(found["q"], expected)


def test_false_discoveries_are_held_down(rng: np.random.Generator) -> None:
    any_found = [
        (associate(table(rng, n=15), ["area_mm2"], "age", ["motion"])["q"] < 0.05).any()
        for _ in range(60)
    ]
    assert np.mean(any_found) < 0.15  # 0.05 expected


def test_newborns_without_a_value_are_left_out(rng: np.random.Generator) -> None:
    data = table(rng, slope=2.0)
    data.loc[data["subject"] == "03", "age"] = np.nan
    data.loc[(data["subject"] == "05") & (data["network"] == 1), "area_mm2"] = np.nan
    data.loc[data["network"] == 2, "area_mm2"] = 7.0
    found = associate(data, ["area_mm2"], "age", ["motion"]).set_index("network")
    assert found["n"].tolist()[:3] == [39, 38, 39]
    assert np.isnan(found.loc[2, "p"])
    assert np.isnan(found.loc[2, "q"])
    assert found.loc[2, "note"] == "area_mm2 is the same in all newborns"
    assert found.loc[0, "q"] < 0.001


def test_of_what_cannot_be_regressed_the_reason_is_said(rng: np.random.Generator) -> None:
    data = table(rng).assign(sex="F", empty=None)
    assert why_not(data, "age", ["motion", "minutes"]) is None
    assert why_not(data, "sex") == "sex holds what is no number, such as 'F'"
    assert why_not(data, "age", ["sex"]) == "sex holds what is no number, such as 'F'"
    assert why_not(data, "empty") == "5 newborns are needed, and 0 have empty"
    assert why_not(data, "minutes") == "minutes is the same in all 40 newborns"
    few = data[data["subject"] < "05"]
    assert why_not(few, "age", ["motion"]) == "6 newborns are needed, and 5 have age, motion"
    assert why_not(few, "age", ["minutes"]) is None  # it explains nothing, and costs nothing


def test_a_network_without_a_slope_says_why(rng: np.random.Generator) -> None:
    data = table(rng, n=8)
    data["twice"] = 2 * data["age"]
    data.loc[(data["subject"] > "03") & (data["network"] == 1), "area_mm2"] = np.nan
    data.loc[data["subject"] == "02", "age"] = np.inf
    few = associate(data, ["area_mm2"], "age").set_index("network")
    assert few["n"].tolist()[:2] == [7, 3]
    assert few.loc[1, "note"] == "5 newborns are needed, and 3 have it"
    assert few["note"].tolist()[2:] == [""] * 8
    alike = associate(data, ["area_mm2"], "age", ["twice"])["note"]
    assert alike[0] == "age and twice cannot be told apart in the newborns that have it"
