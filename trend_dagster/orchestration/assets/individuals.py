"""Persons: each newborn's own networks, their time series and connectivity, and one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.associations import (
    association_files,
    association_notes,
    why_left_out,
)
from trend_dagster.delivery.individuals import (
    CONSENSUS,
    individuals_facts,
    individuals_table,
    map_pictures,
    networks_of_most,
    newborn_maps,
    newborn_networks,
    newborns_markdown,
    prior_notes,
    series_files,
    series_names,
    table_files,
    table_of,
    without_row,
)
from trend_dagster.delivery.newborn_page import newborn_page
from trend_dagster.orchestration.assets.inputs import bold, cortex
from trend_dagster.orchestration.assets.loading import (
    named_by_atlas,
    named_networks,
    page_result,
    signal,
    template_files,
    usable_runs,
)
from trend_dagster.orchestration.assets.parcellation import (
    atlas_overlap,
    nmf_sweep,
    selected_parcellations,
)
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import (
    Available,
    Optional,
    Task,
    memory_for,
    stored_asset,
)
from trend_dagster.project.atlases import read_planted
from trend_dagster.project.folder import (
    BOLD_RUN,
    SUBJECT,
    Project,
    participants_file,
    subject_key,
)
from trend_dagster.project.mesh import surface_of
from trend_dagster.project.settings import Settings, why_no_individuals
from trend_dagster.project.tables import Parcellations, factors_of, number_columns
from trend_dagster.project.target import map_space, target_run
from trend_dagster.science.individuals.settings import IndividualsConfig
from trend_dagster.science.surface import Surface
from trend_dagster.storage.label_files import label_file_at
from trend_dagster.storage.label_images import keys_of
from trend_dagster.storage.schema import SCHEMA
from trend_dagster.storage.stores import Partition, Version

if TYPE_CHECKING:  # scipy takes a while to import: only what computes with it does
    from trend_dagster.science.evidence.nulls import SurrogateMaker
    from trend_dagster.science.individuals.model import Cortex, PreparedRun
    from trend_dagster.science.individuals.newborn import CohortPrior

KEPT_SHARE = 0.25
"""Of the memory that a step may take: for newborns' runs that are prepared once for all rounds."""

COHORT_SECTIONS = (
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


def _how(settings: Settings) -> dict[str, dict[str, Any]]:
    """How newborns' networks are found; what is made of them later changes none."""
    later = {"participants", "associate", "covariates", "pages", "truth"}
    section = settings.identity("individuals")
    return {"individuals": {k: v for k, v in section.items() if k not in later}}


@stored_asset(
    group="individuals",
    inputs=[bold, selected_parcellations, nmf_sweep, cortex],
    settings=(_how, *COHORT_SECTIONS),
    code_version="7",
    nothing_to_do=why_no_individuals,
    keep_when_inputs_change=True,
    pool="memory",
)
def individual_prior(
    task: Task,
    bold: Sequence[Version],
    selected_parcellations: Version,
    nmf_sweep: Available,
    cortex: Version,
) -> Result:
    """Where the newborns of the cohort have each network of the chosen parcellations.

    Learned in rounds: from the cohort's map, then from the newborns' own. Which map comes first,
    the chosen one or another clustering of the same factorisation, newborns decide: the one whose
    networks their vertices follow most closely, some of them exchanged for those of the others, in
    the chosen one's numbers. Like a model it stays as it is when runs are added, so that a new
    newborn makes only its own networks, in the numbers that the others have; `trend run --retrain`
    learns it anew. The network that most newborns have at each vertex is a map of the cohort, too
    (`maps/consensus`): nearer to what was planted in simulated cohorts than the chosen one, whose
    numbers it has.
    """
    from trend_dagster.science.individuals.newborn import CohortPrior

    own, config = _by_subject(usable_runs(task, bold)), task.settings.individuals
    mask = np.any([run.read("vertex_mask") for run in bold], axis=0)
    surface, maker = _mesh(cortex.path, len(mask))
    chosen = Parcellations.of(selected_parcellations)
    # Where no vertex of a hemisphere has a network, none there can have one.
    labelled = (chosen.labels >= 0).any(axis=0)
    mask &= np.isin(surface.hemisphere, surface.hemisphere[labelled])
    noise = np.mean([maker.measure(signal(runs[0])[0]).sigma for runs in own.values()])
    area = _near(cortex.path, mask.tobytes(), config, float(noise))
    loads = {subject: partial(_prepared, runs, area) for subject, runs in own.items()}
    maps = dict(zip(chosen.n_clusters, chosen.labels, strict=True))
    told = _told(task, "newborns, in rounds:")
    others = _other_maps(task.settings, chosen, nmf_sweep)
    keep = KEPT_SHARE * memory_for(task.settings)
    prior = CohortPrior.learn(loads, maps, area, config, told, keep_gib=keep, other_maps=others)
    arrays, facts = prior.arrays(area), {"n_networks": prior.n_networks, "subjects": list(own)}
    notes = prior_notes(prior.n_clusters, prior.changed, chosen.labels, arrays["labels"])
    return Result(
        arrays=arrays,
        facts=facts | {"noise_sigma_mm": float(noise)} | ({"notes": notes} if notes else {}),
        pictures=map_pictures(surface, maps, arrays["labels"], CONSENSUS),
    )


def _other_maps(
    settings: Settings, chosen: Parcellations, cells: Sequence[Version]
) -> dict[int, list[NDArray[np.integer[Any]]]]:
    """Other clusterings of the factorisations that the chosen maps were made from."""
    if settings.networks.method != "spectral":
        return {}
    from trend_dagster.science.parcellation.spectral import other_networks

    seed = settings.clustering.random_state
    return {
        n: [*other_networks(*factors_of(cells, choice), n, random_state=seed)]
        for n, choice in zip(chosen.n_clusters, chosen.choices, strict=True)
    }


def _by_subject(runs: Mapping[str, Version]) -> dict[str, list[Version]]:
    own: dict[str, list[Version]] = {}
    for name, run in runs.items():
        own.setdefault(subject_key(name), []).append(run)
    return own


def _prepared(runs: Sequence[Version], area: Cortex) -> list[PreparedRun]:
    from trend_dagster.science.individuals.model import prepare_run

    return [prepare_run(signal(run)[0], area) for run in runs]


def _told(task: Task, what: str) -> Any:
    return lambda done, of: task.progress(f"{what} {done + 1} of {of}", done / of)


def _told_of_nulls(task: Task) -> Any:
    """Its own networks come first, and count as one null."""

    def told(done: int, of: int) -> None:
        what = f"null {done} of {of}" if done else "its own networks"
        task.progress(what, (done + 1) / (of + 1) if done else 0)

    return told


@lru_cache(maxsize=1)  # of one mesh for all newborns: measuring it takes longer than a newborn
def _mesh(path: Path, n_vertices: int) -> tuple[Surface, SurrogateMaker]:
    from trend_dagster.science.evidence.nulls import SurrogateMaker

    surface = surface_of(Version("cortex", {}, path), n_vertices)
    return surface, SurrogateMaker(surface)


@lru_cache(maxsize=1)
def _near(path: Path, mask: bytes, config: IndividualsConfig, noise_mm: float) -> Cortex:
    from trend_dagster.science.individuals.model import Cortex

    inside = np.frombuffer(mask, dtype=bool)
    return Cortex.along(_mesh(path, len(inside))[0], inside, config, noise_mm)


def _recorded(runs: Sequence[Version]) -> dict[str, Any]:
    """Names of runs, and how long they are together, where that is known."""
    times = [run.facts.get("repetition_time_s") for run in runs]
    minutes = None
    if None not in times:
        lengths = np.array([run.facts["n_timepoints"] for run in runs], dtype=np.float64)
        minutes = round(float(lengths @ np.array(times, dtype=np.float64)) / 60, 3)
    return {"runs": [run.partition[BOLD_RUN] for run in runs], "minutes": minutes}


def _read_prior(version: Version, subject: str) -> CohortPrior:
    from trend_dagster.science.individuals.newborn import CohortPrior

    # By what a prior has, and not by what is there: one of an older version lacks some of it.
    everyone = [name for name in SCHEMA["individual_prior"] if name != "posteriors"]
    subjects, stored = version.facts["subjects"], version.array("posteriors")
    own = {subject: np.asarray(stored[subjects.index(subject)])} if subject in subjects else {}
    arrays = {name: version.read(name) for name in everyone}
    return CohortPrior.from_arrays(arrays, version.facts["n_networks"], len(subjects), own)


def _all_left_out(project: Project, partition: Partition) -> str | None:
    subject = partition[SUBJECT]
    runs = project.runs_by_subject.get(subject, [])
    all_are = bool(runs) and all(project.why_left_out(run) is not None for run in runs)
    return _all_excluded(subject) if all_are else None


def _all_excluded(subject: str) -> str:
    return f"all runs of {subject} are excluded"


@stored_asset(
    group="individuals",
    dims=(SUBJECT,),
    inputs=[bold, individual_prior, cortex],
    settings=(_how,),
    code_version="7",
    nothing_to_do=why_no_individuals,
    foreseen=_all_left_out,
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
    from trend_dagster.science.individuals.newborn import examine, newborn_arrays, newborn_facts

    subject, config = task.partition[SUBJECT], task.settings.individuals
    if not bold:
        return Result(excluded=_all_excluded(subject))
    mask, noise = individual_prior.read("vertex_mask"), individual_prior.facts["noise_sigma_mm"]
    maker = _mesh(cortex.path, len(mask))[1]
    area = _near(cortex.path, mask.tobytes(), config, noise)
    prior, runs = _read_prior(individual_prior, subject), _prepared(bold, area)
    found = examine(runs, subject, prior, area, maker, config, _told_of_nulls(task))
    return Result(
        arrays=newborn_arrays(found, prior, area),
        facts=newborn_facts(found, prior) | _recorded(bold),
    )


@stored_asset(
    group="individuals",
    inputs=[selected_parcellations, individual_prior, cortex, atlas_overlap],
    settings=(named_by_atlas,),
    code_version="2",
    nothing_to_do=why_no_individuals,
    files=template_files,
    beside=target_run,
)
def network_names(
    task: Task,
    selected_parcellations: Version,
    individual_prior: Version,
    cortex: Version,
    atlas_overlap: Optional,
) -> Result:
    """Names and colours of the cohort's networks, which newborns' maps and the consensus have, too.

    A new run changes the cohort's map a little and mostly none of these, so that only the new
    newborn's maps are written.
    """
    chosen, written = Parcellations.of(selected_parcellations), {}
    space = map_space(task.project, cortex, chosen.labels.shape[1])
    networks = named_networks(task, chosen, space, atlas_overlap)
    if chosen.n_clusters == individual_prior.read("n_clusters").tolist():  # else of an older choice
        consensus = individual_prior.read("labels")
        maps = zip(networks, chosen.labels, consensus, strict=True)
        networks = [networks_of_most(*each, space) for each in maps]
        written = newborn_maps(CONSENSUS, chosen.n_clusters, consensus, networks, space)
    return Result(
        arrays={"n_clusters": np.array(chosen.n_clusters), "table": table_of(networks)},
        facts={"names": [[network.name for network in each] for each in networks]},
        files=written,
    )


@stored_asset(
    group="individuals",
    dims=(SUBJECT,),
    inputs=[individual_networks, network_names, cortex],
    result=True,
    nothing_to_do=why_no_individuals,
    files=template_files,
    beside=target_run,
)
def individual_maps(
    task: Task, individual_networks: Version, network_names: Version, cortex: Version
) -> Result:
    """One newborn's maps in the formats of the cohort's, in its numbers, names and colours."""
    subject, labels = task.partition[SUBJECT], individual_networks.read("labels")
    n_clusters = individual_networks.read("n_clusters")
    space = map_space(task.project, cortex, labels.shape[1])
    networks = newborn_networks(individual_networks, network_names, space)
    cohort = dict(zip(n_clusters.tolist(), individual_networks.read("cohort_labels"), strict=True))
    surface, counts = _mesh(cortex.path, labels.shape[1])[0], n_clusters.tolist()
    files = newborn_maps(subject, counts, labels, networks, space)
    return Result(
        arrays={"n_clusters": n_clusters, "keys": keys_of(space.all_labels(labels))},
        facts={
            "names": [[network.name for network in each] for each in networks],
            "colours": [[network.colour for network in each] for each in networks],
        },
        pictures=map_pictures(surface, cohort, labels, subject, networks),
        files=files | series_names(subject, counts, networks),
    )


@stored_asset(
    group="individuals",
    dims=(SUBJECT,),
    inputs=[bold, individual_networks],
    result=True,
    nothing_to_do=why_no_individuals,
)
def network_series(task: Task, bold: Available, individual_networks: Version) -> Result:
    """The time series of each network in each run of a newborn, for the cohort's and its own map.

    Mean and first eigenvariate; the runs one after another. Beside it one table a run and map
    (.tsv), a column for each network.
    """
    from trend_dagster.science.individuals.series import series_arrays

    subject, n_clusters = task.partition[SUBJECT], individual_networks.read("n_clusters")
    maps = np.stack([individual_networks.read(n) for n in ("cohort_labels", "labels")])
    n_networks = individual_networks.array("probability").shape[2]
    runs = {run.partition[BOLD_RUN]: signal(run)[0] for run in bold}
    arrays = series_arrays(list(runs.values()), maps, n_networks)
    files = series_files(subject, list(runs), n_clusters.tolist(), arrays)
    return Result(
        arrays=arrays | {"n_clusters": n_clusters}, facts={"runs": list(runs)}, files=files
    )


@stored_asset(
    group="individuals",
    dims=(SUBJECT,),
    inputs=[network_series],
    result=True,
    nothing_to_do=why_no_individuals,
)
def network_connectivity(task: Task, network_series: Version) -> Result:
    """How the networks of a newborn connect, in each run and in all, for both maps.

    Full and partial correlation of the networks' mean series, and Fisher's z; over runs the mean of
    z, weighted by their length.
    """
    from trend_dagster.science.individuals.series import connectivity_arrays

    lengths = network_series.read("n_timepoints").tolist()
    arrays = connectivity_arrays(network_series.read("mean"), lengths)
    return Result(
        arrays=arrays | {"n_clusters": network_series.read("n_clusters")},
        facts={"runs": network_series.facts["runs"]},
    )


def _no_pages(settings: Settings) -> str | None:
    if not settings.individuals.pages:
        return "no pages are asked for (individuals.pages is off)"
    return why_no_individuals(settings)


def _planted(project: Project, partition: Partition) -> Mapping[str, Path]:
    name = project.settings.individuals.truth
    if name is None:
        return {}
    file = label_file_at(project.folder / name.replace("{subject}", partition[SUBJECT]))
    return file.named_files("truth")


@stored_asset(
    group="individuals",
    dims=(SUBJECT,),
    inputs=[
        bold,
        individual_networks,
        individual_maps,
        network_series,
        network_connectivity,
        cortex,
    ],
    code_version="3",
    nothing_to_do=_no_pages,
    files=_planted,
)
def individual_page(
    task: Task,
    bold: Available,
    individual_networks: Version,
    individual_maps: Version,
    network_series: Version,
    network_connectivity: Version,
    cortex: Version,
) -> Result:
    """A page for one newborn: its map beside the cohort's, confidence, series, runs.

    Where `individuals.truth` says what was planted for it, that stands beside both, with the Dice.
    """
    versions = individual_networks, individual_maps, network_series, network_connectivity
    n_vertices = individual_networks.array("labels").shape[1]
    surface, planted = _mesh(cortex.path, n_vertices)[0], _read_planted(task, n_vertices)
    note = task.settings.inputs.note or ""
    page, facts = newborn_page(task.project.folder.name, note, bold, *versions, surface, planted)
    return page_result(f"individuals/{task.partition[SUBJECT]}.html", page, facts)


def _read_planted(task: Task, n_vertices: int) -> NDArray[np.int64] | None:
    files = list(_planted(task.project, task.partition).values())
    if not files:
        return None
    return read_planted(task.project, label_file_at(files[0]), n_vertices)


def _participants(project: Project, partition: Partition) -> Mapping[str, Path]:
    file = participants_file(project)
    return {} if file is None else {"participants": file}


def _recordings(project: Project) -> list[Version]:
    """Runs that can be used: how much newborns moved is told by their facts."""
    return list(project.current("bold", BOLD_RUN))


@stored_asset(
    group="individuals",
    inputs=[individual_networks, individual_maps],
    settings=("individuals",),
    code_version="3",
    nothing_to_do=why_no_individuals,
    files=_participants,
    beside=_recordings,
)
def individuals(task: Task, individual_networks: Available, individual_maps: Available) -> Result:
    """One table of all newborns and networks, and what goes with what (exploratory).

    `individuals.csv`: area, homogeneity, silhouette and confidence of each network; of each newborn
    its minutes, its motion, the agreement between its runs, and its distance from the cohort's map
    in units of the null; `individuals.json` says what its columns are. Columns of
    `individuals.participants` join it. `individuals.associate` names columns that areas and
    homogeneities are regressed on; an association that cannot be made is left out, with the reason.
    """
    file, config = participants_file(task.project), task.settings.individuals
    names = {version.partition[SUBJECT]: version.facts["names"] for version in individual_maps}
    newborns = [each for each in individual_networks if each.partition[SUBJECT] in names]
    table = individuals_table(newborns, names, _recordings(task.project), file)
    notes = association_notes(why_left_out(table, config))
    notes += without_row([each.partition[SUBJECT] for each in newborns], file)
    return Result(
        arrays=number_columns(table),
        facts=individuals_facts(table) | ({"notes": notes} if notes else {}),
        tables={"newborns": newborns_markdown(table)},
        files=table_files(table) | association_files(table, config),
    )
