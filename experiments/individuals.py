"""What is left to gain in newborns' own networks: ``python -m experiments.individuals``.

On cohorts of `benchmarks.individuals`, two runs, seeds 601 to 603, which may choose settings. The
last line is one JSON object. Four questions, each by name:

- ``left``: Dice of the model, and of the model told what it has to find out: the planted signals
  for the network series, the planted maps of the others for the prior, both; how far its series
  and those of the planted maps are like the signals; how many wrong vertices lie at a border;
- ``start``: Dice where the prior is learned from the cohort's chosen map, from the one that
  newborns choose among it and other clusterings of its factorisation, from the one of all these
  that the truth would choose, and from the cohort's planted map;
- ``calibration``: how often a vertex is right whose network is said to have a probability of p;
- ``transformer``: Dice of a network trained on the cohort's runs without any truth. From one run
  of a newborn it predicts what the other run shows. It adds to the log posterior of the model
  (the simple answer), and starts from adding nothing. What it is to predict is the likelihood of
  each vertex' correlations with all networks in the other run, which is a score that only the
  true probabilities make best.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn.functional import log_softmax

from benchmarks.individuals import Cohort, FloatArray, Labels, Ours, Start
from trend_dagster.science.evidence.measures import match_labels, mean_dice
from trend_dagster.science.evidence.simulation import SimulationConfig, network_signals
from trend_dagster.science.individuals.model import (
    Individual,
    Others,
    PreparedRun,
    correlation_with_networks,
    find_individual,
    independent_timepoints,
    weight_of_evidence,
)
from trend_dagster.science.individuals.settings import IndividualsConfig
from trend_dagster.science.sparse import times
from trend_dagster.science.surface import mirrored_coordinates

SEEDS = (601, 602, 603)
BOTH = (0, 1)
EDGES = (0.0, 0.7, 0.9, 0.97, 0.99, 0.999, 1.0)


@dataclass(eq=False)
class Study:
    """One cohort, and what the model finds in it."""

    ours: Ours

    @classmethod
    def of(cls, seed: int, variation: float, n_subjects: int) -> Study:
        """Simulate a cohort as the benchmark does and find its map."""
        config = SimulationConfig(
            seed=seed,
            snr=0.18,
            motion=0.35,
            n_networks=7,
            n_subjects=n_subjects,
            runs_per_subject=2,
            border_variation=variation,
        )
        cohort = Cohort(config)
        maps = cohort.maps_of(cohort.recording(range(n_subjects), BOTH))
        return cls(Ours(Start(cohort, BOTH, *maps), IndividualsConfig()))

    @property
    def own(self) -> list[Labels]:
        """Each newborn's planted map."""
        return self.ours.start.cohort.own

    @cached_property
    def found(self) -> list[Individual]:
        """Each newborn's networks from both runs."""
        return [self.ours.individual(person, BOTH) for person in range(len(self.own))]

    def dice(self, maps: Sequence[Labels]) -> float:
        """Mean over newborns of Dice with their planted maps."""
        pairs = zip(maps, self.own, strict=True)
        return float(np.mean([mean_dice(found, planted) for found, planted in pairs]))

    @property
    def n_networks(self) -> int:
        """Networks of the cohort."""
        return 2 * self.ours.start.cohort.config.n_networks

    @cached_property
    def _prepared(self) -> list[list[PreparedRun]]:
        return [self.ours.prepared(person, BOTH) for person in range(len(self.own))]

    # What is left

    def signals(self, person: int, run: int) -> FloatArray:
        """Planted time series of all networks, as far as cleaning leaves them."""
        config, series = self.ours.start.cohort.config, self._prepared[person][run].series
        # The first that a run of the simulation draws.
        drawn = network_signals(config, np.random.default_rng([config.seed, *b"run", person, run]))
        _, sizes, courses = np.linalg.svd(series, full_matrices=False)
        left = courses[sizes > 1e-3 * sizes[0]]
        signals = (drawn - drawn.mean(axis=1, keepdims=True)) @ left.T @ left
        return np.asarray(signals / np.linalg.norm(signals, axis=1, keepdims=True))

    def told(self, signals: bool, prior: bool) -> float:
        """Dice where the model is told what it would have to find out."""
        true = [np.eye(self.n_networks, dtype=np.float32)[labels] for labels in self.own]
        total, maps = np.sum(true, axis=0), []
        for person, planted in enumerate(true):
            runs, others = self._prepared[person], self.ours.others(person)
            if prior:
                others = Others(others.map_prior, total - planted, len(true) - 1)
            found = find_individual(runs, others, self.ours.cortex, self.ours.config).probability
            if signals:
                of_runs = [r.smoothed @ self.signals(person, i).T for i, r in enumerate(runs)]
                correlation = np.mean(of_runs, axis=0)
                n = independent_timepoints(runs, planted)
                evidence = weight_of_evidence(correlation, planted, n) * correlation
                found = self._once(evidence, others, found)
            maps.append(found.argmax(axis=1))
        return self.dice(maps)

    def likeness(self, planted: bool) -> float:
        """Mean correlation of a network's estimated series with its planted one."""
        found = []
        for person, (own, individual) in enumerate(zip(self.own, self.found, strict=True)):
            weights = np.eye(self.n_networks)[own] if planted else individual.probability
            for run, prepared in enumerate(self._prepared[person]):
                series = weights.T @ prepared.series
                series = series / np.linalg.norm(series, axis=1, keepdims=True)
                found.append((series * self.signals(person, run)).sum(axis=1).mean())
        return float(np.mean(found))

    def evidence(self, person: int, which: Sequence[int], weights: FloatArray) -> FloatArray:
        """Nats for each network in some runs, whose networks' series come from some weights."""
        runs = self.ours.prepared(person, which)
        correlation = correlation_with_networks(runs, weights, self.ours.cortex.near)
        n = independent_timepoints(runs, weights)
        return weight_of_evidence(correlation, weights, n) * correlation

    def _once(self, evidence: FloatArray, others: Others, start: FloatArray) -> FloatArray:
        config, found = self.ours.config, start
        prior = others.prior(config, start)
        with np.errstate(divide="ignore"):
            known = evidence + np.where(prior > 0, config.prior_weight * np.log(prior), -np.inf)
        for _ in range(9):
            around = config.support * times(self.ours.cortex.around, found)
            found = torch.softmax(torch.from_numpy(known + around), 1).numpy()
        return found

    def at_border(self) -> float:
        """Share of the wrong vertices that have a neighbour of another planted network."""
        wrong, there = 0, 0
        touching = self.ours.start.cohort.kernel(12.0) > 0
        for individual, planted in zip(self.found, self.own, strict=True):
            errors = individual.labels != planted
            border = (touching @ np.eye(int(planted.max()) + 1)[planted] > 0).sum(axis=1) > 1
            wrong, there = wrong + int(errors.sum()), there + int((errors & border).sum())
        return there / wrong


def start(study: Study) -> dict[str, float]:
    """Learn from other maps of the cohort than that which newborns choose."""
    given = study.ours.start
    order = [match_labels(each, given.labels) for each in given.other_maps]

    def learned_from(labels: Labels) -> float:
        alone = Ours(replace(given, labels=labels, other_maps=[]), study.ours.config)
        return study.dice(alone.maps(given, BOTH))

    each = [learned_from(labels) for labels in (given.labels, *order)]
    return {
        "chosen map": each[0],
        "newborns choose": study.dice([found.labels for found in study.found]),
        "best of all": max(each),
        "planted map": learned_from(given.cohort.planted),
    }


def left(study: Study) -> dict[str, float]:
    """Tell the model what it has to find out, one thing at a time."""
    return {
        "model": study.dice([found.labels for found in study.found]),
        "true prior": study.told(signals=False, prior=True),
        "true signals": study.told(signals=True, prior=False),
        "both": study.told(signals=True, prior=True),
        "series like signals": study.likeness(planted=False),
        "the same of planted maps": study.likeness(planted=True),
        "wrong at a border": study.at_border(),
    }


def calibration(study: Study) -> pd.DataFrame:
    """Count vertices by their confidence: how many, what is said, how many are right."""
    confidence = np.concatenate([found.confidence for found in study.found])
    labels = np.concatenate([found.labels for found in study.found])
    table = pd.DataFrame({"said": confidence, "right": labels == np.concatenate(study.own)})
    table["confidence"] = pd.cut(table["said"], EDGES, include_lowest=True)
    return table


# The transformer


class Refiner(nn.Module):
    """Adds to the simple answer of each vertex what all vertices say, or those near it only."""

    def __init__(self, n_features: int, n_networks: int, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(n_features, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.read = nn.Linear(width, n_networks)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(self, features: torch.Tensor, far: torch.Tensor | None) -> torch.Tensor:
        """Return what is added to the log posterior, of shape (n_vertices, n_networks)."""
        hidden = self.embed(features)[None]
        for layer in self.layers:
            hidden = layer(hidden, src_mask=far)
        return torch.as_tensor(self.read(hidden)[0])


@dataclass(frozen=True)
class Sample:
    """A newborn as seen by some of its runs; float32 tensors of (n_vertices, ...)."""

    features: torch.Tensor
    simple: torch.Tensor
    evidence: torch.Tensor


def make_sample(study: Study, person: int, which: Sequence[int]) -> Sample:
    """Describe each vertex: evidence, simple answer, prior, and its place."""
    found = study.ours.individual(person, which)
    evidence = study.evidence(person, which, found.probability)
    prior = study.ours.others(person).prior(study.ours.config)
    simple = np.log(np.clip(found.probability, 1e-4, 1)) / 2  # it is too sure of itself
    cohort = study.ours.start.cohort
    place = mirrored_coordinates(cohort.surface)[cohort.mask] / 50
    side = cohort.surface.hemisphere[cohort.mask][:, None] - 0.5
    features = [evidence / 4, found.probability, np.log(prior + 1e-4) / 4, place, side]
    made = (np.concatenate(features, axis=1), np.where(prior > 0, simple, -1e4), evidence)
    return Sample(*(torch.from_numpy(np.asarray(part, dtype=np.float32)) for part in made))


def train(
    study: Study, pairs: Sequence[tuple[Sample, Sample]], far: torch.Tensor | None, n_epochs: int
) -> Refiner:
    """Predict one run from the other; noise on the features keeps newborns from being learned."""
    torch.manual_seed(0)
    seen = pairs[0][0]
    model = Refiner(seen.features.shape[1], seen.simple.shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, n_epochs * len(pairs))
    for _ in range(n_epochs):
        for i in torch.randperm(len(pairs)).tolist():
            one, other = pairs[i]
            noisy = one.features + 0.1 * torch.randn_like(one.features)
            logits = one.simple + model(noisy, far)
            likelihood = torch.logsumexp(log_softmax(logits, 1) + other.evidence, 1)
            optimizer.zero_grad()
            torch.autograd.backward(-likelihood.mean())
            optimizer.step()
            schedule.step()
    return model.eval()


def transformer(study: Study, n_epochs: int) -> dict[str, float]:
    """Dice from both runs, and from one, with and without what the transformer adds."""
    people = range(len(study.own))
    single = [[make_sample(study, person, [run]) for run in BOTH] for person in people]
    whole = [make_sample(study, person, BOTH) for person in people]
    distances = study.ours.cortex.distances.toarray()
    near = (distances > 0) | np.eye(len(distances), dtype=bool)
    found = {
        "model": study.dice([_labels(s.simple) for s in whole]),
        "model, one run": study.dice([_labels(own[0].simple) for own in single]),
    }
    pairs = [(own[a], own[1 - a]) for own in single for a in BOTH]
    for name, far in (("", None), (" near", torch.from_numpy(~near))):
        model = train(study, pairs, far, n_epochs)
        with torch.no_grad():
            # A model of single runs: what it adds to both is the mean of what it adds to each.
            added = [[model(sample.features, far) for sample in own] for own in single]
        first, both = [], []
        for own, add, sample in zip(single, added, whole, strict=True):
            first.append(_labels(own[0].simple + add[0]))
            both.append(_labels(sample.simple + (add[0] + add[1]) / 2))
        found[f"transformer{name}"] = study.dice(both)
        found[f"transformer{name}, one run"] = study.dice(first)
    return found


def _labels(logits: torch.Tensor) -> NDArray[np.int64]:
    return np.asarray(logits.argmax(dim=1).numpy())


def main() -> None:
    """Print a table over cohorts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("question", choices=("start", "left", "calibration", "transformer"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--variations", type=float, nargs="+", default=[0.2, 0.6])
    parser.add_argument("--subjects", type=int, default=10, help="newborns of a cohort")
    parser.add_argument("--n-epochs", type=int, default=8, help="of the transformer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    for variation in options.variations:
        tables = []
        for seed in options.seeds:
            with threadpool_limits(1):
                study = Study.of(seed, variation, options.subjects)
                if options.question == "calibration":
                    tables.append(calibration(study))
                    continue
                ask = {"start": start, "left": left}.get(options.question)
                row = ask(study) if ask else transformer(study, options.n_epochs)
                tables.append(pd.DataFrame([row], index=[seed]))
                print(f"variation {variation}\n{tables[-1].round(4).to_string()}", flush=True)
        table = pd.concat(tables)
        if options.question == "calibration":
            bins = table.groupby("confidence", observed=True)
            shown = bins[["said", "right"]].mean().assign(share=bins.size() / len(table))
            print(f"variation {variation}\n{shown.round(3).to_string()}", flush=True)
            table = table[["said", "right"]].astype(float)
        result[str(variation)] = {k: round(float(v), 4) for k, v in table.mean().items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
