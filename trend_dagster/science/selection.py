"""Choose one cell of the sweep for each number of clusters, and say why.

No raw metric may rank cells across label files: silhouette, homogeneity and reproducibility all
reward the label file itself (two halves of pure noise agree perfectly under a label file with as
many labels as clusters). Only what exceeds the same measure on noise that went the same way
(`trend_dagster.science.stability`) may. Where that is not known, no metric decides between label
files: the one that imposes least is taken, the one with the fewest labels.

A rule is a function of a table; `RULES` knows them by name. None is ever given an atlas or planted
networks. A cell in which the factorisation has collapsed is never chosen while another is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import pandas as pd
from pydantic import BaseModel, Field


class SelectionConfig(BaseModel, frozen=True, extra="forbid"):
    """How one cell is chosen for each number of clusters."""

    rule: Literal["null_corrected", "conservative"] = Field(
        "null_corrected",
        description="'null_corrected': the cell whose stability between two halves of the cohort "
        "exceeds its null by most (see the section validation); where no stability was computed, "
        "as 'conservative'. 'conservative': the label file with the fewest labels, and within it "
        "the highest silhouette.",
    )
    max_zero_row_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest share of vertices with signal whose loadings may all be zero before "
        "a cell counts as collapsed: the penalty was too strong for its matrix.",
    )


TIES = {
    "n_components": True,
    "label_file": True,
    "alpha_W": True,
    "l1_ratio": True,
}
"""What is left to order by, so that chance has no part in it; True for ascending."""

IMPOSES_LEAST = {"n_labels": True, "silhouette": False}

EXCESS = {"stability_excess": False, "half_silhouette_excess": False}


def conservative(table: pd.DataFrame) -> pd.DataFrame:
    """Alive cells first; then the fewest labels; then the highest silhouette; then `TIES`.

    Parameters
    ----------
    table : DataFrame
        Cells of one number of clusters, with ``alive``.

    Returns
    -------
    DataFrame
        The same rows, the best first.
    """
    return _sorted(table, {"alive": False, **IMPOSES_LEAST, **TIES})


def null_corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Alive cells first; then by the excess of stability over its null; then of silhouette.

    The unit is the excess itself, a difference of adjusted Rand indices, which means the same
    under every label file: 0 is what noise gives, and what is left up to 1 is what the encoding
    leaves to be found. Not z: with a handful of surrogates its denominator is a guess, and where
    a label file decides everything it vanishes, so that z would prefer what imposes most.
    Cells without an excess come after those with one, in the order of `conservative`.

    Parameters
    ----------
    table : DataFrame
        Cells of one number of clusters, with ``alive`` and, if it was computed, the excess.

    Returns
    -------
    DataFrame
        The same rows, the best first.
    """
    known = {name: way for name, way in EXCESS.items() if name in table}
    return _sorted(table, {"alive": False, **known, **IMPOSES_LEAST, **TIES})


def _sorted(table: pd.DataFrame, order: Mapping[str, bool]) -> pd.DataFrame:
    return table.sort_values(list(order), ascending=list(order.values()), na_position="last")


RULES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "null_corrected": null_corrected,
    "conservative": conservative,
}
"""Rules by the name that the settings give; another one is a function and a line here."""

IN_WORDS = {
    "null_corrected": "cells that are alive before collapsed ones; then the largest excess of "
    "stability (adjusted Rand index between two halves of the cohort) over the same on noise that "
    "went the same way; then the largest such excess of silhouette; then the fewest labels, the "
    "highest silhouette and the fewest components; then label file, alpha_W and l1_ratio in order",
    "conservative": "cells that are alive before collapsed ones; then the label file with the "
    "fewest labels; then the highest silhouette; then the fewest components; then label file, "
    "alpha_W and l1_ratio in order",
}


def rule_in_use(table: pd.DataFrame, config: SelectionConfig) -> str:
    """Name the rule that decides: without any excess, the null-corrected one cannot.

    Parameters
    ----------
    table : DataFrame
        As for `rank_cells`.
    config : SelectionConfig
        What is asked for.

    Returns
    -------
    str
        A name in `RULES`.
    """
    known = "stability_excess" in table and table["stability_excess"].notna().any()
    return config.rule if known or config.rule != "null_corrected" else "conservative"


def is_alive(table: pd.DataFrame, config: SelectionConfig) -> pd.Series[bool]:
    """Tell the cells whose factorisation has not collapsed.

    Parameters
    ----------
    table : DataFrame
        One row per cell, with ``zero_row_share``, ``distinct_rows`` and ``n_clusters``.
    config : SelectionConfig
        Where the border is.

    Returns
    -------
    Series of bool
        Aligned with the table.
    """
    enough_rows = table["distinct_rows"] >= table["n_clusters"]
    return (table["zero_row_share"] <= config.max_zero_row_share) & enough_rows


def rank_cells(table: pd.DataFrame, config: SelectionConfig) -> pd.DataFrame:
    """Rank the cells of each number of clusters.

    Parameters
    ----------
    table : DataFrame
        One row per cell, with columns ``label_file``, ``n_labels``, ``n_components``,
        ``n_clusters``, ``alpha_W``, ``l1_ratio``, ``silhouette``, ``zero_row_share`` and
        ``distinct_rows``; for the null-corrected rule also ``stability_excess`` and
        ``half_silhouette_excess``.
    config : SelectionConfig
        The rule, and when a cell counts as collapsed.

    Returns
    -------
    DataFrame
        The rows with ``alive`` and ``rank`` (1 is chosen) added, sorted by ``n_clusters`` and
        rank. The order does not depend on the order of the rows given.
    """
    judged = table.assign(alive=is_alive(table, config))
    rule = RULES[rule_in_use(table, config)]
    ranked = pd.concat(
        [rule(cells) for _, cells in judged.groupby("n_clusters", sort=True)], ignore_index=True
    )
    ranked["rank"] = ranked.groupby("n_clusters").cumcount() + 1
    return ranked
