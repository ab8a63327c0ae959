"""Whether the same networks are found again, and whether that is due to the brain.

Two halves, the cohort without each of its people, and other seeds of the same optimiser: each as
adjusted Rand index and as Dice of matched networks, and each beside the same on noise that is as
smooth as the data in space and time and has no networks. Only the excess counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd

from trend_dagster.science.evidence.measures import (
    adjusted_rand_index,
    dice_per_network,
    mean_dice,
)
from trend_dagster.science.evidence.nulls import SurrogateMaker
from trend_dagster.science.evidence.stability import beside_null
from trend_dagster.validation.approaches import Approach
from trend_dagster.validation.figures import FigureFolder, Figures
from trend_dagster.validation.recordings import Labels, Recording, halves, without_each
from trend_dagster.validation.simulated import RANDOM_STATE, OnProgress

What = Literal["halves", "left out", "seeds"]
WHATS: tuple[What, ...] = ("halves", "left out", "seeds")
OTHER_SEEDS = (109, 110)


def agreement(approach: Approach, recording: Recording, n_networks: int, what: What) -> Figures:
    """Let an approach find networks twice or more, and compare what it finds.

    Parameters
    ----------
    approach : Approach
        Whose.
    recording : Recording
        The data, or noise in its place.
    n_networks : int
        Networks.
    what : {"halves", "left out", "seeds"}
        "halves": of the cohort, see `halves`. "left out": all, against all but one person, for
        each person. "seeds": the same data, three seeds of the optimiser.

    Returns
    -------
    dict
        ``ari``, ``dice`` (means over comparisons), ``dice_per_network`` of the first comparison,
        and ``split``, what was split.
    """

    def find(data: Recording, seed: int = RANDOM_STATE) -> Labels:
        return approach.labels(data, n_networks, seed)

    if what == "halves":
        split, first, second = halves(recording, RANDOM_STATE)
        pairs = [(find(first), find(second))]
    elif what == "left out":
        split, whole = "subjects", find(recording)
        pairs = [(find(rest), whole) for rest in without_each(recording)]
    else:
        split = "nothing"
        pairs = list(combinations([find(recording, s) for s in (RANDOM_STATE, *OTHER_SEEDS)], 2))
    return {
        "ari": float(np.mean([adjusted_rand_index(a, b) for a, b in pairs])),
        "dice": float(np.mean([mean_dice(a, b) for a, b in pairs])),
        "dice_per_network": dice_per_network(*pairs[0]).tolist(),
        "split": split,
    }


def reproduce(
    figures: FigureFolder,
    section: str,
    data: Mapping[str, Any],
    recording: Recording,
    approaches: Sequence[Approach],
    whats: Sequence[What],
    n_networks: int,
    n_nulls: int,
    on_progress: OnProgress,
) -> pd.DataFrame:
    """Measure how well every approach repeats itself, beside its own null.

    Parameters
    ----------
    figures : FigureFolder
        Where figures are kept.
    section : str
        Part of the validation.
    data : mapping
        What decides the recording, as JSON can store it.
    recording : Recording
        The data.
    approaches : sequence of Approach
        Who takes part.
    whats : sequence of str
        Kinds of repetition, see `agreement`.
    n_networks : int
        Networks.
    n_nulls : int
        Recordings of noise.
    on_progress : callable
        Shows progress.

    Returns
    -------
    DataFrame
        One row for each approach and kind: ari, dice, their nulls' means, and the excess and z
        of ari (z is NaN with fewer than three nulls).
    """
    maker = SurrogateMaker(recording.surface)
    noises: dict[int, Recording] = {}

    def one(approach: Approach, what: What, null: int | None) -> Figures:
        identity = {
            "data": dict(data),
            "approach": [approach.kind, dict(approach.identity)],
            "what": what,
            "null": null,
            "n_networks": n_networks,
        }

        def compute() -> Figures:
            if null is None:
                return agreement(approach, recording, n_networks, what)
            if null not in noises:
                noises[null] = recording.surrogate(maker, null)
            return agreement(approach, noises[null], n_networks, what)

        return figures.get(section, identity, compute)

    rows: list[dict[str, Any]] = []
    steps = len(approaches) * len(whats) * (1 + n_nulls)
    for approach in approaches:
        for what in whats:
            found: list[Figures] = []
            for null in (None, *range(n_nulls)):
                done = (len(rows) * (1 + n_nulls) + len(found)) / steps
                noise = "" if null is None else f", noise {null + 1} of {n_nulls}"
                on_progress(f"{approach.kind}, {approach.name}: {what}{noise}", done)
                found.append(one(approach, what, null))
            about = {"kind": approach.kind, "approach": approach.name, "what": what}
            rows.append(about | _row(*found))
    return pd.DataFrame(rows)


def _row(data: Figures, *nulls: Figures) -> dict[str, Any]:
    row = {name: data[name] for name in ("split", "ari", "dice", "dice_per_network")}
    if not nulls:
        return row
    beside = beside_null(float(data["ari"]), np.array([null["ari"] for null in nulls]))
    return row | {
        "null_ari": float(beside["null"]),
        "excess": float(beside["excess"]),
        "z": float(beside["z"]),
        "null_dice": float(np.mean([null["dice"] for null in nulls])),
    }
