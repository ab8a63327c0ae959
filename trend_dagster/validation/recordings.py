"""What networks are looked for in: the runs of some people on a mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import CohortError
from trend_dagster.science.bold import BoldConfig, prepare, signal_mask
from trend_dagster.science.connectivity.correlation import average_correlation
from trend_dagster.science.connectivity.settings import CorrelationConfig
from trend_dagster.science.evidence.nulls import SurrogateMaker
from trend_dagster.science.evidence.simulation import SimulationConfig, simulate_cohort
from trend_dagster.science.surface import Surface

Run = NDArray[np.float32]
Labels = NDArray[np.integer[Any]]
FloatArray = NDArray[np.floating[Any]]


@dataclass(eq=False)
class Recording:
    """Runs of some people, and the correlations that were asked for so far.

    Parameters
    ----------
    surface : Surface
        The mesh of all runs.
    runs : sequence of ndarray of shape (n_vertices, n_timepoints)
        BOLD in any unit.
    subjects : sequence of str
        Whose each run is.
    """

    surface: Surface
    runs: Sequence[Run]
    subjects: Sequence[str]
    _known: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Vertices with signal in any run."""
        return np.asarray(np.any([signal_mask(run) for run in self.runs], axis=0))

    def prepared(self, bold: BoldConfig) -> list[tuple[Run, NDArray[np.bool_]]]:
        """Runs as settings prepare them, each with its mask."""
        masks = [signal_mask(run) for run in self.runs]
        return [(prepare(r, m, bold), m) for r, m in zip(self.runs, masks, strict=True)]

    def correlation(self, bold: BoldConfig, config: CorrelationConfig) -> FloatArray:
        """Average correlation over runs; computed once for each way to prepare them."""
        key = bold.model_dump_json() + config.model_dump_json()
        if key not in self._known:
            self._known[key] = average_correlation(self.prepared(bold), config)
        found: FloatArray = self._known[key]
        return found

    def part(self, chosen: Sequence[int]) -> Recording:
        """Return some of the runs."""
        return Recording(
            self.surface, [self.runs[i] for i in chosen], [self.subjects[i] for i in chosen]
        )

    def surrogate(self, maker: SurrogateMaker, seed: int) -> Recording:
        """Return noise without networks, run by run as smooth as the data in space and time."""
        rng = np.random.default_rng(seed)
        runs = [maker.surrogate(run, maker.measure(run), rng) for run in self.runs]
        return Recording(self.surface, runs, self.subjects)


def simulated(surface: Surface, config: SimulationConfig) -> tuple[Labels, Recording]:
    """Record a simulated cohort; return its planted networks with it."""
    truth, runs = simulate_cohort(surface, config)
    named = list(runs)
    subjects = [name.split("_")[0] for name, _ in named]
    return truth, Recording(surface, [run for _, run in named], subjects)


def halves(recording: Recording) -> tuple[str, Recording, Recording]:
    """Split a recording in two that share as little as they can.

    Parameters
    ----------
    recording : Recording
        All runs.

    Returns
    -------
    tuple of str, Recording, Recording
        What was split ("subjects"; "runs" of a single person; "time" of a single run), and both.
    """
    people = list(dict.fromkeys(recording.subjects))
    n = len(recording.runs)
    if len(people) > 1:
        first = set(people[::2])
        inside = [i for i in range(n) if recording.subjects[i] in first]
        outside = [i for i in range(n) if recording.subjects[i] not in first]
        return "subjects", recording.part(inside), recording.part(outside)
    if n > 1:
        return "runs", recording.part(range(n // 2)), recording.part(range(n // 2, n))
    run = recording.runs[0]
    middle = run.shape[1] // 2
    if middle < 8:
        raise CohortError(
            "recording to split in halves",
            expected="two subjects, two runs or 16 timepoints",
            found=f"one run of {run.shape[1]} timepoints",
            remedy="Add runs.",
        )
    parts = run[:, :middle], run[:, middle : 2 * middle]
    one, other = (Recording(recording.surface, [part], recording.subjects) for part in parts)
    return "time", one, other


def without_each(recording: Recording) -> list[Recording]:
    """Return the recording without each of its people in turn."""
    return [
        recording.part([i for i, own in enumerate(recording.subjects) if own != left_out])
        for left_out in dict.fromkeys(recording.subjects)
    ]
