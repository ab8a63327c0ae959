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
from trend_dagster.storage.schema import SCHEMA
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

MAX_TEXT = 32767  # characters of a cell of the format
MAX_COLUMNS = 16384  # of a sheet of the format; sizes of clusters beyond stand in the store alone

NETWORKS_FROM = {"kmeans": "KMeans", "spectral": "Spectral"}
"""What makes networks of a factorisation (``networks.method``), as the workbook names it."""

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


_SHOWN_ELSEWHERE = {"cluster_sizes", *TUTORIAL_COLUMNS.values(), *STABILITY_COLUMNS}


def _details(table: pd.DataFrame) -> pd.DataFrame:
    """What the other sheets do not show; a measure that is new comes last."""
    known = {*MORE_COLUMNS, *_SHOWN_ELSEWHERE}
    return table.reindex(columns=[*MORE_COLUMNS, *(name for name in table if name not in known)])


def tutorial_table(
    table: pd.DataFrame, file_names: Mapping[str, str], method: str = "kmeans"
) -> pd.DataFrame:
    """Put the sweep's table into the tutorial's columns.

    Parameters
    ----------
    table : DataFrame
        One row per cell.
    file_names : mapping of str to str
        File name of each label file key.
    method : str
        What networks were made by, as ``networks.method`` has it.

    Returns
    -------
    DataFrame
        Columns as the tutorial has them, with ``Voxels_in_Cluster_1..n``.
    """
    import pandas as pd

    constants = {"Clustering_Algorithm": "NMF", "Helper_Algo": NETWORKS_FROM[method]}
    columns: dict[str, Any] = {
        theirs: constants[theirs] if ours is None else table[ours]
        for theirs, ours in TUTORIAL_COLUMNS.items()
    }
    columns["label_file"] = table["label_file"].map(lambda key: file_names.get(key, key))
    sizes = [s if isinstance(s, tuple) else () for s in table["cluster_sizes"]]
    for i in range(min(int(table["n_clusters"].max()), MAX_COLUMNS - len(columns))):
        columns[f"{_SIZE}{i + 1}"] = [s[i] if i < len(s) else None for s in sizes]
    return pd.DataFrame(columns, index=table.index)


def workbook_bytes(
    table: pd.DataFrame,
    file_names: Mapping[str, str],
    ranking: pd.DataFrame | None = None,
    method: str = "kmeans",
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
    method : str
        What networks were made by, as ``networks.method`` has it.

    Returns
    -------
    bytes
        An .xlsx file: sheet ``Sheet1`` with the tutorial's columns, sheet ``Details`` with
        what else is known, sheet ``Ranking`` with the ranking and what it goes by, sheet
        ``Columns`` with what each column means.
    """
    import pandas as pd

    sheets = {
        "Sheet1": tutorial_table(table, file_names, method),
        "Details": _details(table),
    }
    if ranking is not None:
        sheets["Ranking"] = ranking[[name for name in RANKING_COLUMNS if name in ranking]]
    sheets["Columns"] = pd.DataFrame(
        [(s, n, _MEANING.get(n, "")) for s, t in sheets.items() for n in map(str, t) if _told(n)],
        columns=["sheet", "column", "meaning"],
    )
    buffer = io.BytesIO()
    with pd.ExcelWriter(buffer, engine="openpyxl") as writer:
        for name, values in sheets.items():
            text = values.map(_fit_for_xml)
            text.to_excel(writer, sheet_name=name, index=False, freeze_panes=(1, 1))
            _finish(writer.sheets[name])
    return buffer.getvalue()


_SIZE = "Voxels_in_Cluster_"
_STORED = {name: spec.description for name, spec in SCHEMA["nmf_sweep"].items()}
_MEANING = {
    **_STORED,
    **{name: spec.description for name, spec in SCHEMA["stability"].items()},
    **{theirs: _STORED.get(ours or "", "") for theirs, ours in TUTORIAL_COLUMNS.items()},
    "label_file": "the spatial encoding; Sheet1, its columns and their order are the tutorial's",
    "Clustering_Algorithm": "constant, as in the tutorial",
    "Helper_Algo": "what makes networks of a factorisation (networks.method)",
    "n_components": "components of the factorisation",
    "n_clusters": "networks that were asked for",
    "Connectivity_Ratio": "within over between; inf where nothing is between (text, as pandas "
    "writes it)",
    f"{_SIZE}1": f"and {_SIZE}2 ...: vertices of each network; the name is the tutorial's",
    "n_labels": "labels of the label file",
    "status": "ok, or why the cell has no figures",
    "seconds": "the factorisation took",
    "version": "folder in the store",
    "digest": "fingerprint of the content: equal content, equal fingerprint",
    "rank": "1 is chosen",
    "alive": "enough vertices have loadings (selection.max_zero_row_share)",
    "beyond_noise": "stability exceeds that of noise by more than chance",
}
"""What columns mean; those of the store as its schema says it."""


def _told(name: str) -> bool:
    return not name.startswith(_SIZE) or name == f"{_SIZE}1"


def _fit_for_xml(value: object) -> object:
    if not isinstance(value, str):
        return value
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", value)[:MAX_TEXT]


def _finish(sheet: Worksheet) -> None:
    """Give columns a header and a width, and keep text text."""
    from openpyxl.styles import Alignment, Border, Font

    for header, *cells in sheet.columns:
        header.font, header.border = Font(bold=True), Border()
        header.alignment = Alignment(wrap_text=True, vertical="top")
        for cell in cells:
            # A name that begins with '=' must stay a name: it comes from a file.
            cell.data_type = "s" if isinstance(cell.value, str) else cell.data_type
        width = max(len(_shown(cell.value)) for cell in (header, *cells))
        sheet.column_dimensions[header.column_letter].width = min(width + 2, 40)
    sheet.auto_filter.ref = sheet.dimensions


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
