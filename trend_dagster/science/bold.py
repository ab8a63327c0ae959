"""What a usable time series is: signal, mask, standardisation.

A vertex has *signal* if its BOLD is not constant over time. Vertices without signal (the medial
wall, regions outside the field of view) are found here, once, from the BOLD itself; every later
step obeys this mask. In embedding space they could no longer be told apart: constant vertices all
get the same embedding and correlate with each other at 1.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from trend_dagster.errors import CohortError, SettingsError

BLOCK_VERTICES = 4096  # worked on at a time in float64


class BoldConfig(BaseModel, frozen=True, extra="forbid"):
    """How BOLD is prepared before anything looks at it."""

    standardize: Literal["zscore", "none"] = Field(
        "zscore",
        description="'zscore': each vertex is demeaned and scaled to unit standard deviation over "
        "time. 'none': as in the file, as the tutorial does; the model then sees the scanner's "
        "units.",
    )
    global_signal: Literal["remove", "keep"] = Field(
        "remove",
        description="'remove': regress the mean time series of all vertices out of each vertex; "
        "head motion and breathing are in it, and move all correlations up. 'keep': as the "
        "tutorial.",
    )
    detrend: bool = Field(
        False, description="Take a linear trend out of each vertex (off: already denoised data)."
    )
    high_pass_hz: float | None = Field(
        None, gt=0, description="Take frequencies below this out (Butterworth), in Hz."
    )
    low_pass_hz: float | None = Field(
        None, gt=0, description="Take frequencies above this out (Butterworth), in Hz."
    )
    confounds: tuple[str, ...] = Field(
        (),
        description="Columns of the run's confounds table (desc-confounds_timeseries.tsv) to "
        "regress out, by name.",
    )
    repetition_time: float | None = Field(
        None,
        gt=0,
        description="Seconds between volumes. None takes the JSON sidecar's or the header's; "
        "filters need one.",
    )

    @property
    def taken_out(self) -> tuple[str, ...]:
        """What is taken out of the signal, in words."""
        parts = ["global signal"] if self.global_signal == "remove" else []
        if self.detrend:
            parts.append("linear trend")
        if self.high_pass_hz is not None and self.low_pass_hz is not None:
            parts.append(f"frequencies outside {self.high_pass_hz:g} to {self.low_pass_hz:g} Hz")
        elif self.high_pass_hz is not None:
            parts.append(f"frequencies below {self.high_pass_hz:g} Hz")
        elif self.low_pass_hz is not None:
            parts.append(f"frequencies above {self.low_pass_hz:g} Hz")
        return (*parts, *self.confounds)

    @property
    def filters(self) -> bool:
        """Whether frequencies are taken out."""
        return self.high_pass_hz is not None or self.low_pass_hz is not None


class CohortConfig(BaseModel, frozen=True, extra="forbid"):
    """How runs are made to fit together."""

    lengths: Literal["error", "crop"] = Field(
        "error",
        description="What to do when runs differ in their number of timepoints, which the model "
        "needs equal. 'error': stop and name the runs. 'crop': use the first timepoints of each "
        "run, as many as the shortest run has.",
    )


def signal_mask(bold: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell the vertices whose signal varies over time.

    Parameters
    ----------
    bold : ndarray of shape (n_vertices, n_timepoints)
        BOLD signal in any unit.

    Returns
    -------
    ndarray of shape (n_vertices,), bool
        False where all timepoints are equal.
    """
    return np.asarray((bold != bold[:, :1]).any(axis=1))


def why_unusable(bold: NDArray[np.float32]) -> str | None:
    """Say why a run cannot be used, if so.

    Parameters
    ----------
    bold : ndarray of shape (n_vertices, n_timepoints)
        BOLD signal in any unit.

    Returns
    -------
    str or None
        The reason, for people; None for a usable run.
    """
    finite = np.isfinite(bold)
    if not finite.all():
        n_nan = int(np.isnan(bold).sum())
        n_inf = int((~finite).sum()) - n_nan
        n_vertices = int((~finite).any(axis=1).sum())
        return f"{n_nan} NaN and {n_inf} infinite values in {n_vertices} of {len(bold)} vertices"
    if bold.shape[1] < 2:
        return "only one timepoint"
    if not signal_mask(bold).any():
        return "all vertices are constant over time"
    return None


def clean(
    bold: NDArray[np.float32],
    mask: NDArray[np.bool_],
    config: BoldConfig,
    repetition_time: float | None,
    confounds: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Take trends, confounds and frequencies out of a run with ``nilearn.signal.clean``.

    Parameters
    ----------
    bold : ndarray of shape (n_vertices, n_timepoints)
        BOLD signal, finite.
    mask : ndarray of shape (n_vertices,), bool
        Vertices with signal.
    config : BoldConfig
        What is taken out; nothing by default.
    repetition_time : float or None
        Seconds between volumes; filters need it.
    confounds : ndarray of shape (n_timepoints, n_confounds), optional
        Regressed out.

    Returns
    -------
    ndarray of shape (n_vertices, n_timepoints), float32
        The same array where nothing is to do; 0 where there is no signal otherwise.

    Raises
    ------
    SettingsError
        If a filter is asked for that the repetition time does not allow.
    """
    if not (config.detrend or config.filters or config.confounds):
        return bold
    _check_filters(config, repetition_time)
    from nilearn.signal import clean as nilearn_clean

    cleaned = np.zeros_like(bold)
    rows = np.flatnonzero(mask)
    for start in range(0, len(rows), BLOCK_VERTICES):
        block = rows[start : start + BLOCK_VERTICES]
        cleaned[block] = nilearn_clean(
            bold[block].T.astype(np.float64),
            detrend=config.detrend,
            standardize=None,
            confounds=confounds,
            high_pass=config.high_pass_hz,
            low_pass=config.low_pass_hz,
            filter="butterworth" if config.filters else False,
            t_r=repetition_time,
        ).T
    return cleaned


def _check_filters(config: BoldConfig, repetition_time: float | None) -> None:
    if not config.filters:
        return
    if repetition_time is None:
        raise SettingsError(
            "setting bold.repetition_time",
            expected="the seconds between volumes, which a filter needs",
            found="none: not in the settings, the JSON sidecar or the header",
            remedy="Set it in trend.yaml, or take high_pass_hz and low_pass_hz out.",
        )
    highest = 0.5 / repetition_time
    low, high = config.high_pass_hz or 0.0, config.low_pass_hz or highest
    if not low < high <= highest or low >= highest:
        raise SettingsError(
            "settings bold.high_pass_hz and bold.low_pass_hz",
            expected=f"a band below {highest:.4g} Hz, half the rate of the volumes",
            found=f"{low:g} to {high:g} Hz",
            remedy="Correct them, or the repetition time.",
        )


def prepare(
    bold: NDArray[np.float32], mask: NDArray[np.bool_], config: BoldConfig
) -> NDArray[np.float32]:
    """Standardise a run as the settings say.

    Parameters
    ----------
    bold : ndarray of shape (n_vertices, n_timepoints)
        BOLD signal in any unit, finite.
    mask : ndarray of shape (n_vertices,), bool
        Vertices with signal.
    config : BoldConfig
        How.

    Returns
    -------
    ndarray of shape (n_vertices, n_timepoints), float32
        In standard deviations, or unchanged; 0 where there is no signal if standardised.
    """
    if config.standardize == "none" and config.global_signal == "keep":
        return bold
    # In float64: the mean of raw BOLD is thousands of times its fluctuation. In blocks: a run of
    # 91,000 grayordinates fits in memory once, not four times.
    prepared = np.zeros_like(bold, dtype=np.float32)
    rows = np.flatnonzero(mask)
    common = _global_signal(bold, rows) if config.global_signal == "remove" else None
    for start in range(0, len(rows), BLOCK_VERTICES):
        block = rows[start : start + BLOCK_VERTICES]
        signal = bold[block].astype(np.float64)
        centre = signal.mean(axis=1, keepdims=True)
        signal -= centre
        if common is not None:
            signal -= np.outer(signal @ common, common)
        if config.standardize == "zscore":
            deviation = signal.std(axis=1, keepdims=True)
            signal /= np.where(deviation > 0, deviation, 1)
        else:
            signal += centre
        prepared[block] = signal
    return prepared


def _global_signal(bold: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float64] | None:
    """Mean over vertices of centred time series, of length 1 (doi:10.1152/jn.90777.2008)."""
    common = np.zeros(bold.shape[1])
    for start in range(0, len(rows), BLOCK_VERTICES):
        common += bold[rows[start : start + BLOCK_VERTICES]].sum(axis=0, dtype=np.float64)
    common -= common.mean()
    length = float(np.linalg.norm(common))
    return common / length if length > 0 else None


def temporal_snr(bold: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Median over vertices of mean over standard deviation in time.

    Parameters
    ----------
    bold : ndarray of shape (n_vertices, n_timepoints)
        BOLD signal as in the file, before it is standardised.
    mask : ndarray of shape (n_vertices,), bool
        Vertices with signal.

    Returns
    -------
    float
        A pure number; near 0 for data that was demeaned.
    """
    rows = np.flatnonzero(mask)
    ratios = []
    for start in range(0, len(rows), BLOCK_VERTICES):
        signal = bold[rows[start : start + BLOCK_VERTICES]].astype(np.float64)
        ratios.append(np.abs(signal.mean(axis=1)) / signal.std(axis=1))
    return float(np.median(np.concatenate(ratios)))


def check_same_vertices(n_vertices: Mapping[str, int]) -> None:
    """Make sure that all runs lie on the same mesh.

    Parameters
    ----------
    n_vertices : mapping of str to int
        Number of vertices by run.

    Raises
    ------
    CohortError
        If they differ; names the runs that differ from the most common number.
    """
    usual = _most_common(n_vertices)
    odd = {run: n for run, n in n_vertices.items() if n != usual}
    if odd:
        raise CohortError(
            f"BOLD runs {', '.join(odd)}",
            expected=f"{usual} vertices, as most runs have",
            found=", ".join(f"{n} in {run}" for run, n in odd.items()),
            remedy="The correlation is averaged over runs vertex by vertex: bring them to one mesh "
            "or take the files out of the folder.",
        )


def common_length(n_timepoints: Mapping[str, int], config: CohortConfig) -> int:
    """Decide how many timepoints of each run are used.

    Parameters
    ----------
    n_timepoints : mapping of str to int
        Number of timepoints by run.
    config : CohortConfig
        Whether runs may be cropped.

    Returns
    -------
    int
        Number of timepoints.

    Raises
    ------
    CohortError
        If the runs differ and may not be cropped; names those that differ from the most common
        number.
    """
    usual = _most_common(n_timepoints)
    odd = {run: n for run, n in n_timepoints.items() if n != usual}
    if odd and config.lengths == "error":
        raise CohortError(
            f"BOLD runs {', '.join(odd)}",
            expected=f"{usual} timepoints, as most runs have",
            found=", ".join(f"{n} in {run}" for run, n in odd.items()),
            remedy="Set `cohort: {lengths: crop}` in trend.yaml to use the first "
            f"{min(n_timepoints.values())} timepoints of each, or take the files out.",
        )
    return min(n_timepoints.values())


def _most_common(counts: Mapping[str, int]) -> int:
    """Return the most common value; of equally common ones the largest."""
    return max(set(counts.values()), key=lambda n: (list(counts.values()).count(n), n))
