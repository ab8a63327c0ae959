"""Whether an array of BOLD has vertices or timepoints in rows, by what it holds.

Files and arrays from scripts are judged by the same rule, so it imports nothing of the package.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def lies_wrong_way(signal: NDArray[np.float32]) -> bool | None:
    """Tell whether an array has timepoints in rows, by what it holds.

    A vertex has a level and a scale of its own, or was freed of it: over time its mean is exactly
    0 and its deviation perhaps 1. Volumes are alike in both. The medial wall is constant.

    Parameters
    ----------
    signal : ndarray of shape (n_rows, n_columns)
        BOLD.

    Returns
    -------
    bool or None
        False if rows are vertices, True if columns are, None if nothing tells.
    """
    rows = _like_vertices(signal[:: max(1, len(signal) // 2000)])
    columns = _like_vertices(signal.T[:: max(1, signal.shape[1] // 2000)])
    return next((column for row, column in zip(rows, columns, strict=True) if row != column), None)


def _like_vertices(series: NDArray[np.float32]) -> tuple[bool, ...]:
    """Tell in what rows are as vertices are; what says most comes first."""
    values = np.nan_to_num(series.astype(np.float64), posinf=0, neginf=0)
    deviation = values.std(axis=1)
    moving = deviation > 0
    if not moving.any():
        return (False,) * 4
    usual = float(np.median(deviation[moving]))
    means = values[moving].mean(axis=1)
    return (
        not moving.all(),
        float(means.std()) > 2 * usual,
        float(np.abs(deviation[moving] / usual - 1).max()) < 1e-3,
        float(np.abs(means).max()) < 1e-4 * usual,
    )
