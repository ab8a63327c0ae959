"""Choose one cell of the sweep for each number of clusters, and say why.

No raw metric may rank cells across label files: silhouette, homogeneity and reproducibility all
reward the label file itself (two halves of pure noise agree perfectly under a label file with as
many labels as clusters). So the rule does not let them: it takes the label file that imposes
least, the one with the fewest labels, and only within it ranks by silhouette. A cell in which the
factorisation has collapsed is never chosen while another is left.
"""

from __future__ import annotations

import pandas as pd
from pydantic import BaseModel, Field

RULE = (
    "cells that are alive before collapsed ones; then the label file with the fewest labels; "
    "then the highest silhouette; then the fewest components; then label file, alpha_W and "
    "l1_ratio in order"
)


class SelectionConfig(BaseModel, frozen=True, extra="forbid"):
    """When a cell counts as collapsed."""

    max_zero_row_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest share of vertices with signal whose loadings may all be zero before "
        "a cell counts as collapsed: the penalty was too strong for its matrix.",
    )


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
        ``distinct_rows``.
    config : SelectionConfig
        When a cell counts as collapsed.

    Returns
    -------
    DataFrame
        The rows with ``alive`` and ``rank`` (1 is chosen) added, sorted by ``n_clusters`` and
        rank. The order does not depend on the order of the rows given.
    """
    ranked = table.assign(alive=is_alive(table, config))
    order = {
        "n_clusters": True,
        "alive": False,
        "n_labels": True,
        "silhouette": False,
        "n_components": True,
        "label_file": True,
        "alpha_W": True,
        "l1_ratio": True,
    }
    ranked = ranked.sort_values(
        list(order), ascending=list(order.values()), na_position="last", ignore_index=True
    )
    ranked["rank"] = ranked.groupby("n_clusters").cumcount() + 1
    return ranked
