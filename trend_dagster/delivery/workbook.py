"""The workbook `Complete_Clustering.xlsx` and label vectors, under the tutorial's names."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trend_dagster.project.dimensions import LABEL_FILE, N_COMPONENTS
from trend_dagster.science.evidence.stability import COLUMNS as STABILITY_COLUMNS
from trend_dagster.storage.arrays import npy_bytes
from trend_dagster.storage.stores import Version

if TYPE_CHECKING:
    import pandas as pd
    from openpyxl.worksheet.worksheet import Worksheet

# Characters that a file name may hold and XML may not: control characters, lone surrogates.
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

TUTORIAL_COLUMNS = {
    "label_file": "label_file",
    "Clustering_Algorithm": None,
    "Helper_Algo": None,
    "Alpha_W": "alpha_W",
    "L1_ratio": "l1_ratio",
    "n_clusters": "n_clusters",
    "n_components": "n_components",
    "Average_SI": "silhouette",
    "Average_DBI": "davies_bouldin",
    "ElbowMethod": "inertia",
    "Within_Cluster_Connectivity": "within_connectivity",
    "Between_Cluster_Connectivity": "between_connectivity",
    "Connectivity_Ratio": "connectivity_ratio",
}
"""The tutorial's column names and ours; None for its two constants."""

WORKBOOK = "Complete_Clustering.xlsx"

MAX_COLUMNS = 16384  # of a sheet of the format; sizes of clusters beyond stand in the store alone

CONSTANTS = {"Clustering_Algorithm": "NMF", "Helper_Algo": "KMeans"}

RANKING_COLUMNS = (
    "n_clusters",
    "rank",
    "alive",
    "beyond_noise",
    "label_file",
    "n_labels",
    "n_components",
    "alpha_W",
    "l1_ratio",
    *STABILITY_COLUMNS,
    "silhouette",
    "zero_row_share",
    "distinct_rows",
)
"""Columns of the third sheet; those of stability are left out where it was not computed."""

MORE_COLUMNS = (
    "label_file",
    "n_labels",
    "n_components",
    "alpha_W",
    "l1_ratio",
    "n_clusters",
    "status",
    "zero_row_share",
    "dead_components",
    "distinct_rows",
    "n_iter",
    "objective",
    "full_within_connectivity",
    "full_between_connectivity",
    "seconds",
    "version",
    "digest",
)


def tutorial_table(table: pd.DataFrame, file_names: Mapping[str, str]) -> pd.DataFrame:
    """Put the sweep's table into the tutorial's columns.

    Parameters
    ----------
    table : DataFrame
        One row per cell.
    file_names : mapping of str to str
        File name of each label file key.

    Returns
    -------
    DataFrame
        Columns as the tutorial has them, with ``Voxels_in_Cluster_1..n``.
    """
    import pandas as pd

    columns: dict[str, Any] = {
        theirs: CONSTANTS[theirs] if ours is None else table[ours]
        for theirs, ours in TUTORIAL_COLUMNS.items()
    }
    columns["label_file"] = table["label_file"].map(lambda key: file_names.get(key, key))
    sizes = [s if isinstance(s, tuple) else () for s in table["cluster_sizes"]]
    for i in range(min(int(table["n_clusters"].max()), MAX_COLUMNS - len(columns))):
        columns[f"Voxels_in_Cluster_{i + 1}"] = [s[i] if i < len(s) else None for s in sizes]
    return pd.DataFrame(columns, index=table.index)


def workbook_bytes(
    table: pd.DataFrame, file_names: Mapping[str, str], ranking: pd.DataFrame | None = None
) -> bytes:
    """Make the workbook.

    Parameters
    ----------
    table : DataFrame
        One row per cell, with ``cluster_sizes`` as a tuple.
    file_names : mapping of str to str
        File name of each label file key.
    ranking : DataFrame, optional
        Rows of the table in the order in which they would be chosen, with ``rank``.

    Returns
    -------
    bytes
        An .xlsx file: sheet ``Sheet1`` with the tutorial's columns, sheet ``Details`` with what
        else is known, sheet ``Ranking`` with the ranking and what it goes by.
    """
    from openpyxl import Workbook

    book = Workbook()
    book.remove(book.worksheets[0])
    _fill(book.create_sheet("Sheet1"), tutorial_table(table, file_names))
    _fill(book.create_sheet("Details"), table.reindex(columns=list(MORE_COLUMNS)))
    if ranking is not None:
        columns = [name for name in RANKING_COLUMNS if name in ranking]
        _fill(book.create_sheet("Ranking"), ranking[columns])
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def _fill(sheet: Worksheet, table: pd.DataFrame) -> None:
    from openpyxl.styles import Alignment, Font
    from openpyxl.utils import get_column_letter

    for column, name in enumerate(table.columns, start=1):
        header = sheet.cell(1, column, str(name))
        header.font = Font(bold=True)
        header.alignment = Alignment(wrap_text=True, vertical="top")
        width = max(len(str(name)), *(len(_shown(value)) for value in table[name]))
        sheet.column_dimensions[get_column_letter(column)].width = min(width + 2, 40)
        for row, value in enumerate(table[name], start=2):
            _write(sheet, row, column, value)
    sheet.freeze_panes = "B2"
    sheet.auto_filter.ref = sheet.dimensions


def _write(sheet: Worksheet, row: int, column: int, value: object) -> None:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return
    if isinstance(value, float) and np.isinf(value):
        value = str(value)  # as pandas does: the format has no infinite numbers
    cell = sheet.cell(row, column)
    if isinstance(value, str):
        # A name that begins with '=' must stay a name: it comes from a file.
        cell.value = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", value)
        cell.data_type = "s"
    else:
        cell.value = value.item() if isinstance(value, np.generic) else value


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def label_vector_name(n_components: int, n_clusters: int, l1_ratio: float, alpha_W: float) -> str:
    """Name that the tutorial gives the label vector of a cell."""
    return f"{n_components}_comp_{n_clusters}_cl_{l1_ratio}_{alpha_W}.npy"


def label_vectors(cells: Sequence[Version]) -> dict[str, bytes]:
    """Label vector of each cell as .npy, in a folder per label file, under the tutorial's names."""
    files = {}
    for cell in cells:
        labels = cell.read("labels")
        alpha_W, l1_ratio, n_clusters = (
            cell.read(name).tolist() for name in ("alpha_W", "l1_ratio", "n_clusters")
        )
        n_components = int(cell.partition[N_COMPONENTS])
        for i, j in np.ndindex(labels.shape[:2]):
            name = label_vector_name(n_components, n_clusters[j], l1_ratio[i], alpha_W[i])
            files[f"label_vectors/{cell.partition[LABEL_FILE]}/{name}"] = npy_bytes(labels[i, j])
    return files
