"""Confound time series that preprocessing writes beside a run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.storage.runs import BoldRun

_ENDING = "_desc-confounds_timeseries.tsv"


def confounds_file(run: BoldRun) -> Path:
    """Find the confounds table of a run: its key and ``_desc-confounds_timeseries.tsv``.

    Raises
    ------
    InputError
        If it is not beside the run.
    """
    key = re.sub(r"_(space|den|res|desc)-[A-Za-z0-9+]+", "", run.key).removesuffix("_bold")
    path = run.files[0].with_name(key + _ENDING)
    if not path.is_file():
        raise InputError(
            f"confounds of BOLD run {run.key}",
            expected=f"{path}, for the settings name confounds",
            found="no such file",
            remedy="Put it there, or empty bold.confounds in trend.yaml.",
        )
    return path


def read_confounds(path: Path, columns: tuple[str, ...], n_timepoints: int) -> NDArray[np.float64]:
    """Read columns of a confounds table by name.

    Parameters
    ----------
    path : Path
        A .tsv with a header, ``n/a`` where there is no value.
    columns : tuple of str
        Their names.
    n_timepoints : int
        Rows that it must have.

    Returns
    -------
    ndarray of shape (n_timepoints, n_columns), float64
        A derivative has no value in the first row; it takes that of the second.

    Raises
    ------
    InputError
        If it cannot be read, lacks a column or a value, or has another length.
    """
    import pandas as pd

    def bad(expected: str, found: str) -> InputError:
        return InputError(
            f"confounds table {path}",
            expected=expected,
            found=found,
            remedy="Check that it belongs to the run, and the names in bold.confounds.",
        )

    try:
        table = pd.read_csv(path, sep="\t", na_values="n/a", encoding="utf-8")
    except (ValueError, OSError) as error:
        raise bad("a table with tabs between its columns", " ".join(str(error).split())) from error
    if missing := [name for name in columns if name not in table]:
        shown = ", ".join(map(str, table.columns[:8]))
        raise bad(f"columns {', '.join(missing)}", f"{len(table.columns)} others: {shown} ...")
    if len(table) != n_timepoints:
        raise bad(f"{n_timepoints} rows, one per volume", str(len(table)))
    numbers = table[list(columns)].apply(pd.to_numeric, errors="coerce")
    chosen = np.array(numbers, dtype=np.float64)
    if n_timepoints > 1:
        chosen[0] = np.where(np.isnan(chosen[0]), chosen[1], chosen[0])
    if not np.isfinite(chosen).all():
        raise bad("a number in every row", "rows without one")
    return chosen
