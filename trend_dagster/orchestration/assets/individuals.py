"""Persons: each newborn's own networks, their time series and connectivity, and one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.png import small_png
from trend_dagster.delivery.figures.surface import comparison_figure, parcellation_figure
from trend_dagster.delivery.individuals import (
    association_files,
    individuals_table,
    read_participants,
    series_files,
)
from trend_dagster.delivery.maps import MAPS, map_files, networks_of
from trend_dagster.orchestration.assets.inputs import bold, cortex
from trend_dagster.orchestration.assets.loading import signal, usable_runs
from trend_dagster.orchestration.assets.parcellation import selected_parcellations
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Available, Task, stored_asset
from trend_dagster.project.folder import BOLD_RUN, SUBJECT, Project, subject_key
from trend_dagster.project.mesh import mesh_of
from trend_dagster.project.settings import why_no_individuals
from trend_dagster.project.tables import number_columns
from trend_dagster.project.target import map_space
from trend_dagster.science.individuals.settings import IndividualsConfig
from trend_dagster.science.surface import Surface
from trend_dagster.storage.stores import Partition, Version

if TYPE_CHECKING:  # scipy takes a while to import: only what computes with it does
    from trend_dagster.science.individuals.model import Cortex, Individual, Others, PreparedRun

COHORT_SECTIONS = (
    "individuals",
    "bold",
    "features",
    "correlation",
    "thresholding",
    "sweep",
    "factorization",
    "clustering",
    "networks",
    "selection",
)

Floats = NDArray[np.float32]


@stored_asset(
    group="individuals",
    inputs=[bold, selected_parcellations, cortex],
    settings=COHORT_SECTIONS,
    nothing_to_do=why_no_individuals,
    keep_when_inputs_change=True,
    pool="memory",
)
def individual_prior(
    task: Task, bold: Sequence[Version], selected_parcellations: Version, cortex: Version
) -> Result:
    """Where the newborns of the cohort have each network of the chosen parcellations.

    Learned in rounds: from the cohort's map, then from the newborns' own. Like a model it stays as
    it is when runs are added, so that a new newborn makes only its own networks, in the numbers
    that the others have; `trend run --retrain` learns it anew.
    """
    from trend_dagster.science.individuals.model import learn_prior, prepare_run

    runs, config = usable_runs(task, bold), task.settings.individuals
    mask = np.any([run.read("vertex_mask") for run in runs.values()], axis=0)
    surface = _mesh(cortex, len(mask))
    own: dict[str, list[Version]] = {}
    for name, run in runs.items():
        own.setdefault(subject_key(name), []).append(run)
    noise = _noise_mm(surface, [versions[0] for versions in own.values()])
    area = _measured(surface, mask, config, noise)

    def load(versions: Sequence[Version]) -> list[PreparedRun]:
        return [prepare_run(signal(run)[0], area) for run in versions]

    labels = selected_parcellations.read("labels")
    n_networks = int(labels.max()) + 1
    found = []
    for i, vector in enumerate(labels):
        task.progress(f"parcellation {i + 1} of {len(labels)}", i / len(labels))
        loads = [partial(load, versions) for versions in own.values()]
        found.append(learn_prior(loads, vector, area, config))
    return Result(
        arrays={
            "n_clusters": selected_parcellations.read("n_clusters"),
            "labels": np.stack([area.whole(everyone.labels) for everyone, _ in found]),
            "map_prior": _padded([everyone.map_prior for everyone, _ in found], n_networks),
            "total": _padded([everyone.total for everyone, _ in found], n_networks),
            "posteriors": np.stack(
                [
                    _padded([posteriors[s] for _, posteriors in found], n_networks)
                    for s in range(len(own))
                ]
            ),
            "vertex_mask": mask,
        },
        facts={
            "subjects": list(own),
            "n_networks": [e.map_prior.shape[1] for e, _ in found],
            "noise_sigma_mm": noise,
        },
        pictures={
            f"found through individuals, {n} clusters": small_png(
                parcellation_figure(surface, area.whole(everyone.labels))
            )
            for n, (everyone, _) in zip(
                selected_parcellations.read("n_clusters"), found, strict=True
            )
        },
    )


def _mesh(cortex: Version, n_vertices: int) -> Surface:
    surface = mesh_of(cortex, n_vertices)
    assert surface is not None  # an excluded mesh excludes what is made from it
    return surface


def _noise_mm(surface: Surface, runs: Sequence[Version]) -> float:
    from trend_dagster.science.evidence.nulls import SurrogateMaker

    maker = SurrogateMaker(surface)
    return float(np.mean([maker.measure(signal(run)[0]).sigma for run in runs]))


def _measured(
    surface: Surface, mask: NDArray[np.bool_], config: IndividualsConfig, noise_mm: float
) -> Cortex:
    from trend_dagster.science.individuals.model import Cortex

    return Cortex.along(surface, mask, config, noise_mm)


def _padded(values: Sequence[Floats], n_networks: int) -> Floats:
    """Stack arrays of (vertices, networks), with zeros for networks that one does not have."""
    out = np.zeros((len(values), len(values[0]), n_networks), dtype=np.float32)
    for row, value in zip(out, values, strict=True):
        row[:, : value.shape[1]] = value
    return out


@stored_asset(
    group="individuals",
    dims=(SUBJECT,),
    inputs=[bold, individual_prior, cortex],
    settings=("individuals",),
    nothing_to_do=why_no_individuals,
    pool="memory",
)
def individual_networks(
    task: Task, bold: Available, individual_prior: Version, cortex: Version
) -> Result:
    """One newborn's own networks, with their probability, beside the cohort's map.

    A network has the same number in every newborn. How far the map departs from the cohort's
    stands beside the same method on runs of this newborn without any difference in them: only
    what exceeds that is the newborn's own.
    """
    from trend_dagster.science.evidence.nulls import SurrogateMaker
    from trend_dagster.science.individuals.differences import measure_departure
    from trend_dagster.science.individuals.model import find_individual, prepare_run
    from trend_dagster.science.individuals.summary import network_table

    subject, config = task.partition[SUBJECT], task.settings.individuals
    if not bold:
        return Result(excluded=f"all runs of {subject} are excluded")
    mask = individual_prior.read("vertex_mask")
    surface = _mesh(cortex, len(mask))
    area = _measured(surface, mask, config, individual_prior.facts["noise_sigma_mm"])
    runs = [prepare_run(signal(run)[0], area) for run in bold]
    maker, n_clusters = SurrogateMaker(surface), individual_prior.read("n_clusters")
    cohort, found, departures, agreements = individual_prior.read("labels"), [], [], []
    # Not from the cohort's labels: a network may be nowhere the one that most newborns have.
    tables, n_networks = [], max(individual_prior.facts["n_networks"])
    for i, n in enumerate(n_clusters.tolist()):
        task.progress(f"{n} clusters", i / len(n_clusters))
        others = _others(individual_prior, i, subject)
        individual = find_individual(runs, others, area, config)
        rng = np.random.default_rng([config.random_state, n, *subject.encode()])
        labels = cohort[i][mask]
        departures.append(
            measure_departure(
                runs, individual, others, labels, area, config, maker, config.n_nulls, rng
            )
        )
        agreements.append(_agreement(runs, others, area, config))
        k = individual.probability.shape[1]
        tables.append(network_table(runs, individual.labels, individual.confidence, area, k))
        found.append(individual)
    return Result(
        arrays=_individual_arrays(found, departures, area, individual_prior)
        | {"agreement": np.array(agreements)}
        | {
            f"network_{name}": np.stack(
                [_filled(t[name].to_numpy(np.float64), n_networks) for t in tables]
            )
            for name in ("area_mm2", "homogeneity", "silhouette", "confidence")
        },
        facts={
            "runs": [run.partition[BOLD_RUN] for run in bold],
            "minutes": _minutes(bold),
            "different": [d.different for d in departures],
            "vertices_beyond_the_null": [round(d.excess_vertices, 1) for d in departures],
            "z": [round(d.z, 2) for d in departures],
            "confidence": [round(float(i.confidence.mean()), 4) for i in found],
        },
        pictures={
            f"{n} clusters": small_png(
                comparison_figure(
                    surface, vector, area.whole(individual.labels), ("cohort", subject)
                )
            )
            for n, vector, individual in zip(n_clusters, cohort, found, strict=True)
        },
        files=_map_files(task, found, area, cortex, individual_prior),
    )


def _agreement(
    runs: Sequence[PreparedRun], others: Others, area: Cortex, config: IndividualsConfig
) -> float:
    """Share of vertices that have one network in both halves of the runs; NaN for a single run."""
    from trend_dagster.science.individuals.model import find_individual

    if len(runs) < 2:
        return float("nan")
    middle = len(runs) // 2
    one, other = (
        find_individual(half, others, area, config) for half in (runs[:middle], runs[middle:])
    )
    return float((one.labels == other.labels).mean())


def _others(prior: Version, parcellation: int, subject: str) -> Others:
    """Where the others of the cohort have the networks."""
    from trend_dagster.science.individuals.model import Others

    k, subjects = prior.facts["n_networks"][parcellation], prior.facts["subjects"]
    everyone = Others(
        prior.read("map_prior")[parcellation, :, :k],
        prior.read("total")[parcellation, :, :k],
        len(subjects),
    )
    if subject not in subjects:
        return everyone
    return everyone.without(prior.read("posteriors")[subjects.index(subject), parcellation, :, :k])


def _individual_arrays(
    found: Sequence[Individual], departures: Sequence[Any], area: Cortex, prior: Version
) -> dict[str, NDArray[Any]]:
    n_networks = max(prior.facts["n_networks"])
    n = len(area.mask)
    probability = np.zeros((len(found), n, n_networks), dtype=np.float32)
    probability[:, area.mask] = _padded([i.probability for i in found], n_networks)
    return {
        "n_clusters": prior.read("n_clusters"),
        "labels": np.stack([area.whole(i.labels) for i in found]),
        "cohort_labels": prior.read("labels"),
        "probability": probability,
        "confidence": probability.max(axis=2),
        "vertex_mask": area.mask,
        **{
            f"departure_{name}": np.array([float(getattr(d, name)) for d in departures])
            for name in ("share", "null", "null_sd", "excess", "z", "different", "excess_vertices")
        },
    }


def _filled(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    out = np.full(n, np.nan)
    out[: len(values)] = values
    return out


def _minutes(runs: Sequence[Version]) -> float | None:
    times = [run.facts.get("repetition_time_s") for run in runs]
    if None in times:
        return None
    lengths = [float(run.facts["n_timepoints"]) for run in runs]
    seconds = float(np.dot(lengths, np.array(times, dtype=np.float64)))
    return round(seconds / 60, 3)


def _map_files(
    task: Task, found: Sequence[Individual], area: Cortex, cortex: Version, prior: Version
) -> dict[str, bytes]:
    """A newborn's maps in the formats of the cohort's; colours and names are the cohort's."""
    files: dict[str, bytes] = {}
    subject, space = task.partition[SUBJECT], map_space(task.project, cortex, len(area.mask))
    for n, cohort, individual in zip(
        prior.read("n_clusters").tolist(), prior.read("labels"), found, strict=True
    ):
        name, title = f"{subject}_{n}_clusters", f"{subject}: {n} clusters"
        networks = networks_of(space.labels(cohort), space.surface, space.target)
        own = space.labels(area.whole(individual.labels))
        written = map_files(name, title, own, networks, space.surface, space.target)
        files |= {f"{MAPS}/{subject}/{file}": content for file, content in written.items()}
    return files


@stored_asset(
    group="individuals",
    dims=(SUBJECT,),
    inputs=[bold, individual_networks],
    nothing_to_do=why_no_individuals,
)
def network_series(task: Task, bold: Available, individual_networks: Version) -> Result:
    """The time series of each network in each run of a newborn, for the cohort's and its own map.

    Mean and first eigenvariate; the runs one after another. Beside it one table a run and map
    (.tsv), a column for each network.
    """
    from trend_dagster.science.individuals.series import network_series as series_of

    n_networks = individual_networks.array("probability").shape[2]
    maps = np.stack([individual_networks.read(n) for n in ("cohort_labels", "labels")])
    signals = [signal(run)[0] for run in bold]
    made = [
        [[series_of(run, labels, n_networks) for run in signals] for labels in each]
        for each in maps
    ]
    stacked = {
        name: np.stack(
            [[np.concatenate([getattr(s, name) for s in runs]) for runs in each] for each in made]
        )
        for name in ("mean", "eigenvariate")
    }
    names = [run.partition[BOLD_RUN] for run in bold]
    return Result(
        arrays=stacked
        | {
            "n_clusters": individual_networks.read("n_clusters"),
            "n_timepoints": np.array([run.shape[1] for run in signals]),
        },
        facts={"runs": names},
        files=series_files(
            task.partition[SUBJECT], names, individual_networks.read("n_clusters").tolist(), made
        ),
    )


@stored_asset(
    group="individuals",
    dims=(SUBJECT,),
    inputs=[network_series],
    nothing_to_do=why_no_individuals,
)
def network_connectivity(task: Task, network_series: Version) -> Result:
    """How the networks of a newborn connect, in each run and in all, for both maps.

    Full and partial correlation of the networks' mean series, and Fisher's z; over runs the mean of
    z, weighted by their length.
    """
    from trend_dagster.science.individuals import series

    lengths = network_series.read("n_timepoints").tolist()
    ends = np.cumsum(lengths)[:-1]
    runs = [
        [[series.network_connectivity(run) for run in np.split(own, ends)] for own in each]
        for each in network_series.read("mean")
    ]
    both = [[series.connectivity_of_newborn(r, lengths) for r in each] for each in runs]
    arrays = {}
    for name in ("correlation", "partial", "z", "partial_z"):
        arrays[name] = np.array([[getattr(c, name) for c in each] for each in both])
        arrays[f"run_{name}"] = np.array(
            [[[getattr(c, name) for c in r] for r in each] for each in runs]
        )
    return Result(
        arrays=arrays | {"n_clusters": network_series.read("n_clusters")},
        facts={"runs": network_series.facts["runs"]},
    )


def _participants(project: Project, partition: Partition) -> Mapping[str, Path]:
    name = project.settings.individuals.participants
    return {} if name is None else {"participants": project.folder / name}


@stored_asset(
    group="individuals",
    inputs=[individual_networks],
    settings=("individuals",),
    nothing_to_do=why_no_individuals,
    files=_participants,
)
def individuals(task: Task, individual_networks: Available) -> Result:
    """One table of all newborns and networks, and what goes with what (exploratory).

    `individuals.csv`: area, homogeneity, silhouette and confidence of each network; of each newborn
    its minutes, the agreement between its runs, and its distance from the cohort's map in units of
    the null. Columns of `individuals.participants` join it. `individuals.associate` names columns
    that areas and homogeneities are regressed on.
    """
    config = task.settings.individuals
    table = individuals_table(individual_networks)
    file = _participants(task.project, task.partition).get("participants")
    if file is not None:
        table = table.merge(read_participants(file), on="subject", how="left")
    files = {"individuals.csv": table.to_csv(index=False).encode()}
    files |= association_files(table, config.associate, config.covariates)
    people = table.drop_duplicates(["subject", "n_clusters"])
    return Result(
        arrays=number_columns(table),
        facts={
            "n_subjects": int(people["subject"].nunique()),
            "n_different": {
                str(n): int(own["different"].sum()) for n, own in people.groupby("n_clusters")
            },
        },
        tables={
            "newborns": people[
                ["subject", "n_clusters", "minutes", "different", "excess_vertices", "z"]
            ].to_markdown(index=False, floatfmt=".3g")
        },
        files=files,
    )
