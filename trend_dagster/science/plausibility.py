"""What values recorded quantities can have: the one table of plausible ranges.

A value outside is doubtful, not wrong: it is said wherever the output is (``trend run``, ``trend
status``, the check ``plausible``, the report) and the output is used. Ranges are wide enough for
newborns and adults, for fsaverage3 and native meshes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Plausible:
    """A range of a quantity.

    Parameters
    ----------
    asset : str
        Whose facts tell it.
    quantity : str
        What it is, in words.
    unit : str
        Its unit; empty for pure numbers.
    low, high : float
        Values between which nobody wonders.
    why : str
        What a value outside mostly is.
    source : str
        Where the range comes from.
    values : callable
        Takes the facts; yields values, each with words that follow the quantity.
    """

    asset: str
    quantity: str
    unit: str
    low: float
    high: float
    why: str
    source: str
    values: Callable[[Facts], Iterator[tuple[str, float]]]

    def holds(self, value: float) -> bool:
        """Whether a value lies inside."""
        return self.low <= value <= self.high


def _fact(name: str, scale: float = 1.0) -> Callable[[Facts], Iterator[tuple[str, float]]]:
    def values(facts: Facts) -> Iterator[tuple[str, float]]:
        if isinstance(facts.get(name), int | float):
            yield "", scale * facts[name]

    return values


def _coverage(facts: Facts) -> Iterator[tuple[str, float]]:
    """Share with signal of the vertices that the file holds and the cortex mask leaves."""
    n = facts.get("n_vertices", 0) - facts.get("n_vertices_outside_cortex_mask", 0)
    if n > 0 and "n_vertices_without_signal" in facts:
        missing = facts["n_vertices_without_signal"]
        yield "", (facts["n_vertices"] - missing) / n


def _snr(facts: Facts) -> Iterator[tuple[str, float]]:
    snr = facts.get("temporal_snr")
    if snr is not None and snr >= 1:  # below, the mean was taken out, as XCP-D does
        yield "", snr


def _area(facts: Facts) -> Iterator[tuple[str, float]]:
    for side, area in facts.get("area_cm2", {}).items():
        yield f" of the {side} hemisphere", area


def _edge(facts: Facts) -> Iterator[tuple[str, float]]:
    counts = facts.get("vertices_per_hemisphere", ())
    areas = facts.get("area_cm2", {})
    for n, (side, area) in zip(counts, areas.items(), strict=False):
        if n > 2:  # a closed mesh has twice as many triangles as vertices, but four
            triangle = 100 * area / (2 * n - 4)
            yield f" of the {side} hemisphere", math.sqrt(4 * triangle / math.sqrt(3))


def _wall(facts: Facts) -> Iterator[tuple[str, float]]:
    if facts.get("n_vertices") and "n_medial_wall" in facts:
        yield "", facts["n_medial_wall"] / facts["n_vertices"]


REPETITION_TIME = Plausible(
    "bold",
    "repetition time",
    "s",
    0.1,
    20,
    "another unit: GIFTI and FreeSurfer count milliseconds, sidecars seconds",
    "from MREG at 0.1 s (doi:10.1016/j.neuroimage.2012.10.082) to sparse sampling",
    _fact("repetition_time_s"),
)

TABLE: tuple[Plausible, ...] = (
    REPETITION_TIME,
    Plausible(
        "bold",
        "number of volumes",
        "",
        30,
        20_000,
        "a reference scan, a cut file, or vertices in place of volumes",
        "a minute at a repetition time of 2 s; dHCP has 2,300 "
        "(doi:10.1016/j.neuroimage.2020.117303)",
        _fact("n_timepoints"),
    ),
    Plausible(
        "bold",
        "share of vertices with signal",
        "",
        0.8,
        1,
        "a run that lacks a part of the cortex, or data of another mesh",
        "the medial wall is some 5 to 15 % of the vertices",
        _coverage,
    ),
    Plausible(
        "bold",
        "temporal SNR",
        "",
        5,
        2000,
        "noise, scaled data, or a series that hardly changes",
        "10 to 200 at common fields and voxel sizes (doi:10.1016/j.neuroimage.2005.01.007)",
        _snr,
    ),
    Plausible(
        "bold",
        "mean framewise displacement",
        "mm",
        0,
        0.55,
        "head motion: leave the run out if need be (inputs.exclude)",
        "the lenient limit of doi:10.1016/j.neuroimage.2017.12.073",
        _fact("mean_framewise_displacement"),
    ),
    Plausible(
        "cortex",
        "area",
        "cm2",
        20,
        3000,
        "another unit than mm, or no surface of a hemisphere",
        "60 cm2 in a preterm infant, 1,000 in an adult, 1,300 of a sphere of 100 mm "
        "(doi:10.1093/cercor/bhs330)",
        _area,
    ),
    Plausible(
        "cortex",
        "mean length of edges",
        "mm",
        0.2,
        15,
        "another unit than mm, or a mesh too coarse to measure along the cortex",
        "0.7 mm on native meshes, 11 mm on fsaverage3",
        _edge,
    ),
    Plausible(
        "cortex",
        "share of vertices on the medial wall",
        "",
        0.02,
        0.25,
        "values on the medial wall (name it: inputs.cortex_mask), or cortex without signal",
        "8 to 10 % on fsaverage, fsLR and dHCP's template",
        _wall,
    ),
    Plausible(
        "geodesic_distances",
        "distance to the nearest vertex",
        "mm",
        0.2,
        15,
        "another unit than mm, or distances of another mesh",
        "0.7 mm on native meshes, 11 mm on fsaverage3",
        _fact("nearest_mm"),
    ),
)


def doubts(asset: str, facts: Facts) -> list[str]:
    """Say what is doubtful about an output.

    Parameters
    ----------
    asset : str
        Its asset.
    facts : mapping
        What was recorded of it; those of older versions hold less.

    Returns
    -------
    list of str
        What was noticed when it was made (``notes``), then each quantity that is outside its
        range, in words.
    """
    found = [str(note) for note in facts.get("notes", ())]
    for each in TABLE:
        if each.asset == asset:
            unit = f" {each.unit}" if each.unit else ""
            found += [
                f"{each.quantity}{of} is {value:.3g}{unit}, where {each.low:g} to {each.high:g}"
                f"{unit} is usual: {each.why}"
                for of, value in each.values(facts)
                if not each.holds(value)
            ]
    return found


# Beside each other

STANDS_OUT = 3.5
"""Modified z-score beyond which a run stands out (Iglewicz and Hoaglin 1993)."""

FEWEST = 6
"""Runs that it takes to tell what is usual among them."""

LEAST_SPREAD = 0.02
"""Of the median: where all runs are all but equal, nobody wonders about less."""


BESIDE: tuple[tuple[str, str, Callable[[Facts], Iterator[tuple[str, float]]], int], ...] = (
    ("temporal SNR", "", _snr, -1),
    ("share of vertices with signal", "", _coverage, -1),
    ("mean framewise displacement", " mm", _fact("mean_framewise_displacement"), 1),
)
"""What runs are compared by: quantity, unit, values, and which way is worse."""


def outlying(runs: Mapping[str, Facts]) -> dict[str, list[str]]:
    """Find runs that are worse than the others by far.

    Parameters
    ----------
    runs : mapping of str to mapping
        Facts of each usable run.

    Returns
    -------
    dict of str to list of str
        In words, by run; runs that do not stand out are left out.
    """
    found = _other_times(runs)
    for quantity, unit, values, worse in BESIDE:
        of_run = {key: value for key, facts in runs.items() for _, value in values(facts)}
        if len(of_run) < FEWEST:
            continue
        median = statistics.median(of_run.values())
        deviation = statistics.median(abs(value - median) for value in of_run.values())
        spread = max(1.4826 * deviation, LEAST_SPREAD * abs(median))
        for key, value in of_run.items():
            if spread > 0 and worse * (value - median) / spread > STANDS_OUT:
                found.setdefault(key, []).append(
                    f"{quantity} is {value:.3g}{unit}, where the median of {len(of_run)} runs is "
                    f"{median:.3g}{unit}: look at it, and leave it out if need be (inputs.exclude)"
                )
    return found


def _other_times(runs: Mapping[str, Facts]) -> dict[str, list[str]]:
    """Runs whose repetition time is not that of most runs of the subject."""
    times: dict[str, dict[str, float]] = {}
    for key, facts in runs.items():
        if (time := facts.get("repetition_time_s")) is not None:
            times.setdefault(str(facts.get("subject", key)), {})[key] = round(time, 3)
    found = {}
    for subject, own in times.items():
        usual = statistics.mode(own.values())
        for key, time in own.items():
            if time != usual:
                found[key] = [
                    f"repetition time is {time:g} s, where other runs of {subject} have {usual:g} "
                    "s: another sequence, or a header that lost its time"
                ]
    return found
