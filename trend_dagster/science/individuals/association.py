"""Does something about the networks go with something about the newborns? Exploratory.

An ordinary regression for each network, with covariates, and false discoveries held down over all
networks together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from trend_dagster.errors import InputError, SettingsError

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
        A row for each measure and network, by the names of `COLUMNS`; NaN where a network's
        measure does not vary. Benjamini and Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x.

    Raises
    ------
    InputError
        If a column is missing, or holds something that is no number.
    SettingsError
        If there are too few newborns for so many covariates, or they do not differ.
    """
    from statsmodels.stats.multitest import multipletests

    for column in (*measures, explain_by, *covariates):
        _check_numeric(table, column)
    known = table.dropna(subset=[explain_by, *covariates])
    used = [c for c in covariates if c != explain_by and known[c].min() < known[c].max()]
    _check_newborns(known, explain_by, used)
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


def _check_numeric(table: pd.DataFrame, column: str) -> None:
    if column not in table:
        raise InputError(
            f"column {column}",
            expected="one of the table of newborns",
            found=f"only {', '.join(map(str, table.columns))}",
            remedy="Correct the name in individuals.associate, or add it to participants.tsv.",
        )
    if not pd.api.types.is_numeric_dtype(table[column]):
        raise InputError(
            f"column {column}",
            expected="numbers",
            found=f"such as {str(table[column].dropna().iloc[0])!r}",
            remedy="Code it as numbers in participants.tsv; write n/a where a value is missing.",
        )


def _check_newborns(known: pd.DataFrame, explain_by: str, covariates: Sequence[str]) -> None:
    needed = 2 + len(covariates) + MIN_SPARE
    people = known.drop_duplicates("subject")
    if len(people) < needed:
        raise SettingsError(
            "individuals.associate",
            expected=f"at least {needed} newborns with {', '.join([explain_by, *covariates])}",
            found=str(len(people)),
            remedy="Take covariates out, or leave this association until there are more newborns.",
        )
    if people[explain_by].min() == people[explain_by].max():
        raise SettingsError(
            "individuals.associate",
            expected=f"newborns who differ in {explain_by}",
            found="one value for all",
            remedy="Take it out: nothing can go with what is the same for everyone.",
        )


def _regress(
    own: pd.DataFrame, measure: str, explain_by: str, covariates: Sequence[str]
) -> dict[str, float]:
    import statsmodels.api as sm

    nothing = dict.fromkeys(("slope", "slope_low", "slope_high", "partial_r", "t", "p"), np.nan)
    names = ["const", explain_by, *covariates]
    values = own[[explain_by, *covariates]].to_numpy(dtype=np.float64)
    design = np.column_stack([np.ones(len(own)), values])
    spare = len(own) - len(names)
    y = own[measure].to_numpy(dtype=np.float64)
    if spare < MIN_SPARE or np.ptp(y) == 0 or np.linalg.matrix_rank(design) < len(names):
        return {"n": len(own), **nothing}
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
    }
