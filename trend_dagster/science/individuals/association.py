"""Does something about the networks go with something about the newborns? Exploratory.

An ordinary regression for each network, with covariates, and false discoveries held down over all
networks together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

COLUMNS = {
    "measure": "what of the network is explained",
    "network": "its number in the cohort's map",
    "with": "what it goes with",
    "n": "newborns who have all values",
    "slope": "change of the measure for one unit",
    "slope_low": "lower end of the slope's 95 % confidence interval",
    "slope_high": "upper end",
    "partial_r": "correlation of both, covariates taken out",
    "t": "slope over its standard error",
    "p": "probability of such a t, or a larger one of either sign, without any association",
    "q": "the same after Benjamini and Hochberg, over all networks of the measure",
    "note": "why there is no slope, where there is none",
}
"""Columns of the table of associations."""

MIN_SPARE = 3
"""Newborns that a regression needs beyond its coefficients."""


def associate(
    table: pd.DataFrame, measures: Sequence[str], explain_by: str, covariates: Sequence[str] = ()
) -> pd.DataFrame:
    """Regress measures of each network on a column, with covariates.

    Parameters
    ----------
    table : DataFrame
        A row for each newborn and network: columns ``subject`` and ``network``, the measures, the
        column to explain them by and the covariates.
    measures : sequence of str
        Such as ``area_mm2``.
    explain_by : str
        A numeric column, such as ``age_at_scan``.
    covariates : sequence of str
        Numeric columns, such as motion and minutes; those that are the same for all newborns are
        left out, for they explain nothing.

    Returns
    -------
    DataFrame
        A row for each measure and network, by the names of `COLUMNS`; where there is no slope its
        ``note`` says why. Benjamini and Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x.
    """
    from statsmodels.stats.multitest import multipletests

    known, used = _known(table, explain_by, covariates)
    tables = []
    for measure in measures:
        rows = pd.DataFrame(
            [
                {"measure": measure, "network": network, "with": explain_by}
                | _regress(own.dropna(subset=[measure]), measure, explain_by, used)
                for network, own in known.groupby("network")
            ]
        )
        rows["q"] = np.nan
        tested = rows["p"].notna()
        if tested.any():
            rows.loc[tested, "q"] = multipletests(rows.loc[tested, "p"], method="fdr_bh")[1]
        tables.append(rows)
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def why_not(table: pd.DataFrame, explain_by: str, covariates: Sequence[str] = ()) -> str | None:
    """Say why nothing can be regressed on a column; None if it can be tried.

    Parameters
    ----------
    table, explain_by, covariates
        As of `associate`.

    Returns
    -------
    str or None
        A clause for messages.
    """
    for column in (explain_by, *covariates):
        values = table[column].dropna()
        if len(values) and not pd.api.types.is_numeric_dtype(values):
            return f"{column} holds what is no number, such as {str(values.iloc[0])!r}"
    known, used = _known(table, explain_by, covariates)
    people = known.drop_duplicates("subject")
    if len(people) < (needed := _needed(used)):
        asked = ", ".join(dict.fromkeys([explain_by, *covariates]))
        return f"{needed} newborns are needed, and {len(people)} have {asked}"
    if people[explain_by].min() == people[explain_by].max():
        return f"{explain_by} is the same in all {len(people)} newborns"
    return None


def _known(
    table: pd.DataFrame, explain_by: str, covariates: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Rows that have all values, and the covariates that differ among them."""
    values = table[[explain_by, *covariates]].to_numpy(dtype=np.float64)
    known = table.loc[np.isfinite(values).all(axis=1)]
    return known, [c for c in covariates if c != explain_by and known[c].min() < known[c].max()]


def _needed(covariates: Sequence[str]) -> int:
    return 2 + len(covariates) + MIN_SPARE


def _regress(
    own: pd.DataFrame, measure: str, explain_by: str, covariates: Sequence[str]
) -> dict[str, float | str]:
    import statsmodels.api as sm

    names = ["const", explain_by, *covariates]
    values = own[[explain_by, *covariates]].to_numpy(dtype=np.float64)
    design = np.column_stack([np.ones(len(own)), values])
    spare = len(own) - len(names)
    y = own[measure].to_numpy(dtype=np.float64)
    note = None
    if spare < MIN_SPARE:
        note = f"{_needed(covariates)} newborns are needed, and {len(own)} have it"
    elif np.ptp(y) == 0:
        note = f"{measure} is the same in all newborns"
    elif np.linalg.matrix_rank(design) < len(names):
        note = f"{' and '.join(names[1:])} cannot be told apart in the newborns that have it"
    if note is not None:
        nothing = dict.fromkeys(("slope", "slope_low", "slope_high", "partial_r", "t", "p"), np.nan)
        return {"n": len(own), **nothing, "note": note}
    fit = sm.OLS(y, design).fit()
    low, high = fit.conf_int()[1]
    t = float(fit.tvalues[1])
    return {
        "n": len(own),
        "slope": float(fit.params[1]),
        "slope_low": float(low),
        "slope_high": float(high),
        "partial_r": t / float(np.sqrt(t**2 + spare)),
        "t": t,
        "p": float(fit.pvalues[1]),
        "note": "",
    }
