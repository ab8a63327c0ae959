"""Tables of persons: series as .tsv, and one table of all newborns."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.surface import maps_png
from trend_dagster.delivery.maps import MAPS, PREFIX, counted, map_files, networks_of
from trend_dagster.errors import InputError, MissingUpstreamError
from trend_dagster.project.dimensions import BOLD_RUN
from trend_dagster.project.target import MapSpace
from trend_dagster.science.evidence.measures import replaced_networks
from trend_dagster.science.surface import Surface
from trend_dagster.storage.label_images import Network, Networks
from trend_dagster.storage.schema import SCHEMA
from trend_dagster.storage.stores import Version

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "individuals"
CONSENSUS = "consensus"  # of the newborns
MAP_NAMES = ("cohort", "own")
NO_MAP = np.empty(0, dtype=np.int64)
PERSON = [
    "subject",
    "n_clusters",
    "minutes",
    "mean_fd",
    "share",
    "null",
    "z",
    "different",
    "excess_vertices",
]


def _stored(prefix: str) -> dict[str, dict[str, str]]:
    """Columns that are arrays of ``individual_networks``, as its schema says them."""
    return {
        name.removeprefix(prefix): described(spec.description, spec.unit)
        for name, spec in SCHEMA["individual_networks"].items()
        if name.startswith(prefix)
    }


def described(text: str, unit: str = "1") -> dict[str, str]:
    """A column as the table's .json has it."""
    return {"Description": text} | ({} if unit == "1" else {"Units": unit})


COLUMNS = {
    "subject": described("the newborn"),
    "n_clusters": described("number of clusters of the parcellation"),
    "network": described("its number in all newborns' maps, from 1"),
    "name": described("its name in all newborns' maps"),
    **_stored("network_"),
    "n_runs": described("runs of the newborn that were used"),
    "minutes": described("length of these runs together", "min"),
    "mean_fd": described(
        "mean framewise displacement as the confounds tables have it: mean of all recorded volumes "
        "of the runs that have a table; empty where none has",
        "mm",
    ),
    **_stored("departure_"),
    "agreement_between_runs": described("share of vertices alike in two halves of the runs"),
}
"""Columns of the table of newborns, without those of the participants."""
THEIRS = "_participants"
"""Behind the name of a participants' column that the table has itself."""

Labels = NDArray[np.integer]
FloatArray = NDArray[np.floating[Any]]


def table_of(networks: Iterable[Networks]) -> NDArray[np.uint8]:
    """Networks of parcellations as bytes of JSON, without what the map itself decides."""
    rows = [[asdict(each) for each in counted(found, NO_MAP)] for found in networks]
    return np.frombuffer(json.dumps(rows).encode(), dtype=np.uint8)


def networks_of_most(
    networks: Networks, chosen: Labels, consensus: Labels, space: MapSpace
) -> list[Network]:
    """Networks that most newborns have, in the names and colours of the chosen map's.

    Parameters
    ----------
    networks : sequence of Network
        Of the chosen map.
    chosen, consensus : ndarray of shape (n_vertices,)
        The chosen map, and the one that most newborns have in its numbers.
    space : MapSpace
        What maps are written on.

    Returns
    -------
    list of Network
        One that the chosen map does not have (where newborns led to another map) has the colour of
        its number and a name of its own, ``LH_newborns_05``.
    """
    other = _replaced(chosen, consensus)
    theirs = networks_of(space.labels(consensus), space.surface, space.target) if other else []
    found = []
    for network in networks:
        if network.key in other:
            side = theirs[network.key - 1].hemisphere if network.key <= len(theirs) else ""
            name = f"{PREFIX[side]}_newborns_{network.key:02d}"
            network = replace(network, name=name, hemisphere=side, homologue=None, overlaps=())
        elif network.homologue in other:
            network = replace(network, homologue=None)
        found.append(network)
    return found


def _replaced(chosen: Labels, consensus: Labels) -> list[int]:
    """Keys of the networks that the chosen map does not have as most newborns have them."""
    return [k + 1 for k in replaced_networks(chosen, consensus)]


def prior_notes(
    n_clusters: Sequence[int],
    changed: Sequence[bool],
    chosen: Iterable[Labels],
    consensus: Iterable[Labels],
) -> list[str]:
    """Say where newborns led to another map of the cohort than the chosen one.

    Parameters
    ----------
    n_clusters : sequence of int
        Of each parcellation.
    changed : sequence of bool
        Whether newborns chose another map, or exchanged networks of it.
    chosen, consensus : iterable of ndarray of shape (n_vertices,)
        The chosen maps, and what most newborns have.
    """
    found = []
    maps = zip(n_clusters, changed, chosen, consensus, strict=True)
    for n, is_other, one, most in maps:
        other = _replaced(one, most)
        if not is_other or not other:
            continue
        named = ", ".join(map(str, other))
        found.append(
            f"{n} clusters: newborns follow networks of other clusterings of the chosen "
            f"factorisation more closely; in their maps and in maps/{CONSENSUS} {len(other)} of "
            f"the numbers ({named}) stand for other networks than in the chosen map"
        )
    return found


def newborn_networks(newborn: Version, names: Version, space: MapSpace) -> list[list[Network]]:
    """Networks of each of a newborn's maps: the cohort's, with the newborn's vertices.

    Parameters
    ----------
    newborn : Version
        Of ``individual_networks``.
    names : Version
        Of ``network_names``: the cohort's.
    space : MapSpace
        What maps are written on.
    """
    table, found = json.loads(names.read("table").tobytes()), []
    cohort = {
        n: [Network(**row | {"rgb": tuple(row["rgb"]), "overlaps": ()}) for row in rows]
        for n, rows in zip(names.read("n_clusters").tolist(), table, strict=True)
    }
    maps = (newborn.read(name) for name in ("n_clusters", "cohort_labels", "labels"))
    for n, cohort_map, own in zip(*maps, strict=True):
        labels, networks = space.labels(own), cohort.get(int(n), [])
        if len(networks) <= max(own.max(), labels.max()):  # the prior is that of an older choice
            networks = networks_of(space.labels(cohort_map), space.surface, space.target)
        found.append(counted(networks, labels))
    return found


def newborn_maps(
    subject: str,
    n_clusters: Sequence[int],
    labels: Iterable[Labels],
    networks: Sequence[Networks],
    space: MapSpace,
) -> dict[str, bytes]:
    """Write a newborn's maps in the formats of the cohort's.

    Parameters
    ----------
    subject : str
        Its key.
    n_clusters : sequence of int
        Of each map.
    labels : iterable of ndarray of shape (n_vertices,)
        The newborn's.
    networks : sequence of sequence of Network
        Of each map, from `newborn_networks`.
    space : MapSpace
        What they are written on.

    Returns
    -------
    dict of str to bytes
        By path below the project's outputs.
    """
    files: dict[str, bytes] = {}
    for n, own, each in zip(n_clusters, labels, networks, strict=True):
        name, title = f"{subject}_{n}_clusters", f"{subject}: {n} clusters"
        found = space.labels(own)
        written = map_files(name, title, found, counted(each, found), space.surface, space.target)
        files |= {f"{MAPS}/{subject}/{file}": content for file, content in written.items()}
    return files


def series_names(
    subject: str, n_clusters: Sequence[int], networks: Sequence[Networks]
) -> dict[str, bytes]:
    """Say what the columns of a newborn's series are called; arguments as of `newborn_maps`."""
    files = {}
    for n, each in zip(n_clusters, networks, strict=True):
        columns = {f"network_{network.key:02d}": {"LongName": network.name} for network in each}
        described = (json.dumps(columns, indent=2) + "\n").encode()
        for name in MAP_NAMES:
            files[f"{FOLDER}/{subject}/{subject}_seg-{name}{n}_timeseries.json"] = described
    return files


def map_pictures(
    surface: Surface,
    cohort: Mapping[int, Labels],
    labels: Iterable[Labels],
    title: str,
    networks: Sequence[Networks] = (),
) -> dict[str, bytes]:
    """Draw maps beside the cohort's, by number of clusters; in the colours of networks."""
    colours: list[dict[int, FloatArray] | None] = [colours_of(each) for each in networks]
    colours = colours or [None] * len(cohort)
    return {
        f"{n} clusters": maps_png(surface, {"cohort": chosen, title: own}, colours=known)
        for (n, chosen), own, known in zip(cohort.items(), labels, colours, strict=True)
    }


def colours_of(networks: Networks) -> dict[int, FloatArray]:
    """Colours by label, 0 to 1, as pictures take them."""
    return {network.key - 1: np.array(network.rgb) / 255 for network in networks}


def series_files(
    subject: str, runs: Sequence[str], n_clusters: Sequence[int], arrays: Mapping[str, Any]
) -> dict[str, bytes]:
    """Write the series of a newborn: a table for each run, map and parcellation.

    Parameters
    ----------
    subject : str
        Its key.
    runs : sequence of str
        Names of the runs.
    n_clusters : sequence of int
        Of each parcellation.
    arrays : mapping of str to ndarray
        From `trend_dagster.science.individuals.series.series_arrays`, by map and parcellation.

    Returns
    -------
    dict of str to bytes
        By path below the project's outputs; a row for each volume, a column for each network,
        ``n/a`` for a network without signal.
    """
    import pandas as pd

    files, ends = {}, np.cumsum(arrays["n_timepoints"])[:-1]
    for what in ("mean", "eigenvariate"):
        for name, parcellations in zip(MAP_NAMES, arrays[what], strict=True):
            for n, series in zip(n_clusters, parcellations, strict=True):
                columns = [f"network_{k + 1:02d}" for k in range(n)]
                # Fewer networks may have been found than were asked for.
                whole = np.full((len(series), n), np.nan)
                whole[:, : series.shape[1]] = series[:, :n]
                for run, values in zip(runs, np.split(whole, ends), strict=True):
                    table = pd.DataFrame(values, columns=columns)
                    text = table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g")
                    file = f"{run}_seg-{name}{n}_stat-{what}_timeseries.tsv"
                    files[f"{FOLDER}/{subject}/{file}"] = text.encode()
    return files


def individuals_table(
    newborns: Sequence[Version],
    names: Mapping[str, Sequence[Sequence[str]]],
    runs: Sequence[Version],
    participants: Path | None,
) -> pd.DataFrame:
    """Put what is known of all newborns into one table.

    Parameters
    ----------
    newborns : sequence of Version
        Of ``individual_networks``.
    names : mapping of str to sequence of sequence of str
        Names of the networks of each parcellation, by subject.
    runs : sequence of Version
        Of ``bold``: how much newborns moved.
    participants : Path, optional
        Table whose columns join it.

    Returns
    -------
    DataFrame
        A row for each newborn, parcellation and network (from 1), by the names of `COLUMNS`, and
        the participants' columns.
    """
    import pandas as pd

    from trend_dagster.science.individuals.newborn import DEPARTURE
    from trend_dagster.science.individuals.summary import MEASURES

    if not newborns:
        raise MissingUpstreamError(
            "individuals",
            expected="the networks of at least one newborn",
            found="none",
            remedy="Mend what individual_networks fails on, or add runs that can be used.",
        )
    rows = []
    for newborn in newborns:
        network = {name: newborn.read(f"network_{name}") for name in MEASURES}
        person = {name: newborn.read(f"departure_{name}") for name in DEPARTURE} | {
            "agreement_between_runs": newborn.read("agreement")
        }
        minutes, subject = newborn.facts.get("minutes"), newborn.partition["subject"]
        moved = mean_fd([r for r in runs if r.partition[BOLD_RUN] in newborn.facts["runs"]])
        for i, n in enumerate(newborn.read("n_clusters").tolist()):
            of_person = {name: values[i] for name, values in person.items()}
            for k in np.flatnonzero(np.isfinite(network["area_mm2"][i])):
                rows.append(
                    {"subject": subject, "n_clusters": n, "network": k + 1}
                    | {"name": names[subject][i][int(k)]}
                    | {name: values[i, k] for name, values in network.items()}
                    | {"n_runs": len(newborn.facts["runs"])}
                    | {"minutes": np.nan if minutes is None else minutes, "mean_fd": moved}
                    | of_person
                    | {"different": bool(of_person["different"])}
                )
    return with_participants(pd.DataFrame(rows), participants)


def mean_fd(runs: Sequence[Version]) -> float:
    """Mean framewise displacement of all volumes of runs in mm; NaN where no run tells it."""
    known = [run.facts for run in runs if "mean_framewise_displacement" in run.facts]
    if not known:
        return np.nan
    moved = [facts["mean_framewise_displacement"] for facts in known]
    lengths = [facts.get("n_volumes", facts["n_timepoints"]) for facts in known]
    return round(float(np.average(moved, weights=lengths)), 4)


def with_participants(table: pd.DataFrame, participants: Path | None) -> pd.DataFrame:
    """Join the participants' columns, if there are any; one that the table has gets `THEIRS`."""
    if participants is None:
        return table
    theirs, known = read_participants(participants), set(table["subject"])
    # BIDS writes sub-01; data sets of newborns write 01 as well.
    theirs["subject"] = [
        name if name in known or f"sub-{name}" not in known else f"sub-{name}"
        for name in theirs["subject"]
    ]
    return table.merge(theirs, on="subject", how="left", suffixes=("", THEIRS))


def without_row(subjects: Sequence[str], participants: Path | None) -> list[str]:
    """Say of which newborns the participants table has no row; nothing where there is no table."""
    if participants is None:
        return []
    named = set(read_participants(participants)["subject"])
    missing = [s for s in subjects if s not in named and s.removeprefix("sub-") not in named]
    if not missing:
        return []
    shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    return [
        f"{participants.name} has no row of {len(missing)} of {len(subjects)} newborns: {shown}; "
        "their columns stay empty"
    ]


def individuals_facts(table: pd.DataFrame) -> dict[str, Any]:
    """How many newborns differ, by number of clusters, and each newborn's row."""
    people = table.drop_duplicates(["subject", "n_clusters"])
    by_clusters = people.groupby("n_clusters")["different"].sum()
    return {
        "n_subjects": int(people["subject"].nunique()),
        "n_different": {str(n): int(count) for n, count in by_clusters.items()},
        "newborns": [
            {str(k): None if v != v else v for k, v in row.items()}
            for row in people[PERSON].to_dict("records")
        ],
    }


def newborns_markdown(table: pd.DataFrame) -> str:
    """A row for each newborn and parcellation."""
    people = table.drop_duplicates(["subject", "n_clusters"])[PERSON]
    return str(people.to_markdown(index=False, floatfmt=".3g"))


def read_participants(path: Path) -> pd.DataFrame:
    """Read a table of newborns as BIDS has it.

    Parameters
    ----------
    path : Path
        The file (.tsv), with a column ``participant_id``; ``n/a`` is no value. Tabs at the end of
        lines count for nothing.

    Returns
    -------
    DataFrame
        With ``subject`` in its place.

    Raises
    ------
    InputError
        If it cannot be read, or newborns are missing or named twice.
    """
    import pandas as pd

    try:
        # With a tab more than names pandas would take every value for that of the next column.
        text = re.sub(r"\t+$", "", path.read_text(encoding="utf-8-sig"), flags=re.MULTILINE)
        first, _, others = text.partition("\n")
        names = "\t".join(name.strip() for name in first.split("\t"))
        table = pd.read_csv(
            io.StringIO(f"{names}\n{others}"),
            sep="\t",
            na_values=["n/a"],
            dtype={"participant_id": str},
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"participants table {path}",
            expected="a tab-separated table",
            found=str(error),
            remedy="Correct individuals.participants, or the file.",
        ) from error
    found = f"columns {', '.join(map(str, table.columns))}"
    if "participant_id" in table:
        found, table["participant_id"] = "", table["participant_id"].str.strip()
        named = table["participant_id"]
        if n_without := int(named.isna().sum()):
            found = f"no name in {n_without} rows"
        elif twice := named[named.str.removeprefix("sub-").duplicated()].tolist():
            found = f"more than one row of {', '.join(twice[:5])}"
    if found:
        raise InputError(
            f"participants table {path}",
            expected="a column participant_id that names each newborn once, and tabs between "
            "columns",
            found=found,
            remedy="Correct the file.",
        )
    return table.rename(columns={"subject": f"subject{THEIRS}", "participant_id": "subject"})


def table_files(table: pd.DataFrame) -> dict[str, bytes]:
    """Write the table of newborns as ``individuals.csv``, and what its columns are as a .json."""
    theirs = described("column of the participants table")
    columns = {str(name): COLUMNS.get(str(name), theirs) for name in table}
    return {
        "individuals.csv": table.to_csv(index=False).encode(),
        "individuals.json": (json.dumps(columns, indent=2) + "\n").encode(),
    }
