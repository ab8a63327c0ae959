"""Tables over stored versions: the sweep, its stability, its controls.

What belongs here: reading versions into rows and rows into tables. What does not: how a table is
shown (``delivery``) and which versions there should be (``orchestration``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError, MissingUpstreamError
from trend_dagster.project.dimensions import LABEL_FILE, N_COMPONENTS
from trend_dagster.project.folder import Project
from trend_dagster.project.settings import Settings, why_no_stability
from trend_dagster.science.evidence.measures import mean_dice, renumbered
from trend_dagster.science.evidence.stability import COLUMNS, MIN_NULLS_FOR_Z
from trend_dagster.science.parcellation.settings import SelectionConfig, SweepGrid
from trend_dagster.storage.schema import SCHEMA
from trend_dagster.storage.stores import Partition, Version

if TYPE_CHECKING:  # pandas takes a third of a second: only the functions that need it load it
    import pandas as pd

CELL = ["label_file", "n_components", "alpha_W", "l1_ratio", "n_clusters"]
"""Columns that tell a row of the table from all others."""

Key = tuple[str, int, float, float, int]
"""Values of these columns."""


# Rows


def key_of(row: Mapping[Any, Any]) -> Key:
    """Values that tell a row from all others."""
    return (
        str(row["label_file"]),
        int(row["n_components"]),
        float(row["alpha_W"]),
        float(row["l1_ratio"]),
        int(row["n_clusters"]),
    )


def figure_rows(
    asset: str, partition: Partition, arrays: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[dict[str, int], dict[str, Any]]]:
    """Lay the arrays of an output of the sweep out as rows, one for each row of the table.

    Parameters
    ----------
    asset : str
        ``nmf_sweep``, ``stability`` or ``control_sweep``.
    partition : mapping
        Label file and number of components.
    arrays : mapping of str to ndarray
        Arrays by the names of the schema.

    Yields
    ------
    place : dict of str to int
        Index along the dimensions ``combination`` and ``n_clusters``.
    row : dict
        The partition, and all numbers of which there is one in this place.
    """
    n_clusters = len(arrays["n_clusters"])
    for i, j in np.ndindex(len(arrays["alpha_W"]), n_clusters):
        place = {"combination": i, "n_clusters": j}
        row = {
            name: arrays[name][tuple(place[dim] for dim in spec.dims)].item()
            for name, spec in SCHEMA[asset].items()
            if set(spec.dims) <= place.keys() and name in arrays
        }
        key = {"label_file": partition[LABEL_FILE], "n_components": int(partition[N_COMPONENTS])}
        yield place, {**key, **row}


def _rows(version: Version) -> Iterator[tuple[dict[str, int], dict[str, Any]]]:
    large = {"W", "H", "labels"}
    arrays = {name: version.read(name) for name in version.names() if name not in large}
    return figure_rows(version.asset, version.partition, arrays)


def tidy_rows(cell: Version) -> Iterator[dict[str, Any]]:
    """One row per combination of settings and number of clusters of a stored cell."""
    sizes = cell.read("cluster_sizes")
    for place, row in _rows(cell):
        i, j = place["combination"], place["n_clusters"]
        yield {
            **row,
            "cluster_sizes": tuple(sizes[i, j, : row["n_clusters"]].tolist()),
            "digest": cell.digest,
            "version": cell.path.name,
            "seconds": cell.facts["factorization_seconds"][i],
        }


def labels_of(cells: Sequence[Version], row: Mapping[Any, Any]) -> NDArray[np.int32]:
    """Label vector of one row of the table."""
    version, place = _cell_of(cells, row)
    return np.asarray(version.array("labels")[place], dtype=np.int32)


def factors_of(
    cells: Sequence[Version], row: Mapping[Any, Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Loadings and profiles that the labels of one row of the table were made from."""
    version, (i, _) = _cell_of(cells, row)
    W, H = (np.asarray(version.array(name)[i], dtype=np.float32) for name in ("W", "H"))
    return W, H


def _cell_of(cells: Sequence[Version], row: Mapping[Any, Any]) -> tuple[Version, tuple[int, int]]:
    """Version that holds a row of the table, and where in it."""
    wanted = {LABEL_FILE: str(row["label_file"]), N_COMPONENTS: str(int(row["n_components"]))}
    (version,) = (v for v in cells if v.partition == wanted)
    (place,) = (place for place, key in _places(version) if key == key_of(row))
    return version, place


def _places(version: Version) -> Iterator[tuple[tuple[int, int], Key]]:
    """Index of each row's labels, and its key."""
    grid = {name: version.read(name) for name in CELL[2:]}
    for place, row in figure_rows(version.asset, version.partition, grid):
        yield (place["combination"], place["n_clusters"]), key_of(row)


# The sweep


def sweep_cells(project: Project) -> list[Version]:
    """Find the stored cells of the sweep that today's inputs and settings ask for.

    Raises
    ------
    MissingUpstreamError
        If there are none.
    """
    cells = list(project.current("nmf_sweep", LABEL_FILE, N_COMPONENTS))
    if not cells:
        raise MissingUpstreamError(
            f"project {project.folder}",
            expected="at least one finished cell of the sweep",
            found="none",
            remedy="`trend run` makes them.",
        )
    return cells


def chosen(project: Project) -> Version:
    """Return the chosen parcellations of a project.

    Raises
    ------
    MissingUpstreamError
        If there are none.
    """
    selected = project.store.latest("selected_parcellations")
    if selected is None or selected.excluded is not None:
        raise MissingUpstreamError(
            f"project {project.folder}",
            expected="chosen parcellations",
            found="none yet",
            remedy="`trend run` chooses them.",
        )
    return selected


def beside_noise(choice: Mapping[str, Any], split_by: str | None) -> str:
    """Say of a chosen cell whether it is more than noise; empty if that is not known.

    Parameters
    ----------
    choice : mapping
        From the facts ``chosen`` of ``selected_parcellations``.
    split_by : str, optional
        What the halves were cut by.
    """
    if choice.get("stability") is not None and choice.get("stability_null") is None:
        return (
            f"two halves (by {split_by}) agree by {choice['stability']:.3f} (adjusted Rand index); "
            "in noise as smooth nothing was found, so it is not known whether that is chance."
        )
    if choice.get("stability_margin") is None:
        return ""
    return (
        f"two halves (by {split_by}) agree by {choice['stability']:.3f} (adjusted Rand index), "
        f"noise as smooth by {choice['stability_null']:.3f}: "
        + ("more than chance." if choice["beyond_noise"] else "no more than chance, no finding.")
    )


def cell_labels(project: Project, cell: str) -> tuple[Version, dict[int, NDArray[np.int32]]]:
    """Labels of a cell of the sweep, by number of clusters.

    Parameters
    ----------
    project : Project
        Where.
    cell : str
        ``label_file/n_components``, and ``/alpha_W/l1_ratio`` where there are several of them.

    Raises
    ------
    InputError
        If there is no such cell, or several; names those that there are.
    """
    cells, named = sweep_cells(project), cell.split("/")
    found: dict[str, dict[int, tuple[Version, dict[str, Any]]]] = {}
    for version in cells:
        for row in tidy_rows(version):
            name = [str(row["label_file"]), *(f"{row[column]:g}" for column in CELL[1:-1])]
            if name[: len(named)] == named:
                found.setdefault("/".join(name), {})[row["n_clusters"]] = (version, row)
    if len(found) != 1:
        known = found or dict.fromkeys("/".join(version.partition.values()) for version in cells)
        raise InputError(
            f"cell {cell} of the sweep of {project.folder}",
            expected=f"one of {', '.join(known)}",
            found=f"{len(found)} cells of that name",
            remedy="Name one of them.",
        )
    (rows,) = found.values()
    version = next(iter(rows.values()))[0]
    return version, {n: labels_of([version], row) for n, (version, row) in rows.items()}


def sweep_table(
    cells: Sequence[Version],
    thresholded: Sequence[Version],
    stability: Sequence[Version],
    missing: Mapping[tuple[str, ...], str],
    grid: SweepGrid,
) -> pd.DataFrame:
    """Put all cells of the grid into one table, the missing ones included.

    Parameters
    ----------
    cells : sequence of Version
        Cells of the sweep that are stored.
    thresholded : sequence of Version
        Thresholded matrices: they tell the number of labels of each label file.
    stability : sequence of Version
        Stability of the cells beside its null, where it was computed.
    missing : mapping of (label file, n_components) to str
        Cells that there should be and are not, with the reason.
    grid : SweepGrid
        What the rows of a missing cell would be.

    Returns
    -------
    DataFrame
        Sorted by label file, n_components, alpha_W, l1_ratio, n_clusters. ``status`` is "done" or
        says why there are no figures.
    """
    import pandas as pd

    rows = [{**row, "status": "done"} for cell in cells for row in tidy_rows(cell)]
    for (label_file, k), reason in missing.items():
        rows += [
            dict(zip(CELL, (label_file, int(k), *key), strict=True)) | {"status": reason}
            for key in itertools.product(grid.alpha_W, grid.l1_ratio, grid.n_clusters)
        ]
    table = pd.DataFrame(rows)
    n_labels = {m.partition[LABEL_FILE]: m.facts["n_labels"] for m in thresholded}
    table["n_labels"] = table["label_file"].map(n_labels)
    found = pd.DataFrame([row for version in stability for _, row in _rows(version)])
    if not found.empty:
        table = table.merge(found, how="left", on=CELL, validate="one_to_one")
    return table.sort_values(CELL, ignore_index=True)


def finished(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the sweep's table that have figures."""
    return table[table["status"] == "done"]


def number_columns(table: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Columns of numbers as a store keeps them; not the times, which differ from run to run."""
    numbers = table.drop(columns="seconds", errors="ignore").select_dtypes("number")
    return {str(name): numbers[name].to_numpy(np.float64) for name in numbers}


def summary_facts(
    table: pd.DataFrame, stability: Sequence[Version], settings: Settings
) -> dict[str, Any]:
    """Say what is worth knowing of the sweep's table."""
    limit = settings.selection.max_zero_row_share
    return {
        "label_files": table["label_file"].tolist(),
        "n_cells": len(table),
        "n_failed": len(table) - len(finished(table)),
        "collapsed": int((table["zero_row_share"] > limit).sum()),
        "no_stability": _why_no_stability(settings, table),
        "split_by": stability[0].facts["split_by"] if stability else None,
        "n_nulls": stability[0].facts["n_nulls"] if stability else 0,
    }


def _why_no_stability(settings: Settings, table: pd.DataFrame) -> str | None:
    if "stability_margin" in table and table["stability_margin"].notna().any():
        return None
    few = (
        f"it takes {MIN_NULLS_FOR_Z} surrogate cohorts to tell how far noise varies, and "
        f"validation.n_nulls is {settings.validation.n_nulls}"
    )
    if settings.validation.n_nulls >= MIN_NULLS_FOR_Z:
        few = "none could be computed (`trend status` says why)"
    return why_no_stability(settings) or few


def stability_facts(
    found: Mapping[str, NDArray[np.float64]], split_by: str, n_nulls: int
) -> dict[str, Any]:
    """Say what is worth knowing of the stability of cells."""
    facts: dict[str, Any] = {"split_by": split_by, "n_nulls": n_nulls}
    for name in ("stability", "stability_null", "stability_excess"):
        facts[name] = [None if np.isnan(v) else round(float(v), 4) for v in found[name].ravel()]
    if n_nulls < MIN_NULLS_FOR_Z:
        facts["z"] = f"not given: it takes {MIN_NULLS_FOR_Z} surrogate cohorts, there are {n_nulls}"
    return facts


def stability_markdown(partition: Partition, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Table of each measure beside its null, a column for each number of clusters."""
    import pandas as pd

    table = pd.DataFrame([row for _, row in figure_rows("stability", partition, arrays)])
    shown = table[["n_clusters", *COLUMNS]].set_index("n_clusters").T
    return str(shown.round(3).to_markdown())


def rule_facts(
    config: SelectionConfig, table: pd.DataFrame, sweep_summary: Version
) -> dict[str, Any]:
    """Say by which rule cells are chosen, and what it goes by."""
    from trend_dagster.science.parcellation.selection import IN_WORDS, rule_in_use

    rule = rule_in_use(table, config)
    return {
        "rule": IN_WORDS[rule],
        "rule_name": rule,
        "rule_asked_for": config.rule,
        **{name: sweep_summary.facts[name] for name in ("no_stability", "split_by", "n_nulls")},
    }


def summary_table(sweep_summary: Version, cells: Sequence[Version]) -> pd.DataFrame:
    """Build the table of the cells that the summary lists as done."""
    import pandas as pd

    if not cells:
        raise MissingUpstreamError(
            "sweep_summary",
            expected="at least one cell of nmf_sweep for today's settings",
            found="none",
            remedy="Look at why the cells failed (`trend status`), and mend that.",
        )
    table = pd.DataFrame([row for version in cells for row in tidy_rows(version)])
    label_files = sweep_summary.facts["label_files"]
    n_labels = dict(zip(label_files, sweep_summary.read("n_labels"), strict=True))
    table = table.assign(n_labels=table["label_file"].map(n_labels))
    columns = [name for name in COLUMNS if name in sweep_summary]
    stored = pd.DataFrame({name: sweep_summary.read(name) for name in [*CELL[1:], *columns]})
    stored.insert(0, "label_file", label_files)
    stored = stored.astype({"n_components": int, "n_clusters": int})
    return table.merge(stored, how="left", on=CELL, validate="one_to_one") if columns else table


# The chosen cells


def choices(ranked: pd.DataFrame) -> list[dict[str, Any]]:
    """Say of each chosen cell which it is, and what it was chosen by.

    Parameters
    ----------
    ranked : DataFrame
        Cells with their rank.

    Returns
    -------
    list of dict
        One per number of clusters, as JSON can store it.
    """
    import pandas as pd

    beside = [name for name in COLUMNS if name.startswith("stability") and name in ranked]
    return [
        {
            "n_clusters": int(row["n_clusters"]),
            **{name: row[name] for name in CELL[:-1]},
            "alive": bool(row["alive"]),
            "beyond_noise": bool(row["beyond_noise"]),
            **{name: None if pd.isna(row[name]) else float(row[name]) for name in beside},
            "cell": row["version"],
            "digest": row["digest"],
        }
        for row in ranked[ranked["rank"] == 1].to_dict("records")
    ]


@dataclass(frozen=True, eq=False)
class Parcellations:
    """The chosen parcellations, read at once.

    Parameters
    ----------
    n_clusters : list of int
        Clusters that each was asked for.
    labels : ndarray of shape (n_parcellations, n_vertices)
        Network of each vertex; -1 without signal or label.
    choices : list of dict
        The cell of the sweep that each comes from, and why.
    mirror_images : mapping
        Right network and left, of each whose mirror images are recorded, by number of clusters.
    """

    n_clusters: list[int]
    labels: NDArray[np.int32]
    choices: list[dict[str, Any]]
    mirror_images: Mapping[str, Any]

    @classmethod
    def of(cls, selected: Version) -> Parcellations:
        """Read what ``selected_parcellations`` holds."""
        facts, labels = selected.facts, np.asarray(selected.read("labels"), dtype=np.int32)
        recorded = facts.get("mirror_images", {})
        return cls(selected.read("n_clusters").tolist(), labels, facts["chosen"], recorded)

    def by_cell(self) -> dict[Key, NDArray[np.int32]]:
        """Label vectors in the numbers of the version before, by the cell that they come from."""
        return dict(zip(map(key_of, self.choices), self.labels, strict=True))

    def partners(self, n_clusters: int) -> dict[int, int] | None:
        """Right network -> left network that is its mirror image, where that is recorded."""
        found = self.mirror_images.get(str(n_clusters))
        return None if found is None else dict(found)


def numbered_like(
    before: Version | None, n_clusters: Sequence[int], labels: NDArray[np.int32]
) -> tuple[NDArray[np.int32], dict[str, Any]]:
    """Give networks the numbers of those of an older version that they overlap best.

    Parameters
    ----------
    before : Version or None
        Chosen parcellations that people know.
    n_clusters : sequence of int
        Number of networks of each parcellation.
    labels : ndarray of shape (n_parcellations, n_vertices)
        Label vectors.

    Returns
    -------
    labels : ndarray of shape (n_parcellations, n_vertices)
        The same networks; where there is nothing to compare with, under the same numbers.
    facts : dict
        Which version gave the numbers, and how alike the networks are to it (mean Dice).
    """
    if before is None or before.excluded is not None:
        return labels, {}
    known = dict(zip(before.read("n_clusters").tolist(), before.read("labels"), strict=True))
    labels, alike = labels.copy(), {}
    for i, n in enumerate(n_clusters):
        if n in known and len(known[n]) == labels.shape[1]:
            labels[i] = renumbered(labels[i], known[n])
            alike[str(n)] = round(mean_dice(labels[i], known[n]), 3)
    return labels, {"numbered_like": before.path.name, "dice_with_it": alike} if alike else {}


# Beside the controls


def comparison(
    table: pd.DataFrame,
    cells: Sequence[Version],
    controls: Sequence[Version],
    selected: Version,
    truth: NDArray[np.int64] | None = None,
) -> pd.DataFrame:
    """Put the controls beside the cells of the sweep, and the planted networks if there are any.

    Parameters
    ----------
    table : DataFrame
        Of the sweep, from :func:`summary_table`.
    cells, controls : sequence of Version
        Cells of the sweep, and of the same sweep on the controls.
    selected : Version
        The chosen parcellations.
    truth : ndarray of shape (n_vertices,), optional
        Planted network of each vertex.

    Returns
    -------
    DataFrame
        The table with a silhouette per control, a mean Dice of each with the planted networks, and
        whether a cell was chosen. What a control has no cell for is NaN.
    """
    keys = [key_of(row) for row in table.to_dict("records")]
    names = controls[0].facts["controls"] if controls else ()
    if truth is not None:
        table["dice_trained"] = _dice(truth, _by_key(cells, "labels"), keys)
    for c, name in enumerate(names):
        silhouettes = _by_key(controls, "silhouette", c)
        table[f"silhouette_{name}"] = [silhouettes.get(key) for key in keys]
        if truth is not None:
            table[f"dice_{name}"] = _dice(truth, _by_key(controls, "labels", c), keys)
    chosen = {key_of(choice) for choice in selected.facts["chosen"]}
    return table.assign(chosen=[key in chosen for key in keys])


def _by_key(versions: Sequence[Version], name: str, *control: int) -> dict[Key, Any]:
    """What an array of the sweep, or of one control, holds for each cell."""
    found: dict[Key, Any] = {}
    for version in versions:
        values = version.read(name)[control]
        found |= {key: values[place] for place, key in _places(version)}
    return found


def _dice(
    truth: NDArray[np.int64], labels: Mapping[Key, NDArray[np.int32]], keys: Sequence[Key]
) -> list[float | None]:
    return [mean_dice(labels[key], truth) if key in labels else None for key in keys]


def comparison_facts(table: pd.DataFrame) -> dict[str, Any]:
    """What is stored of a comparison besides its numbers."""
    return {
        "label_files": table["label_file"].tolist(),
        "chosen": table["chosen"].tolist(),
        "has_truth": "dice_trained" in table,
    }


def comparison_table(control_comparison: Version) -> pd.DataFrame:
    """Read the stored comparison back as a table."""
    import pandas as pd

    names = control_comparison.names()
    table = pd.DataFrame({name: control_comparison.read(name) for name in names})
    table.insert(0, "label_file", control_comparison.facts["label_files"])
    return table.assign(chosen=control_comparison.facts["chosen"])


NO_DIFFERENCE = 0.01
"""Dice by which cohorts of one difficulty differ among themselves (docs/validation.md)."""

CONTROLS = {"untrained": "the untrained model", "bold": "raw BOLD"}
"""What the controls are called."""


def verdict(row: Mapping[Any, Any], own: str = "trained model") -> str:
    """Say whether the features of a cell were worth it.

    Parameters
    ----------
    row : mapping
        A row of the comparison.
    own : str
        What the features come from.

    Returns
    -------
    str
        A sentence; empty without controls.
    """
    metric = "dice" if "dice_trained" in row else "silhouette"
    found = row["dice_trained"] if metric == "dice" else row["silhouette"]
    values = {name: row.get(f"{metric}_{name}") for name in CONTROLS}
    controls = {name: float(v) for name, v in values.items() if v is not None and not np.isnan(v)}
    if not controls:
        return ""
    best = max(controls.values())
    cell = f"{row['n_clusters']:.0f} clusters: "
    if metric == "dice":
        says = "finds more than" if found - best > NO_DIFFERENCE else "does not find more than"
        return cell + f"the {own} (Dice {found:.3f}) {says} its best control ({best:.3f})."
    return cell + (
        f"silhouette {found:.3f} with the {own}, "
        + ", ".join(f"{value:.3f} with {CONTROLS[name]}" for name, value in controls.items())
        + ". The label file alone can raise it: this says nothing of truth."
    )
