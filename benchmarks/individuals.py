"""Each newborn's own networks against what was planted: ``python -m benchmarks.individuals``.

Cohorts of 10 newborns on fsaverage3 with 7 networks a hemisphere, SNR 0.18, runs of 4 minutes;
`border_variation` 0.2 and 0.6 tell how far newborns differ, and 0 is the null. Everyone gets the
same cleaned runs, and those who start from a cohort get the default's cohort map. The last line is
one JSON object; its seeds chose no setting.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from trend_dagster.project.fsaverage import load_fsaverage
from trend_dagster.science.bold import BoldConfig, prepare
from trend_dagster.science.connectivity.smoothing import smoother
from trend_dagster.science.evidence.measures import match_labels, mean_dice
from trend_dagster.science.evidence.nulls import SurrogateMaker
from trend_dagster.science.evidence.simulation import (
    SimulationConfig,
    plan_networks,
    plant_networks,
    simulate_cohort,
)
from trend_dagster.science.individuals.differences import (
    Compared,
    Noise,
    measure_departures,
)
from trend_dagster.science.individuals.model import (
    Cortex,
    Individual,
    Others,
    PreparedRun,
    find_individual,
    possible_networks,
    prepare_run,
)
from trend_dagster.science.individuals.newborn import CohortPrior
from trend_dagster.science.individuals.settings import IndividualsConfig
from trend_dagster.science.parcellation.spectral import other_networks
from trend_dagster.science.parcellation.sweep import Solution
from trend_dagster.science.surface import Surface
from trend_dagster.validation.approaches import default_solution
from trend_dagster.validation.recordings import Recording

SEEDS = (801, 802, 803)  # chose nothing, but were looked at before; 601 to 605 chose
VARIATIONS = (0.2, 0.6)
RUNS = (1, 2, 4)
MAIN_RUNS = 2
OURS = "ours"
ALONE = "the default on the newborn alone"
COHORT = "our cohort map for everyone"
PLANTED = "the cohort's planted map for everyone"
NOT_SIMPLE = (OURS, PLANTED)
WIDTHS_MM = (16.0, 20.0, 24.0)

Labels = NDArray[np.integer[Any]]
FloatArray = NDArray[np.floating[Any]]


@dataclass(eq=False)
class Cohort:
    """A simulated cohort, and what methods start from; vertices with signal only.

    Parameters
    ----------
    config : SimulationConfig
        What it is like.
    """

    config: SimulationConfig
    _kernels: dict[float, sp.csr_array] = field(default_factory=dict, repr=False)

    @cached_property
    def surface(self) -> Surface:
        """The mesh."""
        return load_fsaverage(self.config.n_vertices_per_hemisphere)

    @cached_property
    def _simulated(self) -> tuple[Labels, list[NDArray[np.float32]]]:
        truth, runs = simulate_cohort(self.surface, self.config)
        return truth, [run for _, run in runs]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Vertices with signal."""
        return np.asarray(self._simulated[0] >= 0)

    @property
    def planted(self) -> Labels:
        """The cohort's planted map."""
        return self._simulated[0][self.mask]

    @cached_property
    def own(self) -> list[Labels]:
        """Each newborn's planted map."""
        plan = plan_networks(self.surface, self.config)
        people = range(self.config.n_subjects)
        return [
            plant_networks(self.surface, self.config, plan, person)[self.mask] for person in people
        ]

    def recording(self, people: Sequence[int], runs: Sequence[int]) -> Recording:
        """Return some runs of some newborns."""
        chosen = list(product(people, runs))
        each = self.config.runs_per_subject
        return Recording(
            self.surface,
            {f"sub-{p:02d}_run-{r}": self._simulated[1][p * each + r] for p, r in chosen},
            [str(p) for p, _ in chosen],
        )

    @cached_property
    def cleaned(self) -> list[list[NDArray[np.float32]]]:
        """Runs of each newborn as the default cleans them."""
        each, everything = self.config.runs_per_subject, self._simulated[1]
        ready = [prepare(run, self.mask, BoldConfig())[self.mask] for run in everything]
        return [ready[i : i + each] for i in range(0, len(ready), each)]

    def kernel(self, fwhm_mm: float) -> sp.csr_array:
        """Smoothing along the cortex."""
        if fwhm_mm not in self._kernels:
            whole = sp.csr_array(sp.eye_array(len(self.mask)))
            if fwhm_mm:
                whole = smoother(self.surface, self.mask, fwhm_mm)
            self._kernels[fwhm_mm] = sp.csr_array(whole[self.mask][:, self.mask])
        return self._kernels[fwhm_mm]

    def maps_of(self, recording: Recording) -> tuple[Labels, list[Labels]]:
        """Find networks as the default does, in the names of the planted ones.

        Beside them the other clusterings of the factorisation, which newborns choose among.
        """
        n = 2 * self.config.n_networks
        cell = default_solution(recording, n, 108)
        others = other_networks(cell.W, cell.H, n, random_state=108)
        return self._named(cell), [labels[self.mask] for labels in others]

    def map_of(self, recording: Recording) -> Labels:
        """Only the networks that the default finds."""
        return self._named(default_solution(recording, 2 * self.config.n_networks, 108))

    def _named(self, cell: Solution) -> Labels:
        return match_labels(cell.clusterings[0].labels[self.mask], self.planted)


@dataclass(eq=False)
class Start:
    """What a method that starts from a cohort gets: its map, other ones, and everyone's runs."""

    cohort: Cohort
    runs: tuple[int, ...]
    labels: Labels
    other_maps: list[Labels] = field(default_factory=list)

    @property
    def possible(self) -> NDArray[np.bool_]:
        """Networks that are in a vertex' hemisphere."""
        side = self.cohort.surface.hemisphere[self.cohort.mask]
        return possible_networks(self.labels, side)

    def smoothed(self, person: int, runs: Sequence[int], fwhm_mm: float) -> list[FloatArray]:
        """Runs of a newborn, smoothed along the cortex, each series of length 1."""
        kernel = self.cohort.kernel(fwhm_mm)
        return [_unit(kernel @ self.cohort.cleaned[person][run]) for run in runs]


def _unit(rows: FloatArray) -> FloatArray:
    rows = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _best(scores: FloatArray, possible: NDArray[np.bool_]) -> Labels:
    return np.asarray(np.where(possible, scores, -np.inf).argmax(axis=1))


# --- Simple methods ----------------------------------------------------------------------------

Method = Callable[[Start, Sequence[int]], list[Labels]]
"""Maps of all newborns from some of their runs; the start is from all runs."""


def dual_regression(start: Start, runs: Sequence[int], fwhm_mm: float) -> list[Labels]:
    """Regress runs on the cohort's maps, then vertices on the series; the largest wins.

    Nickerson et al. 2017, doi:10.3389/fnins.2017.00115. Hemispheres apart: without the global
    signal, the series of all networks together are nearly dependent.
    """
    maps = np.eye(start.possible.shape[1])[start.labels]
    side = start.cohort.surface.hemisphere[start.cohort.mask]
    found = []
    for person in range(start.cohort.config.n_subjects):
        total = np.full(maps.shape, -np.inf)
        for hemisphere in (0, 1):
            own = side == hemisphere
            there = np.flatnonzero(start.possible[own].any(axis=0))
            part = np.zeros((int(own.sum()), len(there)))
            for bold in start.smoothed(person, runs, fwhm_mm):
                series = np.linalg.lstsq(maps[own][:, there], bold[own], rcond=None)[0]
                part += np.linalg.lstsq(_unit(series).T, bold[own].T, rcond=None)[0].T
            total[np.ix_(own, there)] = part
        found.append(_best(total, start.possible))
    return found


def template_matching(
    start: Start, runs: Sequence[int], fwhm_mm: float, rounds: int
) -> list[Labels]:
    """Give a vertex the network whose connectivity with the cortex its own resembles most.

    Gordon et al. 2017, doi:10.1016/j.neuron.2017.07.011. Templates are the cohort's; with more
    rounds, the newborn's own, from the map of the round before.
    """
    people = range(start.cohort.config.n_subjects)
    n_networks = start.possible.shape[1]

    def profiles(person: int, chosen: Sequence[int]) -> FloatArray:
        products = [b @ b.T for b in start.smoothed(person, chosen, fwhm_mm)]
        return np.asarray(np.mean(products, axis=0))

    def templates(matrix: FloatArray, labels: Labels) -> FloatArray:
        member = np.eye(n_networks)[labels]
        return np.asarray(member.T @ matrix / np.maximum(member.sum(axis=0), 1)[:, None])

    cohort = np.mean([templates(profiles(p, start.runs), start.labels) for p in people], axis=0)
    found = []
    for person in people:
        matrix = profiles(person, runs)
        rows, own = _unit(matrix), cohort
        for _ in range(rounds):
            labels = _best(rows @ _unit(own).T, start.possible)
            own = templates(matrix, labels)
        found.append(labels)
    return found


def simple_methods() -> Iterator[tuple[str, Method]]:
    """Every simple method, under each width of smoothing."""
    for width in (0.0, *WIDTHS_MM):
        yield f"dual regression, {width:g} mm", partial(dual_regression, fwhm_mm=width)
    for width, rounds in product(WIDTHS_MM, (1, 5)):
        name = "once" if rounds == 1 else "iterated"
        method = partial(template_matching, fwhm_mm=width, rounds=rounds)
        yield f"template matching {name}, {width:g} mm", method


# --- Ours --------------------------------------------------------------------------------------


@dataclass(eq=False)
class Ours:
    """Ours on one cohort: the prior learned once, and any newborn from any of its runs."""

    start: Start
    config: IndividualsConfig

    @cached_property
    def cortex(self) -> Cortex:
        """The mesh, measured."""
        cohort = self.start.cohort
        return Cortex.along(cohort.surface, cohort.mask, self.config)

    def prepared(self, person: int, runs: Sequence[int]) -> list[PreparedRun]:
        """Runs of a newborn."""
        cohort, found = self.start.cohort, []
        for run in runs:
            bold = np.zeros((len(cohort.mask), cohort.config.n_timepoints), dtype=np.float32)
            bold[cohort.mask] = cohort.cleaned[person][run]
            found.append(prepare_run(bold, self.cortex))
        return found

    @cached_property
    def _prior(self) -> CohortPrior:
        n, people = self.start.cohort.config.n_networks, self.start.cohort.config.n_subjects
        loads = {str(p): partial(self.prepared, p, self.start.runs) for p in range(people)}
        chosen = {2 * n: self.cortex.whole(self.start.labels)}
        others = {2 * n: [self.cortex.whole(each) for each in self.start.other_maps]}
        return CohortPrior.learn(loads, chosen, self.cortex, self.config, other_maps=others)

    @property
    def consensus(self) -> Labels:
        """The cohort's map, found through individuals."""
        return self._prior.everyone[0].labels

    def others(self, person: int) -> Others:
        """The cohort without a newborn."""
        return self._prior.without(str(person))[0]

    def individual(self, person: int, runs: Sequence[int]) -> Individual:
        """One newborn's networks from some of its runs."""
        prepared = self.prepared(person, runs)
        return find_individual(prepared, self.others(person), self.cortex, self.config)

    def maps(self, start: Start, runs: Sequence[int]) -> list[Labels]:
        """Maps of all newborns from some of their runs."""
        people = range(start.cohort.config.n_subjects)
        return [self.individual(person, runs).labels for person in people]

    def different(self) -> list[bool]:
        """Say of each newborn whether it differs from the cohort."""
        maker, found = SurrogateMaker(self.start.cohort.surface), []
        for person in range(self.start.cohort.config.n_subjects):
            runs = self.prepared(person, self.start.runs)
            others = self.others(person)
            own = find_individual(runs, others, self.cortex, self.config)
            (departure,) = measure_departures(
                runs,
                [Compared(own, others, self.consensus)],
                self.cortex,
                self.config,
                Noise.like(runs, self.cortex, maker),
                np.random.default_rng([self.start.cohort.config.seed, person]),
            )
            found.append(departure.different)
        return found


# --- What is measured --------------------------------------------------------------------------


def identified(first: Sequence[Labels], second: Sequence[Labels]) -> float:
    """Share of newborns whose map from one run is nearest to their own from another run."""
    alike = np.array([[(one == other).mean() for other in second] for one in first])
    return float((alike.argmax(axis=1) == np.arange(len(alike))).mean())


def measure(config: SimulationConfig, n_runs: int, everyone: bool) -> pd.DataFrame:
    """Measure all methods on one cohort with so many runs of each newborn.

    Parameters
    ----------
    config : SimulationConfig
        The cohort.
    n_runs : int
        Runs of each newborn.
    everyone : bool
        Also who takes long (the default on each newborn alone), identification, and who is
        different.

    Returns
    -------
    DataFrame
        A row for each method and newborn, with ``method``, ``person``, ``dice``; what is measured
        of a whole cohort stands in each of its rows.
    """
    with threadpool_limits(1):
        cohort, runs = Cohort(config), tuple(range(n_runs))
        people = range(config.n_subjects)
        start = Start(cohort, runs, *cohort.maps_of(cohort.recording(people, runs)))
        model = Ours(start, IndividualsConfig())
        methods: dict[str, Method] = {
            PLANTED: lambda start, _: [cohort.planted] * config.n_subjects,
            COHORT: lambda start, _: [start.labels] * config.n_subjects,
            **dict(simple_methods()),
            OURS: model.maps,
        }
        if everyone:
            methods[ALONE] = lambda start, runs: [
                cohort.map_of(cohort.recording([p], runs)) for p in people
            ]
        rows = []
        for name, method in methods.items():
            dice = [mean_dice(m, t) for m, t in zip(method(start, runs), cohort.own, strict=True)]
            more: dict[str, Any] = {}
            if everyone and name not in (PLANTED, COHORT, ALONE):
                more["identified"] = identified(method(start, [0]), method(start, [1]))
            if name == OURS:
                more["consensus"] = mean_dice(model.consensus, cohort.planted)
                if everyone:
                    more["different"] = float(np.mean(model.different()))
            if name == COHORT:
                more["consensus"] = mean_dice(start.labels, cohort.planted)
            rows += [
                {"method": name, "person": p, "dice": d, **more}
                for p, d in zip(people, dice, strict=True)
            ]
    table = pd.DataFrame(rows)
    return table.assign(seed=config.seed, variation=config.border_variation, runs=n_runs)


def headline(table: pd.DataFrame, seeds: Sequence[int]) -> dict[str, Any]:
    """Collect what the goals are about."""
    main = table[table["runs"] == MAIN_RUNS]
    found: dict[str, Any] = {}
    for variation in VARIATIONS:
        key = f"{variation:.1f}".replace(".", "")
        own = main[main["variation"] == variation]
        dice = own.groupby("method")["dice"].mean()
        simple = dice.drop(list(NOT_SIMPLE))
        consensus = own.groupby("method")["consensus"].mean()
        found |= {
            f"dice_{key}": dice[OURS],
            f"best_simple_{key}": simple.max(),
            f"best_simple_{key}_name": simple.idxmax(),
            f"group_{key}": dice[COHORT],
            f"transformer_{key}": None,
            f"cohort_map_{key}": consensus[COHORT],
            f"consensus_{key}": consensus[OURS],
        }
    shared = main[main["variation"].isin(VARIATIONS)].groupby("method")["identified"].mean()
    null = main[(main["variation"] == 0) & (main["method"] == OURS)]
    apart = main[main["variation"].isin(VARIATIONS) & (main["method"] == OURS)]
    return found | {
        "false_difference_share": null["different"].mean(),
        "true_difference_share": apart["different"].mean(),
        "identification": shared[OURS],
        "identification_simple": shared.drop(list(NOT_SIMPLE)).max(),
        "seeds": list(seeds),
    }


def main() -> None:
    """Print a table for each variation and number of runs, and the headline."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--subjects", type=int, default=10, help="newborns of a cohort")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--quick", action="store_true", help="two runs of each newborn only")
    options = parser.parse_args()
    lengths = (MAIN_RUNS,) if options.quick else RUNS
    work = [
        (variation, n_runs, seed)
        for variation, n_runs, seed in product((0.0, *VARIATIONS), lengths, options.seeds)
        if variation or n_runs == MAIN_RUNS
    ]
    configs = [
        SimulationConfig(
            seed=seed,
            snr=0.18,
            motion=0.35,
            n_networks=7,
            n_subjects=options.subjects,
            runs_per_subject=n_runs,
            border_variation=variation,
        )
        for variation, n_runs, seed in work
    ]
    tables = []
    with ProcessPoolExecutor(options.workers) as pool:
        waiting = [
            pool.submit(measure, config, n, n == MAIN_RUNS)
            for config, (_, n, _) in zip(configs, work, strict=True)
        ]
        for done, (variation, n, seed) in zip(waiting, work, strict=True):
            tables.append(done.result())
            print(f"variation {variation}, {n} runs, seed {seed}", file=sys.stderr, flush=True)
    table = pd.concat(tables)
    minutes = configs[0].n_timepoints * configs[0].repetition_time / 60
    for variation in (0.0, *VARIATIONS):
        own = table[table["variation"] == variation]
        print(f"\nborder_variation {variation}: Dice (sd over newborns) by minutes of data")
        text = own.pivot_table(
            index="method",
            columns=own["runs"] * minutes,
            values="dice",
            aggfunc=lambda dice: f"{dice.mean():.3f} ({dice.std():.3f})",
            sort=False,
        )
        print(text.fillna("").to_string())
    found = headline(table, options.seeds)
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}))


if __name__ == "__main__":
    main()
