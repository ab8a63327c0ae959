"""From the cells of the sweep to the chosen ones: the table, the workbook, the ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from trend_dagster.delivery.pictures import (
    draw_chosen,
    heat_maps,
    ranking_markdown,
    sweep_markdown,
)
from trend_dagster.delivery.workbook import WORKBOOK, label_vectors, workbook_bytes
from trend_dagster.errors import CohortError, TrendError
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import STORED_ASSETS, Cell, stored_asset
from trend_dagster.project.folder import Project
from trend_dagster.project.mesh import mesh_of, names_no_mesh
from trend_dagster.project.settings import Settings, why_no_stability
from trend_dagster.project.tables import (
    choices,
    finished,
    labels_of,
    number_columns,
    summary_facts,
    summary_table,
    sweep_table,
)
from trend_dagster.science.parcellation.selection import IN_WORDS, rank_cells, rule_in_use
from trend_dagster.storage.stores import Partition, Version, describe

if TYPE_CHECKING:
    import pandas as pd


def _without_stability(settings: Settings, partition: Partition) -> bool:
    return why_no_stability(settings) is not None


@stored_asset(
    group="parcellation",
    settings=("sweep", "delivery", "selection"),
    code_version="2",
    unless={"stability": _without_stability},
    incomplete=frozenset({"nmf_sweep", "thresholded_matrix", "stability"}),
)
def sweep_summary(
    cell: Cell,
    nmf_sweep: Sequence[Version],
    thresholded_matrix: Sequence[Version],
    stability: Sequence[Version] | None,
) -> Result:
    """The table of the whole sweep, and the tutorial's workbook `Complete_Clustering.xlsx`.

    The first sheet has exactly the tutorial's columns, in a fixed order of rows; the second what
    else is known of each cell; the third ranks them, with their stability beside its null. A cell
    that failed has its row, with the reason.
    """
    missing = _missing(cell.project, nmf_sweep)
    table = sweep_table(
        nmf_sweep, thresholded_matrix, stability or (), missing, cell.settings.sweep
    )
    ranked = rank_cells(finished(table), cell.settings.selection)
    names = {key: file.name for key, file in cell.project.label_files.items()}
    vectors = label_vectors(nmf_sweep) if cell.settings.delivery.label_vectors else {}
    return Result(
        arrays=number_columns(table),
        facts=summary_facts(table, stability or (), cell.settings),
        tables={"sweep": sweep_markdown(table)},
        pictures=heat_maps(finished(table)),
        files={WORKBOOK: workbook_bytes(table, names, ranked), **vectors},
    )


def _missing(project: Project, cells: Sequence[Version]) -> dict[tuple[str, ...], str]:
    """Cells of the sweep that are not there, by label file and n_components, with the reason."""
    done = {tuple(cell.partition.values()) for cell in cells}
    wanted = STORED_ASSETS["nmf_sweep"].partitions(project)
    if not cells:
        raise CohortError(
            "sweep_summary",
            expected="at least one cell of nmf_sweep",
            found=f"none ({_why_missing(project, wanted[0])})",
            remedy="Materialize nmf_sweep first.",
        )
    missing = [partition for partition in wanted if tuple(partition.values()) not in done]
    return {tuple(partition.values()): _why_missing(project, partition) for partition in missing}


def _why_missing(project: Project, partition: Partition) -> str:
    """Say why a cell of the sweep does not exist: it failed, or what it is made from did."""
    if reason := project.store.failure("nmf_sweep", partition):
        return reason
    try:
        STORED_ASSETS["nmf_sweep"].inputs(project, partition)
    except TrendError as error:
        return str(error)
    return f"{describe('nmf_sweep', partition)} is not computed"


@stored_asset(
    group="parcellation",
    settings=("selection",),
    code_version="3",
    incomplete=frozenset({"nmf_sweep"}),
    unless={"cortex": names_no_mesh},
)
def selected_parcellations(
    cell: Cell, sweep_summary: Version, nmf_sweep: Sequence[Version], cortex: Version | None
) -> Result:
    """For each number of clusters the chosen cell, the ranking, and a picture.

    The rule (`selection.rule`) never sees planted networks or an atlas. Across label files it
    compares only what exceeds the same measure on noise, because every raw metric rewards the
    label file itself; where that is not known, it takes the label file with the fewest labels.
    """
    table = summary_table(sweep_summary, nmf_sweep)
    ranked = rank_cells(table, cell.settings.selection)
    chosen = choices(ranked)
    labels = np.stack([labels_of(nmf_sweep, choice) for choice in chosen])
    pictures, files = draw_chosen(mesh_of(cortex, labels.shape[1]), ranked, labels)
    return Result(
        arrays={"n_clusters": np.array([c["n_clusters"] for c in chosen]), "labels": labels},
        facts=_rule(cell.settings, table, sweep_summary) | {"chosen": chosen},
        tables={"ranking": ranking_markdown(ranked)},
        pictures=pictures,
        files=files,
    )


def _rule(settings: Settings, table: pd.DataFrame, sweep_summary: Version) -> dict[str, object]:
    """Say by which rule cells are chosen, and what it goes by."""
    rule = rule_in_use(table, settings.selection)
    return {
        "rule": IN_WORDS[rule],
        "rule_name": rule,
        "rule_asked_for": settings.selection.rule,
        **{name: sweep_summary.facts[name] for name in ("no_stability", "split_by", "n_nulls")},
    }
