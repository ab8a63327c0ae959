"""The rule that chooses cells: fixed, blind to the truth, and fair between label files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trend_dagster.science.parcellation.selection import (
    IN_WORDS,
    RULES,
    is_alive,
    rank_cells,
    rule_in_use,
)
from trend_dagster.science.parcellation.settings import SelectionConfig

CONFIG = SelectionConfig()
N_LABELS = {"two": 2, "also_two": 2, "eight": 8, "twenty": 20}
IDENTITY = ["label_file", "n_components", "n_clusters", "alpha_W", "l1_ratio"]


def cell(label_file: str = "two", silhouette: float = 0.5, **changes) -> dict:
    """One row of the table; alive unless said otherwise."""
    return {
        "label_file": label_file,
        "n_labels": N_LABELS[label_file],
        "n_components": 10,
        "n_clusters": 14,
        "alpha_W": 1e-3,
        "l1_ratio": 0.4,
        "silhouette": silhouette,
        "zero_row_share": 0.0,
        "distinct_rows": 500,
    } | changes


def best(*cells: dict) -> dict:
    """The chosen one of some cells with the same number of clusters."""
    ranked = rank_cells(pd.DataFrame(cells), CONFIG)
    (chosen,) = ranked[ranked["rank"] == 1].to_dict("records")
    return chosen


@pytest.fixture
def table(rng) -> pd.DataFrame:
    """A whole grid with metrics that tie, are missing, and collapse."""
    grid = [
        cell(
            label_file,
            silhouette=rng.choice([0.1, 0.5, np.nan]),
            n_components=k,
            n_clusters=c,
            alpha_W=alpha,
            zero_row_share=rng.choice([0.0, 0.05, 0.6]),
            distinct_rows=int(rng.choice([5, 500])),
        )
        for label_file in N_LABELS
        for k in (10, 20)
        for c in (14, 38)
        for alpha in (1e-3, 1e-4)
    ]
    return pd.DataFrame(grid)


def test_ranks_count_from_one_within_each_number_of_clusters(table):
    ranked = rank_cells(table, CONFIG)
    assert len(ranked) == len(table)
    for _, group in ranked.groupby("n_clusters"):
        assert group["rank"].tolist() == list(range(1, len(group) + 1))


def test_the_order_of_the_rows_given_does_not_matter(table, rng):
    expected = rank_cells(table, CONFIG)
    for _ in range(10):
        shuffled = table.iloc[rng.permutation(len(table))]
        pd.testing.assert_frame_equal(rank_cells(shuffled, CONFIG), expected)


def test_ranking_does_not_change_the_table_it_is_given(table):
    before = table.copy()
    rank_cells(table, CONFIG)
    pd.testing.assert_frame_equal(table, before)


def test_the_label_file_with_the_fewest_labels_is_chosen_whatever_the_metrics():
    # Silhouettes across label files reward the label file itself.
    chosen = best(cell("two", silhouette=0.01), cell("twenty", silhouette=0.99))
    assert chosen["label_file"] == "two"


@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6))
def test_no_metric_decides_between_numbers_of_labels(silhouettes):
    files = ["two", "twenty"] * 3
    cells = [
        cell(file, silhouette=s, n_components=k)
        for k, (file, s) in enumerate(zip(files, silhouettes, strict=True), start=2)
    ]
    ranked = rank_cells(pd.DataFrame(cells), CONFIG)
    assert ranked["n_labels"].is_monotonic_increasing


def test_within_a_label_file_the_highest_silhouette_is_chosen(rng):
    values = rng.permutation(np.linspace(-1, 1, 9))
    cells = [cell(silhouette=s, n_components=k) for k, s in enumerate(values, start=2)]
    ranked = rank_cells(pd.DataFrame(cells), CONFIG)
    assert ranked["silhouette"].is_monotonic_decreasing


def test_a_silhouette_that_could_not_be_computed_comes_last():
    assert best(cell(silhouette=np.nan), cell(silhouette=-0.9))["silhouette"] == -0.9


def test_ties_go_to_the_fewest_components_and_then_by_name_and_penalty():
    assert best(cell(n_components=20), cell(n_components=10))["n_components"] == 10
    assert best(cell("two"), cell("also_two"))["label_file"] == "also_two"
    assert best(cell(alpha_W=1e-3), cell(alpha_W=1e-4))["alpha_W"] == 1e-4
    assert best(cell(l1_ratio=0.4), cell(l1_ratio=0.1))["l1_ratio"] == 0.1


@pytest.mark.parametrize("collapse", [{"zero_row_share": 0.9}, {"distinct_rows": 13}])
def test_a_collapsed_cell_comes_after_every_living_one(collapse):
    chosen = best(
        cell("two", silhouette=1.0, **collapse),
        cell("twenty", silhouette=-0.5),
    )
    assert chosen["label_file"] == "twenty"
    assert chosen["alive"]


def test_collapsed_cells_are_last_in_a_whole_table(table):
    ranked = rank_cells(table, CONFIG)
    assert ranked["alive"].nunique() == 2
    for _, group in ranked.groupby("n_clusters"):
        assert group["alive"].is_monotonic_decreasing


def test_where_all_have_collapsed_one_is_chosen_and_says_so():
    assert not best(cell(zero_row_share=1.0), cell(distinct_rows=1))["alive"]


def test_alive_means_few_empty_rows_and_enough_different_ones():
    table = pd.DataFrame(
        [
            cell(zero_row_share=0.05, distinct_rows=14),
            cell(zero_row_share=0.051),
            cell(distinct_rows=13),
            cell(n_clusters=38, distinct_rows=37),
        ]
    )
    assert is_alive(table, CONFIG).tolist() == [True, False, False, False]
    lenient = SelectionConfig(max_zero_row_share=0.1)
    assert is_alive(table, lenient).tolist() == [True, True, False, False]


def test_the_rule_never_looks_at_a_truth_column(table, rng):
    expected = rank_cells(table, CONFIG)
    for _ in range(5):
        truth = {name: rng.random(len(table)) for name in ("dice", "mean_dice", "truth", "iou")}
        found = rank_cells(table.assign(**truth), CONFIG)
        pd.testing.assert_frame_equal(found[expected.columns], expected)


def test_the_rule_looks_at_nothing_but_what_it_names(table, rng):
    """Other metrics, even of the cell itself, do not move a rank."""
    expected = rank_cells(table, CONFIG)[IDENTITY]
    names = ("davies_bouldin", "inertia", "connectivity_ratio", "full_within_connectivity")
    other = table.assign(**{name: rng.random(len(table)) for name in names})
    pd.testing.assert_frame_equal(rank_cells(other, CONFIG)[IDENTITY], expected)


def beside(excess: float, margin: float = 0.1, **changes) -> dict:
    """What stability gives a cell."""
    return {"stability_excess": excess, "stability_margin": margin} | changes


def test_the_largest_excess_beyond_noise_is_chosen_whatever_the_label_file():
    chosen = best(
        cell("two", silhouette=0.9, **beside(0.2)), cell("eight", silhouette=0.1, **beside(0.3))
    )
    assert chosen["label_file"] == "eight"
    assert chosen["beyond_noise"]


def test_an_excess_within_the_margin_is_no_reason():
    # The one that varies most would win by luck.
    chosen = best(cell("two", **beside(0.01)), cell("twenty", **beside(0.3, margin=0.4)))
    assert chosen["label_file"] == "two"
    assert not chosen["beyond_noise"]


def test_one_that_is_beyond_noise_comes_before_all_that_are_not_or_are_unknown():
    chosen = best(
        cell("two", **beside(0.09)),
        cell("also_two", **beside(np.nan, margin=np.nan)),
        cell("eight", **beside(0.11)),
    )
    assert chosen["label_file"] == "eight"


def test_a_label_file_with_as_many_labels_as_clusters_is_chosen_only_if_nothing_else_is_left():
    # It leaves nothing to be found, however well its labels come back.
    twenty = cell("twenty", **beside(0.9))
    assert best(twenty, cell("two", **beside(0.01)))["label_file"] == "two"
    assert best(twenty)["label_file"] == "twenty"
    many = {"n_clusters": 38}
    chosen = best(twenty | many, cell("two", **beside(0.2), **many))
    assert chosen["label_file"] == "twenty"


def test_a_collapsed_cell_is_not_saved_by_its_excess():
    chosen = best(cell("twenty", zero_row_share=0.9, **beside(0.9)), cell("two", **beside(0.2)))
    assert chosen["label_file"] == "two"


def test_equal_excesses_go_by_the_excess_of_silhouette():
    chosen = best(
        cell("two", **beside(0.3, half_silhouette_excess=0.1)),
        cell("eight", **beside(0.3, half_silhouette_excess=0.2)),
    )
    assert chosen["label_file"] == "eight"


def test_without_any_margin_the_conservative_rule_is_in_use(table):
    config = SelectionConfig()
    conservative = SelectionConfig(rule="conservative")
    expected = rank_cells(table, conservative)
    assert rule_in_use(table, config) == "conservative"
    unknown = table.assign(stability_excess=0.5, stability_margin=np.nan)
    assert rule_in_use(unknown, config) == "conservative"
    found = rank_cells(unknown, config)
    pd.testing.assert_frame_equal(found[expected.columns], expected)
    known = table.assign(stability_excess=0.5, stability_margin=0.1)
    assert rule_in_use(known, config) == "null_corrected"
    assert rule_in_use(known, conservative) == "conservative"


def test_the_null_corrected_order_does_not_depend_on_the_order_given_nor_on_the_truth(table, rng):
    known = table.assign(
        stability_excess=rng.choice([0.05, 0.2, 0.3, np.nan], len(table)),
        stability_margin=0.1,
        half_silhouette_excess=rng.choice([0.0, 0.1], len(table)),
    )
    expected = rank_cells(known, CONFIG)
    for _ in range(5):
        other = known.iloc[rng.permutation(len(known))].assign(dice=rng.random(len(known)))
        pd.testing.assert_frame_equal(rank_cells(other, CONFIG)[expected.columns], expected)


def test_rules_are_named_in_the_settings_and_told_in_words():
    assert set(RULES) == set(IN_WORDS) == {"null_corrected", "conservative"}
