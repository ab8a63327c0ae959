"""Figures are kept, splits share nothing, and what does not look at the data has no excess."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from trend_dagster.errors import CohortError, InputError, StoreError
from trend_dagster.science.connectivity.correlation import correlate_runs
from trend_dagster.science.evidence.atlases import agree
from trend_dagster.science.evidence.nulls import turned, turns
from trend_dagster.science.method import MethodSettings
from trend_dagster.science.surface import Surface, cut_into_labels
from trend_dagster.validation import simulated
from trend_dagster.validation.ablations import variants
from trend_dagster.validation.approaches import Approach, all_approaches
from trend_dagster.validation.figures import FigureFolder
from trend_dagster.validation.recordings import Recording, halves, without_each
from trend_dagster.validation.reproducibility import agreement, reproduce
from trend_dagster.validation.simulated import MEASURES, headline, summary


def never() -> dict:
    raise AssertionError("computed again")


# Kept figures


def test_a_figure_is_computed_once(tmp_path) -> None:
    kept = FigureFolder(tmp_path)
    identity = {"snr": 0.19, "approach": "a"}
    assert kept.get("s", identity, lambda: {"dice": 0.5}) == {"dice": 0.5}
    assert kept.get("s", identity, never) == {"dice": 0.5}
    for other in ({"snr": 0.2, "approach": "a"}, {"snr": 0.19, "approach": "b"}):
        assert not kept.path("s", other).exists()
    assert not kept.path("t", identity).exists()


def test_an_interrupted_figure_leaves_nothing(tmp_path) -> None:
    def interrupted() -> dict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FigureFolder(tmp_path).get("s", {}, interrupted)
    assert list(tmp_path.rglob("*.json")) == []


def test_a_damaged_figure_is_an_error_that_names_the_file(tmp_path) -> None:
    kept = FigureFolder(tmp_path)
    kept.get("s", {}, lambda: {"dice": 1})
    kept.path("s", {}).write_text("{")
    with pytest.raises(StoreError, match=kept.path("s", {}).name):
        kept.get("s", {}, never)


# Splits


def recording(surface: Surface, subjects: list[str], n_timepoints: int = 20) -> Recording:
    rng = np.random.default_rng(0)
    shape = surface.n_vertices, n_timepoints
    runs = {f"run-{i}": rng.normal(size=shape).astype(np.float32) for i in range(len(subjects))}
    return Recording(surface, runs, subjects)


@pytest.mark.parametrize(
    ("subjects", "split"),
    [(["a", "a", "b", "b", "c"], "subject"), (["a"] * 4, "run"), (["a"], "time")],
)
def test_halves_share_nothing(surface: Surface, subjects: list[str], split: str) -> None:
    whole = recording(surface, subjects)
    name, first, second = halves(whole, 108)
    assert name == split
    if split == "subject":
        assert not set(first.subjects) & set(second.subjects)
    if split == "time":
        assert (first.timepoints, second.timepoints) == (slice(0, 10), slice(10, 20))
        one, other = (half.correlation(MethodSettings()).matrix for half in (first, second))
        ((run, mask),) = whole.prepared(MethodSettings().bold).values()
        expected = correlate_runs([(run[:, 10:], mask)])
        np.testing.assert_array_equal(other, expected)
        assert np.abs(one - other).max() > 0.1
    else:
        assert not first.runs.keys() & second.runs.keys()
        assert first.runs.keys() | second.runs.keys() == whole.runs.keys()


def test_a_run_too_short_to_split_is_refused(surface: Surface) -> None:
    with pytest.raises(CohortError, match="two runs"):
        halves(recording(surface, ["a"], 10), 108)


def test_each_person_is_left_out_once(surface: Surface) -> None:
    left = without_each(recording(surface, ["a", "a", "b", "c"]))
    assert [rest.subjects for rest in left] == [["b", "c"], ["a", "a", "c"], ["a", "a", "b"]]


# Reproducibility


def fake(name: str, find: Callable) -> Approach:
    return Approach("fake", name, {"name": name}, find)


@pytest.mark.slow
def test_what_ignores_the_data_repeats_itself_and_has_no_excess(surface: Surface, tmp_path) -> None:
    fixed = cut_into_labels(surface, 7)
    ignorant = fake("ignorant", lambda r, n, seed: fixed)

    def guess(data: Recording, n: int, seed: int) -> np.ndarray:
        number = float(next(iter(data.runs.values()))[0, 0])
        rng = np.random.default_rng(int(1e6 * abs(number)) + seed)
        return rng.integers(0, n, surface.n_vertices)

    chance = fake("chance", guess)
    whole = recording(surface, ["a", "b"])

    def run(approaches: list[Approach]) -> pd.DataFrame:
        return reproduce(
            FigureFolder(tmp_path),
            "r",
            {},
            whole,
            approaches,
            ("halves", "seeds"),
            14,
            3,
            lambda *_: None,
        )

    table = run([ignorant, chance]).set_index(["approach", "what"])
    assert table.loc[("ignorant", "halves"), "ari"] == 1
    assert table.loc[("ignorant", "halves"), "excess"] == 0
    assert abs(table.loc[("chance", "halves"), "ari"]) < 0.05
    again = run([fake("ignorant", lambda *_: never()), fake("chance", lambda *_: never())])
    pd.testing.assert_frame_equal(again.set_index(["approach", "what"]), table)


def test_leaving_each_out_compares_with_the_whole(surface: Surface) -> None:
    whole = recording(surface, ["a", "b", "c"])
    labels = cut_into_labels(surface, 7)

    def find(data: Recording, n: int, seed: int) -> np.ndarray:
        return labels if len(data.runs) == 3 else np.where(surface.hemisphere == 0, labels, 13)

    found = agreement(fake("f", find), whole, 14, "left out")
    assert 0 < found["ari"] < 1
    assert len(found["dice_per_network"]) == 14
    assert agreement(fake("f", find), whole, 14, "seeds")["ari"] == 1


# Atlases


@pytest.mark.slow
def test_an_atlas_agrees_with_itself_and_not_with_its_turned_self(surface: Surface) -> None:
    assert surface.medial_wall is not None
    atlas = np.where(surface.medial_wall, -1, cut_into_labels(surface, 7)).astype(np.int64)
    same = agree(surface, (atlas + 3) % 14 * (atlas >= 0) - (atlas < 0), atlas, "a", n_spins=40)
    assert same["value"].to_numpy() == pytest.approx(1)
    assert (same["p"] < 0.05).all()
    elsewhere = turned(atlas, next(turns(surface, 1, 5)))
    other = agree(surface, elsewhere, atlas, "a", n_spins=40)
    assert other.loc[1, "excess"] < 0.3 * same.loc[1, "excess"]
    assert abs(other.loc[0, "z"]) < 4
    with pytest.raises(InputError, match="atlas short"):
        agree(surface, atlas, atlas[:-1], "short")


# Tables


def rows(dice: dict[tuple[str, str], float], snr: float) -> list[dict]:
    zero = dict.fromkeys(MEASURES, 0.0)
    return [
        {"snr": snr, "seed": seed, "kind": kind, "approach": approach}
        | zero
        | {"dice": d + 0.01 * seed}
        for (kind, approach), d in dice.items()
        for seed in (-1, 1)
    ]


EVERYBODY = {
    ("ours", simulated.PROFILE): 0.93,
    ("tutorial", "20 components"): 0.3,
    ("cleaned", "Spectral, 19 mm"): 0.9,
    ("raw", "KMeans, 14 mm"): 0.5,
}


@pytest.mark.parametrize(("best", "counts"), [(0.74, False), (0.78, True), (0.81, False)])
def test_the_headline_refuses_another_difficulty(best: float, counts: bool) -> None:
    table = rows(EVERYBODY | {("raw", "Spectral, 14 mm"): best}, 0.19)
    table += rows({("ours", simulated.PROFILE): 0.1}, 0.0)
    found = headline(pd.DataFrame(table))
    assert (found is not None) == counts
    if found is not None:
        assert found["best_competitor"] == "Spectral, 14 mm"
        assert found["best_competitor_dice"] == pytest.approx(best)
        assert found["raw_bold_dice"] == pytest.approx(0.5)
        assert found["null_dice"] == pytest.approx(0.1)
        assert found["seeds"] == 2
        keys = ["dice", "iou", "best_competitor", "tutorial_settings_dice", "difficulty"]
        assert set(keys) <= set(json.loads(json.dumps(found)))


def test_a_summary_has_means_spreads_and_nulls() -> None:
    table = rows({("ours", "a"): 0.5, ("raw", "b"): 0.7}, 0.2) + rows({("ours", "a"): 0.1}, 0.0)
    found = summary(pd.DataFrame(table)).set_index("approach")
    assert list(found.index) == ["b", "a"]
    assert found.loc["a", "dice"] == pytest.approx(0.5)
    assert found.loc["a", "dice_sd"] == pytest.approx(0.01)
    assert found.loc["a", "null_dice"] == pytest.approx(0.1)
    assert np.isnan(found.loc["b", "null_dice"])


@pytest.mark.parametrize("quick", [True, False])
def test_names_and_identities_are_unique(quick: bool) -> None:
    for them in (list(all_approaches(quick)), list(variants(quick))):
        assert len({(one.kind, one.name) for one in them}) == len(them)
        identities = [json.dumps(dict(one.identity), sort_keys=True) for one in them]
        assert len(set(identities)) == len(them)
