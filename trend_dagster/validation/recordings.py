"""What networks are looked for in: the runs of some people on a mesh."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import CohortError
from trend_dagster.science.bold import BoldConfig, common_length, signal_mask
from trend_dagster.science.connectivity.encoding import CorrelationSource
from trend_dagster.science.evidence.nulls import SurrogateMaker
from trend_dagster.science.evidence.simulation import SimulationConfig, simulate_cohort
from trend_dagster.science.evidence.stability import split_halves, timepoints_of
from trend_dagster.science.method import (
    Correlation,
    MethodSettings,
    control_features,
    correlate,
    correlation_of_runs,
    prepare_run,
    train_features,
)
from trend_dagster.science.surface import Surface

Signal = NDArray[np.float32]
Labels = NDArray[np.integer[Any]]
ReadConfounds = Callable[[tuple[str, ...]], NDArray[np.float64]]

LEAST_TIMEPOINTS = 16  # of a single run that is cut in halves


@dataclass(eq=False)
class Recording:
    """Runs of some people, and the correlations that were asked for so far.

    Parameters
    ----------
    surface : Surface
        The mesh of all runs.
    runs : mapping of str to ndarray of shape (n_vertices, n_timepoints)
        BOLD in any unit, by name.
    subjects : sequence of str or None
        Subject of each run.
    repetition_times : mapping of str to float or None
        Seconds between volumes of each run, where they are known; filters need them.
    confounds : mapping of str to callable
        Reads columns of each run's confounds by name, where there are any.
    sample_masks : mapping of str to ndarray of bool or None
        Volumes of each run to keep, where some are left out.
    timepoints : slice, optional
        Which timepoints of its runs count: those of a half of a single run.
    """

    surface: Surface
    runs: Mapping[str, Signal]
    subjects: Sequence[str | None]
    repetition_times: Mapping[str, float | None] = field(default_factory=dict)
    confounds: Mapping[str, ReadConfounds] = field(default_factory=dict)
    sample_masks: Mapping[str, NDArray[np.bool_] | None] = field(default_factory=dict)
    timepoints: slice | None = None
    _known: dict[str, Correlation] = field(default_factory=dict, repr=False)
    _features: dict[str, list[tuple[Signal, NDArray[np.bool_]]]] = field(
        default_factory=dict, repr=False
    )

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Vertices with signal in any run."""
        return np.asarray(np.any([signal_mask(run) for run in self.runs.values()], axis=0))

    def prepared(self, config: BoldConfig) -> dict[str, tuple[Signal, NDArray[np.bool_]]]:
        """Clean and standardise each run as settings say; return it with its mask."""
        found = {}
        for name, run in self.runs.items():
            read = self.confounds.get(name)
            confounds = read(config.confounds) if read is not None and config.confounds else None
            time = config.repetition_time or self.repetition_times.get(name)
            kept = self.sample_masks.get(name)
            found[name] = prepare_run(run, config, time, confounds, kept)
        return found

    def correlation(self, settings: MethodSettings) -> Correlation:
        """Average the correlation of features over runs, as one matrix; once for each way.

        Parameters
        ----------
        settings : MethodSettings
            From cleaning to correlation.
        """
        key = f"{self._key(settings, trained=True)} {settings.identity('correlation')}"
        if key not in self._known:
            self._known[key] = correlate(self.features(settings), settings)
        return self._known[key]

    def source(self, settings: MethodSettings, *, trained: bool = True) -> CorrelationSource:
        """The same correlation as assets take it: computed from features where it is asked for."""
        if trained and settings.correlation.average != "arithmetic":  # a matrix, and made once
            return self.correlation(settings)
        return correlation_of_runs(self.features(settings, trained=trained), settings)

    def features(
        self, settings: MethodSettings, *, trained: bool = True
    ) -> list[tuple[Signal, NDArray[np.bool_]]]:
        """Make the features of each run; once for each way.

        Parameters
        ----------
        settings : MethodSettings
            From cleaning to correlation.
        trained : bool
            False takes features of a model from before its first step of training.
        """
        key = self._key(settings, trained=trained)
        if key not in self._features:
            runs = self.prepared(settings.bold)
            if trained:
                make = train_features(runs, self.subjects, settings)
            else:
                lengths = {name: run.shape[1] for name, (run, _) in runs.items()}
                length = common_length(lengths, settings.cohort)
                make = control_features("untrained", settings, length)
            self._features[key] = [
                (make(run, mask, self.timepoints), mask) for run, mask in runs.values()
            ]
        return self._features[key]

    @staticmethod
    def _key(settings: MethodSettings, *, trained: bool) -> str:
        sections = ["bold", "features"]
        if settings.features.source != "bold":
            sections += ["cohort", "autoencoder", "training"]
        return repr([trained, *(settings.identity(section) for section in sections)])

    def of_subjects(self) -> list[Recording]:
        """Return the runs of each subject."""
        people = dict.fromkeys(self.subjects)
        return [self.part([i for i, s in enumerate(self.subjects) if s == p]) for p in people]

    def part(self, chosen: Sequence[int], timepoints: slice | None = None) -> Recording:
        """Return some of the runs, or some of the timepoints."""
        names = list(self.runs)
        return replace(
            self,
            runs={names[i]: self.runs[names[i]] for i in chosen},
            subjects=[self.subjects[i] for i in chosen],
            timepoints=timepoints or self.timepoints,
            _known={},
            _features={},
        )

    def surrogate(self, maker: SurrogateMaker, seed: int) -> Recording:
        """Return noise without networks, run by run as smooth as the data in space and time."""
        rng = np.random.default_rng(seed)
        runs = {
            name: maker.surrogate(run, maker.measure(run), rng) for name, run in self.runs.items()
        }
        return replace(self, runs=runs, _known={}, _features={})


def simulated(surface: Surface, config: SimulationConfig) -> tuple[Labels, Recording]:
    """Record a simulated cohort; return its planted networks with it."""
    truth, runs = simulate_cohort(surface, config)
    named = dict(runs)
    times = dict.fromkeys(named, config.repetition_time)
    return truth, Recording(surface, named, [name.split("_")[0] for name in named], times)


def halves(recording: Recording, random_state: int) -> tuple[str, Recording, Recording]:
    """Split a recording in two that share as little as they can, as `split_halves` does.

    Parameters
    ----------
    recording : Recording
        All runs.
    random_state : int
        Seed: which subjects (or runs) belong together.

    Returns
    -------
    tuple of str, Recording, Recording
        What was split ("subject", "run" or "time"), and both.

    Raises
    ------
    CohortError
        If a single run is too short.
    """
    split = split_halves(recording.subjects, random_state)
    length = min(run.shape[1] for run in recording.runs.values())
    if split.by == "time" and length < LEAST_TIMEPOINTS:
        raise CohortError(
            "recording to split in halves",
            expected=f"two subjects, two runs or {LEAST_TIMEPOINTS} timepoints",
            found=f"one run of {length} timepoints",
            remedy="Add runs.",
        )
    first, second = (
        recording.part(
            split.runs[half], timepoints_of(half, "time", length) if split.by == "time" else None
        )
        for half in (0, 1)
    )
    return split.by, first, second


def without_each(recording: Recording) -> list[Recording]:
    """Return the recording without each of its people in turn."""
    return [
        recording.part([i for i, own in enumerate(recording.subjects) if own != left_out])
        for left_out in dict.fromkeys(recording.subjects)
    ]
