"""Choose one cell of the sweep for each number of clusters, and say why.

No raw metric may rank cells across label files: silhouette, homogeneity and reproducibility all
reward the label file itself (two halves of pure noise agree perfectly under a label file with as
many labels as clusters). Only what exceeds the same measure on noise that went the same way
(`trend_dagster.science.evidence.stability`) may. Where that is not known, no metric decides between
label files: the one that imposes least is taken, the one with the fewest labels.

A rule is a function of a table; `RULES` knows them by name. None is ever given an atlas or planted
networks. A cell in which the factorisation has collapsed is never chosen while another is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from trend_dagster.science.parcellation.settings import SelectionConfig

if TYPE_CHECKING:
    import pandas as pd

TIES = dict.fromkeys(("n_components", "label_file", "alpha_W", "l1_ratio"), True)
"""What is left to order by, so that chance has no part in it; True for ascending."""

IMPOSES_LEAST = {"n_labels": True, "silhouette": False}


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
    """Alive cells with fewer labels than clusters first; of these those beyond noise, by excess.

    With as many labels as clusters or more, a cluster is a label or several, whatever the data:
    nothing that crosses the border of a label can be found. Such cells come after all others. A
    cell is beyond noise where its excess is more than one more surrogate cohort would reach by
    chance (`beyond_noise`). Among those the unit is the excess itself, a difference of adjusted
    Rand indices, which means the same under every label file: 0 is what noise gives, and what is
    left up to 1 is what the encoding leaves to be found. Ties go by the excess of silhouette.
    Cells that are not beyond noise have shown nothing, and the largest of several differences
    between noise and noise would be the one of the label file that varies most: they come in the
    order of `conservative`.

    Parameters
    ----------
    table : DataFrame
        Cells of one number of clusters, with ``alive`` and, if it was computed, the excess.

    Returns
    -------
    DataFrame
        The same rows, the best first.
    """
    beyond = beyond_noise(table)
    judged = table.assign(
        _imposed=table["n_labels"] >= table["n_clusters"],
        _stability=table.get("stability_excess", float("nan")),
        _silhouette=table.get("half_silhouette_excess", float("nan")),
    )
    judged.loc[~beyond, ["_stability", "_silhouette"]] = float("nan")
    excess = {"_stability": False, "_silhouette": False}
    order = {"alive": False, "_imposed": True, **excess, **IMPOSES_LEAST, **TIES}
    return _sorted(judged, order).drop(columns=["_imposed", *excess])


def beyond_noise(table: pd.DataFrame) -> pd.Series[bool]:
    """Tell the cells whose stability exceeds its null by more than chance.

    Parameters
    ----------
    table : DataFrame
        One row per cell, with ``stability_excess`` and ``stability_margin`` if they are known.

    Returns
    -------
    Series of bool
        Aligned with the table; False where it is not known.
    """
    import pandas as pd

    if "stability_margin" not in table:
        return pd.Series(data=False, index=table.index)
    return table["stability_excess"] > table["stability_margin"]


def _sorted(table: pd.DataFrame, order: Mapping[str, bool]) -> pd.DataFrame:
    return table.sort_values(list(order), ascending=list(order.values()), na_position="last")


RULES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "null_corrected": null_corrected,
    "conservative": conservative,
}
"""Rules by the name that the settings give; another one is a function and a line here."""

_IMPOSES_LEAST = (
    "the label file with the fewest labels; then the highest silhouette; then the fewest "
    "components; then label file, alpha_W and l1_ratio in order"
)

IN_WORDS = {
    "null_corrected": "cells that are alive before collapsed ones; then label files with fewer "
    "labels than clusters before the others, which decide alone; then cells whose stability "
    "(adjusted Rand index between two halves of the cohort) exceeds that of noise that went the "
    "same way by more than chance, the largest excess first, then the largest excess of "
    f"silhouette; of all others {_IMPOSES_LEAST}",
    "conservative": f"cells that are alive before collapsed ones; then {_IMPOSES_LEAST}",
}


def rule_in_use(table: pd.DataFrame, config: SelectionConfig) -> str:
    """Name the rule that decides: where no margin is known, the null-corrected one cannot.

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
    known = "stability_margin" in table and table["stability_margin"].notna().any()
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
        ``distinct_rows``; for the null-corrected rule also ``stability_excess``,
        ``stability_margin`` and ``half_silhouette_excess``.
    config : SelectionConfig
        The rule, and when a cell counts as collapsed.

    Returns
    -------
    DataFrame
        The rows with ``alive``, ``beyond_noise`` and ``rank`` (1 is chosen) added, sorted by
        ``n_clusters`` and rank. The order does not depend on the order of the rows given.
    """
    import pandas as pd

    judged = table.assign(alive=is_alive(table, config), beyond_noise=beyond_noise(table))
    rule = RULES[rule_in_use(table, config)]
    ranked = pd.concat(
        [rule(cells) for _, cells in judged.groupby("n_clusters", sort=True)], ignore_index=True
    )
    ranked["rank"] = ranked.groupby("n_clusters").cumcount() + 1
    return ranked
