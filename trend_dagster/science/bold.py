"""What a usable time series is: signal, mask, standardisation.

A vertex has *signal* if its BOLD varies over time, by more than a hundredth of what is usual in the
run: rounding leaves less. Vertices without signal (the medial
wall, regions outside the field of view) are found here, once, from the BOLD itself; every later
step obeys this mask. In embedding space they could no longer be told apart: constant vertices all
get the same embedding and correlate with each other at 1.0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import multimode
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, field_validator

from trend_dagster.errors import CohortError, SettingsError
from trend_dagster.science.identity import Section
from trend_dagster.science.plausibility import REPETITION_TIME

BLOCK_VERTICES = 4096  # worked on at a time in float64


# Of a setting that was added later: at its default it decides nothing, and stores stay current.
LATER: dict[str, JsonValue] = {"identity": "unless default"}

_SECONDS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*s\s*")


class CensorConfig(Section):
    """Which volumes are left out for motion."""

    column: str = "framewise_displacement"
    """Column of a table beside the run; volumes whose value is above are left out."""
    above: float = 0.0
    """The limit; 0 for a column of zeros and ones. In mm for displacements."""
    file: str | None = None
    """How the table's name ends, '_outliers.tsv' for XCP-D's. None: the confounds table."""


class BoldConfig(Section):
    """How BOLD is prepared before anything looks at it."""

    standardize: Literal["zscore", "none"] = "zscore"
    """'zscore': each vertex is demeaned and scaled to unit standard deviation over time. 'none': as
    in the file, as the tutorial does; the model then sees the scanner's units.
    """
    global_signal: Literal["remove", "keep"] = "remove"
    """'remove': regress the mean time series of all vertices out of each vertex; head motion and
    breathing are in it, and move all correlations up. 'keep': as the tutorial.
    """
    detrend: bool = False
    """Take a linear trend out of each vertex (off: already denoised data)."""
    high_pass_hz: float | None = Field(None, gt=0)
    """Take frequencies below this out (Butterworth), in Hz."""
    low_pass_hz: float | None = Field(None, gt=0)
    """Take frequencies above this out (Butterworth), in Hz."""
    confounds: tuple[str, ...] = ()
    """Columns of the run's confounds table (desc-confounds_timeseries.tsv) to regress out, by name
    or pattern: a_comp_cor_*.
    """
    drop_first: int | str = Field(0, json_schema_extra=LATER)
    """What is cut off at the start of each run, before the steady state: volumes (4), or seconds
    ('8 s').
    """
    censor: CensorConfig | None = Field(None, json_schema_extra=LATER)
    """Volumes to leave out: {column: framewise_displacement, above: 0.5}. Filters see interpolated
    values in their place.
    """
    minimum_minutes: float = Field(0.0, ge=0, json_schema_extra=LATER)
    """A run of which less is left is excluded, by name."""
    repetition_time: float | None = Field(None, gt=0)
    """Seconds between volumes. None takes the JSON sidecar's or the header's; filters need one."""

    @field_validator("drop_first")
    @classmethod
    def _is_a_time(cls, value: int | str) -> int | str:
        if isinstance(value, str) and _SECONDS.fullmatch(value) is None:
            raise ValueError("a number of volumes, or seconds like '8 s'")
        if isinstance(value, int) and value < 0:
            raise ValueError("0 or more volumes")
        return value

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
    def shortest(self) -> int:
        """Volumes that a run must have: those that filters of fifth order are padded by."""
        both = self.high_pass_hz is not None and self.low_pass_hz is not None
        return 34 if both else 19 if self.filters else 2

    @property
    def filters(self) -> bool:
        """Whether frequencies are taken out."""
        return self.high_pass_hz is not None or self.low_pass_hz is not None


class CohortConfig(Section):
    """How runs are made to fit together."""

    lengths: Literal["error", "crop"] = "error"
    """What to do when runs differ in their number of timepoints, which the model needs equal.
    'error': stop and name the runs. 'crop': use the first timepoints of each run, as many as the
    shortest run has.
    """


LEAST_DEVIATION = 0.01
"""Of the run's upper quartile. Cortex varies by a factor of some tens; what resampling and rounding
leave on the medial wall is a few 1e-5 of the signal."""

NOTHING = 1e-4
"""Of a vertex' deviation: less than this is rounding once the global signal is out."""

SAME = 0.95
"""Mean correlation over vertices above which two series are one recording. Two recordings of one
person reach some tenths."""

SHORTEST_SHARED = 10
"""Volumes that two runs must share to be called one recording."""

TOLD_BY = 4
"""Vertices that tell by how much one recording may begin later than the other."""


def signal_mask(bold: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell the vertices whose signal varies over time.

    Parameters
    ----------
    bold : ndarray of shape (n_vertices, n_timepoints)
        BOLD signal in any unit.

    Returns
    -------
    ndarray of shape (n_vertices,), bool
        False where all timepoints are equal, or differ by less than a hundredth of what the
        upper quartile of the varying vertices does.
    """
    varies = np.asarray((bold != bold[:, :1]).any(axis=1))
    deviation = _deviation(bold)
    if not varies.any():
        return varies
    return np.asarray(varies & (deviation > LEAST_DEVIATION * np.quantile(deviation[varies], 0.75)))


def _deviation(bold: NDArray[np.float32]) -> NDArray[np.float64]:
    """Standard deviation over time, in float64 and in blocks."""
    found = np.zeros(len(bold))
    for start in range(0, len(bold), BLOCK_VERTICES):
        block = slice(start, start + BLOCK_VERTICES)
        found[block] = bold[block].astype(np.float64).std(axis=1)
    return found


def same_recordings(series: Mapping[str, NDArray[np.floating]]) -> list[tuple[str, str]]:
    """Find runs that are one recording: copied, scaled, cropped, or saved in another format.

    Parameters
    ----------
    series : mapping of str to ndarray of shape (n_vertices, n_timepoints)
        The same vertices of each run; runs may differ in length, and one may begin later than the
        other.

    Returns
    -------
    list of tuple of two str
        Pairs of runs, in the order given, whose series correlate by more than :data:`SAME` in the
        mean over vertices, or by less than its negative, over the timepoints that they share.
    """
    names = list(series)
    shortest = min((each.shape[1] for each in series.values()), default=0)
    if shortest < 3:
        return []
    flat = np.stack([_unit_rows(series[name][:, :shortest]).ravel() for name in names])
    alike = np.abs(flat @ flat.T) / max(1, len(next(iter(series.values()))))
    found = set(zip(*np.nonzero(np.triu(alike > SAME, k=1)), strict=True))
    units = [_unit_rows(series[name]) for name in names]
    found |= {(i, j) for i, j, lag in _likely_lags(units) if _alike(units[i], units[j], lag) > SAME}
    return [(names[i], names[j]) for i, j in sorted(found)]


def _likely_lags(units: Sequence[NDArray[np.float64]]) -> Iterator[tuple[int, int, int]]:
    """Pairs of runs, and by how much the second may begin later, as a few vertices tell it."""
    lengths = np.array([unit.shape[1] for unit in units])
    n = 1 << (2 * int(lengths.max()) - 1).bit_length()  # a power of two is quick
    some = np.linspace(0, len(units[0]) - 1, TOLD_BY).astype(np.intp)
    series = np.stack([np.pad(u[some], ((0, 0), (0, n - u.shape[1]))) for u in units])
    waves = np.fft.rfft(series.astype(np.float32) / np.sqrt(TOLD_BY), axis=2)
    for i in range(len(units) - 1):
        spectra = np.einsum("vf,jvf->jf", waves[i], waves[i + 1 :].conj())
        shared = np.abs(np.fft.irfft(spectra, n, axis=1))
        for j, lag in enumerate(shared.argmax(axis=1).tolist(), i + 1):
            peak = shared[j - i - 1, lag]
            lag -= n if lag >= n // 2 else 0
            overlap = min(lengths[i] - max(0, lag), lengths[j] - max(0, -lag))
            # Of one recording it is the share of its power that lies where both are.
            if overlap >= SHORTEST_SHARED and peak > 0.5 * overlap / np.sqrt(
                lengths[i] * lengths[j]
            ):
                yield i, j, lag


def _alike(one: NDArray[np.float64], other: NDArray[np.float64], lag: int) -> float:
    """Mean correlation where both are, the other one beginning so many timepoints later."""
    one, other = one[:, max(0, lag) :], other[:, max(0, -lag) :]
    n = min(one.shape[1], other.shape[1])
    both = (_unit_rows(each[:, :n]) for each in (one, other))
    return abs(float(np.einsum("ij,ij->", *both))) / len(one)


def _unit_rows(series: NDArray[np.floating]) -> NDArray[np.float64]:
    centred = series.astype(np.float64)
    centred -= centred.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.where(length > 0, length, 1))


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
        n_vertices = int((~finite).any(axis=1).sum())
        said = f"NaN or infinite values in {n_vertices} of {len(bold)} vertices"
        n_never = int((~finite).all(axis=1).sum())
        if n_never:
            said += (
                f", in {n_never} of them at all timepoints; if they are the medial wall, name it: "
                "inputs.cortex_mask in trend.yaml takes it out"
            )
        return said
    if bold.shape[1] < 2:
        return "only one timepoint"
    if not signal_mask(bold).any():
        return "all vertices are constant over time"
    return None


def volumes_to_drop(config: BoldConfig, repetition_time: float | None) -> int:
    """Volumes to cut off at the start of a run.

    Raises
    ------
    SettingsError
        If the settings give seconds, and nothing tells the repetition time.
    """
    if isinstance(config.drop_first, int):
        return config.drop_first
    match = _SECONDS.fullmatch(config.drop_first)
    assert match is not None  # the settings say so
    _check_time(repetition_time, "bold.drop_first in seconds")
    assert repetition_time is not None
    return math.ceil(float(match.group(1)) / repetition_time - 1e-6)


def usable_series(
    bold: NDArray[np.float32],
    mask: NDArray[np.bool_],
    config: BoldConfig,
    repetition_time: float | None = None,
    confounds: NDArray[np.float64] | None = None,
    sample_mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Clean and standardise a run as the settings say: the one way from files to time series.

    Parameters
    ----------
    bold : ndarray of shape (n_vertices, n_timepoints)
        BOLD signal in any unit, finite.
    mask : ndarray of shape (n_vertices,), bool
        Vertices with signal.
    config : BoldConfig
        How.
    repetition_time : float, optional
        Seconds between volumes; filters need it.
    confounds : ndarray of shape (n_timepoints, n_confounds), optional
        Regressed out.
    sample_mask : ndarray of shape (n_timepoints,), bool, optional
        Volumes to keep. Those left out at the start are cut off; the others are interpolated for
        filters and left out of everything else (``nilearn.signal.clean``).

    Returns
    -------
    ndarray of shape (n_vertices, n_kept), float32
        The volumes that were kept; see :func:`prepare`.

    Raises
    ------
    SettingsError
        If a filter is asked for that the repetition time does not allow.
    """
    if sample_mask is not None:
        first = int(np.argmax(sample_mask))
        bold, sample_mask = bold[:, first:], sample_mask[first:]
        confounds = None if confounds is None else confounds[first:]
    cleaned = clean(bold, mask, config, repetition_time, confounds, sample_mask)
    return prepare(cleaned, mask, config)


def clean(
    bold: NDArray[np.float32],
    mask: NDArray[np.bool_],
    config: BoldConfig,
    repetition_time: float | None,
    confounds: NDArray[np.float64] | None = None,
    sample_mask: NDArray[np.bool_] | None = None,
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
    sample_mask : ndarray of shape (n_timepoints,), bool, optional
        Volumes to keep.

    Returns
    -------
    ndarray of shape (n_vertices, n_kept), float32
        The same array where nothing is to do; 0 where there is no signal otherwise.

    Raises
    ------
    SettingsError
        If a filter is asked for that the repetition time does not allow.
    """
    kept = slice(None) if sample_mask is None or sample_mask.all() else np.flatnonzero(sample_mask)
    if not (config.detrend or config.filters or config.confounds):
        return bold if isinstance(kept, slice) else bold[:, kept]
    check_filters(config, repetition_time)
    from nilearn.signal import clean as nilearn_clean

    n_kept = bold.shape[1] if isinstance(kept, slice) else len(kept)
    if not isinstance(kept, slice):  # nothing before the first and after the last is looked at
        used = slice(kept[0], kept[-1] + 1)
        bold, kept = bold[:, used], kept - kept[0]
        confounds = None if confounds is None else _interpolated(confounds[used], kept)
    cleaned = np.zeros((len(bold), n_kept), dtype=np.float32)
    rows = np.flatnonzero(mask)
    for start in range(0, len(rows), BLOCK_VERTICES):
        block = rows[start : start + BLOCK_VERTICES]
        series = bold[block].T.astype(np.float64)
        cleaned[block] = nilearn_clean(
            series if isinstance(kept, slice) else _interpolated(series, kept),
            detrend=config.detrend,
            standardize=None,
            confounds=confounds,
            high_pass=config.high_pass_hz,
            low_pass=config.low_pass_hz,
            filter="butterworth" if config.filters else False,
            t_r=repetition_time,
            sample_mask=None if isinstance(kept, slice) else kept,
        ).T
    return cleaned


def _interpolated(series: NDArray[np.float64], kept: NDArray[np.intp]) -> NDArray[np.float64]:
    """Fill volumes that are left out, as filters see them, by a spline through the others.

    nilearn 0.14 does so itself before it filters, but in the places counted from the end.
    """
    from scipy.interpolate import CubicSpline

    left_out = np.setdiff1d(np.arange(len(series)), kept)
    if not left_out.size:
        return series
    filled = series.copy()
    filled[left_out] = CubicSpline(kept, series[kept])(left_out)
    return filled


def check_filters(config: BoldConfig, repetition_time: float | None) -> None:
    """Make sure that the filters asked for are possible at a repetition time.

    Raises
    ------
    SettingsError
        If they are not, or nothing tells that time.
    """
    if not config.filters:
        return
    _check_time(repetition_time, "filters")
    assert repetition_time is not None
    highest = 0.5 / repetition_time
    low, high = config.high_pass_hz or 0.0, config.low_pass_hz or highest
    if not low < high <= highest or low >= highest:
        raise SettingsError(
            "settings bold.high_pass_hz and bold.low_pass_hz",
            expected=f"a band below {highest:.4g} Hz, half the rate of the volumes",
            found=f"{low:g} to {high:g} Hz",
            remedy="Correct them, or the repetition time.",
        )


def _check_time(repetition_time: float | None, what: str) -> None:
    if repetition_time is None:
        raise SettingsError(
            "setting bold.repetition_time",
            expected=f"the seconds between volumes, which {what} need",
            found="none: not in the settings, the JSON sidecar or the header",
            remedy="Set it in trend.yaml, or do without in trend.yaml (bold).",
        )
    if not REPETITION_TIME.holds(repetition_time):
        raise SettingsError(
            "repetition time",
            expected=f"{REPETITION_TIME.low:g} to {REPETITION_TIME.high:g} s between volumes, for "
            f"{what} to be right",
            found=f"{repetition_time:g} s",
            remedy="Set bold.repetition_time in trend.yaml, or mend the file: GIFTI and FreeSurfer "
            "count milliseconds, sidecars seconds.",
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
        In standard deviations, or unchanged; if standardised 0 where there is no signal, or where
        the global signal was all of it.
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
        least = NOTHING * signal.std(axis=1, keepdims=True)
        if common is not None:
            signal -= np.outer(signal @ common, common)
        if config.standardize == "zscore":
            deviation = signal.std(axis=1, keepdims=True)
            signal /= np.where(deviation > least, deviation, np.inf)
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
    if error := _odd_runs(
        n_vertices,
        "vertices",
        "The correlation is averaged over runs vertex by vertex: bring them to one mesh (volumes: "
        "name one mask for all, inputs.volume_mask) or take the files out of the folder.",
    ):
        raise error


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
    shortest = min(n_timepoints.values())
    remedy = (
        f"Set `cohort: {{lengths: crop}}` in trend.yaml to use the first {shortest} timepoints of "
        "each, or take the files out."
    )
    error = _odd_runs(n_timepoints, "timepoints", remedy)
    if error is not None and config.lengths == "error":
        raise error
    return shortest


def _odd_runs(counts: Mapping[str, int], what: str, remedy: str) -> CohortError | None:
    """Name the runs that differ from the most common number, the largest of equally common."""
    usual = max(multimode(counts.values()), default=0)
    odd = {run: n for run, n in counts.items() if n != usual}
    if not odd:
        return None
    return CohortError(
        f"BOLD runs {', '.join(odd)}",
        expected=f"{usual} {what}, as most runs have",
        found=", ".join(f"{n} in {run}" for run, n in odd.items()),
        remedy=remedy,
    )
